"""Federated evaluation: every node measures one model on its own test data, and the counts are added up.

    s_k = metric states of the model on the test examples of node k     (see metrics/states.py)
    value = ratio formed from sum_k s_k                                 over the nodes that answered

so that the value over all nodes is the one of their pooled test data, not a mean of means.
The researcher keeps the model and the values; a node keeps nothing. It leaks each node's metric
states: a confusion matrix, sums of squares, a sketch of the ranks of scores, and how many examples they
were measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.metrics.states import num_examples, values
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Instruction, Local, State, View
from fedjob.protocols.step_inputs import TENSORS
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.plan_checks import check_testing_step

OVERALL = "all"


@dataclass(frozen=True, slots=True)
class Evaluation(FederatedProtocol):
    """Measure a model at every node, once, without training it.

    The model is measured on the plan's test data: those of `testing_data`, else the `test_ratio` of the rows
    that were held out of training; `training_args={"test_ratio": 1.0}` measures on all rows.

    Args:
        model: the result of a job that trained, from which the plan, its arguments and its seed are taken; or a
            params artifact; None where the job gives `training_plan` and `init`. It stays with the researcher.
    """

    model: Any = None

    name: ClassVar[str] = "evaluation"
    family: ClassVar[str] = "evaluate"

    @property
    def needs_single(self) -> str:
        return ""

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        check_testing_step(plan)

    def start(self, params: Mapping[str, Any]) -> State:
        return {"params": params, "done": False, "found": {}}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {"params": TENSORS}

    def instruct(self, state: State, view: View) -> Ask | Done:
        if not state["done"]:
            return Ask(step="validate", shared={"params": state["params"]}, answer=Nothing())
        return Done(state["found"])

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        plan: Any = local.plan
        self.check_plan(type(plan))
        plan.set_params(instruction["params"])
        states = plan.validate()
        measured_on = max((num_examples(state) for state in states.values()), default=0)
        return Contribution(None, float(measured_on), {"validate": states})

    def finish(self, state: State, gathered: Gathered) -> State:
        """Return a state with `{node: {metric: value}}`, where `all` has the values over all nodes."""
        found = {
            node: values(reply.metrics["validate"])
            for node, reply in sorted(gathered.replies.items())
            if "validate" in reply.metrics  # under secure aggregation only the sum is known
        }
        return {
            **state,
            "done": True,
            "found": {OVERALL: values(gathered.total.metrics["validate"]), **found},
        }
