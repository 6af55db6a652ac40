"""The times of a round at each of its nodes: queue, fetch, compute, upload, waiting for others, aggregation. Pure.

A node's own figures are seconds by its own clock; when it was asked and when its answer was there are times of this
side's clock. What its figures do not explain is the way there and back, with the upload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.lifecycle import HISTORY, State
from fedjob.researcher.storage.event import JobEvent

STAGES = ("queue", "fetch", "compute", "upload", "wait", "aggregate")
"""Of a node's part of a round, in their order: `upload` has the ways there and back in it, `wait` is for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimes:
    """One node's part of a round.

    Args:
        seconds: stage -> seconds; a stage that nothing is known of is left out.
        state: of its last task, as it last reported it.
        is_open: it has not answered yet.
    """

    node: str
    seconds: Mapping[str, float]
    state: str = ""
    reason: str = ""
    is_open: bool = False

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimes:
    """The times of one round.

    Args:
        began: time of its first question, seconds since 1970.
        seconds: to its commit, or to now.
        is_open: it was not committed yet.
        steps: names of its questions.
    """

    round: int
    began: float
    seconds: float
    is_open: bool
    steps: tuple[str, ...]
    nodes: tuple[NodeTimes, ...]

    @property
    def slowest(self) -> str:
        """The node that the others waited for; empty where all were as fast."""
        if len(self.nodes) < 2:
            return ""
        return min(self.nodes, key=lambda one: (one.seconds.get("wait", 0.0), -one.total_s)).node


_AT = {"": "queued", State.WAITING: "queued", State.QUEUED: "queued", State.STARTING: "fetch"}
"""State of a task that has not begun to compute -> the figure that its time so far belongs to."""


@dataclass(slots=True)
class _OpenRound:
    began: float
    asks: list[tuple[float, str, tuple[str, ...]]] = field(default_factory=list)
    ended: dict[tuple[int, str], float] = field(default_factory=dict)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    committed: float = 0.0


Timing = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Step -> node -> stage -> seconds, as the answers of one round report them."""


def round_times(events: Iterable[JobEvent], timings: Mapping[int, Timing], now: float) -> list[RoundTimes]:
    """Return the times of the rounds that began within these events, oldest first.

    Args:
        timings: round -> the figures of its answers.
        now: seconds since 1970.
    """
    rounds: dict[int, _OpenRound] = {}
    for event in events:
        if event.type == "ask":
            if event.round in rounds and rounds[event.round].committed:
                del rounds[event.round]  # a further attempt computes it again
            found = rounds.setdefault(event.round, _OpenRound(event.time))
            named = event.body.get("nodes")
            nodes = tuple(map(str, named)) if isinstance(named, list) else ()
            found.asks.append((event.time, str(event.body.get("step", "")), nodes))
        elif event.round in rounds:
            _note(rounds[event.round], event)
    return [_times(number, one, timings.get(number, {}), now) for number, one in sorted(rounds.items())]


def _note(found: _OpenRound, event: JobEvent) -> None:
    if event.type == "round":
        found.committed = event.time
    elif event.type == "state" and event.node and not event.body.get("parent"):
        state = str(event.body.get("state", ""))
        found.states[event.node] = state, str(event.body.get("reason") or "")
        if state in HISTORY:
            found.ended[len(found.asks) - 1, event.node] = event.time


def _times(number: int, found: _OpenRound, timing: Timing, now: float) -> RoundTimes:
    end = found.committed or now
    each: dict[str, dict[str, float]] = {}
    still: set[str] = set()
    for index, (asked, step, nodes) in enumerate(found.asks):
        is_last = index == len(found.asks) - 1
        until = end if is_last else found.asks[index + 1][0]
        ends = {node: found.ended[index, node] for node in nodes if (index, node) in found.ended}
        last = max(ends.values(), default=until) if not (is_last and not found.committed) else until
        for node in nodes:
            stages = each.setdefault(node, {})
            figures = timing.get(step, {}).get(node, {})
            if node not in ends and is_last and not found.committed:
                still.add(node)
                stage = _AT.get(found.states.get(node, ("", ""))[0])
                figures = {stage: until - asked} if stage else figures
            _add(stages, figures, asked, ends.get(node, until), last, until)
    parts = [
        NodeTimes(
            node=node,
            seconds={stage: stages[stage] for stage in STAGES if stage in stages},
            state=found.states.get(node, ("", ""))[0],
            reason=found.states.get(node, ("", ""))[1],
            is_open=node in still,
        )
        for node, stages in sorted(each.items())
    ]
    return RoundTimes(
        round=number,
        began=found.began,
        seconds=max(0.0, end - found.began),
        is_open=not found.committed,
        steps=tuple(dict.fromkeys(step for _, step, _ in found.asks)),
        nodes=tuple(parts),
    )


def _add(
    stages: dict[str, float],
    figures: Mapping[str, Any],
    asked: float,
    answered: float,
    last: float,
    until: float,
) -> None:
    """Add one answer's stages to those of its node.

    Args:
        last: when the last answer was there.
        until: when the next thing began.
    """
    took = max(0.0, answered - asked)
    own = {
        "queue": _seconds(figures, "queued"),
        "fetch": _seconds(figures, "fetch"),
        "compute": _seconds(figures, "total"),
    }
    known = sum(own.values())
    if not known:  # not reported, such as under differential privacy: all of it is one stage
        own = {"compute": took}
    elif known > took:  # its clock, or a reply that was computed before
        own = {stage: seconds * took / known for stage, seconds in own.items()}
    own["upload"] = max(0.0, took - sum(own.values()))
    own["wait"] = max(0.0, last - answered)
    own["aggregate"] = max(0.0, until - max(last, answered))
    for stage, seconds in own.items():
        if seconds:
            stages[stage] = stages.get(stage, 0.0) + seconds


def _seconds(figures: Mapping[str, Any], name: str) -> float:
    value: Any = figures.get(name)
    return max(0.0, float(value)) if is_number(value) else 0.0


def totals(times: Sequence[RoundTimes]) -> dict[str, dict[str, float]]:
    """Return node -> stage -> seconds over several rounds."""
    found: dict[str, dict[str, float]] = {}
    for one in times:
        for part in one.nodes:
            stages = found.setdefault(part.node, {})
            for stage, seconds in part.seconds.items():
                stages[stage] = stages.get(stage, 0.0) + seconds
    return found
