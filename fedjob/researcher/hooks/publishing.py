"""The hook that publishes a running job to its watchers: its events as objects, its state as a signed frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.errors import FedjobError, RepositoryError, SpecError
from fedjob.common.types import Ref
from fedjob.messaging.sealed_notice import MAX_READERS
from fedjob.repository.base import watch_job
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.hooks.traffic import read_traffic
from fedjob.researcher.monitoring.summary import JobSummary
from fedjob.researcher.monitoring.watcher_frame import (
    MAX_SEGMENT_BYTES,
    Segment,
    WatcherFrame,
    cut,
    without_answers,
)
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.record import load_record

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.storage.spec import JobSpec

EVERY_S = 1.0
"""Time between two publications."""

SIGN_OF_LIFE_S = 30.0
"""Time after which a job without news is published again, as a sign of life."""

MAX_PAUSE_S = 30.0
"""Longest time between two tries at a hub that does not answer."""

LAST_S = 8.0
"""Time that the job's end may wait for the last publication."""

REPLACED_S = 60.0
"""Time that a replaced segment stays, for watchers who are about to fetch it."""

_log = logging.getLogger("fedjob")


class Publishing(Hook):
    """A publisher with a thread of its own, so that no round waits for it; what fails is tried again."""

    name: ClassVar[str] = "publishing"

    def __init__(self, session: Connection, spec: JobSpec) -> None:
        if session.encrypted and len(spec.watchers) > MAX_READERS:
            raise SpecError(
                f"expected at most {MAX_READERS} watchers of an encrypted job, found {len(spec.watchers)}: name fewer"
            )
        self._session = session
        self._spec = spec
        self._readers = tuple(sorted(spec.watchers))
        self._holder = watch_job(spec.id)
        self._segments: list[Segment] = []
        self._replaced: list[tuple[float, Ref]] = []
        self._folder: JobFolder | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        self._count = 0
        self._thread: threading.Thread | None = None
        self.trouble = ""

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._folder = folder
        self._thread = threading.Thread(target=self._run, name="fedjob-publishing", daemon=True)
        self._thread.start()

    def event(self, event: JobEvent) -> None:
        self._news.set()

    def end(self, outcome: str) -> None:
        self._over.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(LAST_S)
            if self._thread.is_alive():
                self.trouble = self.trouble or "the hub does not answer"
        if self.trouble:
            _log.warning("watchers may not see how job %s ended: %s", self._spec.id, self.trouble)

    def _run(self) -> None:
        pause_s = EVERY_S
        last_by: float | None = None
        while True:
            self._news.wait(SIGN_OF_LIFE_S)
            self._news.clear()
            over = self._over.is_set()
            try:
                self.publish()
            except (FedjobError, OSError) as error:  # the hub may be away: the job goes on
                self.trouble = str(error)
                self._news.set()
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                self.trouble = ""
                pause_s = EVERY_S
                if over:
                    return
            if over:
                last_by = last_by or time.monotonic() + LAST_S - 2 * EVERY_S
                if time.monotonic() > last_by:
                    return
                time.sleep(EVERY_S)
            else:
                self._over.wait(pause_s)

    def publish(self) -> None:
        """Publish the job's state now."""
        folder = self._folder
        if folder is None:
            return
        record = load_record(folder.record)  # before the events: the frame must not be ahead of them
        self._segments = self._put_segments(folder)
        self._count = max(self._count + 1, int(time.time() * 1000))  # a later runner's count is larger
        shown = WatcherFrame.of(
            JobSummary.of(self._spec, record),
            owner=self._session.party,
            count=self._count,
            time=time.time(),
            traffic=read_traffic(folder),
            segments=self._segments,
        )
        frame = shown.frame(self._session.identity, self._session.federation, self._keys())
        self._session.repository.put_watch(self._spec.id, frame, readers=self._readers)
        self._forget()

    def _keys(self) -> dict[str, str] | None:
        """Return the keys to encrypt for the watchers, those that are in the federation now; None to show it plain."""
        if not self._session.encrypted:
            return None
        found = {reader: self._session.roster.sealing_key_of(reader) for reader in self._readers}
        return {reader: key for reader, key in found.items() if key is not None}

    def _put_segments(self, folder: JobFolder) -> list[Segment]:
        """Store the new part of the log as objects; return all segments that watchers need."""
        segments = list(self._segments)
        while True:
            spans = [(segment.start, segment.end) for segment in segments]
            begin = spans[-1][1] if spans else 0
            block = _read(folder.events, begin, begin + MAX_SEGMENT_BYTES)
            whole = block.rfind(b"\n") + 1
            if not whole:
                return segments
            kept = {(segment.start, segment.end): segment for segment in segments}
            segments = []
            for start, end in cut(spans, begin + whole):
                segment = kept.pop((start, end), None)
                if segment is None:
                    block = without_answers(_read(folder.events, start, end))
                    ref = self._session.repository.put(block, job=self._holder, readers=self._readers)
                    segment = Segment(start=start, end=end, ref=ref)
                segments.append(segment)
            now = time.monotonic()
            self._replaced += [(now + REPLACED_S, segment.ref) for segment in kept.values()]

    def _forget(self) -> None:
        now = time.monotonic()
        due = [ref for at, ref in self._replaced if at < now]
        self._replaced = [(at, ref) for at, ref in self._replaced if at >= now]
        for ref in due:
            try:
                self._session.repository.delete(ref, job=self._holder)
            except RepositoryError:  # it goes with the job
                return


def stop_showing(session: Connection, job: str) -> None:
    """Delete what was published of a job to its watchers.

    Raises:
        RepositoryError: the hub can't be reached.
    """
    session.repository.end_job(watch_job(job))


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)
