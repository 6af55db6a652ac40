"""Plans that work on items in batches at real nodes: what is said in which order, what a node remembers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fedjob import FedAvg, Hook, Inference, Items, Job, JobFailed, Quorum, TorchPlan
from fedjob.common.errors import SpecError
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import End
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.queue.store import TaskStore
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.event import JobEvent
from fedjob.training_plans.source.extraction import extract
from tests import stepping
from tests.integration.nodes import Federation, Node
from tests.integration.scripted import open_session
from tests.processes import wait_until

COUNTS = {"node1": 3, "node2": 5}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("batches"))
    for name, count in COUNTS.items():
        node = found.node(name, NodeConfig(approval="off", threads=1, worker_memory_mb=1024))
        add_files(node, "scans", {f"{number}": number for number in range(count)})
        node.start()
    yield found
    found.close()


def add_files(node: Node, dataset: str, values: dict[str, object], *, min_rows: int = 0) -> Path:
    """Write files with a number in each, and register them."""
    folder = node.folder / dataset
    folder.mkdir()
    for name, value in values.items():
        (folder / name).write_text(str(value))
    with node.database() as database:
        Datasets(database).add(
            describe_dataset(dataset, folder, reader="files", tags=[dataset], min_rows=min_rows)
        )
    return folder


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def told(job: Job, node: str) -> list[dict[str, Any]]:
    return [dict(event.body) for event in job.events() if event.node == node and event.type == "batch"]


def place(events: list[JobEvent], type_: str, node: str = "", **body: Any) -> int:
    """Return the place of the first such event."""
    return next(
        number
        for number, event in enumerate(events)
        if event.type == type_
        and event.node in (node, "")
        and all(event.body.get(key, "") == value for key, value in body.items())
    )


@pytest.mark.feature(
    "BF-03", "BF-04", "BF-07", "BF-09", "BF-10", "BF-11", "BF-12", "BF-13", "BF-15", "BF-16", "BF-17"
)
def test_the_steps_of_a_batched_job_can_be_read_off_its_events(
    session: Session, federation: Federation
) -> None:
    job = Job(stepping.Sizes, data={"tags": ["scans"]}, items=Items(batch=1), session=session)
    assert job.run(progress=False).value == {"node1": [0, 1, 2], "node2": [0, 1, 2, 3, 4]}
    events = list(job.events())
    for node, count in COUNTS.items():
        ready = place(events, "ask", step="step")
        order = [
            place(events, "state", state="running"),
            place(events, "ask", step="setup"),  # nodes prepare
            ready,  # all are ready, and are told to begin
            place(events, "batch", node, of=None),  # how many batches will come is not said
            place(events, "batch", node, n=1, state="started"),
            place(events, "result", node, n=1),
            place(events, "batch", node, n=2, state="started"),
            place(events, "result", node, n=2),
            place(events, "batch", node, n=count, last=True),
            place(events, "result", node, n=count),
            place(events, "batch", node, state="all-done", ok=count, failed=0),
            place(events, "round"),  # every reply was there
            place(events, "state", state="completed"),
        ]
        assert order == sorted(order)
        assert not [e for e in events[:ready] if e.type in ("batch", "result")], (
            "none began before all were ready"
        )
        assert [body["n"] for body in told(job, node) if "n" in body] == list(range(1, count + 1))
        assert sum(body.get("last", False) for body in told(job, node)) == 1
        assert not [body for body in told(job, node) if body.get("state") == "retrying"]
    for node in federation.nodes:
        await_scratch(node, empty=True)


def await_scratch(node: Node, *, empty: bool) -> None:
    """Wait until nothing, or something, lies in the folder that a node's workers work in."""
    wait_until(lambda: holds(node.home.scratch) is not empty, timeout_s=60, what=f"scratch {empty=}")


def holds(folder: Path) -> bool:
    """Whether anything lies in a folder."""
    return any(folder.iterdir())


@pytest.mark.feature("BF-16")
def test_a_killed_job_leaves_nothing_at_its_nodes(federation: Federation) -> None:
    ann, node = federation.ann, federation.nodes[1]
    plan = extract(stepping.Endless)
    task = ann.task(
        plan.text,
        plan.entry,
        protocol="steps",
        dataset="scans",
        params={},
        items=Items(batch=1),
        training_args={},
    )
    ann.train("node2", task, step="step")
    await_scratch(node, empty=False)
    ann.send("node2", End(outcome="killed"), epoch=1)
    await_scratch(node, empty=True)
    wait_until(lambda: not holds(node.home.tasks), timeout_s=60, what="the task's folder to go")


