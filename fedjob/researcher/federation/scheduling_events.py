"""State, events and commands of `scheduling_machine`, which takes a job to its first round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedjob.common.quorum import Quorum
from fedjob.messaging.messages import Answer

PASSING = frozenset({"busy", "repository"})
"""Reasons of an `unknown` that pass by themselves; every other one is final."""


class SchedulingStage(StrEnum):
    """The stages of a job before its first round; the last three are ends."""

    GRANTS = "grants"
    SLOT = "slot"
    SCHEDULING = "scheduling"
    READY = "ready"
    REJECTED = "rejected"
    UNSCHEDULABLE = "unschedulable"


ENDS = frozenset({SchedulingStage.READY, SchedulingStage.REJECTED, SchedulingStage.UNSCHEDULABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The waiting times of scheduling, and how often it tries.

    Args:
        max_tries: tries that waited their time; after the last the job is unschedulable.
        retry_min_s, retry_max_s: wait after the first try; it doubles up to the other.
        silence_s: without an answer for so long a node counts as offline.
        absence_s: the same for a node that shows no presence.
        again_s: an offer without an answer, or without a decision, is made again.
    """

    max_tries: int = 10
    retry_min_s: float = 10.0
    retry_max_s: float = 600.0
    silence_s: float = 20.0
    absence_s: float = 2.0
    again_s: float = 30.0

    def wait_s(self, tries: int) -> float:
        """Return how long to wait after so many tries."""
        return min(self.retry_max_s, self.retry_min_s * 2.0 ** min(tries - 1, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """A job on its way to its first round; made by `begin`.

    Args:
        began: when its owners were first asked.
        answers: node -> its last answer.
        asked: node whose answer to the last offer has not come -> when the offer was made.
        offered: when the last offers were made.
        present: nodes' presence, as last seen.
        away: nodes that did not answer.
        excluded: nodes whose owners had not decided when the deadline closed the gate.
        announced: the undecided nodes of the last `Wait`.
        trying: a try is under way.
        tries: number of tries that waited their time; `num_tries` counts all.
        next_try: when the next try is due.
        included: nodes that take part, once it is ready.
        reason, detail: why the job can't start, or why the last try failed.
    """

    nodes: tuple[str, ...]
    quorum: Quorum
    pace: RetryPolicy
    began: float
    gate: SchedulingStage = SchedulingStage.GRANTS
    answers: Mapping[str, Answer] = field(default_factory=dict)
    asked: Mapping[str, float] = field(default_factory=dict)
    offered: float = 0.0
    present: Mapping[str, bool] = field(default_factory=dict)
    away: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    announced: tuple[str, ...] = ()
    trying: bool = False
    tries: int = 0
    num_tries: int = 0
    next_try: float | None = None
    included: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""

    @property
    def undecided(self) -> tuple[str, ...]:
        """Nodes whose owners have yet to decide."""
        return tuple(n for n in self.nodes if n in self.answers and self.answers[n].status == "pending")

    @property
    def lost(self) -> dict[str, str]:
        """Nodes that can't take part any more, with reasons."""
        return {node: why for node in self.nodes if (why := refusal(self.answers.get(node)))}


@dataclass(frozen=True, slots=True)
class Answered:
    """A node answered an offer, or answers it anew because its owner decided.

    Args:
        current: it is about the last offer that was made.
    """

    now: float
    node: str
    answer: Answer
    current: bool = True


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """This job is one of those that may run on its home."""

    now: float


@dataclass(frozen=True, slots=True)
class SchedulingTick:
    """Time has passed; to be passed in after everything that is already there.

    Args:
        present: node -> whether it shows its presence at the broker; a hint only.
    """

    now: float
    present: Mapping[str, bool] = field(default_factory=dict)


Event = Answered | SlotTaken | SchedulingTick


@dataclass(frozen=True, slots=True)
class SendOffers:
    """Make these nodes an offer."""

    nodes: tuple[str, ...]
    reserve: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """The job waits for these owners; `reason` is why it does so once more, after it was queued."""

    nodes: tuple[str, ...]
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TakeSlot:
    """The job is `queued`: take one of the home's slots, then pass in `SlotTaken`."""


@dataclass(frozen=True, slots=True)
class LeaveSlot:
    """Let another job have the slot while this one waits."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Record a try.

    Args:
        number: counts all tries from 1.
        reason: `scheduled`, or why not.
        nodes: node -> what it answered: `ok`, `offline`, or why not.
        wait_s: until the next try; 0 after the last.
    """

    number: int
    reason: str
    nodes: Mapping[str, str]
    wait_s: float


Command = SendOffers | Wait | TakeSlot | LeaveSlot | Tried


def allowed(answer: Answer | None) -> bool:
    """Return whether a node's answer allows the job to run there."""
    return answer is not None and answer.status in ("granted", "not-needed")


def passing(answer: Answer) -> bool:
    """Return whether an answer names trouble that passes by itself."""
    return answer.status == "unknown" and answer.reason in PASSING


def refusal(answer: Answer | None) -> str:
    """Return why a node can't take part any more: the reason, and the note of its owner or itself."""
    if answer is None or allowed(answer) or answer.status == "pending" or passing(answer):
        return ""
    what = ", ".join(answer.missing) or answer.note
    return f"{answer.reason or answer.status}{': ' + what if what else ''}"
