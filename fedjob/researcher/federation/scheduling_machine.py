"""The scheduling of a job, from the first offer to the first round, as a pure state machine.

A pure core: `state, commands = step(state, event)`; no sockets, files, clocks or
threads, and total: any event may come at any time. All times are seconds of one
monotonic clock, passed in with the events.

The **grants** gate is open while an owner who can be reached has not decided. It
closes when all of these have, or when the quorum is met and its
`grants_deadline_s` has passed. Then the job is queued for a slot of its home, and
at the **scheduling** gate the nodes are offered the job with `reserve=True`:
required nodes must answer first, then the minimum, then there must be workers,
resources and hours enough for a quorum. What the nodes answer is also the
**set-up** gate: a node that can't fetch or compile the plan reports it there.

A try that fails is repeated after a wait that doubles, and at once when a node
appears that was away or an owner decides; only tries that waited count towards
`max_tries`. A grant that expires or is revoked meanwhile leads back to the first
gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedjob.common.quorum import Quorum, Verdict
from fedjob.researcher.federation import scheduling_events as events

SOFT = frozenset({"", "no_free_worker"})
"""Schedules in an answer with which a node still takes part: tasks queue there, in the node's own order."""

SHORTAGES = ("resources", "no_workers", "outside_hours")


def begin(
    now: float, nodes: tuple[str, ...], quorum: Quorum, pace: events.RetryPolicy | None = None
) -> tuple[events.Scheduling, list[events.Command]]:
    """Open the first gate."""
    state = events.Scheduling(
        nodes=tuple(sorted(nodes)), quorum=quorum, pace=pace or events.RetryPolicy(), began=now
    )
    commands: list[events.Command] = []
    state = replace(state, asked=dict.fromkeys(state.nodes, now))
    return _offer(state, now, state.nodes, commands), commands


def step(state: events.Scheduling, event: events.Event) -> tuple[events.Scheduling, list[events.Command]]:
    """Advance by one event; see the module."""
    commands: list[events.Command] = []
    if state.gate in events.ENDS:
        return state, commands
    match event:
        case events.Answered():
            if event.node in state.nodes:
                state = _answered(state, event, commands)
        case events.SlotTaken(now):
            if state.gate is events.SchedulingStage.SLOT:
                state = _try(replace(state, gate=events.SchedulingStage.SCHEDULING), now, commands)
        case events.SchedulingTick(now, present):
            state = _pass_time(state, now, present, commands)
    return state, commands


def next_wake(state: events.Scheduling) -> float | None:
    """Return when a `SchedulingTick` is due for its time alone, or None."""
    if state.gate in events.ENDS:
        return None
    times = [since + _patience(state, node) for node, since in state.asked.items()]
    if state.gate is events.SchedulingStage.GRANTS:
        times.append(state.offered + state.pace.again_s)
        if state.quorum.grants_deadline_s is not None and state.undecided:
            times.append(state.began + state.quorum.grants_deadline_s)
    elif state.next_try is not None:
        times.append(state.next_try)
    return min(times, default=None)


def _answered(
    state: events.Scheduling, event: events.Answered, commands: list[events.Command]
) -> events.Scheduling:
    now, node, answer = event.now, event.node, event.answer
    before = state.answers.get(node)
    news = node in state.away or before is None or not events.allowed(before)
    done = event.current or state.gate is events.SchedulingStage.GRANTS
    state = replace(
        state,
        answers={**state.answers, node: answer},
        asked={name: at for name, at in state.asked.items() if name != node or not done},
        away=state.away - {node},
    )
    if state.gate is events.SchedulingStage.GRANTS:
        return _judge_grants(state, now, commands)
    if answer.status in ("pending", "rejected") and events.allowed(before):
        why = answer.grant_state or answer.reason or answer.status
        return _back_to_grants(state, now, why, f"{node}: {answer.note or why}", commands)
    if state.gate is events.SchedulingStage.SCHEDULING:
        if state.trying:
            return state if state.asked else _judge_try(state, now, commands)
        if news and events.allowed(answer):  # an owner allowed it, somebody is back: no need to wait
            return _retry(replace(state, excluded=state.excluded - {node}), now, commands, counted=False)
    return state