@pytest.mark.feature("BF-47", "BF-62", "BF-63", "BF-50")
def test_a_node_remembers_what_a_plan_worked_on(session: Session, federation: Federation) -> None:
    folder = add_files(federation.nodes[0], "nightly", {"a": 1, "b": 2, "bad": "corrupt"})

    def run(**items: Any) -> Any:
        items = {"tolerate": None, "batch": 1, **items}
        job = Job(stepping.Sizes, data="node1/nightly", items=Items(**items), session=session)
        return job.run(progress=False).value

    assert run(limit=2, batch=None) == [1, 2], "a trial"
    assert run(only="new") == [1, 2], "the trial was not remembered"
    with pytest.raises(JobFailed) as nothing:
        run(only="new", retry_failed=False)
    assert nothing.value.reason == "no_new_data"
    with pytest.raises(JobFailed) as corrupt:
        run(only="new")
    assert corrupt.value.reason == "batch_failures"
    os.utime(folder / "a", (1, 1))
    (folder / "bad").write_text("33")
    assert run(only="new", retry_failed=False) == [1, 33], "what was changed is new"
    other = Job(stepping.Total, data="node1/nightly", items=Items(only="new"), session=session)
    assert other.run(progress=False).value == 36, "another plan has worked on nothing yet"


@pytest.mark.feature("BF-64")
def test_failures_are_told_as_counts_and_listed_at_the_node(session: Session, federation: Federation) -> None:
    node = federation.nodes[0]
    add_files(node, "damaged", {**{f"{number:02d}": number for number in range(10)}, "05": "corrupt"})
    job = Job(stepping.Sizes, data="node1/damaged", items=Items(batch=4, tolerate=5), session=session)
    assert job.run(progress=False).value == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    (raw,) = job.result.raw[1]["step"].values()
    assert raw["items"] == {"processed": 9, "failed": 1, "batches": 3}
    logs = [path.read_text() for path in node.home.task_logs.iterdir()]
    assert any("05,ValueError: invalid literal" in log for log in logs)
    assert not any("corrupt" in str(event.body) for event in job.events()), (
        "the item's words stay at the node"
    )


@pytest.mark.feature("BF-35")
def test_a_plan_that_selects_nothing_ends_its_job(session: Session) -> None:
    job = Job(stepping.Few, data={"tags": ["scans"]}, training_args={"least": 4}, session=session)
    assert job.run(progress=False).value == {"node2": [4]}, "a node without such items takes no part"
    none = Job(stepping.Few, data={"tags": ["scans"]}, training_args={"least": 9}, session=session)
    with pytest.raises(JobFailed) as failed:
        none.run(progress=False)
    assert failed.value.reason == "no_data"


@pytest.mark.feature("BF-65")
@pytest.mark.parametrize("reason", ["min_rows", "no_data", "no_new_data", "out_of_memory"])
def test_a_fatal_reason_arises_from_its_cause_and_the_node_tries_once(
    session: Session, federation: Federation, reason: str
) -> None:
    node = federation.nodes[0]
    name = reason.replace("_", "-")
    add_files(node, name, {"a": 1, "b": 2}, min_rows=2 if reason == "min_rows" else 0)
    arguments: dict[str, Any] = {"data": f"node1/{name}", "session": session}
    items = Items(batch=1, tolerate=None, only="new")
    if reason == "min_rows":
        job = Job(stepping.Few, training_args={"least": 2}, **arguments)
    elif reason == "no_data":
        job = Job(stepping.Few, training_args={"least": 3}, **arguments)
    elif reason == "no_new_data":
        Job(stepping.Sizes, items=items, **arguments).run(progress=False)
        job = Job(stepping.Sizes, items=items, **arguments)
    else:
        job = Job(stepping.Greedy, items=items, **arguments)
    with pytest.raises(JobFailed) as caught:
        job.run(progress=False)
    assert caught.value.reason == reason
    with node.database() as database:
        tasks = [task for task in TaskStore(database).list_tasks() if task["job"] == job.id]
    keys = [task["key"] for task in tasks]
    assert len(keys) == len(set(keys)), "no task was tried twice"
    assert [task["reason"] for task in tasks if task["state"] == "failed"] == [reason]


@pytest.mark.feature("BF-06", "BF-05")
def test_all_wait_for_the_slowest_to_be_ready(session: Session) -> None:
    job = Job(
        stepping.Slow, data={"tags": ["scans"]}, training_args={"slow": "node2", "s": 0.5}, session=session
    )
    began = job.run(progress=False).value
    events = list(job.events())
    assert place(events, "state", "node2", state="running") < place(events, "ask", step="step")
    assert min(began["node1"][1], began["node2"][1]) > began["node2"][0], "no step before every set-up"
    late = Job(
        stepping.Slow,
        data={"tags": ["scans"]},
        training_args={"slow": "node2", "s": 20},
        quorum=Quorum(min_nodes=2, deadline_s=1.0),
        session=session,
    )
    with pytest.raises(JobFailed) as failed:
        late.run(progress=False)
    assert failed.value.reason == "start_timeout"


