"""Inference: every node applies a trained model to its own examples, once.

The researcher sends the trained parameters with the text of the plan that they belong to;
a node answers a prediction for each of its examples, in their order. It leaks these
predictions, which are about single rows: a node's owner allows it apart from training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.common.contribution import Contribution
from fedjob.common.folds.collect import Collect
from fedjob.common.protocols.base import (
    Ask,
    Done,
    FederatedProtocol,
    Gathered,
    Instruction,
    Local,
    State,
    View,
)
from fedjob.common.protocols.function import NodeValues
from fedjob.common.values import encode

STEP = "infer"


@dataclass(frozen=True, slots=True)
class Inference(FederatedProtocol):
    """One prediction for every example at every node.

    Args:
        model: the result of a job that trained; None where the job gives `training_plan` and `init`.
    """

    model: Any = None

    name: ClassVar[str] = "inference"
    family: ClassVar[str] = "infer"

    def start(self, params: Mapping[str, Any]) -> State:
        return {"params": params, "done": False, "nodes": {}}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if not state["done"]:
            return Ask(step=STEP, shared={"params": state["params"]}, fold=Collect())
        return Done(NodeValues(state["nodes"]))

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan: Any = local.plan
        plan.set_params(instruction["params"])
        predictions = plan.predict_all()
        return Contribution(encode(predictions, "the predictions"), float(len(predictions)))

    def finish(self, state: State, gathered: Gathered) -> State:
        nodes = {node: reply.value for node, reply in gathered.replies.items()}
        return {**state, "done": True, "nodes": nodes}
