"""The arrivals of a round so far, over all its asks: cyclic transfer visits one node with each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedjob.aggregation.contribution import Contribution, add_phases
from fedjob.common.codec import pack
from fedjob.parameters.auxiliary import split
from fedjob.protocols.base import Reply
from fedjob.protocols.usage import Usage
from fedjob.researcher.federation.base import AskContext
from fedjob.researcher.storage.record import finite
from fedjob.researcher.storage.replies import Arrival

if TYPE_CHECKING:
    from fedjob.protocols.base import Gathered


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundArrivals:
    """The asks of a round up to now, as one.

    Args:
        arrivals: node -> its last answer.
        left_out: node -> why its last answer does not count.
        metrics: combined over all asks, `{phase: {name: state}}`.
        complete: its last ask has completed it; another one of that round begins anew.
    """

    round: int = 0
    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    complete: bool = False

    @property
    def rows(self) -> dict[str, dict[str, int]]:
        """node -> its rows `registered`, `read` and `used`, where its last answer has them."""
        return {
            node: dict(arrival.result.rows) for node, arrival in self.arrivals.items() if arrival.result.rows
        }

    @property
    def sandboxes(self) -> dict[str, str]:
        """node -> the sandbox that its last answer was computed in, where it says one."""
        return {
            node: arrival.result.sandbox for node, arrival in self.arrivals.items() if arrival.result.sandbox
        }

    @property
    def privacy(self) -> dict[str, dict[str, float]]:
        """node -> the `epsilon` that the job has spent there and its `delta`, where its last answer says so."""
        return {
            node: finite(arrival.result.privacy)
            for node, arrival in self.arrivals.items()
            if arrival.result.privacy
        }

    def then(
        self, round_: int, arrivals: Mapping[str, Arrival], gathered: Gathered, *, completes: bool
    ) -> RoundArrivals:
        """Return the round with one more ask."""
        before = self if self.round == round_ and not self.complete else RoundArrivals(round=round_)
        left_out = {node: why for node, why in before.left_out.items() if node not in arrivals}
        answered = {node: one for node, one in before.arrivals.items() if node not in gathered.left_out}
        return RoundArrivals(
            round=round_,
            arrivals={**answered, **arrivals},
            left_out={**left_out, **gathered.left_out},
            metrics=add_phases(before.metrics, gathered.total.metrics),
            complete=completes,
        )


def contribution_of(arrival: Arrival, place: AskContext) -> Contribution:
    """Return the contribution to aggregate; its tensors stay in their file until they are asked for."""
    return Contribution(
        arrival.result.value if arrival.params is None else arrival.params,
        arrival.result.weight,
        arrival.result.metrics,
        staleness=place.round - place.round_of(arrival.node),
    )


def reply_of(arrival: Arrival, place: AskContext) -> Reply:
    """Return the part of an arrival that a protocol may see."""
    result = arrival.result
    return Reply(
        node=arrival.node,
        num_examples=result.num_examples,
        weight=result.weight,
        metrics=result.metrics,
        timing=result.timing,
        state=result.state,
        threads=result.threads,
        used=tuple(result.used),
        usage=None if result.usage is None else Usage(*result.usage),
        params_hash=result.params.sha256 if result.params else hashlib.sha256(pack(result.value)).hexdigest(),
        value=result.value,
        items=result.items,
        aux={} if arrival.params is None else split(arrival.params)[1],
        staleness=place.round - place.round_of(arrival.node),
    )
