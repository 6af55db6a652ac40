"""Pictures of what jobs measured: of a model that scikit-learn trains, after training and when it is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from fedjob import CoxRegression, Evaluation, FedAvg, Job, SklearnPlan, Statistics
from fedjob.common.errors import NotReady, SpecError
from fedjob.researcher.results.pictures.of_result import has_picture
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


def test_a_job_draws_what_fits_it_before_its_result_and_after(trained: Job, tmp_path: Path) -> None:
    assert [axis.get_title() for axis in trained.plot("roc").axes] == [
        "ROC of the shared model after round 2"
    ]
    trained.plot(path=tmp_path / "metrics.png")
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    nodes = trained.plot("participation").axes[0].get_yticklabels()
    assert [label.get_text() for label in nodes] == ["n0", "n1"]
    with pytest.raises(SpecError, match=r'job\.plot\("participation"\)'):
        trained.result.plot("participation")
    with pytest.raises(SpecError, match="further pictures are roc, calibration, confusion, and of the job"):
        trained.plot("loses")
    data = {"n": str(make_points(tmp_path / "n.npz", 60, 1))}
    shape = {"num_features": 4, "classes": [0, 1]}
    draft = Job(FedAvg(), training_plan=Logistic, model_args=shape, data=data, nodes="local", home=tmp_path)
    for what in (None, "roc", "participation"):
        with pytest.raises(NotReady, match=r"job\.run\(\)"):
            draft.plot(what)


def test_whether_there_is_a_picture_is_known_without_drawing(trained: Job, tmp_path: Path) -> None:
    assert has_picture(trained.result, trained.spec.protocol)
    table = tmp_path / "ward.csv"
    table.write_text("age\n" + "".join(f"{40 + k % 23}\n" for k in range(60)))
    for asked, drawn in (
        (Statistics(mean="age"), False),
        (Statistics(histogram={"age": [40, 50, 60]}), True),
    ):
        job = Job(asked, data={"ward": str(table)}, nodes="local", home=tmp_path)
        assert has_picture(job.run(progress=False), job.spec.protocol) is drawn


def test_an_analysis_names_the_pictures_that_it_has(tmp_path: Path) -> None:
    table = tmp_path / "ward.csv"
    table.write_text("age,ill,months\n" + "".join(f"{40 + k % 23},{k % 2},{1 + k % 7}\n" for k in range(60)))
    cox = CoxRegression(duration="months", event="ill", features="age", baseline="shared")
    job = Job(cox, data={"ward": str(table)}, nodes="local", home=tmp_path)
    job.run(progress=False)
    assert job.plot().axes[0].get_title(loc="left") == "Cox regression"
    assert "at the means" in job.plot("survival").axes[0].get_title()
    rows = [{"age": 45}, {"age": 60}]
    for figure in (job.plot(rows=rows), job.result.plot("survival", rows=rows)):
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["age 45", "age 60"]
    for ask, words in {
        (
            lambda: job.plot("forest"),
            "there is no picture 'forest' of this result: there are coefficients, survival",
        ),
        (
            lambda: job.plot("roc", round=1),
            "round= is for roc, calibration, confusion; of this result there are coeff",
        ),
        (
            lambda: job.plot("coefficients", rows=rows),
            "rows= is for the survival that a Cox regression predicts; of this result",
        ),
        (lambda: job.plot(rows=[{"age": k} for k in range(7)]), "a picture has 1 to 6 rows, these are 7"),
    }:
        with pytest.raises(SpecError, match=words):
            ask()
    plain = CoxRegression(duration="months", event="ill", features="age")
    other = Job(plain, data={"ward": str(table)}, nodes="local", home=tmp_path)
    other.run(progress=False)
    with pytest.raises(SpecError, match=r'no node releases.*baseline="shared"'):
        other.plot("survival")
