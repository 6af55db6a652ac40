"""Pictures of what jobs measured: of a model that scikit-learn trains, after training and when it is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from fedjob import Evaluation, FedAvg, Job, SklearnPlan
from fedjob.common.errors import SpecError
from tests.data import make_points


class Logistic(SklearnPlan):
    """The logistic regression of the points."""

    def init_estimator(self, model_args: Any) -> Any:
        return LogisticRegression()

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Job:
    home = tmp_path_factory.mktemp("pictures")
    job = Job(
        FedAvg(),
        training_plan=Logistic,
        data={f"n{k}": str(make_points(home / f"{k}.npz", 60, k)) for k in range(2)},
        nodes="local",
        model_args={"num_features": 4, "classes": [0, 1]},
        training_args={
            "test_ratio": 0.5,
            "test_metric": ["roc_auc", "confusion_matrix"],
            "test_on_global_updates": True,
        },
        rounds=2,
        validate_at_end=True,
        home=home,
    )
    job.run(progress=False)
    return job


def test_curve_calibration_and_matrix_are_those_of_the_model_after_training(
    trained: Job, tmp_path: Path
) -> None:
    result = trained.result
    figure = result.plot("roc", path=tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes[0].get_title() == "ROC of the shared model after round 2"
    history = result.history
    final = history[(history.phase == "validate") & (history.node == "all")].set_index("metric").value
    areas = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any(text.startswith(f"all nodes: {final['roc_auc']:.3f}") for text in areas)
    counts = [int(text.get_text().split()[0]) for text in result.plot("confusion").axes[0].texts]
    assert sum(counts) == 60
    assert (counts[0] + counts[3]) / 60 == pytest.approx(final["confusion_matrix"])
    assert result.plot("calibration").axes
    assert result.plot("roc", round=1).axes[0].get_title() == "ROC of the shared model before round 1"
    assert [axis.get_ylabel() for axis in result.plot("roc_auc").axes] == ["roc_auc"]


def test_what_has_no_picture_says_what_to_do(trained: Job) -> None:
    with pytest.raises(SpecError, match="round= is for the pictures roc, calibration, confusion"):
        trained.result.plot(round=1)
    with pytest.raises(
        SpecError, match=r"asked for roc_curve, the history has .*further pictures are roc, calibration"
    ):
        trained.result.plot("roc_curve")


def test_an_evaluation_has_the_pictures_too(trained: Job, tmp_path: Path) -> None:
    data = {"elsewhere": str(make_points(tmp_path / "elsewhere.npz", 80, 9))}
    job = Job(Evaluation(trained.result), data=data, nodes="local", home=tmp_path)
    job.run(progress=False)
    counts = [int(text.get_text().split()[0]) for text in job.result.plot("confusion").axes[0].texts]
    assert (counts[0] + counts[3]) / sum(counts) == pytest.approx(job.result.value["all"]["confusion_matrix"])
    assert job.result.plot("roc").axes
