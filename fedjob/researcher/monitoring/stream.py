"""The stream of a job's events from its folder or the hub, through broken connections and to the job's end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from fedjob.common.errors import (
    ConnectionLost,
    JobFailed,
    NodeRefused,
    NoSuchJob,
    ObjectCorrupt,
    ObjectMissing,
    RepositoryUnreachable,
    SpecError,
    TransportError,
)
from fedjob.common.lifecycle import HISTORY, State
from fedjob.researcher.storage.event import JobEvent, is_end, is_job_state
from fedjob.researcher.storage.event_log import EventFile
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record

PASSING = (OSError, TransportError, RepositoryUnreachable, ObjectMissing, ObjectCorrupt)
"""Trouble that may pass by itself: it is tried again."""

IDLE_S = 0.05
"""The first pause when there is nothing new; it grows to the source's `idle_s`."""

SETTLE_S = 1.0
"""Time by which the last event may come after the record that names the same end."""

Stream = Generator[JobEvent, None, Exception | None]

BatchHandler = Callable[[Sequence[JobEvent]], None]


@dataclass(frozen=True, slots=True)
class Retry:
    """The waiting times after failures to read, as pure data: every follower waits alike.

    Args:
        retries: failures in a row that are forgiven.
        wait_s: before the first retry.
        backoff: what each further wait is multiplied by.
        num_failed: in a row so far.
    """

    retries: int = 5
    wait_s: float = 0.5
    backoff: float = 2.0
    num_failed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("retries", 0), ("wait_s", 0), ("backoff", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
                raise SpecError(f"{name} is a number of {least} or more, not {value!r}")

    def failed(self) -> tuple[Retry, float | None]:
        """Return the policy after one more failure, and the seconds to wait; None to give up."""
        after = replace(self, num_failed=self.num_failed + 1)
        if self.num_failed >= self.retries:
            return after, None
        return after, self.wait_s * self.backoff**self.num_failed

    def worked(self) -> Retry:
        """Return the policy after a successful read: the count begins anew."""
        return self if not self.num_failed else replace(self, num_failed=0)


@dataclass(frozen=True, slots=True)
class JobStanding:
    """State, reason and detail of a job, from its record."""

    state: str
    reason: str = ""
    detail: str = ""

    @property
    def over(self) -> bool:
        """True if the attempt has ended."""
        return self.state in HISTORY


class EventSource(ABC):
    """A source of a job's events: its folder, or the hub.

    Attributes:
        idle_s: how long to wait between two looks where nothing happens.
    """

    idle_s: float = 0.5

    @abstractmethod
    def read(self) -> list[JobEvent]:
        """Return the events after those that were read; an empty list where there are none by now."""

    @abstractmethod
    def standing(self) -> JobStanding:
        """Return the state of the job."""

    def close(self) -> None:
        """Release files and connections."""
        return


def gone(folder: JobFolder) -> NoSuchJob:
    """Return the error for a job whose folder is not there any more."""
    return NoSuchJob(f"{folder.path.name} is not there any more: was it deleted?")


class FolderSource(EventSource):
    """The events in a job's own folder.

    Args:
        look: called now and then while nothing happens; may find the job's runner dead and record that.
    """

    def __init__(self, folder: JobFolder, since: int = 0, look: Callable[[], object] | None = None) -> None:
        self._folder = folder
        self._file = EventFile(folder.events, since)
        self._look = look

    def read(self) -> list[JobEvent]:
        if not self._folder.spec.exists():
            raise gone(self._folder)
        return self._file.read()

    def standing(self) -> JobStanding:
        if self._look is not None:
            self._look()
        record = load_record(self._folder.record)
        return JobStanding(str(record.state), record.reason, record.detail)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a job.

    Args:
        standing: state and reason; None where new events came and the state was not asked for.
        batch: the events since the look before.
        last: the last event so far that names a state of the job; None before there is one.
        settled: the job has ended, and so have its events.
    """

    standing: JobStanding | None
    batch: Sequence[JobEvent]
    last: JobEvent | None
    settled: bool


def looks(
    source: EventSource,
    *,
    eager: bool,
    retry: Retry | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Look]:
    """Look at a job again and again, without an end, with growing pauses while nothing happens.

    Args:
        eager: ask for the state in every look; else only once there are no more events by now.
        sleep: waits for so many seconds.

    Raises:
        ConnectionLost: more failures in a row than `retry` forgives.
        NoSuchJob: the job was deleted meanwhile.
    """
    retry = retry or Retry()
    idle_s = IDLE_S
    last: JobEvent | None = None
    ended_s = 0.0
    while True:
        try:
            standing = source.standing() if eager or idle_s > IDLE_S else None
            batch = source.read()
        except PASSING as error:
            retry, pause_s = retry.failed()
            if pause_s is None:
                raise ConnectionLost(
                    f"the job's events can't be read, tried {retry.num_failed} times: {error}"
                ) from error
            sleep(pause_s)
            continue
        retry = retry.worked()
        last = next((event for event in reversed(batch) if is_job_state(event)), last)
        over = not batch and standing is not None and standing.over
        # the record is written before its event: give the event a moment to follow
        settled = over and ((last is not None and is_end(last)) or ended_s >= SETTLE_S)
        yield Look(standing, batch, last, settled)
        if batch:
            idle_s, ended_s = IDLE_S, 0.0
        else:
            ended_s += idle_s if over else 0.0
            sleep(idle_s)
            idle_s = min(2 * idle_s, source.idle_s)


def stream(
    source: EventSource,
    *,
    follow: bool,
    type: str | Sequence[str] | None = None,
    retry: Retry | None = None,
    on_batch: BatchHandler | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Stream:
    """Yield a job's events in order.

    Args:
        follow: go on until the job's last attempt has ended; else until there is no more by now.
        type: only events of this type, or of one of these.
        on_batch: called with every batch that was read, whatever the types of its events.
        sleep: waits for so many seconds.

    Returns:
        None when the job completed, or goes on; else the exception that names how it ended.

    Raises:
        ConnectionLost: more failures in a row than `retry` forgives.
        NoSuchJob: the job was deleted meanwhile.
    """
    wanted = None if type is None else {type} if isinstance(type, str) else set(type)
    try:
        for look in looks(source, eager=not follow, retry=retry, sleep=sleep):
            if look.batch and on_batch is not None:
                on_batch(look.batch)
            for event in look.batch:
                if wanted is None or event.type in wanted:
                    yield event
            if look.settled or not (look.batch or follow):
                return outcome(look.standing, look.last)
    finally:
        source.close()
    return None


def outcome(standing: JobStanding | None, last: JobEvent | None) -> Exception | None:
    """Return the exception that says how a job ended; None if it completed, or has not ended."""
    if standing is None and last is not None and is_end(last):
        body = last.body
        standing = JobStanding(
            str(body.get("state")), str(body.get("reason", "")), str(body.get("detail", ""))
        )
    if standing is None or not standing.over or standing.state == State.COMPLETED:
        return None
    return ended_error(standing)


def ended_error(
    standing: JobStanding, job: str = "the job", refused: dict[str, str] | None = None
) -> JobFailed:
    """Return the error that says how a job ended without success.

    Args:
        job: how the message names it.
        refused: node -> what its owner noted, of a rejected job whose grants are on file.
    """
    why = ": ".join(part for part in (standing.reason, standing.detail) if part)
    text = f"{job} is {standing.state}{f' ({why})' if why else ''}"
    reason = standing.reason or standing.state
    if refused is not None:
        return NodeRefused(text, reason=reason, outcome=standing.state, nodes=refused)
    return JobFailed(text, reason=reason, outcome=standing.state)
