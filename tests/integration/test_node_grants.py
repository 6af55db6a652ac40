"""What owners decide, and what reaches researchers of it, over a node's daemon."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.items import Items
from fedjob.common.types import Ref
from fedjob.messaging.frame_checks import MAY_SEND
from fedjob.messaging.messages import Answer, Body, End, Offer, Ping, Pong, Receipt, Result, Search
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.researcher.jobs.session import Session
from tests.integration.nodes import ADD_ONE, TRAINING_ARGS, Federation, Node, Researcher


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node(config=NodeConfig()).start()


def status_after(ann: Researcher, offer: str, status: str) -> Answer:
    """Wait until an offer is answered with that status."""

    def find(received: list[object]) -> Answer | None:
        bodies = [m.body for m in ann.received if isinstance(m.body, Answer)]
        return next((b for b in bodies if b.of == offer and b.status == status), None)

    found: Answer = ann.take(find)
    return found


def test_a_new_node_runs_nothing_until_its_owner_approves_that_text(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).reason == "plan_not_approved"

    offer = ann.offer("node1", ADD_ONE, "AddOne", job_name="heart", note="please")
    answer = ann.answer_to(offer, Answer)
    assert (answer.status, answer.num_rows, answer.reason) == ("pending", 20, "")
    with node.database() as database:
        grants = Grants(database)
        (grant,) = grants.all("pending")
        assert (grant.asked.job_name, grant.asked.note) == ("heart", "please")
        assert grants.texts.of(grant.subject.plan) == ADD_ONE.encode()
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), attempt=2).reason == "plan_not_approved"

    node.decide(approve=True, note="welcome")
    granted = status_after(ann, offer, "granted")
    assert (granted.note, granted.grant) == ("welcome", grant.id)
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), attempt=3).ok

    other = ADD_ONE.replace("lr=0.1", "lr=0.2")
    assert ann.result("node1", ann.task(other, "AddOne"), round_=2).reason == "plan_not_approved"
    bob = Researcher(federation, "bob")
    assert bob.result("node1", bob.task(ADD_ONE, "AddOne")).reason == "plan_not_approved"
    bob.endpoint.stop()
    assert node.trainings() == 1


def test_a_running_node_does_nothing_but_what_was_approved(federation: Federation, node: Node) -> None:
    ann = federation.ann
    offer = ann.offer("node1", ADD_ONE, "AddOne")
    ann.answer_to(offer, Answer)
    node.decide(approve=True)
    status_after(ann, offer, "granted")
    task = ann.task(ADD_ONE, "AddOne")
    others = {
        "more updates": replace(task, training_args={"num_updates": 3, "batch_size": 5}),
        "an argument more": replace(task, training_args={**TRAINING_ARGS, "lr": 0.2}),
        "a number as a truth": replace(task, training_args={**TRAINING_ARGS, "batch_size": True}),
        "arguments of a step": replace(task, round_args={"num_updates": 3}),
        "a model argument": replace(task, model_args={"num_features": 3}),
        "another protocol": replace(task, protocol="fedprox", config={"mu": 0.1}),
        "an artifact": replace(task, artifacts={"x": task.params["params"]}),
        "fewer items": replace(task, items=Items(limit=5)),
        "steps that prepare the data": replace(task, preprocess=[{"step": "select", "columns": ["x"]}]),
        "a project": replace(task, project="heart"),
        "properties": replace(task, props={"x": 1}),
        "a child": replace(task, launches=["1" * 64]),
    }
    sent = {
        name: ann.train("node1", other, attempt=n) for n, (name, other) in enumerate(others.items(), start=2)
    }
    for name, id_ in sent.items():
        assert ann.answer_to(id_, Result).reason == "plan_not_approved", name
    for name, odd in {
        "no limit of time": replace(task, limit_s=math.nan),
        "an endless limit of time": replace(task, limit_s=math.inf),
        "a limit of time in the past": replace(task, limit_s=-1.0),
        "processors without number": replace(task, resources={"cpus": math.nan}),
        "memory without end": replace(task, resources={"memory": math.inf}),
    }.items():
        assert ann.result("node1", odd, attempt=30).reason == "spec", name
    assert ann.result("node1", task, round_=10).reason == "plan_not_approved"  # it was asked for nine rounds
    assert ann.result("node1", task, attempt=40).ok
    assert node.trainings() == 1


def test_a_rejection_reaches_the_researcher_with_its_reason(federation: Federation, node: Node) -> None:
    ann = federation.ann
    offer = ann.offer("node1", ADD_ONE, "AddOne")
    ann.answer_to(offer, Answer)
    node.decide(approve=False, note="reads the disk")
    assert status_after(ann, offer, "rejected").note == "reads the disk"
    again = ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer)
    assert (again.status, again.note) == ("rejected", "reads the disk")


def test_a_decision_made_while_the_node_was_down_is_told_at_its_start(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    offer = ann.offer("node1", ADD_ONE, "AddOne")
    ann.answer_to(offer, Answer)
    node.stop()
    node.decide(approve=True)
    node.start()
    status_after(ann, offer, "granted")


def test_asking_again_files_nothing_again_and_a_dry_offer_nothing_at_all(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    dry = ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne", dry=True), Answer)
    assert (dry.status, dry.reason) == ("pending", "not_requested")
    with node.database() as database:
        assert Grants(database).all() == []
        assert database.rows("SELECT * FROM plans") == []
    for _ in range(3):
        assert ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer).status == "pending"
    with node.database() as database:
        assert len(Grants(database).all()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            ADD_ONE.replace("import torch\n", "import torch\nimport no_such_package_here\n"),
            "missing_packages",
        ),
        (ADD_ONE.replace("lr=0.1", "lr=0.1  # \u202e hidden"), "plan"),
        ("this is no Python", "plan"),
        (f"{ADD_ONE}x = (\n{('-' * 900 + chr(10)) * 8}1)\n", "plan"),
    ],
    ids=["a package that is not here", "hidden signs", "no Python", "nested too deeply"],
)
@pytest.mark.feature("FB-18")
def test_a_plan_that_can_not_run_here_is_not_filed(
    federation: Federation, node: Node, text: str, reason: str
) -> None:
    ann = federation.ann
    answer = ann.answer_to(ann.offer("node1", text, "AddOne"), Answer)
    assert (answer.status, answer.reason) == ("unknown", reason)
    assert answer.missing == (["no_such_package_here"] if reason == "missing_packages" else [])
    with node.database() as database:
        assert Grants(database).all() == []


def test_a_plan_that_can_not_be_fetched_or_is_too_long_is_refused(federation: Federation, node: Node) -> None:
    ann = federation.ann
    for ref, reason in ((Ref("0" * 64, 100), "repository"), (Ref("0" * 64, 300_000), "plan")):
        offer = Offer(dataset="toy", protocol="fedavg", plan=ref, entry="AddOne")
        answer = ann.answer_to(ann.send("node1", offer), Answer)
        assert (answer.status, answer.reason) == ("unknown", reason)


def test_open_requests_of_one_researcher_are_limited(federation: Federation) -> None:
    federation.node(config=NodeConfig(max_pending=2)).start()
    ann = federation.ann
    answers = [
        ann.answer_to(ann.offer("node1", ADD_ONE.replace("lr=0.1", f"lr=0.{n}"), "AddOne"), Answer)
        for n in range(2, 5)
    ]
    assert [a.reason for a in answers] == ["", "", "busy"]


def test_approval_off_is_followed_by_a_running_node(federation: Federation, node: Node) -> None:
    ann = federation.ann
    node.config = NodeConfig(approval="off")

    def not_needed() -> bool:
        return ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne", dry=True), Answer).status == "not-needed"

    ann.take(lambda received: not_needed())
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).ok
    with node.database() as database:
        assert Grants(database).all() == []


@pytest.mark.feature("PS-14")
def test_nothing_that_a_researcher_may_send_decides_for_the_owner(federation: Federation, node: Node) -> None:
    ann = federation.ann
    ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer)
    bodies: list[Body] = [
        Ping(),
        Search(tags=["toy"]),
        Offer(dataset="toy", protocol="fedavg", plan=ann.plan(ADD_ONE), entry="AddOne", dry=True),
        ann.task(ADD_ONE, "AddOne"),
        Receipt(of=["f" * 32]),
        End(outcome="killed"),
    ]
    assert {body.kind for body in bodies} == MAY_SEND["researcher"]
    for body in bodies:
        ann.send("node1", body)
    ann.answer_to(ann.send("node1", Ping()), Pong)  # all before it was taken
    with node.database() as database:
        (grant,) = Grants(database).all()
    assert grant.status == "pending"
    assert not {name for name in dir(Session) if "grant" in name or "approve" in name}
