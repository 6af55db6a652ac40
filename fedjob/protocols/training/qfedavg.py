"""q-FedAvg: averaging that gives more weight to nodes whose loss is high.

Li, Sanjabi, Beirami, Smith 2020, "Fair Resource Allocation in Federated Learning",
algorithm 2, https://arxiv.org/abs/1905.10497

    F_k     = loss of w(t) over the node's training examples
    w_k     = local training from w(t)
    dw_k    = L * (w(t) - w_k)                                  L = 1 / lr
    delta_k = F_k^q * dw_k
    h_k     = q * F_k^(q-1) * |dw_k|^2 + L * F_k^q
    w(t+1)  = w(t) - sum_k delta_k / sum_k h_k

With q = 0 it is the plain mean of the nodes, whatever their numbers of examples; a
larger q makes the nodes' losses more alike. 1e-10 is added to F_k, as in the authors'
code, because F_k^(q-1) has no value at 0. A node's buffers, such as running means, are
weighted by its share of sum_k h_k.

The researcher keeps w; a node keeps its optimizer's state. It leaks delta_k and h_k to the
researcher, and so how high the loss is; the sums are enough, so it can run under secure
aggregation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import PlainMean
from fedjob.common.checks import check_kinds, check_not_negative, check_positive
from fedjob.parameters.files import schema_of
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.training.base import TrainingProtocol

MODULE = "qfedavg"
LEAST_LOSS = 1e-10


@dataclass(frozen=True, slots=True)
class QFedAvg(TrainingProtocol):
    """Averaging that makes the nodes' losses alike.

    Args:
        q: 0 or more; the larger, the more the nodes with a high loss count.
        lipschitz: the L of the formulas, above 0; None takes 1 / `lr` of the training arguments.
    """

    q: float = 1.0
    lipschitz: float | None = None

    name: ClassVar[str] = "qfedavg"
    reads_args: ClassVar[tuple[str, ...]] = ("lr", "learning_rate")

    @property
    def copies(self) -> int:
        return 4  # the trained parameters, their change, and the squares of it as float64

    @property
    def needs_single(self) -> str:
        return ""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_not_negative("QFedAvg(q=...)", self.q)
        if self.lipschitz is not None:
            check_positive("QFedAvg(lipschitz=...)", self.lipschitz)

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        schema = {
            name: (dtype if dtype[0] in "FB" and dtype != "BOOL" else "F64", shape)
            for name, (dtype, shape) in schema_of(state["params"]).items()
        }
        aux = {MODULE: {"h": ("F64", ())}}
        return replace(ask, aggregator=PlainMean(), schema=schema, aux=aux, origin={}, sends_total=False)

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        import torch

        plan = local.plan
        loss = plan.training_loss()
        if loss < 0:
            raise plan.fail("plan", f"QFedAvg needs a loss of 0 or more; that of the training data is {loss}")
        lipschitz = self._lipschitz(local)
        outcome = plan.train_locally()
        before, after, buffers = instruction["params"], plan.get_params(), set(plan.kinds().buffers)
        moved = {name: _float(before[name]) - _float(after[name]) for name in after}
        trained = [name for name in after if after[name].is_floating_point() and name not in buffers]
        square = sum(float(moved[name].double().square().sum()) for name in trained) * lipschitz**2
        fairness = (loss + LEAST_LOSS) ** self.q
        h = self.q * (loss + LEAST_LOSS) ** (self.q - 1) * square + lipschitz * fairness
        value = {
            name: change.mul_(lipschitz * fairness if name in trained else h)
            for name, change in moved.items()
        }
        aux = {MODULE: {"h": torch.tensor(h, dtype=torch.float64)}}
        return Contribution(value, float(outcome.num_examples), {"train": outcome.metrics}, aux)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        if MODULE not in gathered.total.aux:
            return after
        h, total = float(gathered.total.aux[MODULE]["h"]), gathered.total.value
        return {
            **after,
            "params": {name: _moved(old, total[name], h) for name, old in state["params"].items()},
        }

    def _lipschitz(self, local: Local) -> float:
        if self.lipschitz is not None:
            return self.lipschitz
        lr = local.args.raw.get("lr", local.args.raw.get("learning_rate"))
        if lr is None:
            raise local.plan.fail("plan", "QFedAvg needs training_args['lr'], or QFedAvg(lipschitz=...)")
        return 1 / float(lr)


def _float(tensor: Any) -> Any:
    return tensor if tensor.is_floating_point() else tensor.double()


def _moved(old: Any, total: Any, h: float) -> Any:
    new = _float(old) - total / h
    return new if old.is_floating_point() else new.round().to(old.dtype)
