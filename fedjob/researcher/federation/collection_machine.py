"""The collection of the answers to one ask, as a pure state machine: who answered, who is left out and why.

A pure core: `state, commands = step(state, event)`, then `outcome(state)`; no
sockets, files, clocks or threads, and total: any event may come at any time. All
times are seconds of one monotonic clock, passed in with the events.

A node's answer counts in two steps. `ReplyArrived` with the expected work key
commands `KeepContribution`: fetch the contribution and make it durable. `ContributionKept` reports
that this is done, and only then the node counts and the reply may be receipted;
`NodeFailed` reports that it can't be had. Every reply that is not counted is listed
with its reason, never dropped in silence.

An ask waits for all its nodes, until the deadline, and goes on if the quorum is
met then. What arrived before the deadline is still collected after it. A node
that shows no sign of life for a lease is left out, and one that the quorum needs
after fifteen; signs are its receipts, its lease events and its replies. A node that is known to be away has `AWAY_S` for its
first sign: it is asked each time, so that it comes back when it answers, and
nobody waits for it twice. With `enough=k` (`Buffered(k)`) the ask ends as
soon as k nodes are in. An ask that is still open at `ends_at` is `AskOverdue`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from fedjob.common.quorum import ALL, Quorum, Verdict

LEASE_S = 60.0
AWAY_S = 8.0
NUM_LEASES_OF_NEEDED = 15
"""A node without which the ask can't count may be silent for so many leases: giving it up would end the job, and a
line that fails for some minutes comes back."""


SILENT = "silent"

MAX_LISTED = 1000
"""Replies that are not counted and are listed; each of more is still noted when it comes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A reply that is not counted.

    Args:
        reason: `foreign` (node not asked), `wrong_key` (other work), `duplicate`, `late` (its node,
            or the ask, was done with before).
    """

    node: str
    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoundState:
    """An ask as it stands; made by `begin`.

    Args:
        keys: the work expected of each node that was asked.
        lease_s: None never calls a node silent.
        ends_at: when the ask is overdue, whoever has answered; None for never.
        last_sign: node -> when it last gave a sign of life.
        collecting: nodes whose reply is here and being made durable: its message id.
        included: nodes that count, in the order in which they came in.
        left_out: nodes that don't, with reasons.
        closed: the deadline has passed.
        overdue: time is up for the job.
        away: nodes that were silent before and have given no sign of life since.
        ended: the outcome stands.
    """

    keys: Mapping[str, str]
    quorum: Quorum
    began: float
    enough: int | None
    lease_s: float | None
    ends_at: float | None
    last_sign: Mapping[str, float]
    collecting: Mapping[str, str] = field(default_factory=dict)
    included: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[Listed, ...] = ()
    closed: bool = False
    overdue: bool = False
    away: frozenset[str] = frozenset()
    ended: bool = False

    @property
    def unseen(self) -> frozenset[str]:
        """Nodes without any sign of life since the ask began, or that were silent for a lease."""
        silent = {node for node, reason in self.left_out.items() if reason == SILENT}
        nodes = set(self.keys) - set(self.included)
        return frozenset(silent | {node for node in nodes if self.last_sign[node] <= self.began})

    def patience_s(self, node: str) -> float | None:
        """Return for how long a node may give no sign of life; None for ever."""
        if self.lease_s is None:
            return None
        if node in self.away:
            return min(AWAY_S, self.lease_s)
        return self.lease_s * (NUM_LEASES_OF_NEEDED if self.is_needed(node) else 1)

    def is_needed(self, node: str) -> bool:
        """Return whether the ask can't count without a node."""
        num_others = len(self.keys) - len(self.left_out) - 1
        required = self.quorum.required
        return required == ALL or node in required or num_others < self.quorum.min_nodes

    def silent_but_needed(self, now: float) -> tuple[str, ...]:
        """Return the nodes that are waited for although they were silent for a lease."""
        if self.lease_s is None:
            return ()
        waited = set(self.pending) - set(self.collecting) - self.away
        late = [node for node in waited if now - self.last_sign[node] >= self.lease_s]
        return tuple(sorted(node for node in late if self.is_needed(node)))

    @property
    def pending(self) -> list[str]:
        """Nodes that may still answer, in order; those being collected among them."""
        return sorted(set(self.keys) - set(self.included) - set(self.left_out))


def begin(
    now: float,
    keys: Mapping[str, str],
    quorum: Quorum,
    *,
    enough: int | None = None,
    lease_s: float | None = LEASE_S,
    ends_at: float | None = None,
    away: Collection[str] = (),
) -> RoundState:
    """Open an ask.

    Args:
        keys: the work key expected of each node.
        enough: end as soon as so many nodes are in; None waits for all.
        lease_s: silence after which a node is left out.
        ends_at: when the ask is overdue, whoever has answered.
        away: nodes that were silent in the ask before.
    """
    last_sign = dict.fromkeys(keys, now)
    known = frozenset(away) & frozenset(keys)
    return RoundState(dict(keys), quorum, now, enough, lease_s, ends_at, last_sign, away=known)


@dataclass(frozen=True, slots=True)
class ReplyArrived:
    """A node answered a task.

    Args:
        key: of the work that the node reports as done.
        message: id of the reply's message.
        ok: False for a failure; `reason` then names it.
    """

    now: float
    node: str
    key: str
    message: str
    ok: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ContributionKept:
    """The node's contribution is durable here."""

    now: float
    node: str


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """The node can't contribute: its object can't be had, the guard refused it, its task expired unsent."""

    now: float
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """The node is there: a lease, a receipt."""

    now: float
    node: str


@dataclass(frozen=True, slots=True)
class CollectionTick:
    """Time has passed; due at `next_wake`, harmless at any other time.

    Only this closes an ask or ends a lease. Pass it in after everything that is
    already there: a caller who was busy must not take its own delay for silence.
    """

    now: float


