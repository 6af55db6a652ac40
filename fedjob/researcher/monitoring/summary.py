"""The summary of a job for a person: one line, a few lines, or a table in a notebook. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fedjob.common.checks import MAX_IN_ROW, printable, some_of
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.common.notebooks import html
from fedjob.common.notebooks.plain_tables import text_facts
from fedjob.common.types import ENDLESS, rounds_text
from fedjob.messaging.traffic import Tally
from fedjob.researcher.monitoring.live import Live, Progress
from fedjob.researcher.storage.event import short
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """The facts that are shown of a job, to its owner and to watchers alike.

    Args:
        plan: its class and the beginning of its hash.
        owner: whoever runs it.
        created, updated: UTC.
        contacts: node -> whom to ask there.
        about: of a completed job: the nodes and rows that its result is about.
    """

    id: str
    name: str = ""
    protocol: str = ""
    plan: str = ""
    state: str = "draft"
    reason: str = ""
    detail: str = ""
    rounds: int = 1
    round: int = 0
    attempt: int = 0
    nodes: tuple[str, ...] = ()
    owner: str = ""
    created: str = ""
    updated: str = ""
    contacts: Mapping[str, str] = field(default_factory=dict)
    live: Live = field(default_factory=Live)
    progress: Progress | None = None
    about: str = ""

    @classmethod
    def of(cls, spec: JobSpec, record: JobRecord) -> JobSummary:
        """Return the facts that a job's spec and record hold; the others come from its events."""
        return cls(
            id=spec.id,
            name=spec.name,
            protocol=str(spec.protocol.config.get("entry") or spec.protocol.name),
            plan=f"{spec.plan_entry} ({spec.plan_hash[:12]})" if spec.plan_hash else "",
            state=record.state,
            reason=record.reason,
            detail=record.detail,
            rounds=record.rounds or spec.rounds,
            attempt=record.attempt,
            nodes=tuple(sorted(spec.datasets)),
            owner=" ".join(part for part in (spec.owner.get("name", ""), spec.researcher) if part),
            created=record.created,
            contacts={node: str(grant.get("contact", "")) for node, grant in record.grants.items()},
        )


def one_line(facts: JobSummary) -> str:
    """Return name, state, round, nodes, and what the job waits for."""
    named = f"{facts.name} ({facts.id[:12]})" if facts.name else facts.id[:12]
    parts = [f"{named}: {_state(facts)}"]
    if facts.state != State.DRAFT:
        parts.append(f"round {facts.round} of {rounds_text(facts.rounds)}")
    parts.append(_count(facts.nodes))
    line = ", ".join(parts)
    wait = waits_for(facts)
    if facts.about:
        line += f"; {facts.about}"
    elif wait:
        line += f"; {wait}"
    elif facts.state == State.RUNNING and facts.progress is not None and facts.rounds != ENDLESS:
        line += f"; {facts.progress}"
    return printable(line)


def waits_for(facts: JobSummary) -> str:
    """Return what a job waits for, in words; empty where it waits for nothing."""
    live = facts.live
    if facts.state == State.WAITING:
        who = [_with_contact(node, facts) for node in live.waiting]
        return f"waits for the owner of {some_of(who)} to decide" if who else "asks its nodes' owners"
    if facts.state == State.QUEUED:
        nodes = live.holding or dict.fromkeys(facts.nodes, "")
        each = [f"{_with_contact(node, facts)}{f': {why}' if why else ''}" for node, why in nodes.items()]
        why = f" ({live.held_by})" if live.held_by and not live.holding else ""
        return f"waits to start at {some_of(each)}{why}" if each else ""
    return ""


def table(facts: JobSummary) -> dict[str, str]:
    """Return what is essential and known about a job, by heading."""
    live = facts.live
    shown = {
        "job": facts.id,
        "name": facts.name,
        "protocol": facts.protocol,
        "plan": facts.plan,
        "state": _state(facts),
        "waits": waits_for(facts).removeprefix("waits "),
        "round": f"{facts.round} of {rounds_text(facts.rounds)}",
        "nodes": some_of((_node(node, live) for node in facts.nodes), MAX_IN_ROW) or "not resolved yet",
        "progress": "" if facts.progress is None else str(facts.progress),
        "child tasks": str(live.num_children or ""),
        "owner": facts.owner,
        "created": _whole_seconds(facts.created),
        "updated": _whole_seconds(facts.updated),
        "attempt": str(facts.attempt),
        "took part": facts.about,
        "result": "ready"
        if facts.state == State.COMPLETED
        else f"not ready: the job is {'a ' if facts.state == State.DRAFT else ''}{facts.state}",
    }
    return {key: printable(value) for key, value in shown.items() if value}


