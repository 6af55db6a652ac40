"""The part of a job that is heard: its events, and everything that they tell about it now.

One's own job and another party's that is followed hear the same way; they differ
in where the events come from.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from fedjob.common.errors import NotReady
from fedjob.common.lifecycle import State
from fedjob.messaging.traffic import Tally
from fedjob.researcher.monitoring import summary
from fedjob.researcher.monitoring.event_handlers import teller
from fedjob.researcher.monitoring.live import Live, Progress
from fedjob.researcher.monitoring.logs import JobLogs, read_logs
from fedjob.researcher.monitoring.stream import EventSource, Retry, Stream, stream
from fedjob.researcher.monitoring.summary import Snapshot
from fedjob.researcher.storage.event import JobEvent


class ObservedJob(ABC):
    """What a job's events tell."""

    _heard: tuple[EventSource, Live] | None = None
    _hearing: threading.Lock | None = None

    @abstractmethod
    def _listen(self, since: int) -> EventSource:
        """Return where the job's events after number `since` come from."""

    @abstractmethod
    def _facts(self) -> summary.JobSummary:
        """Return what is shown of the job."""

    @abstractmethod
    def _tallies(self) -> tuple[Tally, ...]:
        """Return what was exchanged for the job."""

    def events(
        self,
        follow: bool = False,
        since: int = 0,
        type: str | Sequence[str] | None = None,
        *,
        retries: int = 5,
        wait_s: float = 0.5,
        backoff: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Stream:
        """Yield the job's events, oldest first.

        Args:
            follow: go on until the job has ended; else stop at what is there.
            since: number of the last event that is not wanted.
            type: only events of this type, or of one of these.
            retries: failures to read in a row that are forgiven.
            wait_s: seconds before the first retry.
            backoff: what each further wait is multiplied by.
            sleep: waits for so many seconds.

        Returns:
            (of the generator) None when the job completed, or goes on; else the `JobFailed` that says
            how it ended.

        Raises:
            ConnectionLost: more failures in a row than are forgiven.
            NotReady: a draft can't be followed: nothing will happen.
        """
        retry = Retry(retries, wait_s, backoff)
        if follow and self._facts().state == State.DRAFT:
            raise NotReady("a draft can't be followed: submit() or run() the job first")
        told = teller(self) if follow else None
        return stream(self._listen(since), follow=follow, type=type, retry=retry, told=told, sleep=sleep)

    @property
    def last_msg(self) -> JobEvent | None:
        """The last event; None before the first."""
        last = None
        for event in self.events():
            last = event
        return last

    def logs(self, node: str | None = None, stdout: bool = True, stderr: bool = True) -> JobLogs:
        """Return what tasks wrote, as far as their nodes let it out; print it to read it.

        A node that keeps a log to itself says so, and whom to ask.

        Args:
            node: None for all.
            stdout, stderr: which streams.
        """
        return JobLogs(read_logs(self.events(type="log"), node=node, stdout=stdout, stderr=stderr))

    @property
    def progress(self) -> Progress:
        """How far the job is: `(done, total, eta_s)` over its nodes, and which is slowest."""
        facts = self._facts()
        return facts.live.progress(facts.rounds, time.time())

    @property
    def metrics(self) -> dict[str, Any]:
        """The last metrics of each node as they come in: `job.metrics["node-a"]["loss"]`.

        Beside the nodes stand the last values over all of them, by `metric/phase`:
        `job.metrics["accuracy/validate"]`. All earlier ones: `job.events(type="metrics")`.
        """
        return {**self._overall(), **{node: dict(values) for node, values in self._live().metrics.items()}}

    def _overall(self) -> dict[str, Any]:
        return {}

    @property
    def waiting_on(self) -> list[dict[str, Any]]:
        """Whose permission is missing, `{node, contact}`; empty once the job is queued."""
        facts = self._facts()
        if facts.state != State.WAITING:
            return []
        contacts = {**facts.contacts, **facts.live.contacts}
        return [{"node": node, "contact": contacts.get(node, "")} for node in facts.live.waiting]

    @property
    def traffic(self) -> tuple[Tally, ...]:
        """Messages and objects that were exchanged for the job, by direction and kind."""
        return self._tallies()

    def snapshot(self) -> Snapshot:
        """Return how the job stands now; it does not change when the job goes on."""
        facts = self._facts()
        result = self._result_now() if facts.state == State.COMPLETED else None
        return Snapshot.of(facts, self._tallies(), time=time.time(), result=result)

    def _result_now(self) -> Any:
        return None

    def _live(self) -> Live:
        """Return how the job stands as its events tell; only what is new of them is read."""
        if self._hearing is None:
            self._hearing = threading.Lock()
        with self._hearing:
            source, live = self._heard or (self._listen(0), Live())
            while events := source.read():
                live = live.after(events)
            self._heard = source, live
            return live

    def __str__(self) -> str:
        return summary.one_line(self._facts())

    def __repr__(self) -> str:
        return summary.many_lines(self._facts())

    def _repr_html_(self) -> str:
        return summary.as_html(self._facts())
