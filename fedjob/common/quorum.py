"""The quorum: the rule that decides whether enough nodes have replied for a round to count."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from fedjob.common.checks import MAX_NAMED, check_kinds, is_list, shown, some_of
from fedjob.common.errors import QuorumNotReached, SpecError

ALL: Literal["all"] = "all"
MAX_REASONS = 5
"""Different reasons that a sentence gives for the nodes that are left out."""


class Verdict(Enum):
    """The judgement of a quorum on the replies so far."""

    MET = "met"
    OPEN = "open"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Quorum:
    """The nodes that must reply for an ask to count, and how long to wait for the others.

    Args:
        required: nodes that must reply; "all" for every node of the job.
        min_nodes: least number of nodes that must reply, 1 or more.
        deadline_s: seconds after which an ask goes on with the nodes that have replied,
            if they are enough; None waits as long as nodes show that they are alive.
        grants_deadline_s: seconds after which a job goes on with the nodes whose owners allow it,
            if they are enough; None waits until every owner has decided, because these are people.
    """

    required: tuple[str, ...] | Literal["all"] = ()
    min_nodes: int = 1
    deadline_s: float | None = None
    grants_deadline_s: float | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        required: Any = self.required
        if not isinstance(required, str) or required != ALL:
            if not is_list(required) or not all(isinstance(node, str) for node in required):
                raise SpecError(f'Quorum(required=...) takes a list of nodes or "all", not {shown(required)}')
            object.__setattr__(self, "required", tuple(required))
        if isinstance(self.min_nodes, bool) or not isinstance(self.min_nodes, int) or self.min_nodes < 1:
            raise SpecError(
                f"Quorum(min_nodes=...) takes a whole number of 1 or more, not {shown(self.min_nodes)}"
            )
        for name in ("deadline_s", "grants_deadline_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SpecError(f"Quorum({name}=...) takes seconds above 0 or None, not {shown(value)}")

    @property
    def words(self) -> str:
        """Return the words of an error for who has to answer: `2 or more, north among them`, `north and south`."""
        if self.required == ALL:
            return "every node" if self.min_nodes == 1 else f"every node, {self.min_nodes} or more"
        if not self.required:
            return f"{self.min_nodes} or more"
        *first, last = self.required
        every = " and ".join(filter(None, (", ".join(first), last)))
        listed = some_of(self.required) if len(self.required) > MAX_NAMED else every
        return (
            listed
            if self.min_nodes <= len(self.required)
            else f"{self.min_nodes} or more, {listed} among them"
        )

    def among(self, nodes: Collection[str]) -> Quorum:
        """Return this rule for an ask to `nodes` only: it can't require other nodes, nor more of them."""
        required = tuple(nodes) if self.required == ALL else tuple(n for n in self.required if n in nodes)
        return replace(self, required=required, min_nodes=min(self.min_nodes, len(nodes)))

    def decide(
        self,
        selected: Collection[str],
        replied: Collection[str],
        failed: Collection[str],
    ) -> Verdict:
        """Judge an ask.

        Args:
            selected: the nodes that were asked.
            replied: the nodes whose reply counts.
            failed: the nodes that can't reply any more.

        Returns:
            MET when no more replies are waited for and the rule holds; OPEN
            while it may still hold; IMPOSSIBLE when it can't any more.
        """
        answered = set(selected) & set(replied)
        lost = set(failed) - answered
        pending = set(selected) - answered - lost
        possible = answered | pending
        required = set(selected if self.required == ALL else self.required)
        if len(possible) < self.min_nodes or not required <= possible:
            return Verdict.IMPOSSIBLE
        return Verdict.OPEN if pending else Verdict.MET


def too_few(
    quorum: Quorum,
    round_: int,
    received: Collection[str],
    left_out: Mapping[str, str],
    arrivals: Mapping[str, Any] | None = None,
) -> QuorumNotReached:
    """Return the error of an ask that can't count any more.

    Args:
        received: the nodes that contributed.
        left_out: node -> reason, for the others.
        arrivals: node -> what came of it all the same.
    """
    listed = reasons_text(left_out)
    missing = sorted(set(left_out) if quorum.required == ALL else set(quorum.required) & set(left_out))
    enough = missing and len(received) >= quorum.min_nodes
    without = (
        f". To go on without {some_of(missing)}: quorum=Quorum(min_nodes={len(received)})" if enough else ""
    )
    return QuorumNotReached(
        f"round {round_} can't go on: {len(received)} {'node' if len(received) == 1 else 'nodes'} contributed, "
        f"expected {quorum.words}{f' ({listed})' if listed else ''}{without}",
        received=received,
        left_out=dict(left_out),
        arrivals=arrivals,
    )


def reasons_text(left_out: Mapping[str, str]) -> str:
    """Return the reasons with their nodes, each reason once, however many nodes have it."""
    return "; ".join(by_reason(left_out, lambda nodes, reason: f"{nodes}: {reason}"))


def by_reason(left_out: Mapping[str, str], words: Callable[[str, str], str]) -> list[str]:
    """Return each reason once with the first of its nodes, the first few reasons, and how many nodes have others.

    Args:
        left_out: node -> reason.
        words: makes the text of one group, of its nodes in words and the reason.
    """
    nodes_of: dict[str, list[str]] = {}
    for node, reason in sorted(left_out.items()):
        nodes_of.setdefault(reason, []).append(node)
    groups = list(nodes_of.items())
    rest = sum(len(nodes) for _, nodes in groups[MAX_REASONS:])
    found = [words(some_of(nodes), reason) for reason, nodes in groups[:MAX_REASONS]]
    return [*found, f"{rest} more for other reasons"] if rest else found
