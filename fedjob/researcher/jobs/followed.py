"""Follow a job that another party runs, and that names this one among its watchers: to look at only."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from fedjob.common.checks import checked_methods
from fedjob.common.errors import NoSuchJob, NotAllowed, NotPermitted, ObjectMissing
from fedjob.common.lifecycle import ACTIVE, HISTORY, State
from fedjob.common.types import check_job_id
from fedjob.messaging.traffic import Tally
from fedjob.researcher.monitoring.base import ObservedJob
from fedjob.researcher.monitoring.stream import EventSource, JobStanding
from fedjob.researcher.monitoring.summary import JobSummary
from fedjob.researcher.monitoring.watcher_frame import MAX_SEGMENT_BYTES, WatcherFrame, open_frame
from fedjob.researcher.storage.event import JobEvent, decode_lines, utc

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection

FRESH_S = 1.0
"""Seconds after which the last view of the job is refreshed."""

SILENT_S = 90.0
"""After which an active job's silence is worth a word: its runner may be gone."""


class WatchedJob:
    """The frames that a job's owner publishes at the hub, verified; read again when they are needed.

    Raises:
        NotAllowed: the job's owner does not name this party a watcher.
        NoSuchJob: its owner shows nothing of that job, or not any more.
    """

    def __init__(self, session: Connection, job: str) -> None:
        self.session = session
        self.job = check_job_id(job)
        self._lock = threading.Lock()
        self._shown: WatcherFrame | None = None
        self._seen = 0.0

    def look(self) -> WatcherFrame:
        """Return what the hub has now."""
        try:
            data = self.session.repository.get_watch(self.job)
        except ObjectMissing as error:
            what = "no longer" if self._shown is not None else "not, or not yet,"
            raise NoSuchJob(f"{self.job} is {what} shown at this hub: ask whoever runs it") from error
        except NotPermitted as error:
            raise NotAllowed(
                f"{self.session.party} is no watcher of {self.job}: whoever runs it names its watchers "
                "in Job(watchers=[...])"
            ) from error
        session = self.session
        shown = open_frame(
            data,
            session.federation,
            self.job,
            self._key_of,
            session.identity,
            encrypted=session.encrypted,
        )
        with self._lock:
            before = self._shown
            if before is not None and shown.owner != before.owner:
                raise NotAllowed(f"{self.job} was shown by {before.owner}, now by {shown.owner}")
            if before is None or shown.count >= before.count:  # never back to what was before
                self._shown = shown
            self._seen = time.monotonic()
            assert self._shown is not None
            return self._shown

    def recent(self) -> WatcherFrame:
        """Return what was seen a moment ago, or look."""
        shown = self._shown
        return shown if shown is not None and time.monotonic() - self._seen < FRESH_S else self.look()

    def _key_of(self, party: str) -> str | None:
        roster = self.session.roster
        return roster.key_of(party) if roster.role_of(party) == "researcher" else None


class HubSource(EventSource):
    """The events of a job as its owner publishes them."""

    idle_s = 1.0

    def __init__(self, window: WatchedJob, since: int = 0) -> None:
        self._window = window
        self._since = since
        self._offset = 0
        self._looked: WatcherFrame | None = None

    def standing(self) -> JobStanding:
        self._looked = shown = self._window.look()
        return JobStanding(shown.state, shown.reason, shown.detail)

    def read(self) -> list[JobEvent]:
        shown, self._looked = self._looked or self._window.look(), None
        for segment in shown.segments:
            if segment.end <= self._offset:
                continue
            data = self._window.session.repository.get_bytes(segment.ref, limit_bytes=MAX_SEGMENT_BYTES)
            block = data[max(0, self._offset - segment.start) :]
            self._offset = segment.end
            events = [event for event in decode_lines(block) if event.seq > self._since]
            if events:
                self._since = events[-1].seq
                return events
        return []


@checked_methods
class FollowedJob(ObservedJob):
    """Another party's job: everything that can be looked at, nothing that changes it."""

    def __init__(self, session: Connection, job: str) -> None:
        self._window = WatchedJob(session, job)
        self._window.look()

    @property
    def id(self) -> str:
        """The job's id."""
        return self._window.job

    @property
    def name(self) -> str:
        """The name that its researcher gave it."""
        return self._window.recent().name

    @property
    def owner(self) -> str:
        """The party that runs it."""
        return self._window.recent().owner

    @property
    def state(self) -> str:
        """The state of the job."""
        return self._window.recent().state

    @property
    def reason(self) -> str:
        """The reason of its end in one word; empty while it goes well."""
        return self._window.recent().reason

    @property
    def success(self) -> bool:
        """True if it is completed."""
        return self.state == State.COMPLETED

    @property
    def finished(self) -> bool:
        """True if it has ended, in whatever way."""
        return self.state in HISTORY

    @property
    def silent_s(self) -> float:
        """Seconds since its owner last showed it, by the clocks of both; a live one does every half minute."""
        return max(0.0, time.time() - self._window.recent().time)

    def kill(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("kill")

    def stop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("stop")

    def cancel(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("cancel")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("delete")

    def restart(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("restart")

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("run")

    def submit(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Only its owner may: raises NotAllowed."""
        self._refuse("submit")

    @property
    def result(self) -> NoReturn:
        """Results are not shown to watchers: raises NotAllowed."""
        raise NotAllowed(f"the result of {self.id} is {self.owner}'s: ask for it there")

    def _refuse(self, verb: str) -> NoReturn:
        raise NotAllowed(
            f"only {self.owner}, who runs {self.id}, may {verb} it: what is followed can be looked at"
        )

    def _listen(self, since: int) -> EventSource:
        return HubSource(self._window, since)

    def _tallies(self) -> tuple[Tally, ...]:
        return tuple(self._window.recent().traffic)

    def _facts(self) -> JobSummary:
        shown, live = self._window.recent(), self._live()
        silence = time.time() - shown.time
        silent = shown.state in ACTIVE and silence > SILENT_S
        return replace(
            shown.facts,
            reason=shown.reason or (f"no news for {silence:.0f} s" if silent else ""),
            round=live.round,
            updated=utc(live.updated) if live.updated else "",
            live=live,
            progress=live.progress(shown.rounds, time.time()) if shown.state in ACTIVE else None,
        )
