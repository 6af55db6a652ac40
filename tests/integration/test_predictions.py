"""Predicting with a trained model in local jobs: the forms that predictions come in, or stay in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob import FedAvg, Inference, Items, Job
from fedjob.common.errors import JobFailed, SpecError
from fedjob.common.values import decode
from fedjob.execution.orders import WorkOrder
from fedjob.execution.workbench import Workbench
from fedjob.researcher.results.result import JobResult
from fedjob.training_plans.source.extraction import extract
from tests.data import TRAINING, make_points
from tests.plans import Tiny
from tests.predicted import predicted

ROWS = 30


class Two(Tiny):
    """A network with two outputs, one of them an image."""

    def inference_step(self, model, batch):  # type: ignore[no-untyped-def]
        scores = model(batch[0])
        shades = (scores.softmax(1)[:, :1, None] * 255).expand(-1, 2, 3).to(torch.uint8)
        return {"shade": shades, "score": scores[:, 1]}


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_points(tmp_path_factory.mktemp("data") / "points.npz", ROWS, 1)


def trained(plan: type[Tiny], points: Path, home: Path) -> JobResult:
    args: dict[str, Any] = {"training_plan": plan, "training_args": TRAINING, "seed": 1}
    return local(FedAvg(), home, points, **args).run(progress=False)


@pytest.fixture(scope="module")
def two(points: Path, tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    return trained(Two, points, tmp_path_factory.mktemp("trained"))


def local(operation: Any, home: Path, data: Any, **more: Any) -> Job:
    return Job(operation, nodes="local", home=home, data=data, **more)


def scores_of(result: JobResult, points: Path) -> np.ndarray[Any, Any]:
    scores: np.ndarray[Any, Any] = predicted(result, points)[:, 1]
    return scores


def test_the_primary_output_is_what_comes_of_a_model_with_several(
    two: JobResult, points: Path, tmp_path: Path
) -> None:
    expected = scores_of(two, points)
    primary = local(Inference(two, primary="score"), tmp_path, points).run(progress=False)
    np.testing.assert_array_equal(primary.value, expected)
    both = local(Inference(two), tmp_path, points).run(progress=False)
    assert both.value["shade"].shape == (ROWS, 2, 3)
    np.testing.assert_array_equal(both.value["score"], expected)
    with pytest.raises(JobFailed, match="no output 'risk'; it has shade, score"):
        local(Inference(two, primary="risk"), tmp_path, points).run(progress=False)


def test_predictions_come_as_a_table_of_numbered_rows(two: JobResult, points: Path, tmp_path: Path) -> None:
    result = local(Inference(two, output="table", primary="score"), tmp_path, points).run(progress=False)
    assert list(result.dataframe.columns) == ["row", "score", *(f"shade_{n}" for n in range(6))]
    assert list(result.dataframe["row"]) == list(range(ROWS))
    np.testing.assert_allclose(result.dataframe["score"], scores_of(two, points), rtol=1e-6)
    batched = local(
        Inference(two, output="table", primary="score"), tmp_path, points, items=Items(batch=7)
    ).run(progress=False)
    pd.testing.assert_frame_equal(batched.dataframe, result.dataframe, atol=1e-6)


@pytest.mark.feature("BF-68")
def test_what_is_not_released_stays_at_the_node_and_only_counts_come(
    two: JobResult, points: Path, tmp_path: Path
) -> None:
    report = local(Inference(two, output="csv", release=False), tmp_path, points)
    assert report.run(progress=False).value == {"num_rows": ROWS, "num_files": 1}
    kept = report.folder / "local" / "outputs" / "local" / "round_0001"
    assert [path.name for path in kept.iterdir()] == ["predictions.csv"]
    assert list(pd.read_csv(kept / "predictions.csv")["item"]) == list(range(ROWS))
    images = local(Inference(two, output="files", release=False), tmp_path, points)
    assert images.run(progress=False).value == {"num_rows": ROWS, "num_files": 2 * ROWS}
    names = sorted(p.name for p in (images.folder / "local" / "outputs" / "local" / "round_0001").iterdir())
    assert names[:2] == ["000000_0_score.npy", "000000_0_shade.png"]
    (told,) = [event for event in images.events(type="result") if "gathered" in event.body]
    assert (told.body["num_rows"], told.body["rows"]) == (ROWS, [])


def test_released_files_come_under_the_items_numbers(two: JobResult, points: Path, tmp_path: Path) -> None:
    found = local(Inference(two, output="files", primary="score"), tmp_path, points).run(progress=False).value
    assert len(found) == 2 * ROWS
    assert found["000029_shade.png"].startswith(b"\x89PNG")


def test_several_rounds_are_several_passes(two: JobResult, points: Path, tmp_path: Path) -> None:
    job = local(Inference(two, output="table"), tmp_path, points, rounds=2)
    frame = job.run(progress=False).dataframe
    assert list(frame["round"]) == [1] * ROWS + [2] * ROWS
    told = [event for event in job.events(type="result") if "gathered" in event.body]
    assert [(event.round, len(event.body["rows"])) for event in told] == [(1, ROWS), (2, ROWS)]
    assert told[0].body["gathered"] <= told[1].body["gathered"]


def test_items_over_a_limit_are_not_remembered_as_worked_on(
    two: JobResult, points: Path, tmp_path: Path
) -> None:
    order = WorkOrder(
        key="k",
        job="j",
        round=1,
        step="infer",
        node="a",
        protocol="inference",
        config={"output": "table"},
        plan_text=extract(Two).text,
        entry="Two",
        dataset={"path": str(points), "reader": "npz"},
        params={"params": str(two.artifact.path)},
        training_args=dict(TRAINING),
        output_path=str(tmp_path),
        scratch_path=str(tmp_path),
        items=Items(only="new", batch=4),
        limits={"inferences_left": 10},
    )
    done = Workbench().perform(order, lambda type_, data: None)
    assert (done.ok, done.reason, done.num_examples, done.overrun) == (
        False,
        "limits_exceeded",
        10,
        ROWS - 10,
    )
    assert list(decode(done.value)["row"]) == list(range(10))
    remembered = json.loads(Path(done.items_path).read_text())
    assert [id_ for id_, _, _ in remembered["processed"]] == [str(place) for place in range(10)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"output": "pickle"}, "one of array, table, csv, files"),
        ({"release": "no"}, "True or False"),
        ({"primary": 3}, r"Inference\(primary=...\) is text, not 3"),
    ],
)
def test_settings_that_do_not_fit_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Inference(**fields)
