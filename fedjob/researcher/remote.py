"""The real federation: tasks over MQTT, bytes over the repository."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedjob.common.errors import RepositoryError, SpecError
from fedjob.common.messages import End, Event, Message, Pong, Result, Task
from fedjob.common.protocols.base import Buffered
from fedjob.common.quorum import Quorum
from fedjob.common.traffic import OBJECT, Direction
from fedjob.common.types import Ref, party_of
from fedjob.researcher.admission import Admission
from fedjob.researcher.collecting import Collector, is_completion
from fedjob.researcher.connection import Connection
from fedjob.researcher.deployment import Code
from fedjob.researcher.events import EventLog
from fedjob.researcher.federation import Accept, Collected, Federation, Gates, Place
from fedjob.researcher.release import Goodbye, release, states_at
from fedjob.researcher.spec import JobSpec
from fedjob.researcher.zombies import Zombies

NUM_FETCHES = 4
"""Contributions that are fetched at the same time."""

_UNTOLD = ("lease",)
"""Events of nodes that only say that they are there."""


class RemoteFederation(Federation):
    """Nodes behind the hub.

    Args:
        epoch: of this runner; nodes refuse tasks of an older one.
    """

    def __init__(
        self, session: Connection, spec: JobSpec, events: EventLog, *, epoch: int, attempt: int
    ) -> None:
        self.num_rows = {node: info.get("num_rows") for node, info in spec.datasets.items()}
        self.session = session
        self.spec = spec
        self.events = events
        self.header: dict[str, Any] = {"job": spec.id, "epoch": epoch, "attempt": attempt}
        self._nodes = tuple(sorted(spec.datasets))
        self._gates: Gates | None = None
        self._zombies = Zombies(session, spec.id)
        self._round = 0, 0.0
        self.nodes_of: dict[str, str] = {}
        """Key of a task -> the job's node that it is for."""
        self.awaited: frozenset[str] = frozenset()
        """Keys of tasks whose completion is told when their answers are here, and not before."""
        self._pool = ThreadPoolExecutor(NUM_FETCHES, thread_name_prefix="fedjob-fetch")

    # -- before the first round -----------------------------------------------

    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None:
        self._gates = gates
        admitted = Admission(self, code, gates).run()
        self.num_rows = {
            node: admitted.answers[node].num_rows or self.num_rows[node] for node in admitted.included
        }

    # -- bytes ------------------------------------------------------------------

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        readers = sorted({party_of(each) for each in (self._nodes if node is None else (node,))})
        ref = self.session.repository.put(source, job=self.spec.id, readers=readers)
        self.count("out", ref)
        return ref

    def count(self, direction: Direction, ref: Ref) -> None:
        """Count an object that was exchanged for the job."""
        self.session.endpoint.traffic.note(self.spec.id, direction, OBJECT, ref.size_bytes, time.time())

    def forget(self, refs: Iterable[Ref]) -> None:
        """Delete published objects that no node will ask for again."""
        for ref in refs:
            try:
                self.session.repository.delete(ref)
            except RepositoryError as error:  # `end_job` and the time to live remove it later
                self.events.add("note", text=f"object {ref.sha256[:12]} could not be deleted: {error}")

    # -- a round ----------------------------------------------------------------

    def collect(
        self, tasks: Mapping[str, Task], place: Place, quorum: Quorum, until: Buffered | None, accept: Accept
    ) -> Collected:
        if self._round[0] != place.round:
            self._round = place.round, time.monotonic()
        limit_s = self.spec.round_timeout_s
        ends_at = None if limit_s is None else self._round[1] + limit_s
        with self.session.lock:
            return Collector(self, tasks, place, quorum, until, accept, self._pool, ends_at).run()

    def rest(self, seconds: float) -> None:
        with self.session.lock:
            late = [m for m in self.receive(seconds) if isinstance(m.body, Result)]
            self.session.endpoint.settle(late)

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what is there; everything but contributions is receipted at once.

        Raises:
            JobStopped: somebody asked for the job's end.
        """
        if self._gates is not None:
            self._gates.check()
        self._zombies.look(self.header["epoch"])
        messages = self.session.endpoint.receive(timeout_s)
        self.session.endpoint.settle(m for m in messages if not isinstance(m.body, Result))
        for message in messages:
            body = message.body
            if isinstance(body, Event) and message.job == self.spec.id and body.type not in _UNTOLD:
                if not (message.task in self.awaited and is_completion(message)):
                    self.record(message)
            elif isinstance(body, Pong):
                self._zombies.hear(message.sender, body)
        return messages

    def record(self, message: Message) -> None:
        """Keep an event that a node sent."""
        event = message.body
        assert isinstance(event, Event)
        node = self.nodes_of.get(message.task, message.sender)
        try:
            self.events.record(event.type, event.data, round_=message.round, node=node, task=message.task)
        except SpecError:  # a node may say anything; a type that is none is not worth a job
            self.session.endpoint.counters["odd_event"] += 1

    # -- after the last ---------------------------------------------------------

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        release(
            self.session,
            {
                party: Goodbye(
                    self.spec.id,
                    End(outcome=outcome, keep_states=states_at(keep_states, party)),
                    self.header["epoch"],
                )
                for party in {party_of(node) for node in self._nodes}
            },
        )
        if not self.spec.keep:
            try:
                self.session.repository.end_job(self.spec.id)
            except RepositoryError as error:
                self.events.add("note", text=f"the hub keeps the job's objects until they expire: {error}")
