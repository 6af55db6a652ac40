"""Predictions at nodes whose owners count them, keep them, or gather new data meanwhile."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob import Evaluation, Inference, Items, Job, TorchPlan
from fedjob.common.errors import JobFailed
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.grants.limits import GrantLimits
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.results.partial import kept_replies
from fedjob.researcher.storage.folder import JobFolder
from tests.e2e.federation import background
from tests.integration.nodes import Federation, Node
from tests.integration.scripted import open_session

ROWS = 20
"""Of the dataset `toy`."""


class Sums(TorchPlan):
    """Adds up the numbers of each row; of files, those that each holds."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        import numpy

        if dataset.of_files:
            rows = numpy.stack([numpy.loadtxt(path, dtype="float32") for path in dataset.items])
            return rows, rows
        inputs, targets = dataset.arrays()
        return inputs, targets

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch[0]).mean()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"))
    found.node("node1", NodeConfig(approval="on", unknown="allow", threads=1)).start()
    found.node("node2", NodeConfig(approval="off", threads=1, worker_memory_mb=2)).start()
    yield found
    found.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.nodes[0]


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def agree(node: Node, project: str, plan: str = "fedjob.infer.*", **limits: Any) -> str:
    """Allow inference, or whatever `plan` covers, in a project, within limits; return the agreement's id."""
    rule = GrantSubject(
        researcher="*",
        key_hex="",
        plan=plan,
        entry="",
        dataset="*",
        use="private",
        project=project,
    )
    with node.database() as database:
        return Grants(database).allow(rule, limits=GrantLimits(**limits), by="owner", anybody=True).id


def predict(session: Session, project: str, **changes: Any) -> Job:
    given: dict[str, Any] = {
        "training_plan": Sums,
        "data": "node1/toy",
        "project": project,
        "session": session,
        "seed": 1,
    }
    operation = changes.pop("operation", Inference(output="table"))
    return Job(operation, **{**given, **changes})


def made(node: Node, agreement: str) -> int:
    """Return how many predictions were asked for under an agreement, as the node has counted them."""
    with node.database() as database:
        return Grants(database).usage.used(agreement)


@pytest.mark.feature("BF-53", "BF-54", "BF-55", "BF-56", "BF-57")
def test_the_allowed_part_is_kept_and_what_is_over_ends_the_task(
    federation: Federation, node: Node, session: Session
) -> None:
    agreement = agree(node, "trial", inferences=30)
    first = predict(session, "trial")
    assert len(first.run(progress=False).dataframe) == ROWS
    assert made(node, agreement) == ROWS
    node.stop()
    node.start()
    second = predict(session, "trial")
    with pytest.raises(JobFailed) as caught:
        second.run(progress=False)
    assert caught.value.reason == "limits_exceeded"
    assert "10 of 20 predictions ran and are kept; 10 were over what the owner allows" in str(caught.value)
    assert (second.state, second.reason) == ("failed", "limits_exceeded")
    kept = second.partial.values["node1"]
    pd.testing.assert_frame_equal(kept, first.result.dataframe.head(10))
    assert made(node, agreement) == 40, "the count goes up by what was asked"
    (replied,) = kept_replies(JobFolder(second.folder), second.spec)[1]
    assert (replied.success, replied.used) == (False, [{"resource": "inferences", "amount": 10}])
    assert (replied.usage.overrun, replied.usage.allowed) == (10, 10)
    assert second.partial.usage == {"node1": (10, 10)}


@pytest.mark.feature("BF-55")
def test_a_limit_that_is_reached_exactly_completes_the_job_and_ends_it(node: Node, session: Session) -> None:
    agreement = agree(node, "exact", inferences=ROWS)
    job = predict(session, "exact", rounds=5)
    assert len(job.run(progress=False).dataframe) == ROWS
    assert (job.result.replies.keys(), made(node, agreement)) == ({1}, ROWS)
    assert job.result.replies[1].get("node1").usage == (0, ROWS)
    assert job.partial.usage == {"node1": (0, ROWS)}


