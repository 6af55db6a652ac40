"""Nodes and researchers under a signed roster: who is revoked, and what has expired."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.identity.keys import Identity
from fedjob.identity.roster import Roster
from fedjob.identity.statements.pin import Pin
from fedjob.identity.statements.roster_statement import RosterParty
from fedjob.identity.statements.succession import Succession
from fedjob.messaging.messages import Answer, Ping, Pong
from fedjob.node.config.config import NodeConfig
from fedjob.node.queue.store import TaskStore
from tests.federations import SignedFederation
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher, plan_with
from tests.processes import wait_until

PLAIN = NodeConfig(approval="off", encryption="off")
"""Of nodes whose researcher here does not encrypt."""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_revocation_ends_the_running_task_and_the_idle_workers_of_a_researcher(
    federation: Federation,
) -> None:
    node, ann = federation.node().start(), federation.ann
    daemon = node.daemon
    assert daemon is not None
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok
    wait_until(lambda: bool(node.worker_processes(ann.job)), timeout_s=20, what="a warm worker")
    ann.train("node1", ann.task(plan_with("time.sleep(60)"), "Odd"), round_=2)
    wait_until(lambda: len(daemon._attempts) == 1, timeout_s=30, what="a running task")
    federation.parties["ann"] = replace(federation.parties["ann"], revoked=True)
    assert daemon.roster.refresh()
    wait_until(lambda: not node.worker_processes(ann.job), timeout_s=20, what="the end of her workers")
    wait_until(lambda: len(daemon._attempts) == 0, timeout_s=20, what="the end of her task")
    ann.send("node1", Ping())
    with pytest.raises(AssertionError):
        ann.take(lambda received: [m for m in received if isinstance(m.body, Pong)], timeout_s=1)


@pytest.mark.parametrize("signed", [True, False], ids=["signed by the key before", "replaced"])
def test_what_a_replaced_key_of_a_researcher_ordered_ends_and_what_a_changed_one_did_goes_on(
    federation: Federation, signed: bool
) -> None:
    node, ann = federation.node(config=PLAIN), federation.ann
    signers, old, new = SignedFederation(), ann.identity, Identity.generate("ann")
    made = Succession(signers.keys.federation, "ann", old.public_key_hex, new.public_keys).statement(old, new)
    party = RosterParty("ann", "researcher", old.public_key_hex, old.sealing.public_key_hex)
    pin = Pin(signers.keys).with_roster(signers.roster(1, [party]), time.time())
    pins = [pin]
    node.roster = Roster(federation.parties, lambda: federation.parties, pin=lambda: pins[0])
    daemon = node.start().daemon
    assert daemon is not None
    ann.train("node1", ann.task(plan_with("time.sleep(60)"), "Odd"), round_=2)
    wait_until(lambda: len(daemon._attempts) == 1, timeout_s=30, what="a running task")
    pins[0] = replace(pin, successions=(made,) if signed else ())
    federation.parties["ann"] = replace(federation.parties["ann"], key_hex=new.public_key_hex)
    wait_until(daemon.roster.refresh, timeout_s=10, what="the roster")
    if signed:
        time.sleep(2.0)
        anew = [replace(party, key_hex=new.public_key_hex, sealing_hex=new.sealing.public_key_hex)]
        pins[0] = Pin(signers.keys).with_roster(signers.roster(2, anew), time.time())
        time.sleep(2.0)
        assert len(daemon._attempts) == 1
    else:
        wait_until(lambda: len(daemon._attempts) == 0, timeout_s=20, what="the end of her task")
        wait_until(lambda: not node.worker_processes(ann.job), timeout_s=20, what="the end of her workers")


@pytest.mark.parametrize("while_off", [False, True], ids=["while the node runs", "while the node is off"])
def test_what_a_researcher_asks_with_a_new_key_stays_and_what_the_key_before_asked_ends(
    federation: Federation, while_off: bool
) -> None:
    node, ann = federation.node(config=PLAIN).start(), federation.ann
    daemon = node.daemon
    assert daemon is not None
    ann.train("node1", ann.task(plan_with("time.sleep(60)"), "Odd"))
    wait_until(lambda: len(daemon._attempts) == 1, timeout_s=30, what="a running task")
    before = {row.researcher_key for row in daemon._book.tasks.values()}
    if while_off:
        node.stop()
    joined = Researcher(federation, "ann")
    if while_off:
        node.start()
    else:
        assert daemon.roster.refresh()
    daemon = node.daemon
    assert daemon is not None
    wait_until(lambda: _states(node) == ["revoked"], timeout_s=20, what="the end of the task")
    assert joined.result("node1", joined.task(ADD_ONE, "AddOne")).ok
    assert before == {ann.identity.public_key_hex}
    joined.endpoint.stop()


def _states(node: Node) -> list[str]:
    with node.database() as database:
        return [task["reason"] for task in TaskStore(database).list_tasks()]


def test_past_its_validity_a_node_takes_no_new_work(federation: Federation) -> None:
    signed = SignedFederation()
    now = int(time.time())
    pins = [Pin(signed.keys).with_roster(signed.roster(1, [], created=now - 60, valid_until=now + 60), now)]
    node, ann = federation.node(config=PLAIN), federation.ann
    node.roster = Roster(federation.parties, lambda: federation.parties, pin=lambda: pins[0])
    node.start()
    assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).reason == ""
    accepted = ann.task(ADD_ONE, "AddOne")
    assert ann.result("node1", accepted).ok
    old = signed.roster(1, [], created=now - 60, valid_until=now - 1)
    pins[0] = replace(pins[0], signed=old)
    answer = ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer)
    assert answer.reason == "roster_expired"
    assert "Dr. Kim runs `fedjob federation sign`" in answer.note
    refused = ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=2)
    assert (refused.ok, refused.reason) == (False, "roster_expired")
    assert ann.result("node1", accepted).ok  # what was taken before is answered still
    assert ann.answer_to(ann.send("node1", Ping()), Pong).num_datasets == 1