Event = ReplyArrived | ContributionKept | NodeFailed | SignOfLife | CollectionTick


@dataclass(frozen=True, slots=True)
class KeepContribution:
    """Make this reply's contribution durable, then pass in `ContributionKept` or `NodeFailed`."""

    node: str
    message: str


@dataclass(frozen=True, slots=True)
class Note:
    """Record why this reply is not counted; then it may be receipted."""

    listed: Listed


Command = KeepContribution | Note


@dataclass(frozen=True, slots=True)
class Open:
    """More may come."""


@dataclass(frozen=True, slots=True)
class AskFinished:
    """The ask counts: `included` in the order of names, the others with reasons."""

    included: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Impossible:
    """The quorum can't be met any more."""

    included: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AskOverdue:
    """The round took longer than the job gives it; what has come in does not count."""

    included: tuple[str, ...]
    left_out: Mapping[str, str]


Outcome = Open | AskFinished | Impossible | AskOverdue


def step(state: RoundState, event: Event) -> tuple[RoundState, list[Command]]:
    """Advance by one event; see the module."""
    commands: list[Command] = []
    if isinstance(event, ReplyArrived):
        state = _reply(state, event, commands)
    elif not state.ended and event_node(event) in (None, *state.keys):
        match event:
            case ContributionKept(now, node):
                if node in state.collecting:
                    state = replace(
                        _alive(state, node, now),
                        collecting=_without(state.collecting, node),
                        included=(*state.included, node),
                    )
            case NodeFailed(_, node, reason):
                if node not in state.included and node not in state.left_out:
                    state = _leave_out(state, node, reason or "failed")
            case SignOfLife(now, node):
                state = _alive(state, node, now)
            case CollectionTick(now):
                state = _pass_time(state, now)
    if not state.ended and not isinstance(outcome(state), Open):
        state = replace(state, ended=True)
    return state, commands


def event_node(event: Event) -> str | None:
    """Return the node that an event is about; None for the clock."""
    return None if isinstance(event, CollectionTick) else event.node


def outcome(state: RoundState) -> Outcome:
    """Judge an ask as it stands."""
    included = tuple(sorted(state.included))
    if state.enough is not None and len(included) >= state.enough:
        missing = set(state.quorum.required) - set(included)
        if not missing and len(included) >= state.quorum.min_nodes:
            return AskFinished(included, _reasons(state, "not_needed"))
    # Nodes whose reply was here in time still count as answering while it is made durable.
    waiting = state.collecting if state.closed else state.pending
    failed = set(state.keys) - set(included) - set(waiting)
    verdict = state.quorum.decide(state.keys, included, failed)
    if verdict is Verdict.IMPOSSIBLE:
        return Impossible(included, _reasons(state, "quorum_lost"))
    if verdict is Verdict.MET:
        return AskFinished(included, _reasons(state, "deadline"))
    return AskOverdue(included, _reasons(state, "timeout")) if state.overdue else Open()


def next_wake(state: RoundState) -> float | None:
    """Return when a `CollectionTick` is due, or None: time alone changes nothing."""
    if state.ended:
        return None
    times: list[float] = []
    if state.quorum.deadline_s is not None and not state.closed:
        times.append(state.began + state.quorum.deadline_s)
    if state.ends_at is not None:
        times.append(state.ends_at)
    for node in state.pending:
        patience_s = state.patience_s(node)
        if patience_s is not None and node not in state.collecting:
            times.append(state.last_sign[node] + patience_s)
    return min(times, default=None)


def _reply(state: RoundState, event: ReplyArrived, commands: list[Command]) -> RoundState:
    node = event.node
    if node not in state.keys:
        reason = "foreign"
    elif event.key != state.keys[node]:
        reason = "wrong_key"
    elif node in state.included or node in state.collecting:
        reason = "duplicate"
    elif state.ended or state.closed or node in state.left_out:
        reason = "late"
    else:
        state = _alive(state, node, event.now)
        if not event.ok:
            return _leave_out(state, node, event.reason or "failed")
        commands.append(KeepContribution(node, event.message))
        return replace(state, collecting={**state.collecting, node: event.message})
    listed = Listed(node, event.message, reason)
    commands.append(Note(listed))
    return state if len(state.listed) >= MAX_LISTED else replace(state, listed=(*state.listed, listed))


def _pass_time(state: RoundState, now: float) -> RoundState:
    deadline_s = state.quorum.deadline_s
    if deadline_s is not None and now >= state.began + deadline_s:
        state = replace(state, closed=True)
    if state.ends_at is not None and now >= state.ends_at:
        state = replace(state, overdue=True)
    for node in state.pending:
        patience_s = state.patience_s(node)
        if patience_s is None or node in state.collecting:
            continue
        if now >= state.last_sign[node] + patience_s:
            state = _leave_out(state, node, SILENT)
    return state


def _alive(state: RoundState, node: str, now: float) -> RoundState:
    if now <= state.last_sign[node] and node not in state.away:
        return state
    later = max(now, state.last_sign[node])
    return replace(state, last_sign={**state.last_sign, node: later}, away=state.away - {node})


def _leave_out(state: RoundState, node: str, reason: str) -> RoundState:
    return replace(
        state,
        collecting=_without(state.collecting, node),
        left_out={**state.left_out, node: reason},
    )


def _without(mapping: Mapping[str, str], node: str) -> dict[str, str]:
    return {name: value for name, value in mapping.items() if name != node}


def _reasons(state: RoundState, otherwise: str) -> dict[str, str]:
    included = set(state.included)
    return {node: state.left_out.get(node, otherwise) for node in state.keys if node not in included}
