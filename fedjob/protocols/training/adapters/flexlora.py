"""FlexLoRA: the mean of the nodes' products B A, divided anew into factors of each node's rank.

Bai, Chen, Qian, Yao, Li 2024, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
Resources", section 3, https://arxiv.org/abs/2402.11505

    (A_k, B_k)(t+1) = local training from the first r_k components of (A, B)(t)
    U S V^T         = the singular value decomposition of sum_k n_k / n * B_k A_k
    B(t+1) = U S    A(t+1) = V^T         the first R components of it

R is the rank of the plan's adapters, r_k the node's own, R at most. The researcher keeps A and B. A node keeps its
optimizer's state. It leaks A_k, B_k and n_k to the researcher, which needs each of them. A node's optimizer begins
anew in each round: the components are others than those that its momentum is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.adapters import add_something, first_ranks, pairs_of, rank_of, truncated
from fedjob.protocols.base import Gathered, Instruction, Local, State
from fedjob.protocols.training.adapters.base import OwnRanks, checked_ranks, largest_rank, own_rank
from fedjob.protocols.training.base import TrainingProtocol


@dataclass(frozen=True, slots=True)
class FlexLoRA(OwnRanks):
    """The mean of adapters' products, divided anew into factors of each node's rank.

    Args:
        ranks: node -> rank of its adapters, at most that of the plan's; others have the plan's.
    """

    ranks: Mapping[str, int] = field(default_factory=dict)

    name: ClassVar[str] = "flexlora"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", checked_ranks("FlexLoRA", self.ranks))

    def start(self, params: Mapping[str, Any]) -> State:
        # of an adapter that was trained before, each node is to have the largest components that its rank bears
        trained = self.ranks and add_something(params)
        return TrainingProtocol.start(self, _divided(params, params) if trained else params)

    def params_of(self, instruction: Instruction, local: Local) -> Mapping[str, Any]:
        params = instruction["params"]
        return first_ranks(params, own_rank(instruction["ranks"], local.node, largest_rank(params)))

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        plan = local.plan
        plan.set_state({name: kept for name, kept in plan.get_state().items() if name != "optimizer"})
        return self.train_with(local, copy=False)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        total = gathered.total.value
        if total is None:
            return after
        return {**after, "params": _divided(total, state["params"])}


def _divided(total: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters whose adapters have the ranks that they had before, the largest component first."""
    params = dict(total)
    for pair in pairs_of(total):
        a, b = truncated(total[pair.a], total[pair.b], rank_of(before, pair))
        found = len(a)
        # components that nobody trained: their product stays zero, and training can begin with them
        params[pair.a], params[pair.b] = before[pair.a].clone(), before[pair.b] * 0
        params[pair.a][:found], params[pair.b][:, :found] = a, b
    return params
