"""The edge around `scheduling_machine`: offers out, answers in, and both in record and events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from fedjob.common.config import load_config
from fedjob.common.errors import JobFailed, NodeRefused
from fedjob.common.lifecycle import State
from fedjob.common.types import party_of
from fedjob.messaging.messages import Answer, Message
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.federation import scheduling_events as events
from fedjob.researcher.federation import scheduling_machine
from fedjob.researcher.federation.base import Gates
from fedjob.researcher.federation.channel import Channel
from fedjob.researcher.federation.offers import (
    absence_text,
    grant_entry,
    lowered_text,
    no_workers_text,
    offer_for,
    read_answer,
)
from fedjob.researcher.storage.deployment import Code, enclosed_with

LOOK_S = 0.5
"""Interval at which requests to end the job, and the nodes' presence, are looked at."""

_UNDECIDED = ("pending", "expired")


class Admission:
    """A job on its way to its first round.

    Args:
        code: node -> the code that it is to run.
    """

    def __init__(self, channel: Channel, code: Mapping[str, Code], gates: Gates) -> None:
        self._channel = channel
        self._spec = channel.spec
        self._connection = channel.connection
        self._events = channel.events
        self._code = code
        self._enclosed = enclosed_with(channel.spec, gates.folder)
        self._gates = gates
        self._offers: dict[str, str] = {}
        self._offered: dict[str, str] = {}
        self._warned: set[str] = set()
        settings = load_config(ResearcherConfig, self._connection.home)
        self._pace = events.RetryPolicy(
            max_tries=self._spec.max_tries,
            retry_min_s=settings.retry_min_s,
            retry_max_s=settings.retry_max_s,
        )

    def run(self) -> events.Scheduling:
        """Return once the job may start; the nodes that take part are its `included`.

        Raises:
            NodeRefused: nodes or their owners refuse it.
            JobFailed: it can't start for another reason.
        """
        with self._connection.lock:
            nodes = tuple(sorted(self._spec.datasets))
            self._state, commands = scheduling_machine.begin(
                self._channel.now(), nodes, self._spec.the_quorum, self._pace
            )
            try:
                self._act(commands)
                while self._state.gate not in events.ENDS:
                    self._turn()
            finally:
                self._connection.endpoint.withdraw(self._offers.values())
        if self._state.gate is not events.SchedulingStage.READY:
            self._end()
        return self._state

    def _turn(self) -> None:
        now = self._channel.now()
        due = scheduling_machine.next_wake(self._state)
        timeout_s = LOOK_S if due is None else min(LOOK_S, max(0.0, due - now))
        self._take(
            [
                (node, message.body)
                for message in self._channel.receive(timeout_s)
                if isinstance(message.body, Answer)
                and message.job == self._spec.id
                and (node := self._node_of(message, message.body))
            ]
        )
        presence = self._connection.endpoint.presence()
        there = {
            node: presence[party] for node in self._spec.datasets if (party := party_of(node)) in presence
        }
        if self._connection.endpoint.connected:  # without a connection nobody can answer: no time passes
            self._feed(events.SchedulingTick(self._channel.now(), there))

    def _node_of(self, message: Message, answer: Answer) -> str:
        """Return the job's node that an answer is of; empty for none."""
        node = self._offered.get(answer.of, message.sender)
        return node if node in self._spec.datasets and party_of(node) == message.sender else ""

    def _take(self, answers: list[tuple[str, Answer]]) -> None:
        """Take the answers that came together: the record is written once for all of them."""
        self._record_answers(answers)
        for node, answer in answers:
            current = answer.of == self._offers.get(node)
            self._feed(events.Answered(self._channel.now(), node, answer, current))

    def _feed(self, event: events.Event) -> None:
        self._state, commands = scheduling_machine.step(self._state, event)
        self._act(commands)

    # -- commands -----------------------------------------------------------------

    def _act(self, commands: Iterable[events.Command]) -> None:
        for command in commands:
            match command:
                case events.SendOffers(nodes, reserve):
                    self._offer(nodes, reserve=reserve)
                case events.Wait():
                    self._wait(command)
                case events.TakeSlot():
                    self._take_slot()
                case events.LeaveSlot():
                    self._gates.leave_slot()
                case events.Tried():
                    self._record_try(command)

    def _offer(self, nodes: tuple[str, ...], *, reserve: bool) -> None:
        endpoint = self._connection.endpoint
        endpoint.withdraw([self._offers[node] for node in nodes if node in self._offers])
        proof = self._connection.prove()
        for node in nodes:
            offer = offer_for(
                self._spec, node, self._code.get(node), self._enclosed, reserve=reserve, proof=proof
            )
            self._offers[node] = self._channel.send(party_of(node), offer)
            self._offered[self._offers[node]] = node

    def _wait(self, wait: events.Wait) -> None:
        if self._gates.record.state != State.WAITING:
            self._gates.enter(State.WAITING, wait.reason, wait.detail)
        self._events.add(
            "grant",
            waiting=list(wait.nodes),
            plan=self._spec.plan_hash[:12],
            contacts=self._contacts(wait.nodes),
        )

    def _take_slot(self) -> None:
        if self._gates.record.state != State.QUEUED:
            self._gates.enter(State.QUEUED)
        self._connection.lock.release()  # somebody else's job may go on meanwhile
        try:
            self._gates.await_slot()
        finally:
            self._connection.lock.acquire()
        self._feed(events.SlotTaken(self._channel.now()))

    def _record_try(self, tried: events.Tried) -> None:
        self._gates.update(tries=tried.number)
        self._events.record(
            "schedule",
            {
                "try": tried.number,
                "reason": tried.reason,
                "nodes": dict(tried.nodes),
                "wait_s": round(tried.wait_s, 1),
                "ahead": {node: a.ahead for node, a in self._state.answers.items() if a.ahead},
                "contacts": self._contacts(node for node, answer in tried.nodes.items() if answer != "ok"),
            },
        )
        if tried.reason != "scheduled":
            return
        self._record_absent(tried.nodes)
        for node, answer in tried.nodes.items():
            outcome = {"ok": "ok", "offline": "no reply"}.get(answer, f"error: {answer}")
            self._events.add("setup", node=node, outcome=outcome)

    def _record_absent(self, answers: Mapping[str, str]) -> None:
        """Keep why nodes that have the data take no part, beside those that were not found at all."""
        known = self._gates.record.absent
        elsewhere = {node: why for node, why in known.items() if node not in self._spec.datasets}
        here = {node: absence_text(answer) for node, answer in answers.items() if answer != "ok"}
        self._gates.update(absent={**elsewhere, **here})

    def _contacts(self, nodes: Iterable[str]) -> dict[str, str]:
        grants = self._gates.record.grants
        return {node: contact for node in nodes if (contact := grants.get(node, {}).get("contact"))}

    # -- the nodes' answers ---------------------------------------------------------

    def _record_answers(self, answers: list[tuple[str, Answer]]) -> None:
        grants: dict[str, dict[str, Any]] = dict(self._gates.record.grants)
        decided: dict[str, dict[str, Any]] = {}
        for node, answer in answers:
            before = grants.get(node, {})
            grants[node] = entry = grant_entry(read_answer(self._spec, node, answer), before, time.time())
            if before.get("state") in _UNDECIDED and entry["state"] not in _UNDECIDED:
                decided[node] = entry
        if grants != self._gates.record.grants:
            self._gates.update(grants=grants)
        for node, entry in decided.items():
            self._record_decision(node, entry)
        for node, answer in answers:
            if answer.schedule == "no_workers" and node not in self._warned:
                self._warned.add(node)
                self._events.add("note", node=node, text=no_workers_text(node, answer.contact))
            lowered = lowered_text(self._spec, node, answer)
            if lowered and lowered not in self._warned:
                self._warned.add(lowered)
                self._events.add("note", node=node, text=lowered)

    def _record_decision(self, node: str, entry: Mapping[str, Any]) -> None:
        waiting = [
            name
            for name, grant in sorted(self._gates.record.grants.items())
            if grant["state"] in _UNDECIDED and name != node
        ]
        decision = {key: entry[key] for key in ("state", "by", "note", "until", "limits") if entry[key]}
        self._events.add("grant", node=node, waiting=waiting, **decision)

    def _end(self) -> None:
        """Record why the job does not start, and raise it.

        Raises:
            NodeRefused: nodes or their owners refuse it.
            JobFailed: in every other case.
        """
        state, quorum = self._state, self._spec.the_quorum
        refused = state.gate is events.SchedulingStage.REJECTED
        outcome = State.REJECTED if refused else State.UNSCHEDULABLE
        if not refused and self._gates.record.state == State.WAITING:
            self._gates.enter(State.QUEUED)
        if refused and self._gates.record.state == State.QUEUED:
            self._gates.enter(State.WAITING, state.reason, state.detail)
        self._gates.enter(outcome, state.reason, state.detail)
        after = f" after {state.num_tries} tries" if state.num_tries > 1 else ""
        text = (
            f"too few nodes take part{after}: {state.detail}. Expected {quorum.words}; ask the nodes' owners, or "
            "start the nodes"
        )
        if state.lost:
            raise NodeRefused(text, reason=state.reason, outcome=outcome.value, nodes=state.lost)
        raise JobFailed(text, reason=state.reason, outcome=outcome.value)
