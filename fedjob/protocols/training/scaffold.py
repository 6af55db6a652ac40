"""SCAFFOLD: averaging with gradients that are corrected for the drift of the nodes.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled
Averaging for Federated Learning", algorithm 1, https://arxiv.org/abs/1910.06378

    x: parameters, c: control variate of all nodes, c_k: of node k, both 0 at first
    y_k = x, then K times:  y_k = y_k - lr * (g_k(y_k) - c_k + c)
    c_k' = g_k(x)                            option I, over all the node's examples
         = c_k - c + (x - y_k) / (K * lr)    option II
    x    = x + server_lr * mean(y_k - x)     over the nodes that answered
    c    = c + num_answered / num_nodes * mean(c_k' - c_k)

Buffers, such as running means, have no control variate and are averaged as FedAvg does.
For plain SGD option II is the mean of the gradients g_k(y_k) of the node's steps, and
it is computed in this way here, which needs no learning rate. The mean is weighted by
numbers of examples, as in FedAvg, or plain as in the paper.

The researcher keeps x and c, and sends both to every node. A node keeps c_k; or, for
nodes that keep nothing, the researcher keeps it and sends it to that node alone. Both
give the same parameters. It leaks y_k, c_k' - c_k and the number of examples to the
researcher; the two sums are enough, so it can run under secure aggregation while the
nodes keep c_k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import PlainMean, WeightedMean
from fedjob.common.checks import check_choice, check_kinds, check_positive
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.step_inputs import TENSORS
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.protocols.training.corrections import check_gradients

if TYPE_CHECKING:
    import torch

    from fedjob.training_plans.base import TrainingPlan

MODULE = "scaffold"
OPTIONS = ("I", "II")
KEEPERS = ("node", "researcher")
_OWN = "control_of_"


@dataclass(frozen=True, slots=True)
class Scaffold(TrainingProtocol):
    """Averaging with control variates.

    Args:
        server_lr: learning rate of the researcher's step, above 0; with 1 the result is the mean.
        option: the formula of a node's new control variate, `"II"` or `"I"`; I costs a pass over its examples.
        weighted: whether means are weighted by numbers of examples; False counts every node alike.
        kept_by: the party that keeps the nodes' control variates, `"node"` or `"researcher"`.
    """

    server_lr: float = 1.0
    option: str = "II"
    weighted: bool = True
    kept_by: str = "node"

    name: ClassVar[str] = "scaffold"
    aux_modules: ClassVar[tuple[str, ...]] = (MODULE,)

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive("Scaffold(server_lr=...)", self.server_lr)
        check_choice("Scaffold(option=...)", self.option, OPTIONS)
        check_choice("Scaffold(kept_by=...)", self.kept_by, KEEPERS)

    @property
    def copies(self) -> int:
        return 2 if self.kept_by == "node" else 1  # the sum of the gradients, and the node's own variate

    @property
    def needs_single(self) -> str:
        if self.kept_by == "node":
            return ""
        return "with kept_by='researcher' it keeps every node's control variate by itself; kept_by='node' does not"

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        check_gradients(plan, "Scaffold()")

    def start(self, params: Mapping[str, Any]) -> State:
        import torch

        buffers = kinds_of(params).buffers
        control = {
            name: torch.zeros_like(params[name])
            for name in params
            if params[name].is_floating_point() and name not in buffers
        }
        return {**TrainingProtocol.start(self, params), "control": control}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {**TrainingProtocol.inputs_of(self, step), "control": TENSORS, "own_control": TENSORS}

    def instruct(self, state: State, view: View) -> Ask | Done:
        from fedjob.parameters.files import schema_of

        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        aggregator: Aggregator = WeightedMean() if self.weighted else PlainMean()
        return replace(
            ask,
            shared={**ask.shared, "control": state["control"]},
            each={node: {"own_control": state[_OWN + node]} for node in view.nodes if _OWN + node in state},
            aggregator=aggregator,
            aux={MODULE: schema_of(state["control"])},
            sends_total=self.server_lr == 1,
        )

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        control = instruction["control"]
        if self.kept_by == "node":
            before = local.state.get("control")
        else:
            before = instruction.values.get("own_control")
        at_start = local.plan.gradients() if self.option == "I" else None
        correction = _Correction(control, before)
        trained = self.train_with(local, correction)
        after = correction.mean() if at_start is None else _of_names(at_start, control)
        change = after if before is None else {name: after[name].sub_(before[name]) for name in after}
        if self.kept_by == "node":  # the same sum as at the researcher, bit by bit
            local.state["control"] = change if before is None else dict(_SummedTensors(before, change))
        return replace(trained, aux={MODULE: change})

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        if MODULE not in gathered.total.aux:
            return after
        control, change = state["control"], gathered.total.aux[MODULE]
        if self.server_lr != 1:
            before, mean = state["params"], gathered.total.value
            after["params"] = {
                name: _stepped(before[name], mean[name], self.server_lr) if name in control else mean[name]
                for name in mean
            }
        share = len(gathered.replies) / gathered.num_nodes
        after["control"] = {name: (change[name] * share).add_(control[name]) for name in control}
        if self.kept_by == "researcher":
            for node, reply in gathered.replies.items():
                own = state.get(_OWN + node)
                after[_OWN + node] = (
                    reply.aux[MODULE] if own is None else _SummedTensors(own, reply.aux[MODULE])
                )
        return after

    def without_node_states(self, state: State) -> State:
        if self.kept_by == "researcher":
            return state
        import torch

        # c is the mean of the nodes' control variates, which begin at zero again
        control = {name: torch.zeros_like(tensor) for name, tensor in state["control"].items()}
        return {**state, "control": control}


class _Correction:
    """A function between backward pass and step: it records the gradient, then shifts it by `c - c_k`."""

    def __init__(self, control: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor] | None) -> None:
        self._control = control
        self._own = own
        self._shifts: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._num_updates = 0

    def __call__(self, model: torch.nn.Module) -> None:
        self._num_updates += 1
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None or name not in self._control:
                continue
            if name in self._sums:
                self._sums[name].add_(gradient)
            else:
                self._begin(name, gradient)
            gradient.add_(self._shifts[name])

    def _begin(self, name: str, gradient: torch.Tensor) -> None:
        import torch

        shift = self._control[name] if self._own is None else self._control[name] - self._own[name]
        self._shifts[name] = shift.to(gradient.device)
        exact = torch.promote_types(gradient.dtype, torch.float32)  # many small steps add up
        self._sums[name] = gradient.to(exact, copy=True)

    def mean(self) -> dict[str, torch.Tensor]:
        """Return the mean gradient; zero for parameters that were never trained. It can be called once."""
        return _of_names(
            {name: total.div_(self._num_updates) for name, total in self._sums.items()}, self._control
        )


class _SummedTensors(Mapping[str, "torch.Tensor"]):
    """The sum of two sets of tensors of the same names; each sum is computed when it is read, to save memory."""

    def __init__(self, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
        self._a, self._b = a, b

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._a[name] + self._b[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._a)

    def __len__(self) -> int:
        return len(self._a)


def _of_names(
    found: Mapping[str, torch.Tensor], control: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return tensors of the control variate's names and dtypes, on the CPU, with zeros for those not found."""
    import torch

    return {
        name: found[name].to("cpu", like.dtype) if name in found else torch.zeros_like(like)
        for name, like in control.items()
    }


def _stepped(before: torch.Tensor, mean: torch.Tensor, server_lr: float) -> torch.Tensor:
    """Return `x + server_lr * (mean - x)`."""
    return (mean - before).mul_(server_lr).add_(before)