def _pass_time(
    state: events.Scheduling, now: float, present: Mapping[str, bool], commands: list[events.Command]
) -> events.Scheduling:
    appeared = tuple(
        node
        for node in state.nodes
        if node in state.away and present.get(node) and not state.present.get(node)
    )
    state = replace(state, present=dict(present))
    silent = {node for node, since in state.asked.items() if now >= since + _patience(state, node)}
    state = replace(
        state,
        away=state.away | silent,
        asked={node: since for node, since in state.asked.items() if node not in silent},
    )
    if state.gate is events.SchedulingStage.GRANTS:
        open_ = tuple(n for n in state.nodes if n in state.undecided or n in state.away or n in state.asked)
        if now >= state.offered + state.pace.again_s:
            state = _offer(state, now, open_, commands)
        elif appeared:
            state = _offer(state, now, appeared, commands)
        return _judge_grants(state, now, commands)
    if state.gate is events.SchedulingStage.SCHEDULING:
        if state.trying:
            return state if state.asked else _judge_try(state, now, commands)
        if state.next_try is not None and now >= state.next_try:
            return _retry(state, now, commands, counted=True)
        if appeared:
            return _retry(state, now, commands, counted=False)
    return state


def _judge_grants(state: events.Scheduling, now: float, commands: list[events.Command]) -> events.Scheduling:
    lost = state.lost
    possible = [node for node in state.nodes if node not in lost]
    if state.quorum.decide(state.nodes, possible, lost) is Verdict.IMPOSSIBLE:
        return _give_up(state, commands)
    if set(state.asked) - set(state.undecided):
        return state
    undecided = state.undecided
    if undecided:
        granted = [node for node in state.nodes if events.allowed(state.answers.get(node))]
        deadline_s = state.quorum.grants_deadline_s
        enough = state.quorum.decide(state.nodes, granted, set(state.nodes) - set(granted)) is Verdict.MET
        if not (enough and deadline_s is not None and now >= state.began + deadline_s):
            if undecided != state.announced:
                commands.append(events.Wait(undecided))
            return replace(state, announced=undecided)
    commands.append(events.TakeSlot())
    return replace(
        state,
        gate=events.SchedulingStage.SLOT,
        asked={},
        excluded=frozenset(undecided),
        announced=(),
        reason="",
        detail="",
    )


def _back_to_grants(
    state: events.Scheduling, now: float, reason: str, detail: str, commands: list[events.Command]
) -> events.Scheduling:
    """A grant expired or was revoked while the job was queued, or a node that was away asks its owner."""
    if state.gate is events.SchedulingStage.SCHEDULING:
        commands.append(events.LeaveSlot())
    undecided = state.undecided
    commands.append(events.Wait(undecided, reason, detail))
    state = replace(
        state,
        gate=events.SchedulingStage.GRANTS,
        asked={},
        trying=False,
        next_try=None,
        announced=undecided,
        offered=now,
    )
    return _judge_grants(state, now, commands)


def _retry(
    state: events.Scheduling, now: float, commands: list[events.Command], *, counted: bool
) -> events.Scheduling:
    """Queue for the slot again; the try begins when the slot is taken."""
    commands.append(events.TakeSlot())
    # an extra try leaves the series of waits as it is
    due = None if counted else state.next_try
    return replace(state, gate=events.SchedulingStage.SLOT, next_try=due)


def _try(state: events.Scheduling, now: float, commands: list[events.Command]) -> events.Scheduling:
    lost = state.lost
    nodes = tuple(n for n in state.nodes if n not in lost and n not in state.excluded)
    state = replace(state, trying=True, asked=dict.fromkeys(nodes, now), offered=now)
    if not nodes:
        return _judge_try(state, now, commands)
    commands.append(events.SendOffers(nodes, reserve=True))
    return state


