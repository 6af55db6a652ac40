"""The federation of a simulated job: the same plan, protocol and checks as at nodes, computed by a pool of workers.

What a node answers is taken in an order that does not depend on which worker is done first: by round and name, and slow
nodes after all others. So the same job has the same result with one worker and with many.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.errors import NodeFailure, NoSpace
from fedjob.common.lifecycle import State
from fedjob.common.quorum import Quorum, Verdict, too_few
from fedjob.common.seeds import seed_for
from fedjob.execution.failures import OF_USER_CODE
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.messaging.messages import Task
from fedjob.parameters.model_files import ModelFile
from fedjob.protocols.base import Buffered
from fedjob.researcher.federation.base import Accept, AskContext, Collected, Gates, PostponedWork, completion
from fedjob.researcher.federation.local import LocalFederation
from fedjob.researcher.simulation.backend import Backend, NodeOutcome
from fedjob.researcher.simulation.population import Simulation
from fedjob.researcher.simulation.profile import Profile
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.replies import Arrival
from fedjob.training_plans.source.plan_source import PLAN_FILENAME

DROPPED = "dropped: the simulation lets this answer never come (drop=...)"

_log = logging.getLogger("fedjob")

OpenBackend = Callable[[], Backend]


@dataclass
class _AskAnswers:
    """What came of an ask so far."""

    arrivals: dict[str, Arrival] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)


class SimulatedFederation(LocalFederation):
    """Simulated nodes, whose tasks a backend computes.

    Args:
        datasets: node -> what its share of the data is opened by.
        home: folder for what the nodes would keep.
        brought: files that a breakpoint brought along; node states are among them.
        federation: name of the federation that a job's spec has, empty for none.
        simulation: what was asked for.
        seed: of the job: decides which answers never come and which nodes are slow.
        open_backend: starts what computes; called when the job has its slot.
        models: name -> file of parameters that all nodes have.
    """

    def __init__(
        self,
        datasets: Mapping[str, dict[str, Any]],
        home: Path,
        events: EventLog,
        brought: Mapping[str, Path],
        federation: str,
        *,
        simulation: Simulation,
        seed: int,
        open_backend: OpenBackend,
        models: Mapping[str, ModelFile] | None = None,
    ) -> None:
        super().__init__(datasets, home, events, brought, federation, models)
        self._simulation = simulation
        self._seed = seed
        self._open_backend = open_backend
        self._backend: Backend | None = None
        self._profile = Profile()
        self._keys: dict[str, str] = {}
        self._postponed = PostponedWork()

    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None:
        super().prepare(code, gates)
        began = time.perf_counter()
        self._backend = self._open_backend()
        self._profile.add("start", time.perf_counter() - began)
        self._profile.num_workers = self._backend.num_workers

    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        self._profile.begin_ask()
        self._keys.clear()
        turn = sorted(tasks, key=lambda node: (self._is_slow(node), place.round_of(node), node))
        found = _AskAnswers()
        for node, outcome in self._in_turn(turn, tasks, place):
            self._take(node, tasks[node], place, outcome, accept, found)
            if until is not None and len(found.arrivals) >= until.k:
                break
        for node in turn:
            if node not in found.arrivals and node not in found.left_out:
                if place.keep:
                    found.busy.append(node)
                else:
                    found.left_out[node] = "late"
        self._profile.end_ask(len(turn))
        arrivals, left_out, busy = found.arrivals, found.left_out, found.busy
        if quorum.decide(list(tasks), list(arrivals), [*left_out, *busy]) is not Verdict.MET:
            raise too_few(quorum, place.round, arrivals, left_out)
        return Collected(arrivals=arrivals, left_out=left_out, order=tuple(arrivals), busy=tuple(busy))

    def when_asked(self, work: Callable[[], None]) -> None:
        self._postponed.add(work)

    def rest(self, seconds: float) -> None:
        self._postponed.do()
        super().rest(seconds)

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        if self._backend is not None:
            self._backend.close()
            self._backend = None
            self._profile.save(self._home)
        self._postponed.do()
        super().end(outcome, keep_states)

    def _in_turn(
        self,
        turn: list[str],
        tasks: Mapping[str, Task],
        place: AskContext,
    ) -> Iterator[tuple[str, NodeOutcome | Arrival | str]]:
        """Yield what came of the nodes' tasks, in their turn, whatever the order in which they are done."""
        assert self._backend is not None, "prepare comes first"
        early: dict[str, NodeOutcome | Arrival | str] = {}
        node_of: dict[str, str] = {}
        at, given, num_workers = 0, 0, self._backend.num_workers

        def orders() -> Iterator[WorkOrder]:
            nonlocal given
            for node in turn:
                if given == num_workers:  # all compute
                    self._postponed.do()
                ready = self._without_backend(node, tasks[node], place)
                if ready is not None:
                    early[node] = ready
                    continue
                try:
                    order = self._order(node, tasks[node], place)
                except NodeFailure as failure:
                    early[node] = f"{failure.reason}: {failure.detail}"
                    continue
                self._record(
                    node, tasks[node], place, {"state": str(State.RUNNING), "worker": 0, "reason": ""}
                )
                node_of[order.key] = node
                given += 1
                yield order
            self._postponed.do()

        def tell(node: str, round_: int, type_: str, data: dict[str, Any]) -> None:
            self._events.add(type_, round_=round_, node=node, **data)

        outcomes = self._backend.compute(orders(), tell)
        try:
            for outcome in outcomes:
                self._postponed.do()  # before a state comes, which what was postponed would not know
                node = node_of.pop(outcome.done.key)
                for type_, data in outcome.events:
                    tell(node, place.round_of(node), type_, data)
                early[node] = outcome
                while at < len(turn) and turn[at] in early:
                    yield turn[at], early.pop(turn[at])
                    at += 1
            while at < len(turn) and turn[at] in early:
                yield turn[at], early.pop(turn[at])
                at += 1
        finally:
            close = getattr(outcomes, "close", None)
            if close is not None:
                close()

    def _without_backend(self, node: str, task: Task, place: AskContext) -> Arrival | str | None:
        """Return what needs no plan: an answer that never comes, or a step of a secure sum; None for all else."""
        if self._is_dropped(node, place):
            return DROPPED
        if not task.sum:
            return None
        try:
            return self._step_of_sum(node, task, place)
        except NodeFailure as failure:
            return f"{failure.reason}: {failure.detail}"

    def _take(
        self,
        node: str,
        task: Task,
        place: AskContext,
        outcome: NodeOutcome | Arrival | str,
        accept: Accept,
        found: _AskAnswers,
    ) -> None:
        """Check what came of a node's task, and count it or leave it out.

        Raises:
            NoSpace: the disk of the job's folder is full.
        """
        arrival: Arrival | None = None
        problem = outcome if isinstance(outcome, str) else ""
        if isinstance(outcome, Arrival):
            arrival = outcome
        elif isinstance(outcome, NodeOutcome):
            self._profile.add_node(outcome.seconds)
            done = outcome.done
            if done.ok:
                arrival = self._arrival(node, task, place, done, outcome.ref)
            elif done.reason == NoSpace.reason:  # the disk is the job's own, and full for all nodes to come
                raise NoSpace(done.message or done.detail)
            else:
                problem = _problem(node, done)
                self._show_trace(node, done, found)
        if arrival is not None:
            problem = accept(arrival)
        if problem or arrival is None:
            found.left_out[node] = problem
            failed = {"state": str(State.FAILED), "worker": 0, "reason": problem.partition(":")[0]}
            self._record(node, task, place, failed)
        else:
            found.arrivals[node] = arrival
            self._record(node, task, place, completion(arrival.result))

    def _show_trace(self, node: str, done: WorkResult, found: _AskAnswers) -> None:
        """Log where the first node of an ask failed: the plan is the researcher's own, and so are the data.

        Of what fedjob itself refuses, with no line of the plan at work, the words say all there is.
        """
        unforeseen = done.reason in OF_USER_CODE or PLAN_FILENAME in done.trace
        if unforeseen and not any(reason != DROPPED for reason in found.left_out.values()):
            _log.warning("%s failed:\n%s", node, done.trace)

    def _record(self, node: str, task: Task, place: AskContext, body: Mapping[str, Any]) -> None:
        """Record the state of a node's task; steps of secure sums have none."""
        if not task.sum:
            self._teller(node, task, place)(body)

    def _key(self, node: str, task: Task, place: AskContext) -> str:
        if node not in self._keys:  # of this ask
            self._keys[node] = super()._key(node, task, place)
        return self._keys[node]

    def _is_dropped(self, node: str, place: AskContext) -> bool:
        return _drawn(self._seed, place.round, node, f"drop {place.step}") < self._simulation.drop

    def _is_slow(self, node: str) -> bool:
        return self._simulation.slow > 0 and _drawn(self._seed, 0, node, "slow") < self._simulation.slow


def _drawn(seed: int, round_: int, node: str, purpose: str) -> float:
    """Return a number from 0 to below 1 that follows from the job's seed."""
    return seed_for(seed, round_, node, purpose) / 2**63


def _problem(node: str, done: WorkResult) -> str:
    """Return why a node failed, with the words of the error and the plan's line; all of it is the researcher's own."""
    kind, _, words = done.message.partition(": ")
    if not words or words.startswith(f"node {node}: "):  # the detail is what follows there
        return f"{done.reason}: {done.detail or done.message}"
    if done.reason in OF_USER_CODE:
        place = done.detail.partition(": ")[0] if done.detail.startswith(f"{kind} at ") else kind
        return f"{done.reason}: {place}: {words}"
    return f"{done.reason}: {words}"
