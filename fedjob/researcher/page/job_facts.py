"""The facts of one job that its page shows, read from its folder: the end of a long log, nothing of the tensors."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import DecodeError, NotReady
from fedjob.common.lifecycle import ACTIVE, PENDING, State
from fedjob.messaging.traffic import Tally
from fedjob.researcher.hooks.traffic import read_traffic
from fedjob.researcher.monitoring.diagnosis import Why, explain
from fedjob.researcher.monitoring.live import Live, Progress
from fedjob.researcher.monitoring.participation import Participation, participation_of
from fedjob.researcher.page.log_tail import LogTails
from fedjob.researcher.page.round_times import RoundTimes, Timing, round_times
from fedjob.researcher.results.result_folder import load_manifest
from fedjob.researcher.runner.revival import look, runs
from fedjob.researcher.storage.breakpoints import history_of, list_breakpoints
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.position import AggregationRecord, Position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.replies import read_reply, reply_files
from fedjob.researcher.storage.spec import JobSpec, load_spec

GLANCE_BYTES = 64 << 10
"""Of a log's end that a line in the list of jobs is made from."""

MAX_REPLY_BYTES = 8 << 20
MAX_ROUNDS_TIMED = 200
"""Rounds, the newest, whose answers are read for times and bytes."""

MAX_KEPT = 64

History = tuple[tuple[Measurement, ...], tuple[AggregationRecord, ...]]


class KeptReads:
    """What was read from files, kept as long as they do not change; of too many the oldest goes."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, Path], tuple[tuple[int, int], Any]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, kind: str, path: Path, read: Callable[[Path], Any]) -> Any:
        """Return what `read` makes of a file; None where there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        stamp = found.st_mtime_ns, found.st_size
        with self._lock:
            kept = self._kept.get((kind, path))
            if kept is not None and kept[0] == stamp:
                self._kept.move_to_end((kind, path))
                return kept[1]
        value = read(path)
        with self._lock:
            self._kept[kind, path] = stamp, value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


TAILS = LogTails()
HISTORIES = KeptReads()
REPLIES = KeptReads(16 * MAX_ROUNDS_TIMED)


@dataclass(frozen=True, slots=True)
class ReplySummary:
    """What a page shows of an answer: seconds by stage, and the bytes that left its node with it."""

    timing: Mapping[str, Any] = field(default_factory=dict)
    num_bytes: int = 0


