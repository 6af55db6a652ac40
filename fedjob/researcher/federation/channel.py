"""The channel of one job to its nodes: it receives messages, records events and counts objects."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.config import load_config
from fedjob.common.errors import ConnectionLost, RepositoryError, SpecError
from fedjob.common.types import Address, Ref, party_of
from fedjob.execution.step_parts import large_parts, referring
from fedjob.messaging.attachments import Attachments
from fedjob.messaging.messages import Answer, Event, Message, Offer, Pong, Result, Task
from fedjob.messaging.traffic import OBJECT, Direction
from fedjob.repository.growing_file import GrowingFile
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.federation.audit_evidence import AuditEvidence
from fedjob.researcher.federation.base import is_completion
from fedjob.researcher.federation.event_allowance import BYTES_PER_S, EventAllowance
from fedjob.researcher.federation.orphans import OrphanedTasks
from fedjob.researcher.federation.outages import MAX_OUTAGE_S, LineClock, hub_answers, through_outages
from fedjob.researcher.storage.event import OF_THE_JOB
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

_NOT_KEPT = ("lease",)
"""Types of events that show only that a node is alive."""


class Channel:
    """The messages and objects that one attempt at a job exchanges with its nodes.

    Args:
        epoch: of this runner; nodes refuse tasks of an older one.

    Attributes:
        header: the fields of every message of the job.
        nodes_of: key of a task -> the job's node that it is for.
        awaited: keys of tasks whose completion is recorded when their answers are here, and not before.
        check: called with each `receive`; raises what ends the job.
        attachments: small files of parameters that go along with tasks.
    """

    def __init__(
        self,
        connection: Connection,
        spec: JobSpec,
        folder: JobFolder,
        events: EventLog,
        *,
        epoch: int,
        attempt: int,
    ) -> None:
        self.connection = connection
        self.spec = spec
        self.events = events
        self.header: Mapping[str, Any] = {"job": spec.id, "epoch": epoch, "attempt": attempt}
        self.nodes_of: Mapping[str, str] = {}
        self.awaited: frozenset[str] = frozenset()
        self.check: Callable[[], None] = lambda: None
        self.attachments = Attachments()
        self._epoch = epoch
        self._orphans = OrphanedTasks(connection, spec.id)
        self._clock = LineClock(time.monotonic())
        self._came_back = False
        settings = load_config(ResearcherConfig, connection.home)
        self._allowance = EventAllowance(int(settings.events_mb * (1 << 20)))
        self._parties = {party_of(each) for each in spec.datasets}
        self._foreign: set[str] = set()
        self._step_parts: dict[str, Ref] = {}  # sha256 -> what is published for the step under way
        self._evidence = AuditEvidence(connection, spec, folder, events)

    def send(self, party: str, body: Offer | Task, **header: Any) -> str:
        """Send a node an offer or a task of the job and return the message's id."""
        known = self._evidence.newest(party)
        id_ = self.connection.endpoint.send(Address(party), body, **header, **self.header)
        self._evidence.note_question(id_, known)
        return id_

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what is there; everything but contributions is receipted at once.

        Raises:
            JobStopped: somebody asked for the job's end.
            NotPermitted: the hub takes this researcher for none of its own any more.
        """
        self.check()
        self.connection.check_refused()
        self._follow_line()
        self._orphans.look(self._epoch)
        messages = self.connection.endpoint.receive(timeout_s)
        if messages and self._clock.is_down:  # nothing may follow them that is waited for
            self._follow_line()
        self._evidence.take(messages)
        self.settle([m for m in messages if not isinstance(m.body, Result)])
        for message in messages:
            body = message.body
            if isinstance(body, Event) and message.job == self.spec.id and body.type not in _NOT_KEPT:
                if not (message.task in self.awaited and is_completion(message)):
                    self.record(message)
            elif isinstance(body, Pong):
                self._orphans.end_unknown(message.sender, body)
        return messages

    def settle(self, messages: Sequence[Message]) -> None:
        """Confirm messages to their senders, once the heads of audit chains that they brought are durable."""
        if any(isinstance(message.body, (Answer, Result)) for message in messages):
            self.sync()
        self.connection.endpoint.settle(messages)

    def sync(self, *descriptors: int) -> None:
        """Make the heads of audit chains that have come durable, and other open files along with them."""
        self._evidence.sync(*descriptors)

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        """Put bytes into the repository for all nodes of the job, or for one alone; an outage is waited for."""
        ref = through_outages(
            lambda: self.put(source, node),
            lambda: hub_answers(self.connection),
            check=self.check,
            tell=lambda text: self.events.add("note", text=text),
        )
        self.count("out", ref)
        return ref

    def put(self, source: Path | bytes | GrowingFile, node: str | None = None) -> Ref:
        """Put bytes into the repository, in a single try; may be called from another thread."""
        readers = sorted({party_of(each) for each in (self.spec.datasets if node is None else (node,))})
        return self.connection.repository.put(source, job=self.spec.id, readers=readers)

    def with_attached(self, task: Task) -> Task:
        """Return a task with the bytes of its small files; where it has no room for them they are published."""
        if task.sum:  # a step of a sum names what its node has had with the task
            return self._with_parts(task)
        if (attached := self.attachments.attach(task)) is not None:
            return attached
        for ref, path, node in self.attachments.not_stored(task):
            self.attachments.note_stored(ref, self.publish(path, node))
        return self.attachments.refer(task)

    def _with_parts(self, task: Task) -> Task:
        """Return a step of a sum that fits into a message; what several nodes get alike is published once."""
        refs = {name: self._step_part(content) for name, content in large_parts(task).items()}
        return referring(task, refs) if refs else task

    def _step_part(self, content: bytes) -> Ref:
        """Return where a part of the step under way is, published unless an equal one is already."""
        name = hashlib.sha256(content).hexdigest()
        if name not in self._step_parts:
            self._step_parts[name] = self.publish(content)
        return self._step_parts[name]

    def forget_parts(self) -> None:
        """Delete what was published for a step that is over: nobody asks for it again."""
        while self._step_parts:
            _, ref = self._step_parts.popitem()
            with suppress(RepositoryError):  # the job's end removes it too
                self.connection.repository.delete(ref, job=self.spec.id)

    def now(self) -> float:
        """Return seconds of a clock that stands still while this side is not connected."""
        return self._clock.now(time.monotonic())

    def came_back(self) -> bool:
        """Return whether the connection has come back since this was asked last."""
        came, self._came_back = self._came_back, False
        return came

    def _follow_line(self) -> None:
        """Take note of outages of the broker, or of this side's line: they are blamed on no node.

        Raises:
            ConnectionLost: one lasted longer than a day.
        """
        endpoint, was_down, now = self.connection.endpoint, self._clock.is_down, time.monotonic()
        away_s = self._clock.look(now, up=endpoint.connected)
        if away_s is not None:
            self._came_back = True
            self.events.add("note", text=f"connected again after {away_s:.0f} s; the job goes on")
        elif self._clock.is_down and not was_down:
            why = endpoint.trouble or "the connection to the broker broke"
            self.events.add("note", text=f"not connected: {why}; the job waits, and no node is blamed for it")
        elif self._clock.away_s(now) > MAX_OUTAGE_S:
            raise ConnectionLost(
                f"the broker has been away for {MAX_OUTAGE_S / 3600:.0f} hours: {endpoint.trouble}"
            )

    def record(self, message: Message) -> None:
        """Keep an event that a node sent."""
        event = message.body
        assert isinstance(event, Event)
        node = self.nodes_of.get(message.task, message.sender)
        counters = self.connection.endpoint.counters
        if message.sender not in self._parties:
            counters["foreign_event"] += 1
            return
        if party_of(node) != message.sender:
            counters["foreign_event"] += 1
            if message.sender not in self._foreign:
                self._foreign.add(message.sender)
                text = f"{message.sender} sent an event about the task of {node}: it is not recorded, nor are further ones"
                self.events.add("note", round_=message.round, node=message.sender, text=text)
            return
        if not self._allowance.admits(message.sender, time.monotonic()):
            counters["too_many_events"] += 1
            if self._allowance.is_news(message.sender):
                text = (
                    f"{message.sender} sends more events than are recorded of one node: {BYTES_PER_S >> 20} MB a second, "
                    f"{self._allowance.bytes_in_all >> 20} MB in all (events_mb in the home's config.toml)"
                )
                self.events.add("note", round_=message.round, node=message.sender, text=text)
            return
        before = self.events.size_bytes
        if event.type in OF_THE_JOB:
            counters["odd_event"] += 1
            return
        try:
            self.events.record(event.type, event.data, round_=message.round, node=node, task=message.task)
        except SpecError:  # a node may send any type: an unknown one must not end the job
            counters["odd_event"] += 1
        self._allowance.charge(message.sender, max(0, self.events.size_bytes - before))

    def count(self, direction: Direction, ref: Ref) -> None:
        """Count an object that was exchanged for the job."""
        self.connection.endpoint.traffic.note(self.spec.id, direction, OBJECT, ref.size_bytes, time.time())
