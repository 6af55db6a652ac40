"""The state of a job right now, computed from its events alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from fedjob.common.lifecycle import HISTORY, State
from fedjob.common.types import ENDLESS
from fedjob.researcher.storage.event import JobEvent, is_job_state, state_of

_ODD = ("nan", "inf", "-inf")
"""The words that stand in a log for the numbers that JSON does not have."""


class Progress(NamedTuple):
    """The progress of a job, over all its nodes.

    Args:
        done, total: in the unit that the nodes count, or in rounds where they count nothing.
        eta_s: seconds that are left if it goes on like this; None before anything is known.
        slowest: the node that is furthest behind in this round; empty for none.
    """

    done: float
    total: float
    eta_s: float | None
    slowest: str = ""

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        left = "" if self.eta_s is None else f", {duration(self.eta_s)} left"
        slow = f", slowest {self.slowest}" if self.slowest else ""
        return f"{self.percent:.0f} %{left}{slow}"


def duration(seconds: float) -> str:
    """Return seconds as `45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLive:
    """The present work of a node.

    Args:
        state: of its task, empty where it reported none.
        worker: number of the process that computes; 0 for none.
        done, total: of the task, in the unit that it counts; 0 where it counts nothing.
        children: keys of child tasks that it reported.
    """

    state: str = ""
    reason: str = ""
    worker: int = 0
    done: float = 0.0
    total: float = 0.0
    children: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The state of a job that follows from its events so far.

    Args:
        seq: number of the last event.
        began, updated: times of the first and the last event, seconds since 1970.
        waiting: nodes whose owners have to decide.
        contacts: node -> whom to ask there.
        holding: why it has not been scheduled, node -> reason.
        round: the last committed round.
        asked: the nodes that work on the present ask.
        unit: the size of a round over all nodes, in the unit that they count; 0 where they count nothing.
        since: time at which this attempt began to run, and how much was done by then.
        metrics: node -> its last metrics.
        measured: node -> what its last answer measured, over all rows of a split or pass.
    """

    seq: int = 0
    state: State = State.DRAFT
    reason: str = ""
    detail: str = ""
    began: float = 0.0
    updated: float = 0.0
    waiting: tuple[str, ...] = ()
    contacts: Mapping[str, str] = field(default_factory=dict)
    holding: Mapping[str, str] = field(default_factory=dict)
    held_by: str = ""
    round: int = 0
    asked: tuple[str, ...] = ()
    nodes: Mapping[str, NodeLive] = field(default_factory=dict)
    unit: float = 0.0
    since: tuple[float, int] = (0.0, 0)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def num_children(self) -> int:
        """Number of child tasks that the nodes reported."""
        return sum(len(node.children) for node in self.nodes.values())

    def after(self, events: Iterable[JobEvent]) -> Live:
        """Return the state after more events."""
        live = self
        for event in events:
            step = _STEPS.get(event.type)
            live = replace(live, seq=event.seq, began=live.began or event.time, updated=event.time)
            if step is not None:
                with suppress(AttributeError, KeyError, TypeError, ValueError):  # others may send any body
                    live = step(live, event)
        return live

    def progress(self, rounds: int, now: float) -> Progress:
        """Return how far the job is.

        Args:
            rounds: of the job; for one without an end the progress is that of the round under way.
            now: seconds since 1970.
        """
        unit = self.unit or 1.0
        endless = rounds == ENDLESS
        rounds = self.round + 1 if endless else rounds
        at_work = [self.nodes[n] for n in self.asked if n in self.nodes and self.round < rounds]
        done = self.round * unit + min(unit, sum(node.done for node in at_work))
        total = max(rounds, self.round) * unit
        behind = {
            n: self.nodes[n].done / self.nodes[n].total
            for n in self.asked
            if n in self.nodes and self.nodes[n].total > 0
        }
        slowest = min(behind, key=lambda n: (behind[n], n), default="")
        start, round_then = self.since
        gained = done - round_then * unit
        if self.state in HISTORY:
            return Progress(done, total, 0.0 if self.state == State.COMPLETED else None)
        eta_s = (now - start) * (total - done) / gained if start and gained > 0 and not endless else None
        return Progress(done, total, eta_s, slowest if self.round < rounds else "")


def _state(live: Live, event: JobEvent) -> Live:
    body = event.body
    if not is_job_state(event):
        node = live.nodes.get(event.node, NodeLive())
        child = bool(body.get("parent"))
        changed = (
            replace(node, children=node.children | {event.task})
            if child
            else replace(
                node,
                state=str(body.get("state", "")),
                reason=str(body.get("reason") or ""),
                worker=_whole(body.get("worker")),
            )
        )
        live = replace(live, nodes={**live.nodes, event.node: changed})
        phases = body.get("metrics")
        if not isinstance(phases, Mapping):
            return live
        each = [named for named in phases.values() if isinstance(named, Mapping)]
        named = {str(name): value for one in each for name, value in one.items()}
        return replace(live, measured={**live.measured, event.node: named})
    state = state_of(event)
    live = replace(
        live, state=state, reason=str(body.get("reason") or ""), detail=str(body.get("detail") or "")
    )
    if state == State.WAITING:
        return replace(live, waiting=(), holding={}, held_by="", nodes={}, asked=(), since=(0.0, 0))
    if state == State.QUEUED:
        return replace(live, waiting=())
    if state == State.RUNNING:
        # an attempt that goes on from a breakpoint names that breakpoint's round
        live = replace(live, round=event.round, holding={}, held_by="")
        return replace(live, since=(event.time, event.round))
    return live


def _grant(live: Live, event: JobEvent) -> Live:
    body = event.body
    contacts = {**live.contacts, **_texts(body.get("contacts"))}
    waiting = body.get("waiting")
    if not isinstance(waiting, list):
        return replace(live, contacts=contacts)
    return replace(live, contacts=contacts, waiting=tuple(map(str, waiting)))


def _schedule(live: Live, event: JobEvent) -> Live:
    body = event.body
    nodes = body.get("nodes")
    each = _texts(nodes) if isinstance(nodes, Mapping) else dict.fromkeys(map(str, nodes or ()), "")
    contacts = {**live.contacts, **_texts(body.get("contacts"))}
    held = {node: why for node, why in each.items() if why not in ("ok", "scheduled")}
    return replace(live, holding=held, held_by=str(body.get("reason") or ""), contacts=contacts)


def _ask(live: Live, event: JobEvent) -> Live:
    asked = tuple(map(str, event.body.get("nodes", ())))
    nodes = {name: replace(node, done=0.0, total=0.0) for name, node in live.nodes.items()}
    return replace(live, asked=asked, nodes=nodes)


def _round(live: Live, event: JobEvent) -> Live:
    nodes = {name: replace(node, done=0.0, total=0.0) for name, node in live.nodes.items()}
    return replace(live, round=event.round, nodes=nodes, asked=())


def _progress(live: Live, event: JobEvent) -> Live:
    if not event.node or event.body.get("child"):
        return live
    done, total = _number(event.body.get("done")), _number(event.body.get("total"))
    node = replace(live.nodes.get(event.node, NodeLive()), done=min(done, total), total=total)
    nodes = {**live.nodes, event.node: node}
    asked = live.asked or (event.node,)
    totals = [nodes[n].total for n in asked if n in nodes and nodes[n].total > 0]
    # nodes that have reported no total yet count like the average of those that have
    unit = sum(totals) * max(1.0, len(asked) / len(totals)) if totals else live.unit
    return replace(live, nodes=nodes, asked=asked, unit=unit)


def _metrics(live: Live, event: JobEvent) -> Live:
    before = live.metrics.get(event.node, {})
    body = {key: value for key, value in event.body.items() if key not in ("values", "source")}
    now = {key: float(value) if value in _ODD else value for key, value in body.items()}
    return replace(live, metrics={**live.metrics, event.node: {**before, **now}})


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and value >= 0 else 0.0


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _texts(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items() if v} if isinstance(value, Mapping) else {}


_STEPS = {
    "state": _state,
    "grant": _grant,
    "schedule": _schedule,
    "ask": _ask,
    "round": _round,
    "progress": _progress,
    "metrics": _metrics,
}
