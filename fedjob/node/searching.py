"""Searches: what this node offers, and the mocks that its owner publishes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.errors import FedjobError
from fedjob.common.messages import Found, Message, Search
from fedjob.common.packing import pack_data
from fedjob.common.types import Ref
from fedjob.node.datasets import Dataset, told_within
from fedjob.node.grant import matches_any
from fedjob.node.parts import Parts, Turn


@dataclass(frozen=True, slots=True)
class Published:
    """A mock is in the repository, or is not."""

    message: str
    ref: Ref | None
    detail: str = ""


class Searches:
    """Answers searches; a mock that is asked for is packed on a thread first.

    Args:
        report: takes a `Published` from that thread.
    """

    def __init__(self, parts: Parts, report: Callable[[Published], None]) -> None:
        self._parts = parts
        self._report = report
        self._asked: dict[str, Message] = {}

    def handle(self, turn: Turn, message: Message, search: Search) -> None:
        """Answer a search, or fetch the mock that it asks for first."""
        parts = self._parts
        if search.project and not matches_any(parts.config.projects, search.project):
            return parts.answer(turn, message, Found(of=message.id))
        datasets = parts.datasets.search(search.tags, search.name)
        if not (search.mock and search.name):
            told = told_within(datasets, more=self._now)
            return parts.answer(turn, message, Found(of=message.id, datasets=told))
        mocks = [dataset for dataset in datasets if dataset.mock and parts.config.publish_mocks == "on"]
        if not mocks:
            return parts.answer(turn, message, Found(of=message.id))
        if message.id not in self._asked:
            self._asked[message.id] = message
            turn.after.append(lambda: parts.runs.later(lambda: self._publish(mocks[0], message)))
        return None

    def take(self, turn: Turn, event: Published) -> None:
        """Tell where the mock is."""
        message = self._asked.pop(event.message, None)
        if message is None:
            return
        told: dict[str, Any] = {} if event.ref is None else {"mock": to_plain(event.ref)}
        body = message.body
        assert isinstance(body, Search)
        for dataset in self._parts.datasets.search((), body.name):
            told |= {"name": dataset.name, "reader": dataset.reader, "options": dict(dataset.options)}
        if event.detail:
            told["problem"] = event.detail
        self._parts.answer(turn, message, Found(of=message.id, datasets=[told]))

    def _now(self, dataset: Dataset) -> dict[str, Any]:
        """Return what is true of a dataset now."""
        parts = self._parts
        return {
            "version": parts.versions.of(dataset.path),
            "mock_version": parts.versions.of(dataset.mock) if dataset.mock else "",
            "mock_published": bool(dataset.mock) and parts.config.publish_mocks == "on",
            "contact": dataset.contact or parts.config.contact,
        }

    def _publish(self, dataset: Dataset, message: Message) -> None:
        parts = self._parts
        archive = parts.home.brought / f"mock-{secrets.token_hex(8)}.zip"
        try:
            archive.parent.mkdir(exist_ok=True, mode=0o700)
            pack_data(Path(dataset.mock), archive)
            name = hashlib.sha256(f"{parts.node}/{dataset.name}".encode()).hexdigest()[:32]
            ref = parts.runs.repository.put(archive, job=f"mock.{name}", readers=[message.sender])
            self._report(Published(message.id, ref))
        except FedjobError as error:
            self._report(Published(message.id, None, type(error).__name__))
        except Exception as error:  # a thread's exception would go unheard
            self._report(Published(message.id, None, type(error).__name__))
        finally:
            archive.unlink(missing_ok=True)
