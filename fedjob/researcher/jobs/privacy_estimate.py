"""The estimate of what a job would cost in differential privacy at each of its nodes, before it is submitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedjob.common.errors import SpecError
from fedjob.execution.private_work import private_work
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.protect import protect_of
from fedjob.researcher.connection.catalogue import Listing
from fedjob.researcher.federation.offers import NodeAnswer, offer_for
from fedjob.researcher.storage.deployment import Enclosed
from fedjob.researcher.storage.spec import JobSpec

_COLUMNS = ("node", "epsilon", "delta", "cost", "left", "after", "problem")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyEstimate:
    """The price of a job at one node.

    Args:
        epsilon, delta: that the job keeps there for each record, over all its rounds; the owner may have lowered what
            was asked for.
        cost: epsilon of the whole job, with the delta of the node's budget where there is one.
        left, after: what is left of the tightest budget now, and what would be left; infinite where there is none.
        problem: why it would not run; empty where it would.
    """

    node: str
    epsilon: float = math.nan
    delta: float = math.nan
    cost: float = math.nan
    left: float = math.inf
    after: float = math.inf
    problem: str = ""


class PrivacyEstimates(Listing[PrivacyEstimate]):
    """One estimate for each node, in the order of their names; prints as a table."""

    def __init__(self, estimates: Iterable[PrivacyEstimate]) -> None:
        super().__init__(estimates, _COLUMNS)

    @property
    def ok(self) -> bool:
        """True if no node has a problem with it."""
        return not any(one.problem for one in self)

    def _cells(self) -> list[list[str]]:
        return [
            [one.node, *(_shown(getattr(one, name)) for name in _COLUMNS[1:-1]), one.problem] for one in self
        ]


def estimate_job(spec: JobSpec, ask: Callable[[], Iterable[NodeAnswer]]) -> PrivacyEstimates:
    """Return what a job would cost at each of its nodes.

    Args:
        ask: asks the nodes whether it may run, and leaves nothing there.

    Raises:
        SpecError: the job asks for no differential privacy.
    """
    if protect_of(spec.protect).dp is None:
        raise SpecError(
            "the job has no differential privacy, so that nothing is charged for it: give it "
            "protect=Protect(dp=RecordDP(epsilon=..., delta=...))"
        )
    if spec.local:
        return PrivacyEstimates(_at_site(spec, node) for node in sorted(spec.datasets))
    return PrivacyEstimates(_answered(answer) for answer in ask())


def _answered(answer: NodeAnswer) -> PrivacyEstimate:
    found = {name: value for name, value in answer.privacy.items() if name in _COLUMNS}
    problem = "" if answer.may_run or answer.grant == "pending" else answer.verdict
    return PrivacyEstimate(node=answer.node, problem=problem, **found)


def _at_site(spec: JobSpec, node: str) -> PrivacyEstimate:
    dp = protect_of(spec.protect).dp
    assert dp is not None
    try:
        offer = offer_for(spec, node, None, Enclosed())
        info = spec.datasets[node]
        assets = [str(asset["name"]) for asset in info.get("assets") or ()]
        work = private_work(offer, dp, num_rows=int(info.get("num_rows") or 0), assets=assets)
    except SpecError as error:
        return PrivacyEstimate(node=node, epsilon=dp.epsilon, delta=dp.delta, problem=str(error))
    cost = round(cost_of(work.whole, dp.delta), 6)
    return PrivacyEstimate(node=node, epsilon=dp.epsilon, delta=dp.delta, cost=cost)


def _shown(number: float) -> str:
    return f"{number:.4g}" if math.isfinite(number) else "-"
