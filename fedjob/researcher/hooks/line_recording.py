"""The hook that notes in the home how fast the lines of a job's parties were, for estimates of later jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.checks import is_number
from fedjob.repository.line_meter import LEAST_BYTES, LineMeter, Stretch
from fedjob.researcher.connection.lines import OWN, WAYS, LineLedger, LineMeasure
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder, read_cost
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import read_reply, reply_files

EVERY_S = 60.0
"""Time between two notes while the job runs."""
_NEWEST_ASKS = 5


class LineRecording(Hook):
    """The writer of `lines.jsonl` of the home.

    Args:
        meter: of the session's repository.
        ledger: of the home.
    """

    name: ClassVar[str] = "lines"

    def __init__(self, meter: LineMeter, ledger: LineLedger) -> None:
        self._meter = meter
        self._ledger = ledger
        self._folder: JobFolder | None = None
        self._rounds = 1
        self._noted = 0.0

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._folder, self._rounds, self._noted = folder, max(1, rounds), time.monotonic()

    def event(self, event: JobEvent) -> None:
        if event.type == "round" and time.monotonic() - self._noted >= EVERY_S:
            self._note()

    def end(self, outcome: str) -> None:
        self._note()

    def _note(self) -> None:
        if self._folder is None:
            return
        self._noted = time.monotonic()
        measures = [
            *own_measures(self._meter.take(), self._folder.path.name),
            *node_measures(self._folder, self._rounds),
        ]
        # figures for estimates: a full disk is the job's own affair, and no reason to fail it here
        with suppress(OSError):
            self._ledger.add(measures)


def own_measures(stretches: list[Stretch], job: str) -> list[LineMeasure]:
    """Return one measure of the researcher's line for each way that something went."""
    found = []
    for way in WAYS:
        those = [one for one in stretches if one.way == way]
        moved, took = sum(one.size_bytes for one in those), sum(one.seconds for one in those)
        if those:
            at = max(one.at for one in those)
            found.append(LineMeasure(party=OWN, way=way, size_bytes=moved, seconds=took, at=at, job=job))
    return found


def node_measures(folder: JobFolder, rounds: int) -> list[LineMeasure]:
    """Return one measure of each node's line and way, by what it says of the transfers of a job's newest rounds.

    Args:
        rounds: that the bytes of the whole job are divided by, to those that a node fetches in one.
    """
    down = _fetched_each(folder, rounds)
    found: dict[tuple[str, str], LineMeasure] = {}
    for _, _, path in reply_files(folder)[-_NEWEST_ASKS:]:
        at = path.stat().st_mtime
        for node, way, size_bytes, took in _transfers(read_reply(path), down):
            before = found.get((node, way))
            if before is not None:
                size_bytes, took = size_bytes + before.size_bytes, took + before.seconds
            found[node, way] = LineMeasure(
                party=node, way=way, size_bytes=size_bytes, seconds=took, at=at, job=folder.path.name
            )
    return list(found.values())


def _transfers(replies: Mapping[str, Any], down: Mapping[str, int]) -> Iterator[tuple[str, str, int, float]]:
    """Yield node, way, bytes and seconds of the transfers of an ask that were large enough to tell something."""
    for node, kept in replies.items():
        body = kept.get("body") if isinstance(kept, dict) else None
        timing = body.get("timing") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(timing, dict):
            continue
        for way, stage, size_bytes in (("down", "fetch", down.get(node, 0)), ("up", "store", _stored(body))):
            took: Any = timing.get(stage)
            if size_bytes >= LEAST_BYTES and is_number(took) and took > 0:
                yield node, way, size_bytes, float(took)


def _stored(body: Mapping[str, Any]) -> int:
    params = body.get("params")
    size: Any = params.get("size_bytes") if isinstance(params, dict) else 0
    return int(size) if is_number(size) else 0


def _fetched_each(folder: JobFolder, rounds: int) -> dict[str, int]:
    """Return node -> bytes that it fetches in a round, where these are known exactly."""
    exact = {node: one for node, one in read_cost(folder).items() if "up" in one and not one.get("most")}
    return {node: one["down"] // rounds for node, one in exact.items()}
