"""FedBuff: buffered asynchronous averaging, in which fast nodes do not wait for slow ones.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba 2022, "Federated Learning with
Buffered Asynchronous Aggregation", algorithm 1, https://arxiv.org/abs/2106.06639

    every idle node k trains from the current parameters: y_k from w, d_k = y_k - w
    as soon as K changes have arrived, of this or of earlier rounds:
    w = w + server_lr * 1/K * sum_k s(tau_k) * d_k
    tau_k: the number of steps of w since node k received it
    s(tau) = 1 / (1 + tau)^staleness_exponent          the paper: 1 / sqrt(1 + tau)

The paper writes d_k with the other sign. Buffers, such as running means, move towards the
nodes' values instead, w = w + sum_k s_k (y_k - w) with s_k = s(tau_k) / K, because a sum of
old changes could make a running variance negative. A round is one step of w. The changes of
a step depend on timing, so that two runs differ; the order of their arrival is recorded, and
the same order gives the same bytes.

The researcher keeps w, and for each node that is still at work the parameters that it
started from. A node keeps its optimizer's state, such as momentum. It leaks d_k, and how
fast a node is, to the researcher; the discounted sum is enough. Under secure aggregation
the changes of nodes that began with the same w are added, three or more of them, so that
K or more are in a step; whoever would be too few by themselves is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import BufferedMean
from fedjob.common.checks import check_count, check_kinds, check_not_negative, check_positive, some_of
from fedjob.common.errors import SpecError
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.privacy.protect import Protect, SecAgg
from fedjob.protocols.base import Ask, Buffered, Done, Gathered, Instruction, Local, State, View
from fedjob.protocols.training.base import TrainingProtocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FedBuff(TrainingProtocol):
    """Buffered asynchronous averaging.

    Args:
        k: number of changes in a step, 1 or more, at most the number of nodes.
        server_lr: learning rate of the researcher's step, above 0.
        staleness_exponent: 0 or more; the larger, the less old changes count; with 0 they count as new ones.
        weighted: whether changes are weighted by numbers of examples; False counts every node alike.
    """

    k: int = 2
    server_lr: float = 1.0
    staleness_exponent: float = 0.5
    weighted: bool = False

    name: ClassVar[str] = "fedbuff"
    answers_late: ClassVar[bool] = True

    @property
    def copies(self) -> int:
        return 2  # the trained parameters, and their change

    @property
    def needs_single(self) -> str:
        return ""

    def check_protection(self, protect: Protect) -> None:
        secagg = protect.secagg
        if secagg and self.k < (least := SecAgg().min_nodes if secagg is True else secagg.min_nodes):
            raise SpecError(
                f"FedBuff(k={self.k}) adds {self.k} changes, and under secure aggregation a sum is of {least} nodes or "
                f"more: take FedBuff(k={least}) or more"
            )

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("FedBuff(k=...)", self.k)
        check_positive("FedBuff(server_lr=...)", self.server_lr)
        check_not_negative("FedBuff(staleness_exponent=...)", self.staleness_exponent)

    @property
    def _aggregator(self) -> BufferedMean:
        return BufferedMean(self.staleness_exponent, self.weighted)

    def start(self, params: Mapping[str, Any]) -> State:
        buffers = kinds_of(params).buffers
        whole = [name for name in params if name in buffers or not params[name].is_floating_point()]
        return {**TrainingProtocol.start(self, params), "buffers": whole}

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        if self.k > len(view.nodes):
            raise SpecError(
                f"FedBuff(k={self.k}) waits for {self.k} nodes, but the job has {len(view.nodes)}: "
                f"{some_of(view.nodes)}"
            )
        return replace(
            ask,
            aggregator=self._aggregator,
            origin={},  # contributions are changes already
            until=Buffered(self.k),
            late="keep",
            sends_total=False,
        )

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        trained, start = self.train_with(local), instruction["params"]
        buffers = local.plan.kinds().buffers
        value = {
            name: after if name in buffers or not after.is_floating_point() else after - start[name]
            for name, after in trained.value.items()
        }
        return replace(trained, value=value)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        change, params = gathered.total.value, state["params"]
        if change is None:
            return after
        replies = gathered.replies.values()
        share = sum(self._aggregator.shares([r.weight for r in replies], [r.staleness for r in replies]))
        after["params"] = {
            name: _towards(params[name], change[name], share)
            if name in state["buffers"]
            else (change[name] * self.server_lr).add_(params[name])
            for name in params
        }
        return after


def _towards(before: torch.Tensor, total: torch.Tensor, share: float) -> torch.Tensor:
    """Return a buffer after a step.

    Args:
        total: the discounted sum of the nodes' buffers.
        share: the sum of their shares, at most 1; the rest is the share of `before`.
    """
    after = total.double() + before.double() * (1 - share)
    return (after if total.is_floating_point() else after.round()).to(total.dtype)
