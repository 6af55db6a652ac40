"""The edge around `collection_machine`: one ask under way at remote nodes."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fedjob.common.codec import MAX_ELEMENTS, from_plain, to_plain, unpack
from fedjob.common.errors import DecodeError, FedjobError, NoSpace, RoundTimeout
from fedjob.common.files import private
from fedjob.common.quorum import Quorum, too_few
from fedjob.common.types import party_of
from fedjob.messaging.messages import (
    Event,
    Message,
    Result,
    Task,
    attached_bytes,
    keyless_result,
    work_key,
)
from fedjob.parameters.files import FileParams
from fedjob.protocols.base import Buffered
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation import collection_machine
from fedjob.researcher.federation.base import Accept, AskContext, Collected, completion, is_completion
from fedjob.researcher.federation.channel import Channel
from fedjob.researcher.federation.outages import hub_answers, through_outages
from fedjob.researcher.storage.replies import Arrival, Journal, read_journal

MAX_REASON = 4000
"""Characters of a node's own words about a failure that are kept."""


MAX_NOTED = 50
"""Replies of one node in an ask that are not counted and noted in the job's log; more are not noted."""

CONFIRM_S = 0.05
"""How long an answer with attached parameters waits for others that go to the disk along with it."""

_ONE_AT_A_TIME = threading.Lock()
"""Held while a large value is in memory twice, as bytes and as what they hold."""


@dataclass(frozen=True, slots=True)
class _Download:
    """The outcome of a download: an arrival, or the reason why it does not count.

    Args:
        own: trouble of this machine, which is no fault of the node.
    """

    message: Message
    arrival: Arrival | None
    problem: str
    own: str = ""


