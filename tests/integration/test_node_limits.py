"""What a grant's limits, standing agreements and a node's settings do to offers and to tasks that run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from fedjob.common.types import new_job_id
from fedjob.messaging.messages import Answer, Offer, Result
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.storage.audit import Audit
from tests.integration.nodes import ADD_ONE, TRAINING_ARGS, Federation, Node, Researcher, plan_with

SLOW = plan_with("time.sleep(60)")
FEW = plan_with("pass").replace(
    "return torch.tensor(x), torch.tensor(y)", "return torch.tensor(x)[:3], torch.tensor(y)[:3]"
)
CONTACT = "privacy@clinic.example"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node(config=NodeConfig(contact=CONTACT)).start()


def asked(ann: Researcher, text: str = ADD_ONE, entry: str = "AddOne", **more: Any) -> Answer:
    return ann.answer_to(ann.offer("node1", text, entry, **more), Answer)


def answered(ann: Researcher, offer: str, status: str) -> Answer:
    """Wait until an offer is answered with that status."""

    def find(received: list[Any]) -> Answer | None:
        bodies = [m.body for m in received if isinstance(m.body, Answer)]
        return next((b for b in bodies if b.of == offer and b.status == status), None)

    found: Answer = ann.take(find)
    return found


def allow(node: Node, limits: GrantLimits | None = None, **about: str) -> str:
    subject = {"researcher": "ann", "key_hex": "", "plan": "*", "entry": "*", "dataset": "toy", **about}
    with node.database() as database:
        return Grants(database).allow(GrantSubject(**subject), limits=limits or GrantLimits(), by="owner").id


def only_grant(node: Node, status: str | None = None) -> str:
    with node.database() as database:
        (grant,) = Grants(database).all(status)
    return grant.id


def follow(ann: Researcher, node: Node, **settings: Any) -> None:
    """Set a running node's settings, and return when it goes by them."""
    contact = f"desk-{time.monotonic_ns()}"
    node.config = NodeConfig(**settings, contact=contact)
    ann.take(lambda received: asked(ann, dry=True).contact == contact)


def revoke(node: Node, id_: str, note: str = "the study has ended") -> None:
    with node.database() as database:
        Grants(database).revoke(id_, by="owner", note=note)


def end_at(node: Node, id_: str, until: float) -> None:
    """Change when a grant ends."""
    with node.database() as database:
        Grants(database).approve(id_, by="owner", limits=GrantLimits(until=until))


def begun(ann: Researcher, node: Node) -> None:
    """Return once a task runs."""

    def running(received: object) -> bool:
        with node.database() as database:
            return bool(database.rows("SELECT 1 FROM tasks WHERE state = 'running'"))

    ann.take(running)


def test_asking_leaves_a_pending_grant_and_no_task(federation: Federation, node: Node) -> None:
    answer = asked(federation.ann)
    assert (answer.status, answer.grant_state, answer.origin) == ("pending", "pending", "request")
    assert only_grant(node, "pending") == answer.grant
    with node.database() as database:
        assert database.rows("SELECT * FROM tasks") == []


@pytest.mark.feature("NV-15", "PS-25")
def test_what_was_asked_and_what_was_said_reach_the_other_side(federation: Federation, node: Node) -> None:
    ann = federation.ann
    offer = ann.offer(
        "node1",
        ADD_ONE,
        "AddOne",
        project="heart",
        note="the cohort of March",
        owner={"name": "Ann Lee", "org": "acme", "role": "statistician"},
        training_args={"num_updates": 2},
    )
    assert ann.answer_to(offer, Answer).needs == ["plan"]
    with node.database() as database:
        (grant,) = Grants(database).all()
        plain = grant.to_plain()
    assert (plain["project"], plain["request_note"], plain["org"]) == ("heart", "the cohort of March", "acme")
    assert plain["training_args"] == {"num_updates": 2}
    limits = GrantLimits(until=time.time() + 1000, runs=7, args={"num_updates": {"max": 9}})
    before = time.time()
    node.decide(note="as agreed with the board", limits=limits)
    answer = answered(ann, offer, "granted")
    assert (answer.note, answer.by, answer.contact) == ("as agreed with the board", "owner", CONTACT)
    assert before <= answer.decided <= time.time()
    assert (answer.grant_state, answer.until) == ("granted", limits.until)
    assert answer.limits == {"until": limits.until, "runs": 7, "args": {"num_updates": {"max": 9}}}
    assert len(answer.version) == 64


