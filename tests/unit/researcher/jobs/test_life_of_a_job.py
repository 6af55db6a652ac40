"""A job's life in random orders of everything that can happen to it, over the pure cores alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedjob.common.errors import IllegalTransition
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, TABLE, State
from fedjob.common.quorum import Quorum
from fedjob.researcher.federation import collection_machine
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.transitions import moved, route

NODES = ("a", "b")
ROUNDS = 3


class Life(RuleBasedStateMachine):
    """One job, its runner, two nodes, and a network that loses, repeats and reorders."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.record = JobRecord()
        self.path: list[State] = [State.DRAFT]
        self.ends: Counter[int] = Counter()
        self.runs = False
        self.round: collection_machine.RoundState | None = None
        self.committed = 0
        self.epoch = 0
        self.granted: set[str] = set()
        self.heard_of = dict.fromkeys(NODES, 0)
        self.done: dict[str, set[str]] = {node: set() for node in NODES}
        self.effects: Counter[tuple[str, str]] = Counter()
        self.wire: list[tuple[str, str, str, int]] = []

    # -- the runner ---------------------------------------------------------------

    def enter(self, state: State, reason: str = "") -> None:
        self.clock += 1
        self.record = moved(self.record, state, now=f"{self.clock:09}", reason=reason)
        self.path.append(state)
        if state in HISTORY:
            self.ends[self.record.attempt] += 1
            self.runs, self.round = False, None

    def end(self, outcome: str, reason: str) -> None:
        for state in route(self.record.state, outcome):
            self.enter(state, reason)

    def take_up(self) -> None:
        self.runs, self.epoch, self.round = True, self.epoch + 1, None

    def ask(self) -> None:
        keys = {node: f"{node}/{self.committed + 1}" for node in NODES}
        self.round = collection_machine.begin(float(self.clock), keys, Quorum(required=NODES), lease_s=None)
        self.wire += [("task", node, key, self.epoch) for node, key in keys.items()]

    @precondition(lambda self: self.record.state == State.DRAFT or self.record.state in HISTORY)
    @rule()
    def submit_or_restart(self) -> None:
        self.enter(State.WAITING)
        self.take_up()

    @precondition(lambda self: self.runs and self.record.state == State.WAITING)
    @rule()
    def pass_the_grants(self) -> None:
        if self.granted == set(NODES):
            self.enter(State.QUEUED)

    @precondition(lambda self: self.runs and self.record.state == State.QUEUED)
    @rule(lucky=st.booleans())
    def schedule(self, lucky: bool) -> None:
        if self.granted != set(NODES):
            self.enter(State.WAITING, "revoked")
        elif lucky:
            self.enter(State.STARTING)
            self.enter(State.RUNNING)
            if self.committed < ROUNDS:
                self.ask()
            else:
                self.enter(State.COMPLETED)
        else:
            self.enter(State.UNSCHEDULABLE, "too_few_nodes")

    @precondition(lambda self: self.round is not None)
    @rule()
    def resend(self) -> None:
        assert self.round is not None
        self.wire += [("task", node, self.round.keys[node], self.epoch) for node in self.round.pending]

    # -- owners, users, accidents -----------------------------------------------------

    @rule(node=st.sampled_from(NODES))
    def grant(self, node: str) -> None:
        self.granted.add(node)

    @rule(node=st.sampled_from(NODES))
    def revoke(self, node: str) -> None:
        self.granted.discard(node)
        if self.round is not None:
            self.tell_round(collection_machine.NodeFailed(float(self.clock), node, "revoked"))

    @rule(node=st.sampled_from(NODES))
    def reject(self, node: str) -> None:
        self.granted.discard(node)
        if self.runs and self.record.state in PENDING:
            self.end("rejected", "rejected")

    @precondition(lambda self: self.record.state in PENDING)
    @rule()
    def cancel(self) -> None:
        self.end("killed", "cancelled")
        assert self.record.state == State.CANCELLED

    @precondition(lambda self: self.record.state not in {State.DRAFT, *HISTORY})
    @rule()
    def kill(self) -> None:
        begun = self.record.state in ACTIVE
        self.end("killed", "killed")
        assert self.record.state == (State.KILLED if begun else State.CANCELLED)

    @precondition(lambda self: self.runs)
    @rule()
    def crash(self) -> None:
        self.runs, self.round = False, None

    @precondition(lambda self: not self.runs)
    @rule()
    def look(self) -> None:
        if self.record.state in ACTIVE:
            self.enter(State.LOST, "runner_died")
        elif self.record.state in PENDING:
            self.take_up()

    # -- the network ----------------------------------------------------------------------

    @precondition(lambda self: bool(self.wire))
    @rule(which=st.integers(0, 10_000), fate=st.sampled_from(["deliver", "deliver", "duplicate", "drop"]))
    def pass_on(self, which: int, fate: str) -> None:
        message = self.wire.pop(which % len(self.wire))
        if fate == "duplicate":
            self.wire.append(message)
        if fate != "drop":
            self.deliver(*message)

    def deliver(self, kind: str, node: str, key: str, epoch: int) -> None:
        if kind == "reply":
            if self.runs and self.round is not None:
                self.tell_round(collection_machine.ReplyArrived(float(self.clock), node, key, f"{node}{key}"))
            return
        if epoch < self.heard_of[node]:
            return
        self.heard_of[node] = epoch
        if key not in self.done[node]:
            if node not in self.granted:
                return
            self.effects[node, key] += 1
            self.done[node].add(key)
        self.wire.append(("reply", node, key, epoch))

    def tell_round(self, event: collection_machine.Event) -> None:
        assert self.round is not None
        self.round, commands = collection_machine.step(self.round, event)
        for command in commands:
            if isinstance(command, collection_machine.KeepContribution):
                self.round, _ = collection_machine.step(
                    self.round, collection_machine.ContributionKept(float(self.clock), command.node)
                )
        match collection_machine.outcome(self.round):
            case collection_machine.Impossible():
                self.end("failed", "quorum_lost")
            case collection_machine.AskFinished():
                self.committed += 1
                if self.committed < ROUNDS:
                    self.ask()
                else:
                    self.enter(State.COMPLETED)

    # -- what holds, always -----------------------------------------------------------------

    @invariant()
    def steps_are_legal(self) -> None:
        assert all(there in TABLE[here] for here, there in zip(self.path, self.path[1:], strict=False))
        assert self.record.state == self.path[-1]

    @invariant()
    def an_attempt_ends_once(self) -> None:
        assert all(times == 1 for times in self.ends.values())
        ended = self.record.state in HISTORY
        assert set(self.ends) == set(range(1, self.record.attempt + (1 if ended else 0)))
        assert [attempt.attempt for attempt in self.record.past] == list(range(1, self.record.attempt))
        assert bool(self.record.finished) == ended

    @invariant()
    def nothing_has_effect_twice(self) -> None:
        assert all(times == 1 for times in self.effects.values())

    @invariant()
    def what_is_completed_is_whole(self) -> None:
        if self.record.state == State.COMPLETED:
            assert self.committed == ROUNDS
            assert all(len(self.done[node]) == ROUNDS for node in NODES)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLife = pytest.mark.feature("TB-29")(TestLife)