@dataclass(frozen=True)
class JobFacts:
    """One job, as it is when it is looked at. What is slow is read when it is asked for, once."""

    folder: JobFolder
    spec: JobSpec
    record: JobRecord
    now: float

    @property
    def state(self) -> str:
        """The state of the job."""
        return self.record.state

    @property
    def rounds(self) -> int:
        """The number of rounds that it is for."""
        return self.record.rounds or self.spec.rounds

    @cached_property
    def _tail(self) -> tuple[list[JobEvent], Live]:
        return TAILS.read(self.folder.events, first_live(self.record))

    @property
    def events(self) -> list[JobEvent]:
        """The events at the end of its log."""
        return self._tail[0]

    @property
    def live(self) -> Live:
        """Its state as those events tell it."""
        return self._tail[1]

    @cached_property
    def round(self) -> int:
        """The last committed round."""
        kept = list_breakpoints(self.folder.breakpoints)
        newest = int(kept[-1].name.removeprefix("round_")) if kept else 0
        return max(newest, self.live.round)

    @property
    def progress(self) -> Progress | None:
        """How far it is; None where it does not run."""
        return progress_of(self.record, self.live, self.rounds, self.round, self.now)

    @cached_property
    def why(self) -> Why:
        """The reason why it stands where it stands."""
        return explain(self.spec, self.record, self.events, runs=runs(self.folder, self.record))

    @cached_property
    def _history(self) -> History:
        kept = list_breakpoints(self.folder.breakpoints)
        if kept:
            found: History | None = HISTORIES.of(
                "history", kept[-1] / "record.mpk", lambda path: history_of(path.parent)
            )
            if found is not None and any(found):
                return found
        try:
            return tuple(load_manifest(self.folder).rows), ()
        except (NotReady, DecodeError):
            return (), ()

    @property
    def measured(self) -> tuple[Measurement, ...]:
        """Everything measured up to the newest breakpoint."""
        return self._history[0]

    @property
    def ledger(self) -> tuple[AggregationRecord, ...]:
        """Every aggregation up to the newest breakpoint."""
        return self._history[1]

    @cached_property
    def participation(self) -> Participation:
        """Who took part so far, who did not and why."""
        position = Position(round=self.round, state={}, ledger=self.ledger) if self.ledger else None
        return participation_of(self.spec, self.record, position)

    @cached_property
    def replies(self) -> dict[int, dict[str, dict[str, ReplySummary]]]:
        """Round -> step -> node -> what its answer says of time and bytes; of the newest rounds."""
        files = reply_files(self.folder)
        newest = set(sorted({round_ for round_, _, _ in files})[-MAX_ROUNDS_TIMED:])
        found: dict[int, dict[str, dict[str, ReplySummary]]] = {}
        for round_, step, path in files:
            if round_ in newest:
                found.setdefault(round_, {})[step] = REPLIES.of("reply", path, _summaries) or {}
        return found

    @cached_property
    def times(self) -> list[RoundTimes]:
        """The times of the newest rounds: those that began within the events at the end of the log."""
        timings: dict[int, Timing] = {
            round_: {step: {node: one.timing for node, one in nodes.items()} for step, nodes in steps.items()}
            for round_, steps in self.replies.items()
        }
        until = self.now if self.state in ACTIVE else self.events[-1].time if self.events else self.now
        first = min(timings, default=0)
        return [one for one in round_times(self.events, timings, until) if one.round >= first]

    @cached_property
    def bytes_sent(self) -> dict[str, int]:
        """Node -> bytes that left it with its answers, in the rounds of `times`."""
        timed = {one.round for one in self.times}
        found: dict[str, int] = {}
        for round_, steps in self.replies.items():
            for answers in steps.values() if round_ in timed else ():
                for node, one in answers.items():
                    found[node] = found.get(node, 0) + one.num_bytes
        return found

    @cached_property
    def traffic(self) -> tuple[Tally, ...]:
        """Counts of the messages and objects that were exchanged."""
        return read_traffic(self.folder)


def look_at(folder: JobFolder) -> JobFacts:
    """Return the facts of a job; a runner that died is noticed.

    Raises:
        FedjobError: its definition or its record can't be read.
    """
    return JobFacts(folder, load_spec(folder.spec), look(folder), time.time())


def first_live(record: JobRecord) -> Live:
    """Return what a job's record says of it, without its events."""
    began = seconds_of(record.started)
    return Live(state=State(record.state), reason=record.reason, detail=record.detail, since=(began, 0))


def progress_of(record: JobRecord, live: Live, rounds: int, round_: int, now: float) -> Progress | None:
    """Return how far a job is; None for one that does not run."""
    if record.state not in ACTIVE:
        return None
    live_now = (
        live
        if live.round >= round_
        else Live(
            state=live.state,
            round=round_,
            asked=live.asked,
            nodes=live.nodes,
            unit=live.unit,
            since=live.since,
        )
    )
    return live_now.progress(rounds, now)


def is_moving(state: str) -> bool:
    """Tell whether a job can still change by itself."""
    return state in ACTIVE | PENDING


def seconds_of(at: str) -> float:
    """Return a time of a record as seconds since 1970; 0 for none."""
    try:
        return datetime.fromisoformat(at).timestamp() if at else 0.0
    except ValueError:
        return 0.0


def _summaries(path: Path) -> dict[str, ReplySummary]:
    if path.stat().st_size > MAX_REPLY_BYTES:
        return {}
    found = {}
    for node, kept in read_reply(path).items():
        body = kept.get("body") if isinstance(kept, dict) else None
        if isinstance(body, dict):
            timing = body.get("timing")
            objects = [
                one.get("size_bytes", 0)
                for one in (body.get("params"), body.get("blob"))
                if isinstance(one, dict)
            ]
            found[str(node)] = ReplySummary(
                timing if isinstance(timing, dict) else {}, len(pack(body)) + sum(objects)
            )
    return found
