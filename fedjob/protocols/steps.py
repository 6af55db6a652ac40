"""The protocol of a `Plan`: every node prepares, then works through its items batch by batch.

    ask 1, `setup`   every node calls the plan's `setup`, which may narrow the items
    ask 2, `step`    every prepared node calls the plan's `step` for each batch, and `finish` at the end

No node begins its second ask before enough nodes have answered the first one. The researcher
gets the values by node. It leaks what the plan returns, and the number of items; therefore a
node's owner reads the plan before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.contribution import Contribution
from fedjob.common.values import decode, encode
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.protocols.function import NodeValues
from fedjob.protocols.step_inputs import PLAIN
from fedjob.training_plans.pipeline import Pipeline

SETUP = "setup"
STEP = "step"


@dataclass(frozen=True, slots=True)
class Steps(FederatedProtocol):
    """The work on items in batches, as a `Plan` defines it."""

    name: ClassVar[str] = "steps"
    batched_steps: ClassVar[tuple[str, ...]] = (STEP,)
    remembers_items: ClassVar[bool] = True

    def start(self, params: Mapping[str, Any]) -> State:
        return {"ready": [], "answers": []}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {"values": PLAIN} if step == STEP else {}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if not state["ready"]:
            return Ask(step=SETUP, aggregator=Collect(), commit=False, schema={}, answer=Nothing())
        if len(state["answers"]) < view.rounds:
            return ask_for({}, tuple(state["ready"]))
        return Done(NodeValues(state["answers"][-1]))

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan = _pipeline(local)
        if instruction.step == SETUP:
            return Contribution(None, float(plan.num_items))
        value = plan.step(instruction.values.get("values", {}))
        return Contribution(encode(value, "what step returned"), float(plan.num_items))

    def join(self, parts: Sequence[Contribution], local: Local) -> Contribution:
        value = _pipeline(local).join(decode(part.value) for part in parts)
        return Contribution(encode(value, "what the plan returned"), sum(part.weight for part in parts))

    def finish(self, state: State, gathered: Gathered) -> State:
        if not state["ready"]:
            return {**state, "ready": sorted(gathered.replies)}
        values = {node: reply.value for node, reply in gathered.replies.items()}
        return {**state, "answers": [*state["answers"], values]}

    def setup(self, local: Local) -> None:
        _pipeline(local).set_up()


def ask_for(values: Mapping[str, Any], nodes: tuple[str, ...]) -> Ask:
    """Return the ask for one pass over the items.

    Args:
        values: encoded values that the plan gets at the nodes.
    """
    shared = {"values": dict(values)} if values else {}
    return Ask(step=STEP, shared=shared, to=nodes, aggregator=Collect(), schema={})


def _pipeline(local: Local) -> Pipeline:
    plan: Any = local.plan
    assert isinstance(plan, Pipeline)
    return plan