@given(st.lists(st.sampled_from(list(State)), max_size=30))
@pytest.mark.feature("TB-29", "NV-42", "NV-38")
def test_whatever_is_tried_a_record_walks_one_legal_path(steps: list[State]) -> None:
    record = JobRecord()
    for number, there in enumerate(steps):
        here = State(record.state)
        if there in TABLE[here]:
            record = moved(record, there, now=f"{number:04}")
            assert record.state == there
        else:
            with pytest.raises(IllegalTransition):
                moved(record, there, now="")
            assert record.state == here


@pytest.mark.feature("TB-40", "TB-41")
@pytest.mark.parametrize("outcome", ["completed", "failed", "killed", "rejected", "lost"])
@pytest.mark.parametrize("here", [state for state in State if state != State.DRAFT])
def test_every_end_is_reached_by_legal_steps(here: State, outcome: str) -> None:
    if outcome == "completed" and here not in (State.STARTING, State.RUNNING, *HISTORY):
        return
    steps = route(here, outcome)
    record = JobRecord(state=here, attempt=1)
    if here in HISTORY:
        assert steps == [here]
        return
    for number, state in enumerate(steps):
        record = moved(record, state, now=f"{number}")
    assert record.state in HISTORY
    if outcome == "killed":
        assert record.state == (State.CANCELLED if here in PENDING else State.KILLED)


def test_a_restart_keeps_how_the_attempt_before_ended() -> None:
    record = JobRecord()
    for number, state in enumerate(["waiting", "queued", "starting", "running", "failed"]):
        record = moved(record, state, now=str(number), reason="exception" if state == "failed" else "")
    again = moved(record, "waiting", now="9")
    assert (again.attempt, again.started, again.finished, again.reason) == (2, "", "", "")
    (before,) = again.past
    assert (before.state, before.reason, before.started, before.finished) == ("failed", "exception", "3", "4")
    assert again.submitted == record.submitted == "0"
    assert moved(replace(again, state="queued"), "waiting", now="10").attempt == 2