def _judge_try(state: events.Scheduling, now: float, commands: list[events.Command]) -> events.Scheduling:
    answers = {node: _answer_of(state, node) for node in state.nodes}
    lost = state.lost
    possible = [node for node in state.nodes if node not in lost and node not in state.excluded]
    state = replace(state, trying=False, num_tries=state.num_tries + 1)
    if state.quorum.decide(state.nodes, possible, set(state.nodes) - set(possible)) is Verdict.IMPOSSIBLE:
        commands.append(events.Tried(state.num_tries, _why_lost(state)[0], answers, 0.0))
        return _give_up(state, commands)
    reason, blocking = _missing(state, answers)
    if not reason:
        ready = tuple(node for node, word in answers.items() if word == "ok")
        commands.append(events.Tried(state.num_tries, "scheduled", answers, 0.0))
        return replace(state, gate=events.SchedulingStage.READY, included=ready, reason="", detail="")
    detail = "; ".join(f"{node}: {answers[node]}" for node in blocking)
    if late := [node for node in state.undecided if node not in state.excluded]:
        return _back_to_grants(state, now, "pending", f"{', '.join(late)} asked for it meanwhile", commands)
    state = replace(state, reason=reason, detail=detail)
    due = state.next_try
    if due is None or now >= due:
        state = replace(state, tries=state.tries + 1)
        due = now + state.pace.wait_s(state.tries)
    if state.tries >= state.pace.max_tries:
        commands.append(events.Tried(state.num_tries, reason, answers, 0.0))
        return replace(state, gate=events.SchedulingStage.UNSCHEDULABLE, next_try=None)
    commands += [events.Tried(state.num_tries, reason, answers, due - now), events.LeaveSlot()]
    return replace(state, next_try=due)


def _missing(state: events.Scheduling, answers: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return what is missing for a start, and at which nodes: required nodes, then the minimum, then resources."""
    quorum = state.quorum
    connected = [node for node in state.nodes if answers[node] == "ok" or _shortage(answers[node])]
    absent = [node for node in quorum.required if node not in connected]
    if absent:
        return "required_missing", absent
    if len(connected) < quorum.min_nodes:
        return "too_few_nodes", [node for node in state.nodes if node not in connected]
    ready = {node for node in connected if answers[node] == "ok"}
    short = [node for node in quorum.required if node not in ready]
    if not short and len(ready) >= quorum.min_nodes:
        return "", []
    short = short or [node for node in connected if node not in ready]
    return next(kind for kind in SHORTAGES if any(_shortage(answers[n]) == kind for n in short)), short


def _answer_of(state: events.Scheduling, node: str) -> str:
    """Return a node's answer to a try in a word: `ok`, `offline`, or the reason why it can't start."""
    if node in state.excluded:
        return "undecided"
    answer = state.answers.get(node)
    if node in state.away or answer is None:
        return "offline"
    if why := events.refusal(answer):
        return why
    if not events.allowed(answer):
        return "undecided" if answer.status == "pending" else answer.reason or answer.status
    if answer.schedule in SOFT:
        return "ok"
    kind = answer.schedule if answer.schedule in SHORTAGES else "resources"
    return f"{kind}: {', '.join(answer.short)}" if answer.short else kind


def _shortage(word: str) -> str:
    kind = word.partition(":")[0]
    return kind if kind in SHORTAGES else ""


def _offer(
    state: events.Scheduling, now: float, nodes: tuple[str, ...], commands: list[events.Command]
) -> events.Scheduling:
    if nodes:
        commands.append(events.SendOffers(nodes, reserve=False))
    return replace(state, offered=now)


def _give_up(state: events.Scheduling, commands: list[events.Command]) -> events.Scheduling:
    """Too many nodes refuse: end as `rejected` where an owner refused, else as unschedulable."""
    reason, detail = _why_lost(state)
    gate = (
        events.SchedulingStage.REJECTED
        if reason in ("rejected", "revoked")
        else events.SchedulingStage.UNSCHEDULABLE
    )
    return replace(state, gate=gate, reason=reason, detail=detail, asked={}, next_try=None)


def _why_lost(state: events.Scheduling) -> tuple[str, str]:
    lost = state.lost
    detail = "; ".join(f"{node}: {why}" for node, why in lost.items())
    reasons = [why.partition(":")[0] for why in lost.values()]
    for word in ("rejected", "revoked"):
        if word in reasons:
            return word, detail
    return (reasons[0] if len(set(reasons)) == 1 else "too_few_nodes"), detail


def _patience(state: events.Scheduling, node: str) -> float:
    return state.pace.absence_s if state.present.get(node) is False else state.pace.silence_s
