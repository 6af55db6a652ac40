"""The interface of a job that is observed: its events, and everything that follows from them.

A researcher's own job and a watched job of another party share it; they differ in
where the events come from.
"""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from fedjob.common.checks import checked_methods
from fedjob.common.errors import NotReady
from fedjob.common.lifecycle import State
from fedjob.common.notebooks.living_output import LivingOutput, in_notebook
from fedjob.common.notebooks.shown_map import ShownRows
from fedjob.messaging.traffic import Tally
from fedjob.researcher.monitoring import summary
from fedjob.researcher.monitoring.event_handlers import teller
from fedjob.researcher.monitoring.live import Live, Progress
from fedjob.researcher.monitoring.live_view import MAX_EVENTS, LiveView
from fedjob.researcher.monitoring.logs import JobLogs, read_logs
from fedjob.researcher.monitoring.stream import EventSource, Retry, Stream, stream
from fedjob.researcher.monitoring.summary import Snapshot
from fedjob.researcher.storage.event import JobEvent


@checked_methods
class ObservedJob(ABC):
    """A job as it is seen through its events."""

    _read_so_far: tuple[EventSource, Live] | None = None
    _reading: threading.Lock | None = None

    @abstractmethod
    def _listen(self, since: int) -> EventSource:
        """Return the source of the job's events after number `since`."""

    @abstractmethod
    def _facts(self) -> summary.JobSummary:
        """Return the summary of the job that is shown."""

    @abstractmethod
    def _tallies(self) -> tuple[Tally, ...]:
        """Return the counts of messages and objects that were exchanged for the job."""

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
            follow: go on until the job has ended; else stop after the events that are there.
            since: number of the event after which to begin; 0 for all.
            type: only events of this type, or of one of these.
            retries: failures to read in a row that are forgiven.
            wait_s: seconds before the first retry.
            backoff: what each further wait is multiplied by.
            sleep: waits for so many seconds.

        Returns:
            (of the generator) None when the job completed, or goes on; else the `JobFailed` that names
            how it ended.

        Raises:
            ConnectionLost: more failures in a row than are forgiven.
            NotReady: a draft can't be followed: nothing will happen.
        """
        retry = Retry(retries, wait_s, backoff)
        if follow and self._facts().state == State.DRAFT:
            raise NotReady("a draft can't be followed: submit() or run() the job first")
        handlers = teller(self) if follow else None
        source = self._listen(since)
        return stream(source, follow=follow, type=type, retry=retry, on_batch=handlers, sleep=sleep)

    @property
    def last_msg(self) -> JobEvent | None:
        """The last event; None before the first."""
        last = None
        for event in self.events():
            last = event
        return last

    def logs(self, node: str | None = None, stdout: bool = True, stderr: bool = True) -> JobLogs:
        """Return the output of the job's tasks, as far as their nodes release it; print it to read it.

        Where a node withholds a log, a line names the node and whom to ask.

        Args:
            node: None for all.
            stdout, stderr: which streams.
        """
        return JobLogs(read_logs(self.events(type="log"), node=node, stdout=stdout, stderr=stderr))

    @property
    def progress(self) -> Progress:
        """The progress of the job: `(done, total, eta_s)` over its nodes, and the slowest node."""
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
        """The nodes whose owners have to decide, `{node, contact}`; empty once the job is queued."""
        facts = self._facts()
        if facts.state != State.WAITING:
            return []
        contacts = {**facts.contacts, **facts.live.contacts}
        return [{"node": node, "contact": contacts.get(node, "")} for node in facts.live.waiting]

    @property
    def traffic(self) -> tuple[Tally, ...]:
        """Messages and objects that were exchanged for the job, by direction and kind."""
        return ShownRows(self._tallies())

    def snapshot(self) -> Snapshot:
        """Return the state of the job now, as a record that does not change when the job goes on."""
        facts = self._facts()
        result = self._result_now() if facts.state == State.COMPLETED else None
        return Snapshot.of(facts, self._tallies(), time=time.time(), result=result)

    def _result_now(self) -> Any:
        return None

    def display(self, verbose: bool = False) -> None:
        """Show the job as it is now: a line about it and a row for each node.

        In a notebook it is a table, elsewhere text on standard output. `wait` shows the same while it goes on.

        Args:
            verbose: the last events, too.
        """
        facts = self._facts()
        last: deque[str] = deque(maxlen=MAX_EVENTS)
        if verbose:
            for event in self.events():
                last.extend(str(event).splitlines())
        view = LiveView(
            title=f"{facts.name} ({facts.id[:12]})" if facts.name else facts.id[:12],
            nodes=facts.nodes,
            rounds=facts.rounds,
            live=facts.live,
            now=time.time(),
            overall={_in_words(name): v for name, v in self._overall().items() if isinstance(v, float)},
            about=facts.about,
            events=tuple(last),
        )
        if in_notebook():
            LivingOutput().draw(view.forms())
        else:
            sys.stdout.write(f"{view.text()}\n")

    def _live(self) -> Live:
        """Return the state that follows from the job's events; only new events are read."""
        if self._reading is None:
            self._reading = threading.Lock()
        with self._reading:
            source, live = self._read_so_far or (self._listen(0), Live())
            while events := source.read():
                live = live.after(events)
            self._read_so_far = source, live
            return live

    def __str__(self) -> str:
        return summary.one_line(self._facts())

    def __repr__(self) -> str:
        return summary.many_lines(self._facts())

    def _repr_html_(self) -> str:
        return summary.as_html(self._facts())


def _in_words(name: str) -> str:
    """Return `accuracy/before` as `accuracy (before)`."""
    metric, _, phase = name.rpartition("/")
    return f"{metric} ({phase})" if metric else name
