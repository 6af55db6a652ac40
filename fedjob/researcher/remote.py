"""The real federation: tasks over MQTT, bytes over the repository."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, to_plain, unpack
from fedjob.common.errors import DecodeError, FedjobError, JobFailed, QuorumNotReached, RepositoryError
from fedjob.common.lifecycle import State
from fedjob.common.messages import Answer, End, Event, Message, Offer, Result, Task, work_key
from fedjob.common.params import FileParams
from fedjob.common.protocols.base import Buffered
from fedjob.common.quorum import Quorum, Verdict
from fedjob.common.repository.parts import ref_of
from fedjob.common.types import Address, Ref
from fedjob.researcher import roundkeeping
from fedjob.researcher.events import EventLog
from fedjob.researcher.federation import Accept, Arrival, Collected, Federation, Gates, Place
from fedjob.researcher.journal import Journal, read_journal
from fedjob.researcher.release import Goodbye, release
from fedjob.researcher.session import Session
from fedjob.researcher.spec import JobSpec

NUM_FETCHES = 4
"""Contributions that are fetched at the same time."""

OFFER_AGAIN_S = 30.0
OFFER_SILENCE_S = 20.0
MAX_BLOB_BYTES = 1 << 30
_FORWARDED = ("metrics", "progress", "log", "note")


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a download came to: an arrival, or why it does not count."""

    message: Message
    arrival: Arrival | None
    problem: str


class RemoteFederation(Federation):
    """Nodes behind the hub.

    Args:
        epoch: of this runner; nodes refuse tasks of an older one.
    """

    def __init__(
        self, session: Session, spec: JobSpec, events: EventLog, *, epoch: int, attempt: int
    ) -> None:
        self.num_rows = {node: info.get("num_rows") for node, info in spec.datasets.items()}
        self._session = session
        self._spec = spec
        self._events = events
        self._header: dict[str, Any] = {"job": spec.id, "epoch": epoch, "attempt": attempt}
        self._nodes = tuple(sorted(spec.datasets))
        self._pool = ThreadPoolExecutor(NUM_FETCHES, thread_name_prefix="fedjob-fetch")

    # -- before the first round -----------------------------------------------

    def prepare(self, plan: Ref | None, gates: Gates) -> None:
        with self._session.lock:
            answers: dict[str, Answer] = {}
            asked = time.monotonic()
            self._offer(self._nodes, plan)
            again = asked + OFFER_AGAIN_S
            told: tuple[str, ...] | None = None
            while True:
                for message in self._receive(0.5):
                    if isinstance(message.body, Answer) and message.job == self._spec.id:
                        answers[message.sender] = message.body
                now = time.monotonic()
                verdict, waiting, lost = self._judge_answers(answers, silent=now - asked > OFFER_SILENCE_S)
                if verdict is not Verdict.OPEN:
                    break
                if waiting != told and waiting:
                    told = waiting
                    self._events.add("grant", waiting=list(waiting), plan=self._spec.plan_hash[:12])
                if now > again:
                    again = now + OFFER_AGAIN_S
                    self._offer([n for n in self._nodes if n not in lost], plan)
            for node, reason in lost.items():
                self._events.add("error", node=node, reason=reason)
            if verdict is Verdict.IMPOSSIBLE:
                listed = "; ".join(f"{node}: {reason}" for node, reason in lost.items())
                reason = (
                    "rejected" if any(a.status == "rejected" for a in answers.values()) else "quorum_lost"
                )
                raise JobFailed(
                    f"too few nodes take part: {listed}. Expected {self._spec.the_quorum.min_nodes} or more"
                    f"{_and_required(self._spec.the_quorum)}; ask the nodes' owners, or start the nodes",
                    reason=reason,
                )
            self.num_rows = {
                node: answers[node].num_rows or rows
                for node, rows in self.num_rows.items()
                if node not in lost
            }
        gates.enter(State.QUEUED)
        gates.await_slot()

    def _offer(self, nodes: Iterable[str], plan: Ref | None) -> None:
        for node in nodes:
            offer = Offer(
                dataset=str(self._spec.datasets[node]["name"]),
                protocol=self._spec.protocol.name,
                plan=plan,
                entry=self._spec.plan_entry,
                job_name=self._spec.name,
                note=self._spec.note,
            )
            self._session.endpoint.send(Address(node), offer, **self._header)

    def _judge_answers(
        self, answers: Mapping[str, Answer], *, silent: bool
    ) -> tuple[Verdict, tuple[str, ...], dict[str, str]]:
        granted, waiting, lost = [], [], {}
        for node in self._nodes:
            answer = answers.get(node)
            if answer is None:
                if silent:
                    lost[node] = f"no_reply: no answer within {OFFER_SILENCE_S:.0f} s"
            elif answer.status in ("granted", "not-needed"):
                granted.append(node)
            elif answer.status == "pending":
                waiting.append(node)
            else:
                what = ", ".join(answer.missing) or answer.note
                lost[node] = f"{answer.reason or answer.status}{': ' + what if what else ''}"
        return self._spec.the_quorum.decide(self._nodes, granted, lost), tuple(waiting), lost

    # -- bytes ------------------------------------------------------------------

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        readers = self._nodes if node is None else (node,)
        return self._session.repository.put(source, job=self._spec.id, readers=readers)

    def forget(self, refs: Iterable[Ref]) -> None:
        """Delete published objects that no node will ask for again."""
        for ref in refs:
            try:
                self._session.repository.delete(ref)
            except RepositoryError as error:  # `end_job` and the time to live remove it later
                self._events.add("note", text=f"object {ref.sha256[:12]} could not be deleted: {error}")

    # -- a round ----------------------------------------------------------------

    def collect(
        self, tasks: Mapping[str, Task], place: Place, quorum: Quorum, until: Buffered | None, accept: Accept
    ) -> Collected:
        with self._session.lock:
            return _Collector(self, tasks, place, quorum, until, accept, self._pool).run()

    def _receive(self, timeout_s: float) -> list[Message]:
        """Return what is there; everything but contributions is receipted at once."""
        messages = self._session.endpoint.receive(timeout_s)
        self._session.endpoint.settle(m for m in messages if not isinstance(m.body, Result))
        for message in messages:
            body = message.body
            if isinstance(body, Event) and message.job == self._spec.id and body.type in _FORWARDED:
                self._events.add(body.type, round_=message.round, node=message.sender, **_clean(body.data))
        return messages

    # -- after the last ---------------------------------------------------------

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        release(
            self._session,
            {
                node: Goodbye(
                    self._spec.id,
                    End(outcome=outcome, keep_states=sorted(keep_states.get(node, ()))),
                    self._header["epoch"],
                )
                for node in self._nodes
            },
        )
        if not self._spec.keep:
            try:
                self._session.repository.end_job(self._spec.id)
            except RepositoryError as error:
                self._events.add("note", text=f"the hub keeps the job's objects until they expire: {error}")


