"""The coordination of a job by its plan: `coordinate(job)` decides which nodes are asked when.

    from fedjob import Job, Plan

    class Twice(Plan):
        def step(self, ctx):
            return float(ctx.data.frame()["age"].mean() - ctx.values.get("centre", 0.0))

        def coordinate(self, job):
            means = job.step()                                # every node; each ask is a round
            centre = sum(means.values()) / len(means)
            return job.step(centre=centre)                    # what it returns is the job's result

    Job(Twice, data={"tags": ["heart"]}).run()

A job that goes on from a breakpoint calls `coordinate` again, and gives it the answers of the rounds that
stand, in their order, without asking; so it decides by these answers and by nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fedjob.common.errors import JobStopped, SpecError
from fedjob.common.values import decode, encode
from fedjob.protocols.base import Ask, FederatedProtocol
from fedjob.protocols.function import NodeValues
from fedjob.protocols.steps import ask_for
from fedjob.researcher.rounds.loop import Commit, Gather, Look, carry_out
from fedjob.researcher.storage.inbox import STOP
from fedjob.researcher.storage.position import Position
from fedjob.training_plans.pipeline import Pipeline
from fedjob.training_plans.plan_checks import overrides
from fedjob.training_plans.step_plan import Plan

Coordinate = Callable[["Coordination"], Any]


class Coordination:
    """The argument of `coordinate(job)`: it asks nodes and returns their answers.

    Args:
        id: of the job.
        rounds: number of rounds of the job; each pass over the items is one.
        seed: of the job.
    """

    def __init__(
        self,
        protocol: FederatedProtocol,
        position: Position,
        look: Look,
        gather: Gather,
        commit: Commit,
        *,
        id: str,
    ) -> None:
        self.id = id
        self._protocol = protocol
        self._look = look
        self._gather = gather
        self._commit = commit
        self.position = position
        view = look(position, None)
        self.rounds = view.rounds
        self.seed = view.seed
        self._known = tuple(view.nodes)
        self._count = 0

    @property
    def nodes(self) -> tuple[str, ...]:
        """The job's nodes, once they are set up those that are ready."""
        return tuple(self.position.state["ready"]) or self._known

    def set_up(self) -> tuple[str, ...]:
        """Have the nodes prepare, if they have not; return those that are ready."""
        if not self.position.state["ready"]:
            ask = self._protocol.instruct(self.position.state, self._look(self.position, None))
            assert isinstance(ask, Ask)
            self._carry_out(ask)
        return self.nodes

    def step(self, nodes: Sequence[str] | None = None, /, **values: Any) -> dict[str, Any]:
        """Have nodes work through their items once, and return node -> its answer.

        Args:
            nodes: None for all that are ready.
            values: the plan finds them in `ctx.values`: plain data, arrays, tables.

        Raises:
            SpecError: a node that is not ready.
            QuorumNotReached: too few answered.
        """
        ready = self.set_up()
        chosen = ready if nodes is None else tuple(nodes)
        if strange := sorted(set(chosen) - set(ready)):
            raise SpecError(f"nodes {', '.join(strange)} are not ready; those that are: {', '.join(ready)}")
        self._count += 1
        if self._count > len(self.position.state["answers"]):
            if self.position.stop:  # a hook, or the owner, asked for the end
                raise JobStopped(STOP)
            encoded = {name: encode(value, name) for name, value in values.items()}
            self._carry_out(ask_for(encoded, chosen))
        answers: Mapping[str, Any] = self.position.state["answers"][self._count - 1]
        return {node: decode(value) for node, value in answers.items()}

    def _carry_out(self, ask: Ask) -> None:
        _, self.position = carry_out(self._protocol, ask, self.position, self._gather, self._commit)


def coordinate_of(plan: Any) -> Coordinate | None:
    """Return the `coordinate` of a plan of steps that has one; None for every other plan."""
    if not isinstance(plan, Pipeline) or not overrides(plan.whole, Plan, "coordinate"):
        return None
    return plan.whole.coordinate


def run_coordinated(
    coordinate: Coordinate,
    protocol: FederatedProtocol,
    position: Position,
    look: Look,
    gather: Gather,
    commit: Commit,
    *,
    id: str,
) -> tuple[Any, Position]:
    """Run a job as its plan coordinates it, in place of `loop.run_rounds`.

    Returns:
        What `coordinate` returned, and the last position; the last answers where the job was asked to end.
    """
    job = Coordination(protocol, position, look, gather, commit, id=id)
    try:
        value = coordinate(job)
        if inspect.iscoroutine(value):
            value = _waited(value)
    except JobStopped as stopped:
        if stopped.verb != STOP:
            raise
        value = NodeValues(job.position.state["answers"][-1] if job.position.state["answers"] else {})
    return value, job.position


def _waited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also where a notebook's loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _on_own_loop(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_on_own_loop, coroutine).result()


def _on_own_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.new_event_loop()  # not asyncio.run, which would keep Ctrl+C from what runs inside
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
