"""A plan is tried on made-up rows: what is surely wrong is found, and an honest plan is never refused."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from fedjob.common.types import new_job_id
from fedjob.researcher.runner.batch_trial import PublishedColumns, fault_of, try_plan
from fedjob.researcher.runner.made_up_data import KINDS, TYPES, made_up_tables
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash

SCHEMA = {"age": "int", "sex": "string", "chol": "float", "smoker": "bool", "ward": "string", "sick": "int"}
NUMBERS = {"a": "float", "b": "float", "c": "int", "y": "int"}

_TEXT = """
import numpy as np
import pandas as pd
import torch
from fedjob import TorchPlan


class Net(TorchPlan):
    def init_model(self, model_args):
        return {model}

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD({parameters}, lr=training_args["lr"])

    def training_data(self, dataset, training_args):
{data}

    def training_step(self, model, batch):
        inputs, targets = batch
{step}
"""

_STEP = "return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets.float())"
_OF_ARRAYS = (
    "inputs, targets = dataset.arrays()\nreturn torch.as_tensor(inputs), torch.as_tensor(targets).float()"
)


def plan(
    data: str,
    *,
    model: str = "torch.nn.Linear(3, 1)",
    step: str = _STEP,
    parameters: str = "model.parameters()",
) -> PlanSource:
    text = _TEXT.format(
        model=model,
        parameters=parameters,
        data=textwrap.indent(textwrap.dedent(data), " " * 8),
        step=textwrap.indent(step, " " * 8).replace(" " * 8 + "def ", " " * 4 + "def "),
    )
    return PlanSource(text, "Net", plan_hash(text))


def spec(**changes: object) -> JobSpec:
    about: dict[str, object] = {
        "id": new_job_id(),
        "protocol": Component(name="fedavg"),
        "rounds": 1,
        "seed": 1,
        "training_args": {"lr": 0.1, "batch_size": 8},
        "datasets": {"a": {"name": "t"}},
        **changes,
    }
    return JobSpec(**about)  # type: ignore[arg-type]


def fault(source: PlanSource, schema: dict[str, str]) -> str:
    return fault_of(source, {}, {"lr": 0.1, "batch_size": 8}, schema)


_FAULTY = {
    "a column that is not there": (
        plan(
            'frame = dataset.frame()\nreturn frame[["age", "cholesterol"]].to_numpy("float32"), frame["sick"].to_numpy()'
        ),
        SCHEMA,
        "no column 'cholesterol'",
    ),
    "a target that is not there": (
        plan('frame = dataset.frame()\nreturn frame[["age"]].to_numpy("float32"), frame["ill"].to_numpy()'),
        SCHEMA,
        "no column 'ill'",
    ),
    "a column that is not there, after rows were left out": (
        plan(
            'frame = dataset.frame().dropna()\nreturn frame[["agee"]].to_numpy("float32"), frame["sick"].to_numpy()'
        ),
        SCHEMA,
        "no column 'agee'",
    ),
    "another number of features": (plan(_OF_ARRAYS, model="torch.nn.Linear(13, 1)"), NUMBERS, "3 features"),
    "another number of named features": (
        plan(
            'frame = dataset.frame()\nreturn frame[["age", "chol"]].fillna(0).to_numpy("float32"), frame["sick"].fillna(0).to_numpy("float32")'
        ),
        SCHEMA,
        "2 features",
    ),
    "float64 for a float32 layer": (
        plan(
            'frame = dataset.frame()\nreturn torch.as_tensor(frame[["a", "b", "c"]].to_numpy("float64", na_value=0.0)), torch.as_tensor(frame["y"].to_numpy("float64", na_value=0.0))'
        ),
        NUMBERS,
        "dtype",
    ),
    "arrays of texts": (plan(_OF_ARRAYS), SCHEMA, "does not hold numbers"),
    "an optimizer of nothing": (
        plan(_OF_ARRAYS, model="torch.nn.Linear(3, 1)", parameters="[]"),
        NUMBERS,
        "optimizer got an empty parameter list",
    ),
    "a method of its own that is called wrongly": (
        plan(_OF_ARRAYS, step="return self.loss_of(model)\n\ndef loss_of(self, model, batch):\n    return 0"),
        NUMBERS,
        "missing 1 required",
    ),
}


@pytest.mark.parametrize("name", _FAULTY)
def test_what_no_values_cause_is_found(name: str) -> None:
    source, schema, words = _FAULTY[name]
    found = fault(source, schema)
    assert words in found
    assert "line" in found, "where in the plan"


_HONEST = {
    "it fits": (plan(_OF_ARRAYS), NUMBERS),
    "categories become columns": (
        plan(
            'frame = pd.get_dummies(dataset.frame().dropna(), dtype="float32")\nreturn frame.drop(columns="sick").to_numpy("float32"), frame["sick"].to_numpy("float32")',
            model="torch.nn.Linear(17, 1)",
        ),
        SCHEMA,
    ),
    "a column of a category is taken": (
        plan(
            'frame = pd.get_dummies(dataset.frame())\nreturn frame[["sex_M"]].to_numpy("float32"), frame["sick"].to_numpy()'
        ),
        SCHEMA,
    ),
    "columns of categories are made by hand": (
        plan(
            'frame = dataset.frame()\nfor sex in frame["sex"].dropna().unique():\n    frame[f"sex_{sex}"] = frame["sex"] == sex\nreturn frame[["sex_M", "sex_F"]].to_numpy("float32"), frame["sick"].to_numpy()'
        ),
        SCHEMA,
    ),
    "values are looked up": (
        plan(
            'frame = dataset.frame()\ncodes = [{"M": 0.0, "F": 1.0}[sex] for sex in frame["sex"]]\nreturn np.array(codes, "float32")[:, None], frame["sick"].to_numpy()'
        ),
        SCHEMA,
    ),
    "constant columns are left out": (
        plan(
            "inputs, targets = dataset.arrays()\nkeep = np.nanstd(inputs, axis=0) > 0\nreturn torch.as_tensor(inputs[:, keep]), torch.as_tensor(targets).float()",
            model="torch.nn.Linear(2, 1)",
        ),
        NUMBERS,
    ),
    "correlated columns are left out": (
        plan(
            'frame = dataset.frame()\nframe = frame.astype("float64").fillna(0)\nuse = [c for c in ("a", "b", "c") if abs(np.corrcoef(frame[c], frame["y"])[0, 1]) > 0.9]\nreturn frame[use].to_numpy("float32"), frame["y"].to_numpy("float32")',
            model="torch.nn.Linear(2, 1)",
        ),
        NUMBERS,
    ),
    "columns that are mostly empty are left out": (
        plan(
            'frame = dataset.frame().dropna(axis=1)\nreturn frame.to_numpy("float32")[:, :-1], frame.iloc[:, -1].to_numpy("float32")',
            model="torch.nn.Linear(2, 1)",
        ),
        NUMBERS,
    ),
    "a column is taken if it is there": (
        plan(
            'frame = dataset.frame()\ntry:\n    ages = frame["years"]\nexcept KeyError:\n    ages = frame["age"]\nreturn ages.fillna(0).to_numpy("float32")[:, None], frame["sick"].fillna(0).to_numpy("float32")',
            model="torch.nn.Linear(1, 1)",
        ),
        SCHEMA,
    ),
    "a column is asked for with a default": (
        plan(
            'frame = dataset.frame()\nages = frame.get("years", frame["age"])\nreturn ages.fillna(0).to_numpy("float32")[:, None], frame["sick"].fillna(0).to_numpy("float32")',
            model="torch.nn.Linear(1, 1)",
        ),
        SCHEMA,
    ),
    "a name is given to a column": (
        plan(
            'frame = dataset.frame().rename(columns={"age": "years"})\nreturn frame[["years"]].fillna(0).to_numpy("float32"), frame["sick"].fillna(0).to_numpy("float32")',
            model="torch.nn.Linear(1, 1)",
        ),
        SCHEMA,
    ),
    "dates in texts": (
        plan(
            'frame = dataset.frame()\nyears = pd.to_datetime(frame["ward"]).dt.year\nreturn years.to_numpy("float32")[:, None], frame["sick"].to_numpy()'
        ),
        SCHEMA,
    ),
    "rows are chosen by a value": (
        plan(
            'frame = dataset.frame()\nframe = frame[frame["ward"] == "cardiology"]\nreturn frame[["age"]].to_numpy("float32"), frame["sick"].to_numpy()'
        ),
        SCHEMA,
    ),
    "few rows are refused by the plan itself": (
        plan(
            'frame = dataset.frame()\nif len(frame) < 1000:\n    raise ValueError("too few rows")\nreturn None'
        ),
        SCHEMA,
    ),
    "labels out of the classes that are made up": (
        plan(
            _OF_ARRAYS.replace(".float()", ".long()"),
            model="torch.nn.Linear(3, 2)",
            step="return torch.nn.functional.cross_entropy(model(inputs), targets - 1)",
        ),
        NUMBERS,
    ),
    "a target of another type, which the owner names": (
        plan(
            "inputs, targets = dataset.arrays()\nreturn torch.as_tensor(inputs), torch.as_tensor(targets)",
            step="return torch.nn.functional.mse_loss(model(inputs)[:, 0].double(), targets)",
        ),
        {"a": "int", "b": "int", "dose": "float", "y": "int"},
    ),
    "one column of texts that may be the target": (
        plan(_OF_ARRAYS),
        {"a": "float", "b": "float", "c": "int", "kind": "string"},
    ),
    "a file of one's own": (plan('return torch.load("/nowhere/weights.pt")'), NUMBERS),
    "paths in a column": (
        plan(
            'frame = dataset.frame()\nimages = [open(dataset.path / name).read() for name in frame["ward"]]\nreturn images'
        ),
        SCHEMA,
    ),
    "a method of the dataset that the made-up one lacks": (plan("return dataset.volumes()"), NUMBERS),
    "it needs a package that is not here": (plan("import nibabel_of_the_node\nreturn None"), NUMBERS),
    "it runs out of memory": (plan("raise MemoryError"), NUMBERS),
    "it ends its process": (plan("raise SystemError"), NUMBERS),
    "a stream": (
        plan(
            "def rows():\n    inputs, targets = dataset.arrays()\n    yield torch.as_tensor(inputs), torch.as_tensor(targets)\nreturn rows()"
        ),
        NUMBERS,
    ),
    "the number of features is that of the data": (
        plan(_OF_ARRAYS, model="torch.nn.LazyLinear(1)"),
        NUMBERS,
    ),
    "a loss that is not finite": (
        plan(_OF_ARRAYS, step='return model(inputs).sum() * float("nan")'),
        NUMBERS,
    ),
}


@pytest.mark.parametrize("name", _HONEST)
def test_a_plan_that_may_run_at_the_nodes_is_not_refused(name: str) -> None:
    source, schema = _HONEST[name]
    assert fault(source, schema) == ""


def test_made_up_tables_have_the_types_that_are_published() -> None:
    schema = {type_: type_ for type_ in TYPES}
    tables = list(made_up_tables(schema))
    assert len(tables) == len(KINDS) * len(TYPES)
    for table in tables:
        assert {column["name"]: column["type"] for column in table.columns} == schema


@pytest.mark.parametrize(
    "published",
    [
        PublishedColumns(schema=SCHEMA, reader="medical-folder"),
        PublishedColumns(schema=SCHEMA, reader="csv", has_assets=True),
        PublishedColumns(schema={}, reader="csv"),
        PublishedColumns(schema=SCHEMA, reader="csv", asks=False),
        PublishedColumns(schema={**SCHEMA, "when": "datetime"}, reader="parquet"),
        PublishedColumns(schema={f"c{number}": "float" for number in range(100)}, reader="csv"),
    ],
)
def test_where_not_all_is_published_nothing_is_tried(published: PublishedColumns, tmp_path: Path) -> None:
    try_plan(spec(), PlanSource("no python", "Net", plan_hash("no python")), {"a": published}, tmp_path)
    assert list(tmp_path.iterdir()) == [], "what is tried is noted there"


def test_where_the_data_are_prepared_first_nothing_is_tried(tmp_path: Path) -> None:
    prepared = spec(datasets={"a": {"name": "t", "preprocess": [{"step": "select", "columns": ["age"]}]}})
    source = plan("return dataset.frame()['nowhere']")
    try_plan(prepared, source, {"a": PublishedColumns(schema=SCHEMA, reader="csv")}, tmp_path)
    assert list(tmp_path.iterdir()) == []