@pytest.mark.feature("BF-60", "BF-12")
def test_local_and_remote_batches_give_the_same(session: Session, federation: Federation) -> None:
    remote = Job(stepping.Total, data="node2/scans", items=Items(batch=2), seed=1, session=session)
    folder = {"path": str(federation.nodes[1].folder / "scans"), "reader": "files"}
    local = Job(stepping.Total, data=folder, nodes="local", items=Items(batch=5), seed=1, home=session.home)
    assert remote.run(progress=False).value == local.run(progress=False).value == 10
    assert type(remote.result) is type(local.result)


def test_what_a_job_cannot_do_in_batches_is_refused(session: Session) -> None:
    from tests.plans import Tiny

    with pytest.raises(SpecError, match="not computed in batches"):
        Job(FedAvg(), training_plan=Tiny, data={"tags": ["scans"]}, items=Items(batch=2), session=session)
    with pytest.raises(SpecError, match="leave training_plan out"):
        Job(stepping.Sizes, training_plan=Tiny, data={"tags": ["scans"]}, session=session)
    with pytest.raises(SpecError, match="don't go together"):
        Job(FedAvg(), training_plan=stepping.Sizes, data={"tags": ["scans"]}, session=session)


@pytest.mark.feature("BF-01", "BF-20", "BF-27")
def test_the_same_step_runs_as_the_plan_coordinates_it(session: Session) -> None:
    plain = Job(stepping.Centred, data={"tags": ["scans"]}, session=session)
    assert plain.run(progress=False).value == {"node1": 1.0, "node2": 2.0}
    twice = Job(stepping.Coordinated, data={"tags": ["scans"]}, rounds=2, session=session)
    assert twice.run(progress=False).value == {"job": twice.id, "spread": {"node1": -0.5, "node2": 0.5}}
    waiting = Job(stepping.Waiting, data={"tags": ["scans"]}, rounds=2, session=session)
    assert waiting.run(progress=False).value == {"job": waiting.id, "spread": {"node1": 0.0}}


def test_a_coordinated_job_goes_on_from_its_breakpoint_without_asking_again(session: Session) -> None:
    job = Job(stepping.Coordinated, data={"tags": ["scans"]}, rounds=2, session=session)
    whole = job.run(progress=False).value
    resumed = Job.resume(job.breakpoints[0], session=session)
    before = len(list(resumed.events()))
    assert resumed.run(progress=False).value == whole
    asked = [event.body["step"] for event in list(resumed.events())[before:] if event.type == "ask"]
    assert asked == ["step"]


@pytest.mark.feature("BF-31")
def test_two_datasets_of_one_node_are_two_tasks(session: Session, federation: Federation) -> None:
    add_files(federation.nodes[0], "labs", {"x": 10, "y": 20})
    job = Job(stepping.Counted, data=["node1/scans", "node1/labs", "node2/scans"], session=session)
    value = job.run(progress=False).value
    assert {name: (own["setups"], own["sizes"]) for name, own in value.items()} == {
        "node1.labs": (1, [2]),
        "node1.scans": (1, [3]),
        "node2": (1, [5]),
    }
    told = {event.node for event in job.events() if event.type == "batch"}
    assert told == set(value)
    states = {event.task: event.node for event in job.events() if event.type == "state" and event.task}
    assert sorted(states.values()) == sorted([*value, *value]), "a task to set up, and one to work"
    with pytest.raises(SpecError, match="2 datasets that match"):
        Job(stepping.Sizes, data=[{"name": "scans"}, {"name": "labs"}], session=session).run(progress=False)


def test_training_goes_on_from_a_breakpoint_over_two_datasets_of_one_node(
    session: Session, federation: Federation
) -> None:
    from tests.integration.test_jobs_over_memory import Toy

    node = federation.nodes[0]
    with node.database() as database:
        Datasets(database).add(describe_dataset("toy2", node.folder / "toy.npz", tags=["toy2"]))
    job = Job(
        FedAvg(),
        training_plan=Toy,
        data=["node1/toy", "node1/toy2"],
        training_args={"lr": 0.1, "num_updates": 2, "batch_size": 5},
        rounds=2,
        seed=3,
        session=session,
    )
    whole = job.run(progress=False).params
    resumed = Job.resume(job.breakpoints[0], session=session).run(progress=False).params
    assert all(bool((whole[name] == resumed[name]).all()) for name in whole)


