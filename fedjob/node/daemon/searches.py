"""The handler of searches for the datasets that this node offers, and for the mocks that its owner publishes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.files import make_folder
from fedjob.common.types import Ref
from fedjob.data.archive import pack_assets, pack_data
from fedjob.messaging.messages import Found, Message, Search
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.data.datasets import RegisteredDataset, public_within
from fedjob.node.grants.grant import matches_any
from fedjob.node.grants.policy import contacts_of

MAX_ASKING = 20
"""Searches of one researcher that wait for one mock; more are not answered, and may be sent again."""


@dataclass(frozen=True, slots=True)
class Published:
    """A mock is in the repository for a researcher, or is not."""

    researcher: str
    dataset: str
    ref: Ref | None
    detail: str = ""


class SearchHandler:
    """Answers searches; a mock that is asked for is packed on a thread first.

    Args:
        report: takes a `Published` from that thread.
    """

    def __init__(self, context: NodeContext, report: Callable[[Published], None]) -> None:
        self._context = context
        self._report = report
        self._asked: dict[tuple[str, str], list[Message]] = {}  # by researcher and dataset
        self._packing: set[tuple[str, str]] = set()

    def handle(self, turn: Turn, message: Message, search: Search) -> None:
        """Answer a search, or fetch the mock that it asks for first."""
        context = self._context
        if search.project and not matches_any(context.config.projects, search.project):
            return context.answer(turn, message, Found(of=message.id))
        datasets = context.datasets.search(search.tags, search.name)
        if not (search.mock and search.name):
            answer = public_within(datasets, more=self._now)
            return context.answer(turn, message, Found(of=message.id, datasets=answer))
        mocks = [dataset for dataset in datasets if dataset.mock and context.config.publish_mocks == "on"]
        if not mocks:
            return context.answer(turn, message, Found(of=message.id))
        asked = self._asked.setdefault((message.sender, mocks[0].name), [])
        if len(asked) >= MAX_ASKING:
            return turn.settled.append(message)
        asked.append(message)
        turn.after.append(lambda: self._begin(mocks[0], message.sender))
        return None

    def take(self, turn: Turn, event: Published) -> None:
        """Answer the searches that waited for a mock with the reference to it, or with what went wrong."""
        answer: dict[str, Any] = {} if event.ref is None else {"mock": to_plain(event.ref)}
        dataset = self._context.datasets.find(event.dataset)
        if dataset is not None:
            answer |= {"name": dataset.name, "reader": dataset.reader}
            answer |= {"options": dict(dataset.options), "loading": dict(dataset.loading)}
            assets = [{k: v for k, v in a.opened_as("mock").items() if k != "path"} for a in dataset.assets]
            answer |= {"assets": assets} if assets else {}
        if event.detail:
            answer["problem"] = event.detail
        self._packing.discard((event.researcher, event.dataset))
        for message in self._asked.pop((event.researcher, event.dataset), []):
            self._context.answer(turn, message, Found(of=message.id, datasets=[answer]))

    def _now(self, dataset: RegisteredDataset) -> dict[str, Any]:
        """Return what changes about a registered dataset: its versions, whether it is being described anew, its contacts, whether its mock is published, whether its owner is asked."""
        context = self._context
        return {
            "version": context.versions.of_parts(dataset.parts()),
            "changed": context.redescriber.is_changed(dataset),
            "mock_version": context.versions.of_parts(dataset.parts("mock")) if dataset.mock else "",
            "mock_published": bool(dataset.mock) and context.config.publish_mocks == "on",
            "contacts": to_plain(contacts_of(context.config, dataset)),
            "approval": context.config.approval,
        }

    def _begin(self, dataset: RegisteredDataset, researcher: str) -> None:
        """Pack a mock, unless that is being done: a question that is asked again waits for the same answer."""
        if (researcher, dataset.name) not in self._packing:
            self._packing.add((researcher, dataset.name))
            self._context.transfers.later(lambda: self._publish(dataset, researcher))

    def _publish(self, dataset: RegisteredDataset, researcher: str) -> None:
        context = self._context
        archive = context.home.brought / f"mock-{secrets.token_hex(8)}.zip"
        try:
            make_folder(archive.parent)
            if dataset.assets:
                pack_assets({name: Path(path) for name, path in dataset.parts("mock").items()}, archive)
            else:
                pack_data(Path(dataset.mock), archive)
            about = f"{context.node}/{dataset.name}".encode()
            # by a secret of this process: a hub that guesses names can't confirm one
            name = hmac.digest(context.job_secrets.of("mock"), about, hashlib.sha256).hex()[:32]
            ref = context.transfers.repository.put(archive, job=f"mock.{name}", readers=[researcher])
            self._report(Published(researcher, dataset.name, ref))
        except Exception as error:  # nobody would notice an exception of this thread
            self._report(Published(researcher, dataset.name, None, type(error).__name__))
        finally:
            archive.unlink(missing_ok=True)