class _Collector:
    """One ask under way: the edge around `roundkeeping`."""

    def __init__(
        self,
        federation: RemoteFederation,
        tasks: Mapping[str, Task],
        place: Place,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._federation = federation
        self._endpoint = federation._session.endpoint
        self._repository = federation._session.repository
        self._events = federation._events
        self._tasks = tasks
        self._place = place
        self._accept = accept
        self._pool = pool
        self._arrivals: dict[str, Arrival] = {}
        self._replies: dict[str, Message] = {}
        self._fetched: queue.SimpleQueue[_Fetched] = queue.SimpleQueue()
        self._sent: list[str] = []
        self._keys = {
            node: work_key(job=place.job, round_=place.round, step=place.step, node=node, task=task)
            for node, task in tasks.items()
        }
        self._state = roundkeeping.begin(
            time.monotonic(), self._keys, quorum, enough=None if until is None else until.k
        )

    def run(self) -> Collected:
        journal_path = self._place.spool / "journal"
        recovered = self._recover(journal_path)
        self._journal = Journal(journal_path)
        try:
            for node, task in self._tasks.items():
                if node not in recovered:
                    self._sent.append(self._send(node, task))
            while isinstance(outcome := roundkeeping.outcome(self._state), roundkeeping.Open):
                self._turn()
        finally:
            self._endpoint.withdraw(self._sent)
            self._journal.close()
        left_out = {node: self._state.left_out.get(node, reason) for node, reason in outcome.left_out.items()}
        if isinstance(outcome, roundkeeping.Impossible):
            listed = "; ".join(f"{node}: {reason}" for node, reason in sorted(left_out.items()))
            raise QuorumNotReached(
                f"round {self._place.round} can't go on: {len(outcome.included)} nodes contributed, "
                f"expected {self._state.quorum.min_nodes} or more{_and_required(self._state.quorum)} ({listed})",
                received=outcome.included,
                left_out=left_out,
            )
        return Collected(
            arrivals={node: self._arrivals[node] for node in outcome.included}, left_out=left_out
        )

    def _turn(self) -> None:
        """Take what has arrived, make it durable, then say so."""
        due = roundkeeping.next_wake(self._state)
        timeout_s = 1.0 if due is None else min(1.0, max(0.0, due - time.monotonic()))
        for message in self._federation._receive(timeout_s):
            if message.job != self._place.job:
                if isinstance(message.body, Result):
                    self._endpoint.settle([message])
            elif isinstance(message.body, Result):
                self._take(message, message.body)
            elif isinstance(message.body, Event):
                self._step(roundkeeping.SignOfLife(time.monotonic(), message.sender))
        fetched = []
        while not self._fetched.empty():
            fetched.append(self._fetched.get())
        good = [f.arrival for f in fetched if f.arrival is not None and not f.problem]
        if good:
            self._journal.append([_to_record(arrival) for arrival in good])
        for item in fetched:
            node = item.message.sender
            if item.arrival is None or item.problem:
                self._step(roundkeeping.Failed(time.monotonic(), node, item.problem))
            else:
                self._arrivals[node] = item.arrival
                self._step(roundkeeping.Collected(time.monotonic(), node))
        self._endpoint.settle([item.message for item in fetched])
        self._step(roundkeeping.Tick(time.monotonic()))

    def _take(self, message: Message, result: Result) -> None:
        reason = "" if result.ok else f"{result.reason}{': ' + result.detail if result.detail else ''}"
        self._replies[message.id] = message
        commands = self._step(
            roundkeeping.ReplyArrived(
                time.monotonic(), message.sender, result.key, message.id, result.ok, reason
            )
        )
        for command in commands:
            if isinstance(command, roundkeeping.Collect):
                self._pool.submit(self._fetch, message, result)
                return
            listed = command.listed
            if listed.reason != "duplicate":
                self._events.add(
                    "note", round_=message.round, node=listed.node, text=f"reply not counted: {listed.reason}"
                )
        self._endpoint.settle([message])

    def _fetch(self, message: Message, result: Result) -> None:
        """Bring a contribution here and look it over; runs on a thread of the pool."""
        arrival, problem = None, ""
        try:
            arrival = self._download(message.sender, result)
            problem = self._accept(arrival)
        except FedjobError as error:
            problem = f"{error.reason}: {error}"
        except Exception as error:  # a thread must not swallow a node's answer
            problem = f"unreadable: {type(error).__name__}: {error}"
        self._fetched.put(_Fetched(message, arrival, problem))
        self._endpoint.wake()

    def _download(self, node: str, result: Result) -> Arrival:
        if result.blob is not None:
            large = unpack(self._repository.get_bytes(result.blob, limit_bytes=MAX_BLOB_BYTES))
            if not isinstance(large, dict) or large.keys() != {"value", "metrics"}:
                raise DecodeError("a reply's large part is not a map of value and metrics")
            result = from_plain(Result, {**to_plain(result), **large})
        params = None
        if result.params is not None:
            path = self._place.spool / f"{self._place.step}_{node}.safetensors"
            self._repository.get(result.params, path)
            params = FileParams(path, result.params)
        return Arrival(node=node, result=result, params=params)

    def _recover(self, journal_path: Path) -> set[str]:
        """Take replies that a run before this one made durable; nobody is asked for them again."""
        recovered = set()
        for record in read_journal(journal_path):
            try:
                arrival = _from_record(record, self._place)
            except (DecodeError, KeyError, OSError):
                continue
            node = arrival.node
            if self._keys.get(node) != arrival.result.key or node in recovered or self._accept(arrival):
                continue
            self._arrivals[node] = arrival
            recovered.add(node)
            now = time.monotonic()
            self._step(roundkeeping.ReplyArrived(now, node, arrival.result.key, arrival.result.of))
            self._step(roundkeeping.Collected(now, node))
        return recovered

    def _send(self, node: str, task: Task) -> str:
        return self._endpoint.send(
            Address(node),
            task,
            task=self._keys[node],
            round=self._place.round,
            step=self._place.step,
            **self._federation._header,
        )

    def _step(self, event: roundkeeping.Event) -> list[roundkeeping.Command]:
        self._state, commands = roundkeeping.step(self._state, event)
        return commands


def _to_record(arrival: Arrival) -> dict[str, object]:
    name = arrival.params.path.name if arrival.params is not None else ""
    return {"node": arrival.node, "result": to_plain(arrival.result), "file": name}


def _from_record(record: Mapping[str, object], place: Place) -> Arrival:
    result = from_plain(Result, record["result"])
    params = None
    if record["file"]:
        path = place.spool / str(record["file"])
        if result.params is None or ref_of(path) != result.params:
            raise DecodeError(f"{path.name} is not what was journaled")
        params = FileParams(path, result.params)
    return Arrival(node=str(record["node"]), result=result, params=params)


def _clean(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("type_", "round_", "node", "task")}


def _and_required(quorum: Quorum) -> str:
    return f", {', '.join(quorum.required)} among them" if quorum.required else ""


def ask_grants(session: Session, spec: JobSpec, plan: Ref | None, epoch: int) -> dict[str, str]:
    """Ask every node of a job, without filing anything, whether the plan may run there.

    Returns:
        node -> `granted`, `not-needed`, `pending`, `rejected: why`, `unknown: why` or `no reply`.
    """
    verdicts = dict.fromkeys(sorted(spec.datasets), "no reply")
    by_dataset: dict[str, list[str]] = {}
    for node, info in spec.datasets.items():
        by_dataset.setdefault(str(info["name"]), []).append(node)
    for dataset, nodes in by_dataset.items():
        offer = Offer(
            dataset=dataset,
            protocol=spec.protocol.name,
            plan=plan,
            entry=spec.plan_entry,
            job_name=spec.name,
            dry=True,
        )
        for node, message in session.ask(nodes, offer, timeout_s=10.0, job=spec.id, epoch=epoch).items():
            if isinstance(message.body, Answer):
                verdicts[node] = _verdict(message.body)
    return verdicts


def _verdict(answer: Answer) -> str:
    """Say in a word what a node answered, and why where that is bad news."""
    if answer.status in ("granted", "not-needed", "pending"):
        return answer.status
    why = (answer.reason if answer.reason != answer.status else "", answer.note)
    return ": ".join([answer.status, *filter(None, why)])
