"""A node with a privacy budget: what it charges, when, what it refuses, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob import FedAvg, Job, Protect, RecordDP
from fedjob.cli import cli
from fedjob.common.types import new_job_id
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Answer, Offer, Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.protection.privacy_accounts import PrivacyAccounts, TaskCharge
from fedjob.node.protection.privacy_ledger import PrivacyBudget
from fedjob.node.storage.audit import Audit
from fedjob.privacy.dp.mechanisms import cost_of
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher, write_toy
from tests.integration.scripted import open_session

DP = {"dp": {"kind": "record", "epsilon": 2.0, "delta": 1e-5, "max_grad_norm": 1.0}}
BUDGET = PrivacyBudget(dataset="toy", epsilon=2.5, delta=1e-5)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node(config=NodeConfig(approval="off", contact="privacy@clinic.example")).start()


def set_budget(node: Node, budget: PrivacyBudget = BUDGET) -> None:
    with node.database() as database:
        PrivacyAccounts(database).set_budget(budget, "owner")


def charges(node: Node) -> list[TaskCharge]:
    with node.database() as database:
        return list(PrivacyAccounts(database).charges())[::-1]


def private(ann: Researcher, **more: Any) -> Task:
    return ann.task(ADD_ONE, "AddOne", **{"protect": DP, "rounds": 2, **more})


def asked(ann: Researcher, **more: Any) -> Answer:
    task = private(ann)
    fields = {name: getattr(task, name) for name in ("dataset", "protocol", "plan", "entry", "training_args")}
    offer = Offer(**{**fields, "protect": DP, "rounds": 2, **more})
    return ann.answer_to(ann.send("node1", offer), Answer)


def asked_plainly(ann: Researcher, **more: Any) -> Answer:
    return asked(ann, protect={}, **more)


@pytest.mark.feature("BF-24")
def test_a_job_is_charged_by_its_rounds_and_refused_before_the_budget_breaks(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    set_budget(node)
    answer = asked(ann)
    assert answer.status == "not-needed"
    assert (answer.privacy["epsilon"], answer.privacy["delta"]) == (2.0, 1e-5)
    assert 1.9 < answer.privacy["cost"] <= 2.0
    assert (answer.privacy["left"], answer.privacy["budget_epsilon"]) == (2.5, 2.5)
    assert answer.privacy["after"] == pytest.approx(2.5 - answer.privacy["cost"], abs=1e-5)

    first = ann.result("node1", private(ann), round_=1)
    assert first.ok, first.detail
    second = ann.result("node1", private(ann, seed=12), round_=2)
    assert second.ok, second.detail
    assert 0 < first.privacy["epsilon"] < second.privacy["epsilon"] <= 2.0
    assert second.privacy["delta"] == 1e-5
    assert [(one.round, one.state) for one in charges(node)] == [(1, "spent"), (2, "spent")]
    third = ann.result("node1", private(ann, seed=13), round_=3)
    assert (third.ok, third.reason) == (False, "budget")
    assert "the job keeps epsilon 2 here" in third.detail

    ann.job = new_job_id()
    answer = asked(ann)
    assert (answer.status, answer.reason) == ("rejected", "budget")
    assert "the privacy budget on dataset toy (epsilon 2.5, delta 1e-05) has" in answer.note
    assert "privacy@clinic.example" in answer.note
    assert answer.privacy["left"] == pytest.approx(2.5 - second.privacy["epsilon"], abs=1e-5)
    assert answer.privacy["after"] < 0
    refused = [ann.result("node1", private(ann, seed=seed), round_=seed) for seed in (1, 2)]
    assert refused[0].ok, "there is enough for one of its rounds"
    assert (refused[1].ok, refused[1].reason) == (False, "budget")
    with node.database() as database:
        assert PrivacyAccounts(database).spent(BUDGET) <= 2.5
        kinds = [record.kind for record in Audit(database).records()]
        assert kinds.count("charge") == 6, "reserved and spent, three times"
        Audit(database).verify()


def test_the_same_work_costs_once_while_its_bytes_are_kept(federation: Federation, node: Node) -> None:
    ann = federation.ann
    task = private(ann)
    first = ann.result("node1", task, round_=1)
    again = ann.result("node1", task, round_=1, attempt=2)
    assert (first.params, first.privacy) == (again.params, again.privacy)
    assert [(one.number, one.state) for one in charges(node)] == [(1, "spent")]
    node.stop()
    node.start()
    assert ann.result("node1", task, round_=1, attempt=3).params == first.params
    assert len(charges(node)) == 1


def test_what_is_computed_again_after_its_result_left_has_fresh_noise_and_costs_again(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    first, second = private(ann, rounds=3), private(ann, rounds=3, seed=12)
    one = ann.result("node1", first, round_=1)
    two = ann.result("node1", second, round_=2)  # round 1 is released
    again = ann.result("node1", first, round_=1, epoch=2)
    assert again.ok, again.detail
    assert (again.key, again.privacy["epsilon"] > two.privacy["epsilon"]) == (one.key, True)
    assert [(charge.round, charge.number, charge.state) for charge in charges(node)] == [
        (1, 1, "spent"),
        (2, 1, "spent"),
        (1, 2, "spent"),
    ]
    beyond = ann.result("node1", second, round_=2, epoch=3)
    assert beyond.ok, "its bytes are still kept"
    assert len(charges(node)) == 3
    fourth = ann.result("node1", private(ann, rounds=3, seed=13), round_=3, epoch=3)
    assert (fourth.ok, fourth.reason) == (False, "budget")
    assert "what was computed twice counts twice" in fourth.detail


def test_a_plain_task_ends_when_its_dataset_gets_a_budget(federation: Federation, node: Node) -> None:
    ann = federation.ann
    slow = ADD_ONE.replace('print("the data are loaded")', "import time; time.sleep(60)")
    sent = ann.train("node1", ann.task(slow, "AddOne"))

    def running(received: object) -> bool:
        with node.database() as database:
            return bool(database.rows("SELECT 1 FROM tasks WHERE state = 'running'"))

    ann.take(running)
    set_budget(node)
    ended = ann.answer_to(sent, Result, timeout_s=30)
    assert (ended.ok, ended.reason) == (False, "budget")


def test_what_fails_in_its_worker_is_paid_for_and_says_no_more_than_that(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    telling = ADD_ONE.replace(
        'print("the data are loaded")', "raise type(str(dataset.num_rows), (Exception,), {})"
    )
    said = []
    for plan in (telling, ADD_ONE.replace('print("the data are loaded")', "1 / 0")):
        failed = ann.result("node1", replace(private(ann), plan=ann.plan(plan)))
        said.append((failed.ok, failed.reason, failed.detail, failed.trace))
        ann.job = new_job_id()
    assert said[0] == said[1]
    assert said[0][:2] == (False, "privacy")
    assert [one.state for one in charges(node)] == ["spent", "spent"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": "validate"}, "without validation"),
        ({"protocol": "ditto"}, "twice"),
        ({"training_args": {"num_updates": 2, "batch_size": 15}}, "twice as many rows"),
        ({"rounds": 0}, "one round or more"),
    ],
    ids=str,
)
def test_what_cant_be_private_is_refused_before_anything_is_charged(
    federation: Federation, node: Node, change: dict[str, Any], words: str
) -> None:
    ann, change = federation.ann, dict(change)
    step, reason = change.pop("step", "train"), "spec" if "rounds" in change else "privacy"
    result = ann.result("node1", private(ann, **change), step=step)
    assert (result.ok, result.reason) == (False, reason)
    assert words in result.detail
    assert charges(node) == []
    if step == "train":
        answer = asked(ann, **change)
        assert (answer.status, answer.reason) == ("unknown", reason)
        assert words in answer.note


def test_what_walks_around_a_budget_is_refused(federation: Federation, node: Node) -> None:
    ann = federation.ann
    assert asked_plainly(ann).status == "not-needed"
    set_budget(node, replace(BUDGET, project="heart", researchers=("ann",)))
    plain = {"plan": None, "entry": "", "training_args": {}, "rounds": 1}
    for more in (
        {},
        {"project": "heart"},
        {"protocol": "function"},
        {"protocol": "inference"},
        {"protocol": "evaluation"},
        {"protocol": "statistics", "config": {"mean": ["x"]}, **plain},
        {"protocol": "psi", "config": {"on": "x", "own": "node1"}, **plain},
    ):
        answer = asked_plainly(ann, **more)
        assert (answer.status, answer.reason) == ("rejected", "budget"), more
        assert "has a privacy budget" in answer.note
        assert "RecordDP" in answer.note
    plainly = ann.result("node1", ann.task(ADD_ONE, "AddOne"))
    assert (plainly.ok, plainly.reason) == (False, "budget")
    elsewhere = asked(ann, project="lung")
    assert (elsewhere.status, elsewhere.reason) == ("rejected", "budget")
    assert "no privacy budget on dataset toy is for researcher ann in project lung" in elsewhere.note
    result = ann.result("node1", private(ann, project="lung"), round_=2)
    assert (result.ok, result.reason) == (False, "budget")
    assert asked(ann, project="heart").status == "not-needed"
    assert charges(node) == []


@pytest.mark.feature("BF-24")
def test_an_owners_cap_lowers_what_was_asked_for(federation: Federation) -> None:
    node = federation.node(config=NodeConfig()).start()
    ann = federation.ann
    much = {"dp": {**DP["dp"], "epsilon": 10.0, "delta": 1e-3}}
    asked_first = asked(ann, protect=much)
    assert (asked_first.status, asked_first.privacy["epsilon"]) == ("pending", 10.0)
    node.decide(limits=GrantLimits(protections=("dp:3,1e-6",)))

    def granted(received: list[Any]) -> Answer | None:
        found = [m.body for m in received if isinstance(m.body, Answer) and m.body.status == "granted"]
        return found[-1] if found else None

    answer: Answer = ann.take(granted)
    assert (answer.privacy["epsilon"], answer.privacy["delta"]) == (3.0, 1e-6)
    assert answer.limits["protections"] == ["dp:3,1e-06"]
    first = ann.result("node1", private(ann, protect=much), round_=1)
    assert first.ok, first.detail
    assert first.privacy["delta"] == 1e-6
    (charge,) = charges(node)
    assert (charge.epsilon, charge.delta) == (3.0, 1e-6)
    assert 2.9 < cost_of(charge.mechanisms * 2, 1e-6) <= 3.0
    plain = asked_plainly(ann)
    assert plain.status == "pending", "another question, which its owner has not answered"


def test_a_project_that_demands_differential_privacy_says_what_to_run_with(
    federation: Federation, node: Node
) -> None:
    with node.database() as database:
        limits = GrantLimits(protections=("dp:3,1e-06",))
        Grants(database).projects.limit("heart", limits, "owner")
    ann = federation.ann
    refused = asked_plainly(ann, project="heart")
    assert (refused.status, refused.reason) == ("rejected", "limits_exceeded")
    assert "protect=Protect(dp=RecordDP(epsilon=3, delta=1e-06))" in refused.note
    much = {"dp": {**DP["dp"], "epsilon": 10.0}}
    answer = asked(ann, project="heart", protect=much)
    assert (answer.status, answer.privacy["epsilon"], answer.privacy["delta"]) == ("not-needed", 3.0, 1e-6)


def test_both_protections_together_are_charged_and_held_back(federation: Federation, node: Node) -> None:
    with node.database() as database:
        limits = GrantLimits(protections=("secagg:3", "dp:1,1e-06"))
        Grants(database).projects.limit("default", limits, "owner")
    ann = federation.ann
    both = {**DP, "secagg": {"threshold": None, "min_nodes": 3, "clip": 8.0, "bits": 32, "max_weight": None}}
    for one in ({}, DP, {"secagg": both["secagg"]}):
        refused = asked(ann, protect=one)
        assert (refused.status, refused.reason) == ("rejected", "limits_exceeded"), one
    answer = asked(ann, protect=both, rounds=1)
    assert (answer.status, answer.privacy["epsilon"]) == ("not-needed", 1.0)
    held = ann.result("node1", private(ann, protect=both, rounds=1))
    assert (held.ok, held.params, held.num_examples) == (True, None, 0), held.detail
    assert 0.95 < held.privacy["epsilon"] <= 1.0
    assert [one.state for one in charges(node)] == ["spent"]


def test_a_node_that_is_stopped_while_it_computes_charges_once(federation: Federation, node: Node) -> None:
    ann = federation.ann
    sent = ann.train("node1", private(ann))
    ann.take(lambda received: bool(charges(node)))
    node.stop()
    (one,) = charges(node)
    assert one.state in ("reserved", "spent")
    node.start()
    assert ann.answer_to(sent, Result).ok
    assert [(one.number, one.state) for one in charges(node)] == [(1, "spent")]


def running(node: Node) -> bool:
    with node.database() as database:
        return bool(database.rows("SELECT 1 FROM tasks WHERE state = 'running'"))


ENDS = {
    "its researcher ends it": "import time; time.sleep(60)",
    "it takes too long": "import time; time.sleep(60)",
    "it exits with a number": "import os; os._exit(37)",
    "it reads where no memory is": "import ctypes; ctypes.string_at(0)",
    "it prints and leaves": "print('Alice'); raise SystemExit(5)",
}


def test_however_a_private_worker_ends_it_is_paid_for_and_nothing_else_is_known(
    federation: Federation, node: Node
) -> None:
    ann, said = federation.ann, set()
    for number, (how, line) in enumerate(ENDS.items(), 1):
        ann.job = new_job_id()
        odd = ADD_ONE.replace('print("the data are loaded")', line)
        limit_s = 1.0 if how == "it takes too long" else None
        sent = ann.train("node1", replace(private(ann), plan=ann.plan(odd), limit_s=limit_s))
        if how == "its researcher ends it":
            ann.take(lambda received: running(node))
            ann.end("node1")
        else:
            failed = ann.answer_to(sent, Result)
            assert not failed.ok, how
            said.add((failed.reason, failed.detail, failed.trace))
            assert failed.privacy.keys() <= {"epsilon", "delta"}
        ann.take(lambda received, number=number: [one.state for one in charges(node)] == ["spent"] * number)
    assert len(said) == 1
    assert next(iter(said))[0] == "privacy"
    assert [event.data for event in ann.events("log")] == []


def test_mock_data_need_no_budget(federation: Federation, tmp_path: Path) -> None:
    node = federation.node(config=NodeConfig(approval="off"))
    with node.database() as database:
        toy = str(node.folder / "toy.npz")
        database.execute("UPDATE datasets SET mock = ?", (toy,))
    node.start()
    set_budget(node, replace(BUDGET, epsilon=0.001))
    ann = federation.ann
    assert asked_plainly(ann, use="mock").status == "not-needed"
    answer = asked(ann, use="mock")
    assert (answer.status, answer.privacy["epsilon"]) == ("not-needed", 2.0)
    assert "left" not in answer.privacy
    result = ann.result("node1", private(ann, use="mock"))
    assert result.ok, result.detail
    assert (result.privacy, charges(node)) == ({}, [])


@pytest.mark.feature("BF-24")
def test_a_researcher_sees_the_cost_before_and_what_was_spent_after(
    federation: Federation, tmp_path: Path
) -> None:
    """Two nodes with budgets; one of them lowers what is asked for, the other has too little for a second job."""
    capped, tight = (
        federation.node(name, NodeConfig(approval="off", threads=1)).start() for name in ("capped", "tight")
    )
    with capped.database() as database:
        limits = GrantLimits(protections=("dp:1,1e-6",))
        Grants(database).projects.limit("default", limits, "owner")
    set_budget(capped, replace(BUDGET, epsilon=50.0))
    set_budget(tight)
    plan = tmp_path / "plan.py"
    plan.write_text(ADD_ONE)
    (tmp_path / "lab").mkdir()
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:

        def job_of(**changes: Any) -> Job:
            arguments = {
                "training_plan": f"{plan}:AddOne",
                "data": {"tags": ["toy"]},
                "training_args": {"num_updates": 2, "batch_size": 5},
                "rounds": 2,
                "protect": Protect(dp=RecordDP(epsilon=2.0, delta=1e-5)),
                "session": session,
            }
            return Job(FedAvg(), **{**arguments, **changes})

        assert job_of(protect=None).estimate().epsilon == {}
        job = job_of()
        first, second = job.estimate(timeout_s=60)
        assert (first.node, first.epsilon, first.delta) == ("capped", 1.0, 1e-6)
        assert (second.node, second.epsilon, second.left, second.problem) == ("tight", 2.0, 2.5, "")
        assert second.after == pytest.approx(2.5 - second.cost, abs=1e-5)
        assert charges(tight) == []
        result = job.run(progress=False)
        assert set(result.epsilon) == {"capped", "tight"}
        assert 0.9 < result.epsilon["capped"] <= 1.0
        assert result.epsilon["tight"] == pytest.approx(second.cost, abs=1e-5)
        assert result.privacy["capped"]["delta"] == 1e-6
        assert f"tight epsilon {result.epsilon['tight']:.4g} (delta 1e-05)" in result.about
        assert job.record.grants["capped"]["privacy"]["epsilon"] == 1.0
        (note,) = (
            str(event.body) for event in job.events() if "more noise than was asked" in str(event.body)
        )
        assert "node capped" in note
        assert "epsilon 1 with delta 1e-06, and the job asks for epsilon 2 with delta 1e-05" in note
        assert [one.state for one in charges(capped)] == ["spent", "spent"]
        shown = CliRunner().invoke(cli, ["job", "show", job.id, "--home", str(tmp_path / "lab")])
        assert "capped epsilon " in shown.output

        another = job_of()
        estimates = another.estimate(timeout_s=60)
        assert not estimates.ok
        assert "has" in estimates[1].problem
        assert "left" in repr(estimates)
        assert set(another.run(progress=False).epsilon) == {"capped"}
        assert "budget" in another.record.absent["tight"]
    assert len(charges(tight)) == 2


def test_a_local_job_says_what_it_costs(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.npz")
    plan = tmp_path / "plan.py"
    plan.write_text(ADD_ONE)
    job = Job(
        FedAvg(),
        training_plan=f"{plan}:AddOne",
        data={"here": str(tmp_path / "toy.npz")},
        nodes="local",
        training_args={"num_updates": 2, "batch_size": 5},
        rounds=2,
        protect=RecordDP(epsilon=2.0, delta=1e-5),
        home=tmp_path / "lab",
    )
    (estimate,) = job.estimate()
    assert (estimate.node, estimate.epsilon, estimate.problem) == ("here", 2.0, "")
    assert job.run(progress=False).epsilon == {"here": estimate.cost}
