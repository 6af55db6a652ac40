"""A remote function: every node calls it once on its data, and the researcher gets the values by node.

It leaks what the function returns to the researcher, so a node's owner reads the
function before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.contribution import Contribution
from fedjob.common.values import encode
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.training_plans.function import FunctionPlan

STEP = "call"


@dataclass(frozen=True, slots=True)
class NodeValues:
    """The outcome of a function's job: encoded values by node, or the total of the job's own aggregator."""

    nodes: Mapping[str, Any]
    total: Any = None
    aggregated: bool = False


@dataclass(frozen=True, slots=True)
class Function(FederatedProtocol):
    """One call at every node.

    Args:
        aggregated: whether the job has an aggregator of its own, whose total is the result.
    """

    aggregated: bool = False

    name: ClassVar[str] = "function"

    def start(self, params: Mapping[str, Any]) -> State:
        return {"done": False, "nodes": {}, "total": None}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if not state["done"]:
            return Ask(step=STEP, aggregator=Collect(), schema={})
        return Done(NodeValues(state["nodes"], state["total"], self.aggregated))

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan: Any = local.plan
        assert isinstance(plan, FunctionPlan)
        return Contribution(encode(plan.call(), "what the function returned"), float(plan.num_rows))

    def finish(self, state: State, gathered: Gathered) -> State:
        nodes = {node: reply.value for node, reply in gathered.replies.items()}
        return {"done": True, "nodes": nodes, "total": gathered.total.value if self.aggregated else None}