@pytest.mark.feature("PS-28")
def test_a_grant_that_is_revoked_after_the_offer_starts_nothing(federation: Federation) -> None:
    node = federation.node(config=NodeConfig(workers=0)).start()
    ann = federation.ann
    offer = ann.offer("node1", ADD_ONE, "AddOne")
    ann.answer_to(offer, Answer)
    node.decide()
    answered(ann, offer, "granted")
    task = ann.train("node1", ann.task(ADD_ONE, "AddOne"))
    ann.take(lambda received: _tasks(node))  # accepted: it waits for a worker
    node.stop()
    revoke(node, only_grant(node))
    node.config = NodeConfig()
    node.start()
    result = ann.answer_to(task, Result)
    assert (result.ok, result.reason, result.detail) == (False, "revoked", "the study has ended")
    assert node.trainings() == 0
    again = ann.answer_to(ann.offer("node1", ADD_ONE, "AddOne"), Answer)
    assert (again.status, again.reason, again.grant_state) == ("rejected", "revoked", "revoked")
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), attempt=2).reason == "revoked"


def _tasks(node: Node) -> list[Any]:
    with node.database() as database:
        return database.rows("SELECT key FROM tasks")


@pytest.mark.parametrize("way", ["revoked", "expired"])
def test_what_runs_under_a_grant_ends_with_it(federation: Federation, node: Node, way: str) -> None:
    ann = federation.ann
    allow(node, GrantLimits(until=time.time() + 1000))
    task = ann.train("node1", ann.task(SLOW, "Odd"))
    begun(ann, node)
    if way == "revoked":
        revoke(node, only_grant(node))
    else:
        end_at(node, only_grant(node), time.time() + 0.5)
    result = ann.answer_to(task, Result)
    assert (result.ok, result.reason) == (False, way)
    assert only_grant(node, way)


@pytest.mark.feature("PS-22", "TB-82")
def test_after_a_single_use_the_next_job_is_pending_again(federation: Federation, node: Node) -> None:
    ann = federation.ann
    first = asked(ann)
    node.decide(limits=GrantLimits(runs=1))
    for round_ in (1, 2):
        assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=round_).ok
    ann.job = new_job_id()
    dry = asked(ann, dry=True)
    assert (dry.status, dry.reason, dry.grant_state) == ("pending", "not_requested", "expired")
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne")).reason == "expired"
    second = asked(ann)
    assert (second.status, second.grant_state) == ("pending", "pending")
    assert second.grant != first.grant
    assert node.trainings() == 1  # one worker, which loaded its data once


@pytest.mark.feature("PS-20")
def test_a_mock_is_not_computed_on_without_a_grant_and_is_after_allow(
    federation: Federation, node: Node, tmp_path: Path
) -> None:
    ann = federation.ann
    mock = tmp_path / "mock.npz"
    numpy.savez(mock, x=numpy.zeros((6, 2), "float32"), y=numpy.zeros((6, 1), "float32"))
    with node.database() as database:
        datasets = Datasets(database)
        datasets.remove("toy")
        datasets.add(describe_dataset("toy", node.folder / "toy.npz", mock=mock, min_rows=10))
    offer = ann.offer("node1", ADD_ONE, "AddOne", use="mock")
    assert ann.answer_to(offer, Answer).status == "pending"
    task = replace(ann.task(ADD_ONE, "AddOne"), use="mock")
    assert ann.result("node1", task).reason == "plan_not_approved"
    rule = allow(node, use="mock")
    told = answered(ann, offer, "granted")
    assert (told.origin, told.grant) == ("rule", rule)
    result = ann.result("node1", task, attempt=2)
    assert (result.ok, result.num_examples) == (True, 6)  # the rows of the mock
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), attempt=3).reason == "plan_not_approved"


