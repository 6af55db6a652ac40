"""What a round of several asks came to so far: cyclic transfer visits one node with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedjob.common.contribution import add_phases

if TYPE_CHECKING:
    from fedjob.common.protocols.base import Gathered
    from fedjob.researcher.reply_files import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSoFar:
    """The asks of a round up to now, as one.

    Args:
        arrivals: node -> what it answered last.
        left_out: node -> why its last answer does not count.
        metrics: combined over all asks, `{phase: {name: state}}`.
        complete: its last ask has completed it; another one of that round begins anew.
    """

    round: int = 0
    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    complete: bool = False

    def then(
        self, round_: int, arrivals: Mapping[str, Arrival], gathered: Gathered, *, completes: bool
    ) -> RoundSoFar:
        """Return the round with one more ask."""
        before = self if self.round == round_ and not self.complete else RoundSoFar(round=round_)
        left_out = {node: why for node, why in before.left_out.items() if node not in arrivals}
        answered = {node: one for node, one in before.arrivals.items() if node not in gathered.left_out}
        return RoundSoFar(
            round=round_,
            arrivals={**answered, **arrivals},
            left_out={**left_out, **gathered.left_out},
            metrics=add_phases(before.metrics, gathered.total.metrics),
            complete=completes,
        )
