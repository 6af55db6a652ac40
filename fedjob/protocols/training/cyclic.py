"""Cyclic weight transfer: one model travels from node to node.

Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer 2018,
"Distributed deep learning networks among institutions for medical imaging",
Journal of the American Medical Informatics Association 25(8),
https://doi.org/10.1093/jamia/ocy017

    w <- local training from w at node 1, then from the outcome at node 2, ...
    one cycle visits every node once; there are several cycles

Nothing is averaged. The researcher keeps w and its position in the cycle. A node keeps
its optimizer's state. It leaks every node's parameters to the researcher, one by one:
it can't run under secure aggregation. A node that can't be reached ends the job; it can
be resumed from its breakpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedjob.common.checks import check_choice, check_kinds
from fedjob.common.seeds import seed_for
from fedjob.protocols.base import Ask, Done, Gathered, State, View
from fedjob.protocols.training.base import TrainingProtocol

ORDERS = ("fixed", "random")
ROUNDS = ("cycle", "visit")


@dataclass(frozen=True, slots=True)
class Cyclic(TrainingProtocol):
    """Training at one node after the other.

    The protocol itself chooses all nodes of the job, whatever its selector would choose.

    Args:
        order: `fixed`, by the nodes' names, or `random`, drawn anew for every cycle.
        round: the unit that counts as a round: a whole `cycle`, or a `visit` to one node.
    """

    order: str = "random"
    round: str = "cycle"

    name: ClassVar[str] = "cyclic"

    @property
    def needs_single(self) -> str:
        return "it passes one node's model on to the next"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choice("Cyclic(order=...)", self.order, ORDERS)
        check_choice("Cyclic(round=...)", self.round, ROUNDS)

    def start(self, params: Mapping[str, Any]) -> State:
        return {**TrainingProtocol.start(self, params), "cycle": 0, "visited": []}

    def instruct(self, state: State, view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        if isinstance(ask, Done) or ask.step != "train":
            return ask
        visited = state["visited"]
        cycle = self.cycle(view.nodes, view.seed, state["cycle"])
        left = [node for node in cycle if node not in visited] or cycle
        if self.round == "visit":
            return replace(ask, to=(left[0],))
        # each visit is a step of its own, so that its files do not replace those of other visits
        return replace(ask, to=(left[0],), step=f"train_{len(visited) + 1}", commit=len(left) == 1)

    def cycle(self, nodes: Iterable[str], seed: int, number: int) -> list[str]:
        """Return the nodes in the order of a cycle, counted from 0."""
        if self.order == "fixed":
            return sorted(nodes)
        return sorted(nodes, key=lambda node: seed_for(seed, number, node, "cycle"))

    def finish(self, state: State, gathered: Gathered) -> State:
        if gathered.total.value is None:
            return TrainingProtocol.finish(self, state, gathered)
        visited = [*state["visited"], *gathered.replies]
        ended = len(visited) >= gathered.num_nodes
        return {
            **state,
            "params": gathered.total.value,
            "round": state["round"] + (ended or self.round == "visit"),
            "validated": False,
            "cycle": state["cycle"] + ended,
            "visited": [] if ended else visited,
        }
