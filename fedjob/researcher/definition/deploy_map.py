"""The map from nodes to plans, as a researcher writes it: read, and checked before anything is made of it.

    training_plan=Plan                                             # one for all nodes
    training_plan={"node-a": PlanA, "node-b": PlanB}               # one each
    training_plan={"app1": (PlanA, ["node-a", "node-b"]), "app2": (PlanB, ["node-c"]),
                   "server": (PlanS, ["@researcher"])}             # named, with lists of nodes

The plan for `@researcher` is the one that is built on this side: its model gives
the first parameters and the result. Without it that is the first plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.checks import some_of
from fedjob.common.errors import SpecError
from fedjob.common.types import check_party
from fedjob.researcher.storage.deployment import EVERYWHERE

RESEARCHER = "@researcher"
_EVERYWHERE = frozenset({EVERYWHERE, "@ALL"})
_RESEARCHER = frozenset({RESEARCHER, "server"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployMap:
    """A map of plans that holds together.

    Args:
        own: the plan of this side.
        plans: node -> plan; `@all` stands for every node. Empty where `own` is everywhere.
    """

    own: Any
    plans: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> list[str] | None:
        """The nodes that the map names; None for all that have the data."""
        return sorted(self.plans) if self.plans and EVERYWHERE not in self.plans else None


def read_deploy_map(training_plan: Any) -> DeployMap:
    """Read what was given as `training_plan`.

    Raises:
        SpecError: an empty map, a node that has two plans, `@all` beside others, two plans for this side,
            or no plan for any node.
    """
    if not isinstance(training_plan, Mapping):
        return DeployMap(own=training_plan)
    if not training_plan:
        raise SpecError("training_plan is an empty map: give one plan, or {'node-a': PlanA, 'node-b': PlanB}")
    own: list[tuple[str, Any]] = []
    plans: dict[str, Any] = {}
    placed: dict[str, str] = {}
    for name, value in training_plan.items():
        plan, sites = _entry(name, value)
        for site in sites:
            if site in _RESEARCHER:
                own.append((name, plan))
                continue
            node = EVERYWHERE if site in _EVERYWHERE else check_party(site)
            if node in placed:
                raise SpecError(
                    f"{site} has two plans, {placed[node]!r} and {name!r}: a node stands in the map once"
                )
            placed[node] = str(name)
            plans[node] = plan
    if len(own) > 1:
        names = ", ".join(repr(name) for name, _ in own)
        raise SpecError(f"{names} are all for {RESEARCHER}: exactly one plan is built on this side")
    if EVERYWHERE in plans and len(plans) > 1:
        others = ", ".join(sorted(set(plans) - {EVERYWHERE}))
        raise SpecError(f"{EVERYWHERE} means every node: {others} can't have a plan beside it")
    if not plans:
        raise SpecError("training_plan names no node: every list of nodes is empty")
    mine = own[0][1] if own else next(iter(plans.values()))
    if EVERYWHERE in plans and plans[EVERYWHERE] is mine:
        return DeployMap(own=mine)
    return DeployMap(own=mine, plans=plans)


def check_quorum_of_map(nodes: Sequence[str] | None, required: Sequence[str], min_nodes: int) -> None:
    """Hold a quorum against the nodes that are named.

    Raises:
        SpecError: it requires nodes that have no plan, or more nodes than there are.
    """
    if nodes is None:
        return
    missing = sorted(set(required) - set(nodes))
    if missing:
        raise SpecError(f"the quorum requires {some_of(missing)}, but only {some_of(nodes)} have a plan")
    if min_nodes > len(nodes):
        raise SpecError(
            f"the quorum needs {min_nodes} nodes, but only {len(nodes)} have a plan: {some_of(nodes)}"
        )


def _entry(name: Any, value: Any) -> tuple[Any, Sequence[str]]:
    if not isinstance(name, str) or not name:
        raise SpecError(f"training_plan maps names to plans; found {name!r}")
    if not isinstance(value, (tuple, list)):
        return value, (name,)
    if len(value) != 2 or not isinstance(value[1], (list, tuple)):
        raise SpecError(f"training_plan[{name!r}] is a plan, or (plan, [node, ...]); found {value!r}")
    sites = value[1]
    if not all(isinstance(site, str) for site in sites):
        raise SpecError(f"training_plan[{name!r}]: nodes are names; found {sites!r}")
    return value[0], sites