@pytest.mark.feature("BF-68")
def test_an_owner_has_predictions_stay_whatever_the_job_asks(node: Node, session: Session) -> None:
    agree(node, "inside", predictions="stay")
    job = predict(session, "inside")
    assert job.run(progress=False).value == {"num_rows": ROWS, "num_files": 1}
    kept = node.home.outputs / job.id / "toy" / "round_0001" / "predictions.csv"
    found = pd.read_csv(kept)
    x = np.load(node.folder / "toy.npz")["x"]
    np.testing.assert_allclose(found["prediction"], x.sum(axis=1), rtol=1e-5)
    assert all(event.body.get("rows") in ([], None) for event in job.events(type="result"))


class Measured(Sums):
    """Says how far it is off."""

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch[0]), batch[1]


class Wide(Sums):
    """More parameters than a small node lets a worker have."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 300_000)


def test_evaluating_and_predicting_at_a_node_is_what_a_local_job_does(
    node: Node, session: Session, tmp_path: Path
) -> None:
    data = node.folder / "toy.npz"
    asked: dict[str, Any] = {"training_plan": Measured, "seed": 3, "training_args": {"test_ratio": 0.5}}
    agree(node, "both", plan="*")
    for operation in (Evaluation(), Inference()):
        remote = predict(session, "both", operation=operation, **asked).run(progress=False)
        local = Job(operation, data=data, nodes="local", as_node="node1", home=tmp_path, **asked)
        np.testing.assert_equal(remote.value, local.run(progress=False).value)


def test_a_model_that_needs_more_memory_than_the_node_gives_is_named(
    federation: Federation, session: Session
) -> None:
    job = predict(session, "", training_plan=Wide, data="node2/toy")
    with pytest.raises(JobFailed, match=r"parameters have 3\.433 MB; a worker may have 2 MB here") as caught:
        job.run(progress=False)
    assert caught.value.reason == "out_of_memory"


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)
    return found


@pytest.mark.feature("TB-76", "TB-80")
def test_what_is_gathered_while_a_job_runs_is_predicted_until_it_is_stopped(
    node: Node, session: Session
) -> None:
    folder = node.folder / "readings"
    folder.mkdir()
    (folder / "0.txt").write_text("1 2")
    (folder / "1.txt").write_text("3 4")
    with node.database() as database:
        Datasets(database).add(describe_dataset("readings", folder, reader="files"))
    agreement = agree(node, "ward", inferences=8)
    job = predict(
        session,
        "ward",
        operation=Inference(),
        data="node1/readings",
        items=Items(only="new"),
        rounds=None,
        every_s=0.3,
    )
    told: list[Any] = []

    def put(folder_name: str, *readings: str) -> None:
        """Put files there all at once: the node may look at any time."""
        fresh = node.folder / folder_name
        fresh.mkdir()
        for number, numbers in enumerate(readings):
            (fresh / f"{number}.txt").write_text(numbers)
        fresh.rename(folder / folder_name)

    def passes(count: int) -> bool:
        told[:] = [event for event in job.events(type="result") if "gathered" in event.body]
        return len(told) >= count

    with background(lambda: job.run(progress=False)) as running:
        until(lambda: passes(1), "the first pass")
        put("day", "5 6")
        until(lambda: passes(2), "the second pass")
        put("night", *["7 8"] * 4)  # more than there were when the data were registered
        until(lambda: passes(3), "the third pass")
        assert job.stop()
        running.result(timeout=60)
    assert [event.body["rows"] for event in told] == [[[3.0], [7.0]], [[11.0]], [[15.0]] * 4]
    gathered = [event.body["gathered"] for event in told]
    assert gathered == sorted(gathered)
    assert job.result.value.ravel().tolist() == [3.0, 7.0, 11.0, *[15.0] * 4]
    assert made(node, agreement) == 7
    assert job.result.partial.values["node1"].ravel().tolist() == job.result.value.ravel().tolist()
