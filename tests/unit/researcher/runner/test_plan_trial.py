"""One batch of a plan on made-up rows: what would fail is told from what may, and from what was not tried."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedjob.researcher.runner.batch_trial import PublishedColumns
from fedjob.researcher.runner.plan_trial import TriedDataset, one_batch, try_one_batch
from fedjob.training_plans.source.plan_source import PlanSource

SCHEMA = {"age": "float", "chol": "int", "sex": "string", "sick": "int"}
ARRAYS = {"x": "float32[900, 4]", "y": "int64[900]"}

TEXT = """
import torch
from fedjob import TorchPlan


class Net(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear({width}, 1)

    def init_optimizer(self, model, training_args):
        {before}
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):
        {data}

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs)[:, 0], targets.float())

    def testing_step(self, model, batch):
        inputs, targets = batch
        {test}
"""
FRAME = "t = dataset.frame().dropna(); return t[['age', 'chol']].to_numpy('float32'), t['sick'].to_numpy('float32')"


def outcome(
    schema: dict[str, str] = SCHEMA,
    *,
    data: str = FRAME,
    width: int = 2,
    before: str = "pass",
    test: str = "return model(inputs)[:, 0], targets",
    **training_args: Any,
) -> str:
    order = {
        "text": TEXT.format(data=data, width=width, before=before, test=test),
        "entry": "Net",
        "origins": [],
        "model_args": {},
        "training_args": training_args,
        "schema": list(map(list, schema.items())),
        "arrays": schema is ARRAYS,
    }
    return one_batch(order)


def test_a_plan_that_fits_passes() -> None:
    assert outcome() == "passes"
    assert outcome(test_ratio=0.5, test_metric="mse") == "passes"
    assert outcome(ARRAYS, data="return dataset.arrays()", width=4) == "passes"


FAULTS = {
    "a column that is not there": (
        {"data": FRAME.replace("'chol'", "'cholesterol'")},
        r"fails: there is no column 'cholesterol' \(at plan line 15\)",
    ),
    "another number of features": ({"width": 13}, "fails: the data have 2 features .*13x1.*at plan line"),
    "an argument that some branch takes": (
        {"before": "lr = training_args['lr'] if model else 0"},
        r"fails: training_args has no 'lr': give it to the job \(at plan line 11\)",
    ),
    "a step that can not be measured": (
        {"test": "return model(inputs)[:, 0] @ targets[:-1]", "test_ratio": 0.5},
        "may fail: RuntimeError: .*at plan line",
    ),
    "what values decide": ({"data": "assert len(dataset.frame()) > 1000"}, "may fail: AssertionError"),
}


@pytest.mark.parametrize(("changes", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_the_line_of_the_plan(changes: dict[str, Any], words: str) -> None:
    assert re.match(words, outcome(**changes)), outcome(**changes)


def test_arrays_of_another_width_fail() -> None:
    found = outcome(ARRAYS, data="return dataset.arrays()", width=7)
    assert found.startswith("fails: the data have 4 features where a layer takes others (7x1)")


NOT_TRIED = {
    "images": (PublishedColumns(schema=SCHEMA, reader="images"), "the reader images"),
    "several tables": (PublishedColumns(schema=SCHEMA, reader="csv", has_assets=True), "several tables"),
    "too many columns": (
        PublishedColumns(schema={f"c{n}": "int" for n in range(100)}, reader="csv"),
        "publishes 100 columns",
    ),
    "dates": (PublishedColumns(schema={**SCHEMA, "born": "date"}, reader="csv"), r"born \(date\)"),
    "arrays of text": (PublishedColumns(schema={"x": "<U5[3]"}, reader="npz"), "no values are made up for x"),
    "huge arrays": (PublishedColumns(schema={"x": "float32[9, 9000000]"}, reader="npz"), "216000000 numbers"),
}


@pytest.mark.parametrize(("about", "why"), NOT_TRIED.values(), ids=NOT_TRIED)
def test_what_can_not_be_made_up_is_not_tried_and_says_so(about: PublishedColumns, why: str) -> None:
    dataset = TriedDataset(name="t", about=about, source=PlanSource("", "Net", ""))
    (check,) = try_one_batch({"a": dataset}, {})
    assert check.plan == "not tried"
    assert re.search(why, check.why)
