"""What a job may be asked to do: train a network, fit a regression, call a function; one class for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import FedAvg, Job, SklearnPlan, TorchPlan
from fedjob.common.errors import SpecError
from tests import remote
from tests.data import TRAINING, make_points
from tests.integration.test_functions import write_table
from tests.plans import Tiny
from tests.predicted import predicted


class SmallCnn(TorchPlan):
    """Two classes of small pictures."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 4, 2)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32)[:, None], torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)


class Regression(SklearnPlan):
    """A straight line by stochastic gradient descent."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        from sklearn.linear_model import SGDRegressor

        return SGDRegressor(random_state=1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()


def local(operation: Any, folder: Path, **more: Any) -> Job:
    return Job(operation, nodes="local", home=folder, **more)


def test_train_cnn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(20, 6, 6)).astype("float32"), y=rng.integers(0, 2, 20))
    args = {"num_updates": 3, "batch_size": 5}
    job = local(FedAvg(), tmp_path, training_plan=SmallCnn, data=tmp_path / "x.npz", training_args=args)
    assert "0.weight" in job.run(progress=False).params


@pytest.mark.feature("TB-02")
def test_regression(tmp_path: Path) -> None:
    table = write_table(tmp_path / "line.csv", x=[0.1, 0.4, 0.5, 0.9] * 5, y=[1.0, 2.0, 3.0, 4.0] * 5)
    args = {"num_updates": 5, "batch_size": 4}
    model_args = {"num_features": 1}
    job = local(
        FedAvg(), tmp_path, training_plan=Regression, data=table, training_args=args, model_args=model_args
    )
    assert job.run(progress=False).model().coef_.shape == (1,)


@pytest.mark.feature("TB-04")
@pytest.mark.parametrize("form", ["protocol", "class", "name", "file", "function", "function in a file"])
def test_whatever_says_what_to_run_makes_a_job(tmp_path: Path, form: str) -> None:
    points = make_points(tmp_path / "p.npz", 30, 1)
    table = write_table(tmp_path / "t.csv", A=[1, 2])
    training = {"training_plan": Tiny, "training_args": TRAINING, "data": points}
    plans = Path(__file__).parents[1] / "plans.py"
    made = {
        "protocol": lambda: local(FedAvg(), tmp_path, **training),
        "class": lambda: local(FedAvg, tmp_path, **training),
        "name": lambda: local("fedavg", tmp_path, **training),
        "file": lambda: local("fedavg", tmp_path, **{**training, "training_plan": f"{plans}:Tiny"}),
        "function": lambda: local(remote.sums, tmp_path, data=table),
        "function in a file": lambda: local(f"{remote.__file__}:sums", tmp_path, data=table),
    }[form]()
    assert made.spec.protocol.name == ("function" if "function" in form else "fedavg")
    assert made.run(progress=False).kind == ("value" if "function" in form else "params")


@pytest.mark.feature("TB-02", "TB-04", "TB-55")
@pytest.mark.parametrize("form", ["result", "artifact"])
def test_inference_with_a_trained_result_predicts_for_every_row(tmp_path: Path, form: str) -> None:
    points = make_points(tmp_path / "p.npz", 30, 1)
    trained = local(FedAvg(), tmp_path, training_plan=Tiny, training_args=TRAINING, data=points)
    result = trained.run(progress=False)
    operation = result if form == "result" else result.artifact
    job = local(operation, tmp_path, data=points)
    assert job.spec.protocol.name == "inference"
    assert job.spec.plan_hash == trained.spec.plan_hash
    predictions = job.run(progress=False).value
    np.testing.assert_array_equal(predictions, predicted(result, points))


def test_a_trained_result_brings_its_plan_and_its_parameters(tmp_path: Path) -> None:
    points = make_points(tmp_path / "p.npz", 30, 1)
    trained = local(FedAvg(), tmp_path, training_plan=Tiny, training_args=TRAINING, data=points)
    result = trained.run(progress=False)
    with pytest.raises(SpecError, match="brings its own plan"):
        local(result, tmp_path, data=points, training_plan=Tiny)
    with pytest.raises(SpecError, match="leave init out"):
        local(result, tmp_path, data=points, init=result)
