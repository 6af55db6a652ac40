"""The base of protocols whose nodes train low-rank adapters of ranks of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from fedjob.aggregation.stacked import StackedAdapters
from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.common.types import party_of
from fedjob.parameters.adapters import first_ranks, pairs_of, rank_of
from fedjob.parameters.files import schema_of
from fedjob.protocols.base import Ask, Done, Gathered, State, View
from fedjob.protocols.step_inputs import PLAIN
from fedjob.protocols.training.base import TrainingProtocol


class OwnRanks(TrainingProtocol):
    """Federated training of adapters; a node has the rank that the protocol names for it, or the plan's own.

    The products of the nodes' factors are averaged, not the factors. All other parameters that are trained are averaged,
    so that it is FedAvg for a model without adapters.
    """

    ranks: Mapping[str, int]

    own_aggregator: ClassVar[bool] = True
    answers_factors: ClassVar[bool] = True

    @property
    def needs_single(self) -> str:
        return "it averages the products of each node's two factors, which no sum of the factors gives"

    @property
    def named_nodes(self) -> tuple[str, ...]:
        return tuple(self.ranks)

    def check(self, params: Mapping[str, Any]) -> None:
        TrainingProtocol.check(self, params)
        pairs = pairs_of(params)
        if self.ranks and not pairs:
            raise SpecError(
                "ranks are of low-rank adapters, and the model trains none: make some with peft's "
                "get_peft_model(model, LoraConfig(...)), or use FedAvg"
            )
        for pair in pairs:
            rank, least = rank_of(params, pair), min(params[pair.a].shape[1], params[pair.b].shape[0])
            if rank > least:
                raise SpecError(
                    f"{pair.a} has rank {rank}, and its layer is of {params[pair.b].shape[0]} by "
                    f"{params[pair.a].shape[1]}: expected a rank of {least} at most"
                )
            for node, own in self.ranks.items():
                if own > rank:
                    raise SpecError(
                        f"ranks gives {node} rank {own}, which is larger than that of the plan's adapters, {rank} "
                        f"({pair.a}): make them with the largest rank that a node has"
                    )

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done):
            return ask
        shared = {**ask.shared, **self.more(state), "ranks": dict(self.ranks)}
        if ask.step != "train":
            return replace(ask, shared=shared)
        schemas = {
            node: schema_of(first_ranks(self.trained(state), self.rank_at(node, state)))
            for node in view.nodes
        }
        return replace(
            ask, shared=shared, schemas=schemas, origin={}, aggregator=StackedAdapters(), sends_total=False
        )

    def more(self, state: State) -> dict[str, Any]:
        """Return what nodes are sent beside the parameters."""
        return {}

    def trained(self, state: State) -> Mapping[str, Any]:
        """Return parameters with the adapters that nodes train, of the plan's own rank."""
        params: Mapping[str, Any] = state["params"]
        return params

    @abstractmethod
    def finish(self, state: State, gathered: Gathered) -> State:
        """Return the state after an ask, from its outcome."""

    def inputs_of(self, step: str) -> Mapping[str, str]:
        return {**TrainingProtocol.inputs_of(self, step), "ranks": PLAIN}

    def rank_at(self, node: str, state: State) -> int:
        """Return the rank that a node trains with."""
        trained = self.trained(state)
        return own_rank(self.ranks, node, largest_rank(trained))


def largest_rank(params: Mapping[str, Any]) -> int:
    """Return the largest rank of the adapters among some parameters; 1 without any."""
    return max((rank_of(params, pair) for pair in pairs_of(params)), default=1)


def own_rank(ranks: Mapping[str, int], node: str, otherwise: int) -> int:
    """Return the rank of a node: its own, or its party's."""
    return ranks.get(node, ranks.get(party_of(node), otherwise))


def checked_ranks(name: str, ranks: Any) -> dict[str, int]:
    """Return ranks by node.

    Raises:
        SpecError: it is no map, or a rank is no whole number of 1 or more.
    """
    if not isinstance(ranks, Mapping):
        raise SpecError(
            f"{name}(ranks=...) is a map from nodes to ranks, such as {{'node-a': 4}}, not {shown(ranks)}"
        )
    for node, rank in ranks.items():
        if not isinstance(node, str) or isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise SpecError(
                f"{name}(ranks=...): a rank is a whole number of 1 or more; {shown(node)} has {shown(rank)}"
            )
    return dict(ranks)
