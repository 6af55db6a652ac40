"""Jobs at real node daemons whose owners decide: what is asked, what stays, what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Job, JobFailed, Quorum, TorchPlan
from fedjob.common.errors import SpecError
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Answer
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants, burden_of
from fedjob.node.grants.notifications import notice_of
from fedjob.node.owner.review import review_of
from fedjob.node.storage.burden import Burden
from fedjob.researcher.jobs.session import Session
from tests.e2e.federation import background
from tests.integration.nodes import Federation, Node, Researcher, plan_with
from tests.integration.scripted import open_session
from tests.processes import wait_until

ARGS = {"num_updates": 2, "batch_size": 5}


class Fits(TorchPlan):
    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        if self.ctx.props.get("slow_at") == self.ctx.node:
            time.sleep(60)
        x, y = dataset.arrays()
        return torch.tensor(x), torch.tensor(y)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        if self.ctx.props.get("fail_at") == self.ctx.node and self.ctx.round == 2:
            raise RuntimeError("no luck")
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    (tmp_path / "federation").mkdir()
    made = Federation(tmp_path / "federation")
    yield made
    made.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    home = tmp_path / "lab"
    home.mkdir()
    (home / "config.toml").write_text("retry_min_s = 0.2\nretry_max_s = 0.2\n")
    with open_session(federation, home, Identity.generate("lab")) as opened:
        yield opened


def strict(federation: Federation, *names: str, **settings: Any) -> list[Node]:
    config = NodeConfig(threads=1, **settings)
    return [federation.node(name, config).start() for name in names]


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Fits,
        "data": {"tags": ["toy"]},
        "training_args": ARGS,
        "seed": 5,
        "session": session,
    }
    return Job(FedAvg(), **{**arguments, **changes})


def grants_of(node: Node) -> list[dict[str, Any]]:
    with node.database() as database:
        return [grant.to_plain() for grant in Grants(database).all()]


def tasks_of(node: Node) -> int:
    with node.database() as database:
        row = database.row("SELECT count(*) AS n FROM tasks", ())
        return 0 if row is None else int(row["n"])


@pytest.mark.feature("TB-19", "PS-05", "TB-46")
def test_check_leaves_nothing_and_request_a_pending_grant_and_no_task(
    federation: Federation, session: Session
) -> None:
    nodes = strict(federation, "a", "b", contact="dpo@ward.example")
    job = make_job(session)
    checks = job.check(timeout_s=60)
    assert {answer.node: answer.grant for answer in checks} == {"a": "pending", "b": "pending"}
    assert {answer.contact for answer in checks} == {"dpo@ward.example"}
    assert [grants_of(node) for node in nodes] == [[], []]
    filed = job.request(timeout_s=60)
    assert filed.keys() == {"a", "b"}
    for node in nodes:
        (grant,) = grants_of(node)
        assert (grant["id"], grant["status"]) == (filed[node.name], "pending")
        assert tasks_of(node) == 0
    assert job.state == "draft"
    assert not job.refresh(throttle_s=0)
    nodes[0].decide(note="for the study")
    nodes[1].decide(approve=False, note="too vague")
    wait_until(lambda: job.refresh(throttle_s=0), timeout_s=20, what="the decisions to be seen")
    assert {answer.node: answer.grant for answer in job.check(timeout_s=60)} == {
        "a": "granted",
        "b": "rejected",
    }
    job.run(progress=False)
    assert job.rounds[1].replied == ("a",)


def test_an_owner_sees_what_a_job_will_cost_and_later_what_it_did(
    federation: Federation, session: Session
) -> None:
    (node,) = strict(federation, "a")

    def burden() -> Burden:
        with node.database() as database:
            grant = Grants(database).all()[0]
            found = review_of(database, grant.id).burden
            assert found is not None
            return found

    job = make_job(session, training_args={"epochs": 1, "batch_size": 5}, rounds=3)
    (estimate,) = job.estimate()
    job.request(timeout_s=60)
    before = burden()
    assert (before.claimed["down"], before.claimed["up"]) == (estimate.down, estimate.up)
    assert before.time_words == "not known yet: nothing like it has run here"
    node.decide()
    wait_until(lambda: job.refresh(throttle_s=0), timeout_s=20, what="the decision to be seen")
    job.run(progress=False)
    wait_until(
        lambda: burden().moved is not None and burden().moved.tasks == 3, timeout_s=20, what="three tasks"
    )
    after = burden()
    assert after.moved is not None
    assert (after.moved.bytes_in, after.moved.bytes_out) == (estimate.down, estimate.up)
    assert not after.moved.over
    longer = job.clone(training_args={"epochs": 4, "batch_size": 5}, rounds=3)
    longer.request(timeout_s=60)
    found = burden()
    assert found.time is not None
    assert (found.time.rounds, found.time.same) == (3, False)
    assert found.time.round_s == pytest.approx(4 * after.moved.seconds / 3)
    with node.database() as database:
        lines = dict(review_of(database, grants_of(node)[0]["id"]).lines)
        notice = notice_of("a", Grants(database).all("pending"), lambda grant: burden_of(grant, database))
    assert lines["moves"].endswith("as the researcher says")
    assert "the same plan with other arguments" in lines["takes"]
    assert f"it moves {lines['moves']}; it takes {lines['takes']}" in notice.text


def test_a_cost_that_is_none_is_refused(federation: Federation) -> None:
    (node,) = strict(federation, "a")
    ann = Researcher(federation, "ann")
    for cost in ({"down": -1}, {"down": 2**60}, {"price": 1}):
        answer = ann.answer_to(ann.offer("a", plan_with("return 0"), "Odd", cost=cost), Answer)
        assert (answer.status, answer.reason) == ("unknown", "spec"), cost
        assert "the cost of a job is down, up, memory, most" in answer.note
    assert grants_of(node) == []


@pytest.mark.feature("NV-15", "TB-31", "TB-66")
def test_who_approved_with_what_note_is_in_the_record(federation: Federation, session: Session) -> None:
    first, second = strict(federation, "a", "b")
    job = make_job(session)
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: len(job.waiting_on) == 2, timeout_s=30, what="both owners to be waited for")
        first.decide(note="fine, ask again next year")
        wait_until(
            lambda: [waits["node"] for waits in job.waiting_on] == ["b"], timeout_s=30, what="one to be left"
        )
        second.decide()
        run.result(timeout=60)
    said = job.record.grants["a"]
    assert (said["state"], said["by"], said["note"]) == ("granted", "owner", "fine, ask again next year")
    assert abs(said["when"] - time.time()) < 120
    states = [event.body["state"] for event in job.events() if event.type == "state" and not event.node]
    assert states == ["waiting", "queued", "starting", "running", "completed"]


@pytest.mark.feature("NV-18", "NV-24")
def test_those_who_took_part_are_recorded_and_the_dropped_are_flagged(
    federation: Federation, session: Session
) -> None:
    strict(federation, "a", "b", approval="off")
    job = make_job(session, rounds=2, props={"fail_at": "b"})  # the plan reads it as ctx.props
    job.run(progress=False)
    participants = job.record.participants
    assert participants["a"] == ""
    assert participants["b"].startswith("exception: RuntimeError")
    assert {event.node: event.body["outcome"] for event in job.events() if event.type == "setup"} == {
        "a": "ok",
        "b": "ok",
    }


@pytest.mark.feature("PS-56")
def test_a_round_that_takes_too_long_fails_the_job_at_its_time(
    federation: Federation, session: Session
) -> None:
    strict(federation, "a", "b", approval="off")
    job = make_job(session, props={"slow_at": "b"}, round_timeout_s=2)
    job.reach()
    began = time.monotonic()
    with pytest.raises(JobFailed, match="b had not answered") as caught:
        job.run(progress=False)
    assert (job.state, job.reason, caught.value.reason) == ("failed", "timeout", "timeout")
    assert time.monotonic() - began < 50  # b would have answered after 60 s


@pytest.mark.feature("NV-39")
def test_a_node_that_is_not_enrolled_never_receives_the_offer(
    federation: Federation, session: Session
) -> None:
    (inside,) = strict(federation, "inside", projects="heart-*")
    (outside,) = strict(federation, "outside", projects="lung")
    job = make_job(session, project="heart-2")
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: job.waiting_on, timeout_s=30, what="the owner to be waited for")
        inside.decide()
        run.result(timeout=60)
    assert job.nodes == ["inside"]
    assert grants_of(outside) == []
    with pytest.raises(SpecError, match="heart-2"):
        make_job(session, project="heart-2", quorum=Quorum(min_nodes=2)).run(progress=False)


@pytest.mark.feature("NV-03")
def test_a_node_that_lacks_what_a_job_needs_holds_it_in_the_queue(
    federation: Federation, session: Session
) -> None:
    strict(federation, "a", approval="off")
    job = make_job(session, resources={"a": {"gpus": 64}}, max_tries=2)
    with pytest.raises(JobFailed, match="gpus"):
        job.run(progress=False)
    assert job.state == "unschedulable"


@pytest.mark.feature("TB-51", "PS-12", "PS-55")
def test_a_node_without_workers_queues_the_job_and_says_so(federation: Federation, session: Session) -> None:
    (node,) = strict(federation, "a", approval="off", workers=0)
    job = make_job(session, max_tries=1000)
    with pytest.warns(UserWarning, match="node a has no workers: it accepts and queues tasks but runs none"):
        job.reach()
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: len(job.schedule), timeout_s=30, what="a try")
        assert job.state == "queued"
        assert "no free worker" in str(job.why())
        node.config = replace(node.config, workers=1)
        run.result(timeout=60)
    assert job.schedule[0].reason == "no_workers"
    assert job.schedule[-1].reason == "scheduled"


@pytest.mark.feature("NV-60")
def test_a_task_whose_job_this_home_does_not_know_is_gone_once_a_runner_meets_its_node(
    federation: Federation, session: Session
) -> None:
    (node,) = strict(federation, "a", approval="off", workers=2)
    lost = Researcher(federation, "lab", session.identity)  # the same researcher, on a home that is gone
    lost.train("a", lost.task(plan_with("time.sleep(120)"), "Odd"))
    wait_until(lambda: states_of(node) == ["running"], timeout_s=60, what="the task to run")
    make_job(session).run(progress=False)
    wait_until(lambda: "running" not in states_of(node), timeout_s=30, what="the task to be ended")
    lost.endpoint.stop()


def states_of(node: Node) -> list[str]:
    with node.database() as database:
        return [str(row["state"]) for row in database.rows("SELECT state FROM tasks", ())]
