"""Measuring a trained model at every node, without training it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import Evaluation, FedAvg, Job
from fedjob.common.errors import JobFailed, NoTestingStep, SpecError
from fedjob.researcher.results.result import JobResult
from tests.data import TRAINING, make_points
from tests.plans import Linear, Tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {name: make_points(folder / f"{name}.npz", 40 * (n + 1), n) for n, name in enumerate("ab")}


@pytest.fixture(scope="module")
def trained(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    home = tmp_path_factory.mktemp("trained")
    args: dict[str, Any] = {"training_plan": Tiny, "training_args": TRAINING, "validate_at_end": True}
    return local(FedAvg(), home, data, **args).run(progress=False)


def local(operation: Any, home: Path, data: Any, **more: Any) -> Job:
    return Job(operation, nodes="local", home=home, data=data, **more)


def test_an_evaluation_measures_what_the_training_job_measures_at_its_end(
    trained: JobResult, data: dict[str, Path], tmp_path: Path
) -> None:
    found = local(Evaluation(trained), tmp_path, data).run(progress=False)
    at_end = {row.node: row.value for row in trained.rows if row.phase == "validate"}
    assert {node: values["accuracy"] for node, values in found.value.items()} == at_end
    assert set(found.value) == {"all", "a", "b"}
    assert [row.num_examples for row in found.rows if row.node == "all"] == [30]


def test_a_model_is_evaluated_on_all_rows_of_data_that_it_never_saw(
    trained: JobResult, tmp_path: Path
) -> None:
    points = make_points(tmp_path / "new.npz", 50, 9)
    job = local(Evaluation(trained), tmp_path, points, training_args={"test_ratio": 1.0})
    found = job.run(progress=False).value["all"]["accuracy"]
    arrays = np.load(points)
    with torch.no_grad():
        scores = trained.model().eval()(torch.tensor(arrays["x"], dtype=torch.float32))
    assert found == pytest.approx((scores.argmax(1).numpy() == arrays["y"]).mean())


def test_any_parameters_can_be_evaluated_with_a_plan(
    trained: JobResult, data: dict[str, Path], tmp_path: Path
) -> None:
    args: dict[str, Any] = {"training_plan": Tiny, "training_args": TRAINING}
    given = local(Evaluation(), tmp_path, data, init=trained.params, seed=trained._spec.seed, **args)
    brought = local(Evaluation(trained.artifact), tmp_path, data)
    assert given.run(progress=False).value == brought.run(progress=False).value


def test_a_plan_without_a_testing_step_is_not_evaluated(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NoTestingStep, match=r"Linear lacks testing_step\(self, model, batch\)") as caught:
        local(Evaluation, tmp_path, data, training_plan=Linear, training_args={"lr": 0.1})
    assert caught.value.reason == "no_testing_step"
    args: dict[str, Any] = {"training_plan": Linear, "training_args": {"lr": 0.1}}
    linear = local(FedAvg(), tmp_path, data, **args).run(progress=False)
    with pytest.raises(NoTestingStep):
        local(Evaluation(linear), tmp_path, data)


def test_a_node_without_test_data_says_so(trained: JobResult, data: dict[str, Path], tmp_path: Path) -> None:
    job = local(Evaluation(trained), tmp_path, data, training_args={"test_ratio": 0.0})
    with pytest.raises(JobFailed, match="no_test_data: nothing to validate on"):
        job.run(progress=False)


def test_what_is_no_result_can_not_be_evaluated(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the result of a job that trained"):
        local(Evaluation({"w": torch.zeros(1)}), tmp_path, None)
