"""FLoRA: the nodes' adapters of any ranks are stacked, round on round, without any error.

Wang, Shen, He, Sun, Wang, Lyu, Li 2024, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
Low-Rank Adaptations", algorithm 1, https://arxiv.org/abs/2409.05976

    (A_k, B_k)  = local training of a fresh adapter, B_k = 0 at first, beside the stacked ones of all rounds before
    A(t+1)      = [A(t); A_1; ...; A_K]        B(t+1) = [B(t), n_1 / n B_1, ..., n_K / n B_K]

A(0) and B(0) are those of the first parameters where their product is not zero; else the first round's are the first.

The paper adds B A to the base after each round; here the base stays as it is in its file, and the stacked adapter
takes its place beside it, which computes the same. Once its rank is that of its layer, it is written with that rank,
which loses nothing. So what nodes fetch grows with the rounds; what they send does not. The researcher keeps A and B.
A node keeps nothing of its optimizer. It leaks A_k, B_k and n_k to the researcher, which needs each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.adapters import Pair, add_something, first_ranks, pairs_of, rank_of, stacked, truncated
from fedjob.protocols.base import Gathered, Instruction, Local, State
from fedjob.protocols.step_inputs import PLAIN, TENSORS
from fedjob.protocols.training.adapters.base import OwnRanks, checked_ranks, largest_rank, own_rank
from fedjob.protocols.training.base import TrainingProtocol


@dataclass(frozen=True, slots=True)
class FLoRA(OwnRanks):
    """Adapters of each node's rank, stacked round on round.

    Args:
        ranks: node -> rank of its adapters, at most that of the plan's; others have the plan's.
    """

    ranks: Mapping[str, int] = field(default_factory=dict)

    name: ClassVar[str] = "flora"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", checked_ranks("FLoRA", self.ranks))

    def start(self, params: Mapping[str, Any]) -> State:
        pairs = pairs_of(params)
        fresh = {pair.a: params[pair.a] for pair in pairs} | {pair.b: params[pair.b] * 0 for pair in pairs}
        # an adapter that adds something already, such as one trained before, is the first of the stack
        return {**TrainingProtocol.start(self, params), "fresh": fresh, "stacks": add_something(params)}

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {**OwnRanks.inputs_of(self, step), "fresh": TENSORS, "stacks": PLAIN}

    def more(self, state: State) -> dict[str, Any]:
        return {"fresh": state["fresh"], "stacks": state["stacks"]}

    def trained(self, state: State) -> Mapping[str, Any]:
        return {**state["params"], **state["fresh"]}

    def train(self, instruction: Instruction, local: Local) -> Contribution:
        plan, params, fresh = local.plan, instruction["params"], instruction["fresh"]
        pairs = pairs_of(fresh)
        rank = own_rank(instruction["ranks"], local.node, largest_rank(fresh))
        own, before = first_ranks(fresh, rank), dict(params) if instruction["stacks"] else {}
        plan.set_params({**params, **(_beside(before, own, pairs) if before else own)})
        plan.set_state({name: kept for name, kept in plan.get_state().items() if name != "optimizer"})
        trained = self.train_with(local, (lambda model: _hold(model, before, pairs)) if before else None)
        value = dict(trained.value)
        for pair in pairs:
            old = rank_of(before, pair) if before else 0
            value[pair.a], value[pair.b] = value[pair.a][old:].clone(), value[pair.b][:, old:].contiguous()
        return replace(trained, value=value)

    def finish(self, state: State, gathered: Gathered) -> State:
        after = TrainingProtocol.finish(self, state, gathered)
        total = gathered.total.value
        if total is None:
            return after
        before, params = state["params"], dict(total)
        for pair in pairs_of(total):
            a, b = total[pair.a], total[pair.b]
            if state["stacks"]:
                a, b = stacked([(before[pair.a], before[pair.b]), (a, b)], [1.0, 1.0])
            if len(a) > (full := min(a.shape[1], b.shape[0])):
                a, b = truncated(a, b, full)
            params[pair.a], params[pair.b] = a, b
        return {**after, "params": params, "stacks": True}


def _beside(before: Mapping[str, Any], own: Mapping[str, Any], pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """Return adapters with those of all rounds before in the first components, and fresh ones in the others."""
    found = {}
    for pair in pairs:
        both = [(before[pair.a], before[pair.b]), (own[pair.a], own[pair.b])]
        found[pair.a], found[pair.b] = stacked(both, [1.0, 1.0])
    return found


def _hold(model: Any, before: Mapping[str, Any], pairs: tuple[Pair, ...]) -> None:
    """Keep the adapters of all rounds before as they are, whatever the optimizer does beside gradients."""
    import torch

    own = dict(model.named_parameters())
    with torch.no_grad():
        for pair in pairs:
            rank = rank_of(before, pair)
            for part, name in ((own[pair.a], pair.a), (own[pair.b].T, pair.b)):
                part[:rank] = before[name] if name == pair.a else before[name].T
            for name in (pair.a, pair.b):
                gradient = own[name].grad
                if gradient is not None:
                    (gradient if name == pair.a else gradient.T)[:rank] = 0
