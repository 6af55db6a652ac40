"""The model of a round's time: the researcher's line, each node's line and work, and the researcher's line again. Pure.

    sent over the researcher's line -> each node: down, work, up -> fetched over the researcher's line, one after the other

What a model leaves out, messages, aggregation and breakpoints, is a time of its own that is measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

SAME_LINE = 1.5
"""A line of which two measures differ by no more is the same line: measures of one vary so much, on a busy machine."""
FAST_BYTES_S = 50e6
"""Lines that are faster are all alike: what disks and hashes take beside them varies by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRates:
    """The rates of one party's line, bytes a second; infinite for a line whose time is not modelled."""

    down: float = math.inf
    up: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRound:
    """One node's part of a round.

    Args:
        down, up: bytes that it fetches and stores.
        work_s: seconds between the two.
        line: of the node.
    """

    down: float = 0.0
    up: float = 0.0
    work_s: float = 0.0
    line: LineRates = LineRates()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundModel:
    """A round with all its parties.

    Args:
        nodes: node -> its part.
        sent: bytes that the researcher sends: once for all nodes, or to each of them.
        line: of the researcher.
    """

    nodes: Mapping[str, NodeRound]
    sent: float = 0.0
    line: LineRates = LineRates()

    @property
    def seconds(self) -> float:
        """Seconds of the round."""
        parts = list(self.nodes.values())
        sent = self._sent_s(parts)
        ready = sorted(
            (begun + one.down / one.line.down + one.work_s + one.up / one.line.up, one.up)
            for begun, one in zip(sent, parts, strict=True)
        )
        now = 0.0
        for when, size in ready:
            now = max(now, when) + size / self.line.down
        return now

    @property
    def slowest(self) -> str:
        """The node whose part takes longest; empty for no node."""

        def own_s(node: str) -> float:
            one = self.nodes[node]
            return one.down / one.line.down + one.work_s + one.up / one.line.up

        return max(self.nodes, key=own_s, default="")

    def _sent_s(self, parts: Sequence[NodeRound]) -> list[float]:
        """Return when each node's bytes have left the researcher: all at once, or one node's after the other's."""
        wanted = math.fsum(one.down for one in parts)
        if not parts or self.sent < 0.99 * wanted:
            return [self.sent / self.line.up] * len(parts)
        begun, found = 0.0, []
        for one in parts:
            begun += one.down / self.line.up
            found.append(begun)
        return found

    def over(self, lines: Mapping[str, LineRates], own: LineRates) -> RoundModel:
        """Return the round over other lines.

        Args:
            lines: node -> its line; infinite where it is missing.
            own: the researcher's.
        """
        nodes = {name: replace(one, line=lines.get(name, LineRates())) for name, one in self.nodes.items()}
        return replace(self, nodes=nodes, line=own)


def same_or_new(before: float | None, now: float | None) -> tuple[float, float]:
    """Return the rates to model a line by, as it was and as it is: equal where it is the same line, infinite for unknown."""
    if before is None or now is None:
        known = before or now
        return (math.inf, math.inf) if known is None else (known, known)
    if max(before, now) <= SAME_LINE * min(before, now) or min(before, now) >= FAST_BYTES_S:
        return before, before
    return before, now