def _whole_seconds(at: str) -> str:
    """Return `2024-10-01T21:57:01.123456Z` as `2024-10-01 21:57:01 UTC`."""
    return re.sub(r"^(\S+)T([\d:]+)(\.\d+)?Z$", r"\1 \2 UTC", at)


def many_lines(facts: JobSummary) -> str:
    """Return the essentials, one per line."""
    return "\n".join(f"{key:12} {value}" for key, value in table(facts).items())


def as_html(facts: JobSummary) -> str:
    """Return the essentials as an HTML table."""
    rows: dict[str, Any] = table(facts)
    rows["state"] = html.chip(rows["state"], mood_of(facts.state))
    title = printable(facts.name or facts.id[:12])
    return html.panel(title, html.facts(rows), aside=facts.protocol)


def mood_of(state: str) -> str:
    """Return how a job's state is meant, for a colour."""
    if state == State.COMPLETED:
        return html.GOOD
    if state in ACTIVE:
        return html.BUSY
    if state in PENDING:
        return html.WAIT
    return html.BAD if state in HISTORY else html.IDLE


def _state(facts: JobSummary) -> str:
    reason = "" if facts.reason == facts.state else facts.reason  # `killed (killed)` would repeat itself
    why = ": ".join(short(part) for part in (reason, facts.detail) if part)
    return f"{facts.state} ({why})" if why and facts.state in HISTORY | {State.STOPPING} else facts.state


def _count(nodes: tuple[str, ...]) -> str:
    if not nodes:
        return "no nodes yet"
    shown = ", ".join(nodes[:8]) + (", ..." if len(nodes) > 8 else "")
    return f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}: {shown}"


def _with_contact(node: str, facts: JobSummary) -> str:
    contact = facts.contacts.get(node) or facts.live.contacts.get(node)
    return f"{node} (ask {contact})" if contact else node


def _node(node: str, live: Live) -> str:
    found = live.nodes.get(node)
    if found is None or not found.state:
        return node
    worker = f" on worker {found.worker}" if found.worker else ""
    return f"{node} ({found.state}{worker})"


CODES: dict[State, int] = {
    **dict.fromkeys(State, 10),
    State.WAITING: 1,
    State.QUEUED: 2,
    **dict.fromkeys(ACTIVE, 3),
    State.COMPLETED: 4,
}
"""A number for programs that want one; the states are the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a job at one moment.

    Args:
        time: seconds since 1970.
        code: 1 waiting, 2 queued, 3 active, 4 completed, 10 otherwise.
        reason: why it ended without success, one word; None otherwise.
        error: the same in a sentence.
        round: the last committed round.
        num_messages_in, num_messages_out: that it exchanged with its nodes by then.
        bytes_in, bytes_out: of messages and objects together.
        result: None unless the job was completed.
    """

    id: str
    name: str
    state: str
    code: int
    time: float
    attempt: int
    round: int
    rounds: int
    reason: str | None
    error: str | None
    num_messages_in: int = 0
    num_messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    result: Any = None

    @classmethod
    def of(cls, facts: JobSummary, tallies: Sequence[Tally], *, time: float, result: Any) -> Snapshot:
        """Return the state of a job, with the counts of what was exchanged for it by then."""
        ended = facts.state in HISTORY and facts.state != State.COMPLETED
        messages = [tally for tally in tallies if tally.kind != "object"]
        return cls(
            id=facts.id,
            name=facts.name,
            state=facts.state,
            code=CODES[State(facts.state)],
            time=time,
            attempt=facts.attempt,
            round=facts.round,
            rounds=facts.rounds,
            reason=(facts.reason or None) if ended else None,
            error=(facts.detail or facts.reason or None) if ended else None,
            num_messages_in=sum(tally.count for tally in messages if tally.direction == "in"),
            num_messages_out=sum(tally.count for tally in messages if tally.direction == "out"),
            bytes_in=sum(tally.bytes for tally in tallies if tally.direction == "in"),
            bytes_out=sum(tally.bytes for tally in tallies if tally.direction == "out"),
            result=result,
        )

    def _facts(self) -> dict[str, Any]:
        """Return what is shown of it, without what is not known."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "result"}
        found["time"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        return {name: value for name, value in found.items() if value not in (None, "")}

    def __repr__(self) -> str:
        return text_facts(self._facts())

    def _repr_html_(self) -> str:
        return html.panel(f"The job at {self._facts()['time']}", html.facts(self._facts()))

    @property
    def communications(self) -> int:
        """Messages in both directions."""
        return self.num_messages_in + self.num_messages_out