class Collector:
    """One ask under way: sends its tasks, downloads the contributions, and makes them durable.

    Attributes:
        meanwhile: called once the tasks are sent.
        unconfirmed: answers that count, and that are not durable yet; nobody has confirmed them.
    """

    def __init__(
        self,
        channel: Channel,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
        pool: ThreadPoolExecutor,
        ends_at: float | None = None,
        away: Collection[str] = (),
    ) -> None:
        self._channel = channel
        self._endpoint = channel.connection.endpoint
        self._repository = channel.connection.repository
        self._events = channel.events
        self._tasks = tasks
        self._place = place
        self._accept = accept
        self._pool = pool
        self._arrivals: dict[str, Arrival] = {}
        self._parts: dict[str, Arrival] = {}  # of nodes that were allowed a part only
        self._completions: dict[str, Message] = {}  # key of a task -> the event that reported it as completed
        self._replies: dict[str, Message] = {}
        self._fetched: queue.SimpleQueue[_Download] = queue.SimpleQueue()
        self._sent: dict[str, str] = {}  # id of a task's message -> its node
        self._uncounted: Counter[str] = Counter()  # node -> its replies that do not count
        self._waited_for: set[str] = set()  # silent nodes, which the job's log names
        self._over = threading.Event()
        self._journal: Journal | None = None
        self._confirm_at = math.inf
        self.unconfirmed: list[Message] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self._keys = {
            node: work_key(
                job=place.job, round_=place.round_of(node), step=place.step, node=party_of(node), task=task
            )
            for node, task in tasks.items()
        }
        self._state = collection_machine.begin(
            self._channel.now(),
            self._keys,
            quorum,
            enough=None if until is None else until.k,
            ends_at=ends_at,
            away=away,
        )

    def run(self) -> Collected:
        journal_path = self._place.spool / "journal"
        recovered = self._recover(journal_path)
        self._channel.awaited = frozenset(self._keys.values())
        self._channel.nodes_of = {key: node for node, key in self._keys.items()}
        try:
            for node, task in self._tasks.items():
                if node not in recovered:
                    self._sent[self._send(node, task)] = node
            self._journal = Journal(journal_path)  # its name goes to the disk while the nodes are at work
            if recovered:
                self._journal.sync(self._channel.sync)
            self.meanwhile()
            while isinstance(outcome := collection_machine.outcome(self._state), collection_machine.Open):
                self._turn()
        finally:
            self._over.set()
            self._endpoint.withdraw(self._sent)
            self._channel.forget_parts()
            self._channel.awaited = frozenset()
            for message in self._completions.values():  # completed, but it does not count
                self._channel.record(message)
        busy = self._state.pending if self._place.keep else []
        left_out = {
            node: self._state.left_out.get(node, reason)
            for node, reason in outcome.left_out.items()
            if node not in busy
        }
        if not isinstance(outcome, collection_machine.AskFinished):
            self.confirm()
        if isinstance(outcome, collection_machine.AskOverdue):
            raise RoundTimeout(
                f"round {self._place.round} took longer than its round_timeout_s; "
                f"{', '.join(sorted(left_out)) or 'nobody'} had not answered",
                received=outcome.included,
                left_out=left_out,
            )
        if isinstance(outcome, collection_machine.Impossible):
            came = {**self._arrivals, **self._parts}
            raise too_few(self._state.quorum, self._place.round, outcome.included, left_out, came)
        # receipting a late reply ends its resending; a node that goes on is asked again, and answers again
        self._channel.settle([self._replies[message] for message in self._state.collecting.values()])
        return Collected(
            arrivals={node: self._arrivals[node] for node in outcome.included},
            left_out=left_out,
            parts=self._parts,
            order=self._state.included,
            busy=tuple(busy),
            away=self._away(busy),
        )

    def _away(self, busy: Collection[str]) -> frozenset[str]:
        """Return the nodes that are not to be waited for in the next ask unless they give a sign of life."""
        presence = self._endpoint.presence()
        out = set(self._keys) - set(self._state.included) - set(busy)
        gone = {node for node in out if presence.get(party_of(node)) is False}
        return (self._state.unseen & out) | gone

    def _turn(self) -> None:
        """Take what has arrived, write it down, and confirm what is durable."""
        due = collection_machine.next_wake(self._state)
        timeout_s = 1.0 if due is None else min(1.0, max(0.0, due - self._channel.now()))
        timeout_s = min(timeout_s, max(0.0, self._confirm_at - time.monotonic()))
        for message in self._channel.receive(timeout_s):
            if message.job != self._place.job:
                if isinstance(message.body, Result):
                    self._channel.settle([message])
            elif isinstance(message.body, Result):
                self._take(message, message.body)
            elif isinstance(message.body, Event):
                own = self._keys.get(self._node_of(message, message.task)) == message.task
                if own and is_completion(message):
                    self._completions[message.task] = message
                self._step(
                    collection_machine.SignOfLife(self._channel.now(), self._node_of(message, message.task))
                )
        self._take_signs()
        fetched = []
        while not self._fetched.empty():
            fetched.append(self._fetched.get())
        for item in fetched:
            if item.own:
                raise NoSpace(item.own)
        good = [f.arrival for f in fetched if f.arrival is not None and not f.problem]
        if good and self._journal is not None:
            self._journal.append([_to_record(arrival) for arrival in good])
        for item in fetched:
            node = self._node_of(item.message, self._key_of(item.message))
            if item.arrival is None or item.problem:
                self._step(collection_machine.NodeFailed(self._channel.now(), node, item.problem))
            else:
                self._arrivals[node] = item.arrival
                self._step(collection_machine.ContributionKept(self._channel.now(), node))
                self._record_completion(node, item.arrival.result)
        self.unconfirmed += [item.message for item in fetched]
        may_wait = all(attached_bytes(message.body) for message in self.unconfirmed)
        if self.unconfirmed and self._confirm_at == math.inf:
            self._confirm_at = time.monotonic() + CONFIRM_S
        if not may_wait or time.monotonic() >= self._confirm_at:
            self.confirm()
        self._step(collection_machine.CollectionTick(self._channel.now()))

    def make_durable(self) -> None:
        """Bring the answers that count to the disk, and the heads of audit chains with them; from any thread."""
        if self._journal is not None:
            self._journal.sync(self._channel.sync)

    def confirm(self) -> None:
        """Make the answers that count durable, then confirm them to their nodes."""
        if self.unconfirmed:
            self.make_durable()
            self._channel.settle(self.unconfirmed)
        self.unconfirmed, self._confirm_at = [], math.inf

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def _take_signs(self) -> None:
        """Take receipts of tasks as signs of life of nodes that were away, spare all nodes after an outage, leave out who
        was revoked."""
        for node in self._state.pending:
            if not self._channel.connection.roster.has(party_of(node), "node"):
                why = "revoked: it does not belong to the federation any more"
                self._step(collection_machine.NodeFailed(self._channel.now(), node, why))
        if self._state.away:
            waiting = self._channel.connection.unreceipted()
            for message, node in self._sent.items():
                if node in self._state.away and message not in waiting:
                    self._step(collection_machine.SignOfLife(self._channel.now(), node))
        for node in self._state.silent_but_needed(self._channel.now()):
            if node not in self._waited_for:
                self._waited_for.add(node)
                text = (
                    f"no sign of life for {collection_machine.LEASE_S:.0f} s; the job can't go on without it and waits for "
                    f"{collection_machine.NUM_LEASES_OF_NEEDED * collection_machine.LEASE_S / 60:.0f} minutes in all"
                )
                self._events.add("note", round_=self._place.round_of(node), node=node, text=text)
        if self._channel.came_back():
            for (
                node
            ) in self._state.pending:  # no sign of theirs could arrive; they may need a while to be back
                if node not in self._state.away:
                    self._step(collection_machine.SignOfLife(self._channel.now(), node))

    def _record_completion(self, node: str, result: Result) -> None:
        """Record a task as completed once its answer is here; its node reports none that is done at once."""
        if self._tasks[node].sum:  # a step of a sum over what was recorded as completed
            return
        key = self._keys[node]
        reported = self._completions.pop(key, None)
        sent = reported.body if reported is not None else None
        worker = sent.data.get("worker") if isinstance(sent, Event) else 0
        body = completion(result, worker if isinstance(worker, int) else 0)
        self._events.record("state", body, round_=self._place.round_of(node), node=node, task=key)

    def _take(self, message: Message, result: Result) -> None:
        words = f"{result.reason}{': ' + result.detail if result.detail else ''}"
        reason = "" if result.ok else words[:MAX_REASON]
        node = self._node_of(message, result.key)
        if result.usage is not None and not result.ok and result.key == self._keys.get(node):
            self._take_part(node, result)
        commands = self._step(
            collection_machine.ReplyArrived(
                self._channel.now(), node, result.key, message.id, result.ok, reason
            )
        )
        for command in commands:
            if isinstance(command, collection_machine.KeepContribution):
                self._replies[message.id] = message
                if result.blob is None and result.params is not None and result.attached:
                    self._fetched.put(self._brought(message, result))  # it is here already
                else:
                    self._pool.submit(self._fetch, message, result)
                return
            listed = command.listed
            self._uncounted[listed.node] += 1
            if self._uncounted[listed.node] > MAX_NOTED:
                continue
            is_known = message.sender in map(party_of, self._place.at_work)
            is_late = listed.reason == "late" and self._place.keep
            if listed.reason != "duplicate" and not is_late and not is_known:
                self._events.add(
                    "note", round_=message.round, node=listed.node, text=f"reply not counted: {listed.reason}"
                )
        self._channel.settle([message])

    def _take_part(self, node: str, result: Result) -> None:
        """Keep the part of a task that the node's owner allowed, though it does not count."""
        try:
            if problem := self._place.sizes.problem(result):
                raise DecodeError(problem)
            part = self._download(node, result)
            if problem := self._accept(part):
                raise DecodeError(problem)
            self._parts[node] = part
        except FedjobError as error:
            self._events.add(
                "note",
                round_=self._place.round,
                node=node,
                text=f"the part that its owner allowed could not be fetched: {error}",
            )

    def _node_of(self, message: Message, key: str) -> str:
        """Return the job's node that a message is of: its sender, or one of its datasets."""
        node = self._channel.nodes_of.get(key, "")
        return node if party_of(node) == message.sender else message.sender

    def _key_of(self, message: Message) -> str:
        return message.body.key if isinstance(message.body, Result) else message.task

    def _fetch(self, message: Message, result: Result) -> None:
        """Bring a contribution here, on a thread of the pool."""
        self._fetched.put(self._brought(message, result))
        self._endpoint.wake()

    def _brought(self, message: Message, result: Result) -> _Download:
        """Bring a contribution here and look it over."""
        arrival, problem, own = None, self._place.sizes.problem(result), ""
        try:
            if not problem:
                arrival = through_outages(
                    lambda: self._download(self._node_of(message, result.key), result),
                    lambda: self._over.is_set() or hub_answers(self._channel.connection),
                    check=lambda: None,
                )
                problem = self._accept(arrival)
        except NoSpace as error:
            own = f"the disk of your own home is full: {error}"
        except FedjobError as error:
            problem = f"{error.reason}: {error}"[:MAX_REASON]
        except Exception as error:  # whatever is in a node's answer costs that node alone
            problem = f"unreadable: {type(error).__name__}: {error}"[:MAX_REASON]
        return _Download(message, arrival, problem, own)

    def _download(self, node: str, result: Result) -> Arrival:
        if result.blob is not None:
            limit_bytes = self._place.sizes.value
            with _ONE_AT_A_TIME:
                content = self._repository.get_bytes(result.blob, limit_bytes=limit_bytes)
                large = unpack(content, max_elements=MAX_ELEMENTS)
                del content
            self._channel.count("in", result.blob)
            if not isinstance(large, dict) or large.keys() != {"value", "metrics"}:
                raise DecodeError("a reply's large part is not a map of value and metrics")
            result = from_plain(Result, {**to_plain(result), **large})
        params = None
        if result.params is not None:
            path = self._place.spool / f"{self._place.step}_{node}.safetensors"
            attached = result.attached.get(result.params.sha256)
            if attached is None:
                self._repository.get(result.params, path)
                self._channel.count("in", result.params)
            else:
                _place(attached, path)
            params = FileParams(path)
        return Arrival(node=node, result=keyless_result(result), params=params)

    def _recover(self, journal_path: Path) -> set[str]:
        """Take replies that a run before this one made durable; nobody is asked for them again."""
        recovered = set()
        for arrival in journaled(read_journal(journal_path), self._keys.items(), self._place.spool):
            node = arrival.node
            if node in recovered or self._accept(arrival):
                continue
            self._arrivals[node] = arrival
            recovered.add(node)
            now = self._channel.now()
            self._step(collection_machine.ReplyArrived(now, node, arrival.result.key, arrival.result.of))
            self._step(collection_machine.ContributionKept(now, node))
        return recovered

    def _send(self, node: str, task: Task) -> str:
        return self._channel.send(
            party_of(node),
            self._channel.with_attached(replace(task, proof=self._channel.connection.prove())),
            task=self._keys[node],
            round=self._place.round_of(node),
            step=self._place.step,
        )

    def _step(self, event: collection_machine.Event) -> list[collection_machine.Command]:
        self._state, commands = collection_machine.step(self._state, event)
        return commands