@pytest.mark.feature("BF-38")
def test_a_node_never_coordinates_and_a_researcher_never_steps(session: Session) -> None:
    here = os.getpid()
    job = Job(stepping.Traced, data={"tags": ["scans"]}, training_args={"here": here}, session=session)
    assert job.run(progress=False).value == {
        "coordinated by": here,
        "answers": ["node1 False", "node2 False"],
    }


@pytest.mark.feature("BF-36")
@pytest.mark.parametrize("nodes", [["node1"], None], ids=["one", "several"])
def test_the_primary_file_of_several_is_the_artifact(session: Session, nodes: list[str] | None) -> None:
    job = Job(stepping.Report, data={"tags": ["scans"]}, nodes=nodes, session=session)
    result = job.run(progress=False)
    assert result.artifact.name == "report.csv"
    notes = {"notes.txt": 3} if nodes else {"node1.notes.txt": 3, "node2.notes.txt": 5}
    assert set(result.artifacts) == {"report.csv", "value.mpk", *notes}
    for name, count in notes.items():
        assert result.artifacts[name].check().read_text() == f"{count} files"
    rows = result.artifact.check().read_text().splitlines()
    assert rows[:2] == (["file,size", "0,0"] if nodes else ["node,file,size", "node1,0,0"])
    assert len(rows) == 1 + sum(notes.values())
    value = result.value if nodes else result.value["node1"]
    assert value["sum"] == 3


@pytest.mark.feature("BF-48")
def test_what_a_node_remembers_and_what_a_home_lists_is_per_project(
    session: Session, federation: Federation
) -> None:
    add_files(federation.nodes[0], "shared", {"a": 1, "b": 2})

    def run(project: str) -> Any:
        items = Items(only="new")
        job = Job(stepping.Sizes, data="node1/shared", items=items, project=project, session=session)
        return job.run(progress=False).value

    assert run("lungs") == [1, 2]
    assert run("hearts") == [1, 2], "another project has not seen them"
    with pytest.raises(JobFailed) as nothing:
        run("lungs")
    assert nothing.value.reason == "no_new_data"
    assert [len(session.jobs(project=name)) for name in ("lungs", "hearts", "brains")] == [2, 1, 0]
    with federation.nodes[0].database() as database:
        rows = database.rows("SELECT project, count(*) AS n FROM processed GROUP BY project ORDER BY project")
    assert {"hearts": 2, "lungs": 2}.items() <= {row["project"]: row["n"] for row in rows}.items()


class Modest(TorchPlan):
    """Refuses more rows at a time than it is told to."""

    extra_args = ("most",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        if len(inputs) > training_args["most"]:
            raise RuntimeError(f"{len(inputs)} rows are too many")
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


@pytest.mark.feature("BF-49")
def test_a_model_predicts_in_batches_without_ever_holding_all_rows(
    federation: Federation, tmp_path: Path
) -> None:
    local: dict[str, Any] = {
        "data": federation.nodes[0].folder / "toy.npz",
        "nodes": "local",
        "home": tmp_path,
    }
    args = {"num_updates": 1, "batch_size": 5}
    trained = Job(FedAvg(), training_plan=Modest, training_args={**args, "most": 20}, **local).run(
        progress=False
    )
    whole = Job(Inference(trained), **local).run(progress=False).value
    few = Job(Inference(trained), training_args={"most": 6}, items=Items(batch=6), **local)
    assert numpy.allclose(few.run(progress=False).value, whole)
    assert [body["n"] for body in told(few, "local") if "n" in body] == [1, 2, 3, 4]


@pytest.mark.feature("BF-50")
def test_training_can_be_tried_on_a_few_rows(federation: Federation, tmp_path: Path) -> None:
    data = federation.nodes[0].folder / "toy.npz"
    args = {"num_updates": 1, "batch_size": 5, "most": 5}
    trial = Job(
        FedAvg(),
        training_plan=Modest,
        training_args=args,
        data=data,
        nodes="local",
        items=Items(limit=5),
        home=tmp_path,
    )
    result = trial.run(progress=False)
    assert result.test
    assert {row.num_examples for row in result.rows} == {5}


class Enough(Hook):
    """Ends a job after its first round."""

    name = "enough"

    def round_done(self, report: RoundReport) -> str | None:
        return "enough"


def test_a_coordinated_job_that_is_ended_early_gives_its_last_answers(
    federation: Federation, tmp_path: Path
) -> None:
    data = {node.name: {"path": node.folder / "scans", "reader": "files"} for node in federation.nodes}
    job = Job(stepping.Coordinated, data=data, nodes="local", rounds=2, hooks=[Enough()], home=tmp_path)
    assert job.run(progress=False).value == {"node1": 1.0, "node2": 2.0}
