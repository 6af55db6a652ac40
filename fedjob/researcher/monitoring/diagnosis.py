"""The diagnosis of a job: what holds it up and what to do, from its record and events alone.

Pure: no files, no clock, no network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.checks import MAX_IN_ROW, some_of
from fedjob.common.errors import printable_lines
from fedjob.common.lifecycle import ACTIVE, HISTORY, State
from fedjob.common.notebooks import html
from fedjob.common.reasons import REASONS
from fedjob.common.types import rounds_text
from fedjob.researcher.storage.event import JobEvent, is_job_state
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try at scheduling.

    Args:
        number: from 1, in its attempt.
        time: seconds since 1970.
        reason: `scheduled`, or what was missing.
        nodes: node -> `ok`, `offline`, or what it is short of.
        wait_s: until the next try; 0 where there was none.
    """

    number: int
    time: float
    reason: str
    nodes: Mapping[str, str]
    wait_s: float = 0.0
    contacts: Mapping[str, str] = field(default_factory=dict)
    ahead: Mapping[str, int] = field(default_factory=dict)

    @property
    def when(self) -> str:
        """The time of day, UTC."""
        seconds = int(self.time) % 86400
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} UTC"

    @property
    def answers(self) -> str:
        """The answer of each node, in one line."""
        return ", ".join(f"{node}: {answer}" for node, answer in self.nodes.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """A task at a node, as the node last reported it.

    Args:
        state: see `common/lifecycle.py`.
        worker: number of the process that computes it, 0 for none.
        updated: seconds since 1970.
    """

    key: str
    node: str
    round: int
    state: str
    worker: int = 0
    reason: str = ""
    updated: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The reason why a job stands where it stands.

    Args:
        gate: `draft`, `runner`, `grants`, `slot`, `scheduling`, `nodes` or `ended`.
        nodes: the nodes that hold it up.
        lines: the answer, a sentence a line.
    """

    state: str
    gate: str
    reason: str = ""
    nodes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return printable_lines("\n".join(self.lines))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html.panel(f"Why it is {self.state}", *(html.note(line) for line in self.lines))


def explain(spec: JobSpec, record: JobRecord, events: Sequence[JobEvent], *, runs: bool = True) -> Why:
    """Return the gate that a job stands at, the nodes that hold it up, and whom to ask.

    Args:
        runs: whether a process runs the job.
    """
    state = State(record.state)
    if not runs:
        line = f"Nobody runs it: its runner died while it was {state}. The next look at it begins it again."
        return Why(state=state, gate="runner", reason="runner_died", lines=(line,))
    if state in HISTORY:
        return _ended(record)
    if state == State.WAITING:
        return _waiting(spec, record)
    if state == State.QUEUED:
        return _queued(record, events)
    if state in ACTIVE:
        return _running(spec, record, events)
    lines = ["It is a draft: nothing was sent. job.submit() runs it, job.check() asks the nodes first."]
    pending = [node for node, grant in sorted(record.grants.items()) if grant.get("state") == "pending"]
    if pending:
        lines.append(f"The owners of {some_of(pending)} were asked and have not decided.")
    return Why(state=state, gate="draft", nodes=tuple(pending), lines=tuple(lines))


def _waiting(spec: JobSpec, record: JobRecord) -> Why:
    waiting = [node for node, grant in sorted(record.grants.items()) if grant.get("state") == "pending"]
    if not waiting:
        return Why(
            state=record.state,
            gate="grants",
            lines=("It waits at the grants gate: its runner asks the nodes, and they have yet to answer.",),
        )
    lines = ["It waits at the grants gate: owners have to decide."]
    for node in waiting[:MAX_IN_ROW]:
        grant = record.grants[node]
        needs = " and ".join(grant.get("needs") or ()) or "plan"
        dataset = spec.datasets.get(node, {}).get("name", "")
        of = f" on dataset {dataset}" if dataset else ""
        asked = f" Request {grant['grant']}." if grant.get("grant") else ""
        lines.append(f"{node}: its owner has to allow the {needs}{of}.{asked}{_ask(grant.get('contact'))}")
    lines += _more(waiting)
    return Why(state=record.state, gate="grants", nodes=tuple(waiting), lines=tuple(lines))


def _queued(record: JobRecord, events: Sequence[JobEvent]) -> Why:
    tries = tries_of(events)
    if not tries or tries[-1].reason == "scheduled":
        line = "It waits for a slot: as many jobs of this home run as its max_jobs allows."
        return Why(state=record.state, gate="slot", reason="slot", lines=(line,))
    last = tries[-1]
    held = [node for node, answer in last.nodes.items() if answer != "ok"]
    again = f"; the next comes {last.wait_s:.0f} s after it, or when a node appears" if last.wait_s else ""
    lines = [
        f"It waits at the scheduling gate: {REASONS.get(last.reason, last.reason)} ({last.reason}).",
        f"Try {last.number} was at {last.when}{again}.",
    ]
    for node in held[:MAX_IN_ROW]:
        trouble = _explained(last.nodes[node])
        ahead = last.ahead.get(node, 0)
        behind = f" {ahead} tasks wait there before this job's." if ahead else ""
        lines.append(f"{node}: {trouble}.{behind}{_ask(last.contacts.get(node))}")
    lines += _more(held)
    return Why(
        state=record.state, gate="scheduling", reason=last.reason, nodes=tuple(held), lines=tuple(lines)
    )


def _running(spec: JobSpec, record: JobRecord, events: Sequence[JobEvent]) -> Why:
    if record.state == State.STOPPING:
        return Why(state=record.state, gate="nodes", lines=("It is being ended.",))
    round_ = max((event.round for event in events if event.type == "ask"), default=0)
    open_ = [task for task in tasks_of(events) if task.round == round_ and task.state not in HISTORY]
    busy = {task.node: task for task in open_}
    lines = [
        f"It runs: round {round_} of {rounds_text(record.rounds or spec.rounds)}." if round_ else "It starts."
    ]
    for node, task in sorted(busy.items())[:MAX_IN_ROW]:
        worker = f" in worker {task.worker}" if task.worker else ""
        lines.append(f"{node}: its task is {task.state}{worker}{f' ({task.reason})' if task.reason else ''}.")
    lines += _more(busy)
    return Why(state=record.state, gate="nodes", nodes=tuple(busy), lines=tuple(lines))


def _more(nodes: Collection[str]) -> list[str]:
    """Return the line for the nodes that have none of their own."""
    more = len(nodes) - MAX_IN_ROW
    return [f"And {more} more nodes: `nodes` of this answer names them all."] if more > 0 else []


def _ended(record: JobRecord) -> Why:
    lines = [f"It has ended: {record.state}{f' ({record.reason})' if record.reason else ''}."]
    meaning = REASONS.get(record.reason)
    if meaning:
        lines.append(f"{record.reason}: {meaning}.")
    if record.detail:
        lines.append(record.detail)
    return Why(state=record.state, gate="ended", reason=record.reason, lines=tuple(lines))


def _explained(word: str) -> str:
    kind, _, what = word.partition(": ")
    words = {
        "offline": "it did not answer: it is offline, or its daemon is not running",
        "no_workers": "it has no workers, so there is no free worker for this job",
        "outside_hours": "it is outside its working hours",
        "undecided": "its owner has not decided",
        "resources": "it lacks resources",
    }
    text = words.get(kind, kind)
    return f"{text}: {what}" if what else text


def _ask(contact: Any) -> str:
    return f" Ask {contact}." if contact else ""


def tries_of(events: Iterable[JobEvent]) -> list[Try]:
    """Return the tries at scheduling of the last attempt, oldest first."""
    tries: list[Try] = []
    ended = False
    for event in events:
        if event.type == "schedule":
            body = event.body
            tries.append(
                Try(
                    number=int(body.get("try", len(tries) + 1)),
                    time=event.time,
                    reason=str(body.get("reason", "")),
                    nodes=_texts(body.get("nodes")),
                    wait_s=float(body.get("wait_s", 0.0)),
                    contacts=_texts(body.get("contacts")),
                    ahead={
                        str(node): int(count)
                        for node, count in (body.get("ahead") or {}).items()
                        if isinstance(count, int)
                    },
                )
            )
        elif is_job_state(event):
            if event.body.get("state") == State.WAITING and ended:
                tries = []
            ended = event.body.get("state") in HISTORY
    return tries


def tasks_of(events: Iterable[JobEvent]) -> list[TaskInfo]:
    """Return a job's tasks by node and round, as their nodes last reported them."""
    tasks: dict[str, TaskInfo] = {}
    for event in events:
        if event.type != "state" or not event.node or not event.task:
            continue
        body = event.body
        worker = body.get("worker")
        tasks[event.task] = TaskInfo(
            key=event.task,
            node=event.node,
            round=event.round,
            state=str(body.get("state", "")),
            worker=worker if isinstance(worker, int) else 0,
            reason=str(body.get("reason") or ""),
            updated=event.time,
        )
    return sorted(tasks.values(), key=lambda task: (task.round, task.node, task.key))


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, Mapping) else {}