def _place(content: bytes, path: Path) -> None:
    """Write what came attached to an answer; as what is fetched it is not fsynced, since its hash is in the journal."""
    fresh = path.with_name(f".{path.name}.attached")
    try:
        with open(fresh, "wb", opener=private) as file:
            file.write(content)
        os.replace(fresh, path)
    except OSError as error:
        raise NoSpace(f"{path} can't be written: {error.strerror}") from error


def _to_record(arrival: Arrival) -> dict[str, object]:
    name = arrival.params.path.name if arrival.params is not None else ""
    return {"node": arrival.node, "result": to_plain(arrival.result), "file": name}


def journaled(
    records: Iterable[Mapping[str, object]], wanted: Collection[tuple[str, str]], spool: Path
) -> Iterator[Arrival]:
    """Yield the journaled replies of some tasks, whose files are as they were.

    The steps of a secure sum share a journal, which names the vectors of all nodes: the files of other tasks are not read.

    Args:
        wanted: node and key of each task.
        spool: folder of the files.
    """
    for record in records:
        try:
            result = from_plain(Result, record["result"])
            node, params = str(record["node"]), None
            if (node, result.key) not in wanted:
                continue
            if record["file"]:
                path = spool / str(record["file"])
                if result.params is None or ref_of(path) != result.params:
                    continue
                params = FileParams(path)
        except (DecodeError, KeyError, OSError):
            continue
        yield Arrival(node=node, result=result, params=params)