@pytest.mark.feature("TB-83")
@pytest.mark.parametrize("whose", ["dataset", "grant"])
def test_what_was_computed_on_too_few_rows_never_leaves(
    federation: Federation, node: Node, whose: str
) -> None:
    ann = federation.ann
    if whose == "dataset":
        with node.database() as database:
            datasets = Datasets(database)
            datasets.remove("toy")
            datasets.add(describe_dataset("toy", node.folder / "toy.npz", min_rows=5))
    allow(node, GrantLimits(min_rows=5 if whose == "grant" else 0))
    task = replace(ann.task(FEW, "Odd"), training_args={"num_updates": 1, "batch_size": 3})
    result = ann.result("node1", task)
    assert (result.ok, result.reason) == (False, "min_rows")
    assert f"the owner's minimum of 5; ask {CONTACT}" in result.detail


def test_a_metric_of_few_rows_stays_at_the_node_and_the_model_leaves(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    allow(node, GrantLimits(min_rows=5))
    args = {
        "epochs": 2,
        "batch_size": 3,
        "log_interval": 1,
        "test_fold": [1, 8],
        "test_on_global_updates": True,
    }
    result = ann.result("node1", replace(ann.task(ADD_ONE, "AddOne"), training_args=args))
    assert (result.ok, list(result.metrics)) == (True, ["train"])
    assert result.params is not None
    (note,) = ann.events("note")
    assert "what is measured on the test split would be about few rows" in note.data["text"]
    losses = [event.data["values"] for event in ann.events("metrics")]
    assert sum("loss" in values for values in losses) == 2 < len(losses)  # of two passes, of no batch


@pytest.mark.feature("TB-20")
def test_a_node_answers_what_its_owner_has_to_allow(federation: Federation, node: Node) -> None:
    ann = federation.ann

    def needs(**settings: Any) -> tuple[str, list[str]]:
        follow(ann, node, **settings)
        answer = asked(ann, dry=True)
        return answer.status, answer.needs

    assert needs() == ("pending", ["plan"])
    assert needs(approval="off", ask_data="toy") == ("pending", ["data"])
    assert needs(ask_data="t*") == ("pending", ["plan", "data"])
    assert needs(approval="off") == ("not-needed", [])


COUNT = """\
from dataclasses import dataclass
from typing import ClassVar

from fedjob.protocols.base import FederatedProtocol


@dataclass(frozen=True)
class Count(FederatedProtocol):
    name: ClassVar[str] = "count"
    needs_plan: ClassVar[bool] = False

    def start(self, params): ...
    def instruct(self, state, view): ...
    def contribute(self, instruction, local): ...
    def finish(self, state, gathered): ...
"""


@pytest.mark.feature("TB-84")
def test_an_allowed_built_in_needs_nothing_while_a_researchers_code_needs_approval(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wards.py").write_text(COUNT)
    about = tmp_path / "wards-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: wards\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fedjob.plans]\ncount = wards:Count\n")
    monkeypatch.syspath_prepend(tmp_path)
    ann = federation.ann
    node = federation.node(config=NodeConfig(plans="wards.*")).start()
    built_in = Offer(dataset="toy", protocol="count")

    def say(offer: Offer) -> Answer:
        return ann.answer_to(ann.send("node1", offer), Answer)

    allowed = say(built_in)
    assert (allowed.status, allowed.needs, allowed.origin) == ("not-needed", [], "built-in")
    code = asked(ann, dry=True)
    assert (code.status, code.needs) == ("pending", ["plan"])
    follow(ann, node)
    pending = say(built_in)
    assert (pending.status, pending.needs) == ("pending", ["plan"])
    rule = allow(node, plan="wards.c*", entry="")
    assert say(built_in).grant == rule
    assert asked(ann, dry=True).status == "pending"  # the agreement is about built-ins alone
    follow(ann, node, operations="fedjob.*")
    off = say(built_in)
    assert (off.status, off.reason) == ("unknown", "protocol")


@pytest.mark.feature("PS-19")
@pytest.mark.parametrize(
    ("unknown", "status", "reason"), [("pending", "pending", ""), ("deny", "rejected", "unknown_researcher")]
)
def test_a_researcher_whom_nobody_here_knows(
    federation: Federation, unknown: str, status: str, reason: str
) -> None:
    node = federation.node(config=NodeConfig(unknown=unknown, contact=CONTACT)).start()
    allow(node, researcher="*")
    answer = asked(federation.ann)
    assert (answer.status, answer.reason) == (status, reason)
    assert CONTACT in answer.note
    with node.database() as database:
        Grants(database).known.add("ann", federation.ann.identity.public_key_hex, "", "owner")
    assert asked(federation.ann).status == "granted"


@pytest.mark.feature("NV-35")
def test_a_project_selects_its_limits_and_a_node_that_is_not_enrolled_says_so(federation: Federation) -> None:
    config = NodeConfig(projects="public,private", contact=CONTACT)
    node = federation.node(config=config).start()
    ann = federation.ann
    allow(node, GrantLimits(rows=1000), project="p*")
    with node.database() as database:
        Grants(database).projects.limit("public", GrantLimits(logs="all"), "owner")
        Grants(database).projects.limit("private", GrantLimits(logs="none", rows=100), "owner")
    assert asked(ann, project="public").limits == {"rows": 1000, "logs": "all"}
    assert asked(ann, project="private").limits == {"rows": 100, "logs": "none"}
    other = asked(ann, project="heart")
    assert (other.status, other.reason) == ("unknown", "project")
    assert CONTACT in other.note


def test_arguments_outside_the_grant_are_refused_at_the_offer_and_at_the_task(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    allow(node, GrantLimits(args={"num_updates": {"min": 1, "max": 2}, "batch_size": {"choices": [5]}}))
    assert asked(ann, training_args={"num_updates": 2}, dry=True).status == "pending"  # without batch_size
    assert asked(ann, training_args={**TRAINING_ARGS, "lr": 5}, dry=True).status == "pending"
    answer = asked(ann, training_args={"num_updates": 3, "batch_size": 5})
    assert (answer.status, answer.reason) == ("rejected", "limits_exceeded")
    assert "the argument num_updates is 3; the owner allows 1..2" in answer.note
    wide = replace(ann.task(ADD_ONE, "AddOne"), training_args={"num_updates": 3, "batch_size": 5})
    assert ann.result("node1", wide).reason == "limits_exceeded"
    assert ann.result("node1", ann.task(ADD_ONE, "AddOne"), attempt=2).ok


def test_a_grant_is_about_the_data_as_they_were(federation: Federation, node: Node) -> None:
    ann = federation.ann
    first = asked(ann)
    node.decide()
    assert asked(ann).status == "granted"
    path = node.folder / "toy.npz"
    path.touch()  # the same content: the same version
    time.sleep(1.1)
    assert asked(ann).version == first.version
    numpy.savez(path, x=numpy.ones((30, 2), "float32"), y=numpy.ones((30, 1), "float32"))
    ann.take(lambda received: asked(ann, dry=True).version != first.version, timeout_s=60)
    changed = asked(ann, dry=True)
    assert (changed.status, changed.reason) == ("pending", "not_requested")
    assert "the data have changed" in changed.note


def test_a_plan_that_may_train_on_the_data_may_not_predict_from_them(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    asked(ann)
    node.decide()
    assert asked(ann).status == "granted"
    infers = asked(ann, protocol="inference")
    assert (infers.status, infers.grant_state) == ("pending", "pending")


@pytest.mark.feature("TB-27")
def test_a_grant_is_about_the_steps_that_prepare_the_data(federation: Federation, node: Node) -> None:
    ann = federation.ann
    steps = [{"step": "select", "columns": ["age"]}]
    assert asked(ann, preprocess=steps).status == "pending"
    node.decide()
    with node.database() as database:
        (decided,) = Grants(database).all()
    assert decided.asked.preprocess == '[{"columns":["age"],"step":"select"}]'
    assert asked(ann, preprocess=steps).status == "granted"
    other = asked(ann, preprocess=[{"step": "select", "columns": ["age", "name"]}])
    assert (other.status, other.grant) != ("granted", decided.id)
    assert "not what its owner approved, who has to be asked anew: preprocess is ''" in (
        asked(ann, preprocess=[], dry=True).note
    )


@pytest.mark.feature("FB-36")
def test_a_comment_makes_another_text_that_is_pending_anew(federation: Federation, node: Node) -> None:
    ann = federation.ann
    asked(ann)
    node.decide()
    assert asked(ann).status == "granted"
    commented = ADD_ONE.replace("lr=0.1)", "lr=0.1)  # as before")
    assert asked(ann, commented).status == "pending"
    with node.database() as database:
        grants = Grants(database)
        new, old = (grants.texts.of(g.subject.plan) for g in grants.all())
    assert (new, old) == (commented.encode(), ADD_ONE.encode())


@pytest.mark.feature("FB-35")
def test_each_state_of_a_grant_is_reached_and_told(federation: Federation, node: Node) -> None:
    ann = federation.ann
    offer = ann.offer("node1", ADD_ONE, "AddOne")
    assert ann.answer_to(offer, Answer).grant_state == "pending"
    node.decide(limits=GrantLimits(until=time.time() + 1000))
    assert answered(ann, offer, "granted").grant_state == "granted"
    end_at(node, only_grant(node, "granted"), time.time() + 0.5)
    ann.take(lambda received: _has(node, "expired"))
    assert asked(ann, dry=True).grant_state == "expired"
    again = ann.offer("node1", ADD_ONE, "AddOne")
    ann.answer_to(again, Answer)
    node.decide(approve=False, note="not again")
    assert answered(ann, again, "rejected").grant_state == "rejected"
    with node.database() as database:
        grants = Grants(database)
        (rejected,) = grants.all("rejected")
        grants.approve(rejected.id, by="owner")
    assert answered(ann, again, "granted").origin == "request"
    revoke(node, rejected.id)
    ann.take(lambda received: any(getattr(m.body, "grant_state", "") == "revoked" for m in received))


def _has(node: Node, status: str) -> bool:
    with node.database() as database:
        return bool(Grants(database).all(status))


@pytest.mark.feature("TB-85")
def test_every_task_has_its_grant_and_its_records_in_an_unbroken_chain(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    asked(ann)
    node.decide()
    keys = [ann.result("node1", ann.task(ADD_ONE, "AddOne"), round_=n).key for n in (1, 2)]
    keys.append(ann.result("node1", ann.task("this is another", "Other"), round_=3).key)
    ann.end("node1")
    ann.take(lambda received: not _tasks(node))
    with node.database() as database:
        audit = Audit(database)
        assert audit.verify() > 0
        records = [record.to_plain() for record in audit.records()]
        (grant,) = Grants(database).all()
    of_grant = [r["body"]["status"] for r in records if r["kind"] == "grant" and r["subject"] == grant.id]
    assert of_grant == ["pending", "granted"]
    for key in keys[:2]:
        trail = [r["body"] for r in records if r["subject"] == key]
        states = [body["state"] for body in trail]
        assert states[-1] == "completed"
        assert len(states) == len(set(states)) >= 2
        assert {body["grant"] for body in trail} == {grant.id}
        assert {body["job"] for body in trail} == {ann.job}
    (refused,) = [r["body"] for r in records if r["subject"] == keys[2]]
    assert (refused["state"], refused["reason"]) == ("rejected", "plan_not_approved")
    (use,) = [r for r in records if r["kind"] == "use"]
    assert (use["subject"], use["body"]["job"]) == (grant.id, ann.job)
