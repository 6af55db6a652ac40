"""Loading plans of tables, data for a plan's own Dataset class, and readers of other packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import fedjob
from fedjob import FedAvg, Job, TorchPlan
from fedjob.common.errors import SpecError
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers import find_reader
from fedjob.data.readers.loading_plan import loading_plan, read_loading_plan


def people(folder: Path) -> Path:
    path = folder / "people.csv"
    pd.DataFrame({"ALTER": [61, 47], "KRANK": [1, 0], "site": [3, 3]}).to_csv(path, index=False)
    return path


LOADING = {"columns": {"age": "ALTER", "ill": "KRANK"}}


def test_columns_have_the_names_that_plans_use(tmp_path: Path) -> None:
    path = people(tmp_path)
    dataset = open_dataset({"path": path, "options": {"target": "ill"}, "loading": LOADING})
    assert list(dataset.frame()) == ["age", "ill", "site"]
    assert dataset.arrays()[1].tolist() == [1, 0]
    assert [column["name"] for column in describe(path, "csv", {}, LOADING)["columns"]] == [
        "age",
        "ill",
        "site",
    ]
    steps = [{"step": "select", "columns": ["age"]}]
    assert list(open_dataset({"path": path, "loading": LOADING, "preprocess": steps}).frame()) == ["age"]


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"columns": {"age": "AGE"}}, "the column 'AGE', which is not there; there are ALTER, KRANK, site"),
        ({"columns": {"site": "ALTER"}}, "two columns are called 'site'"),
        ({"columns": {"a": "ALTER", "b": "ALTER"}}, "'ALTER' has several"),
        ({"modalities": {"T1": ["T1"]}}, "it has no modalities to name"),
        ({"colums": {}}, "no part 'colums'"),
        ({"columns": {"age": 3}}, "a loading plan is"),
        ({"modalities": {"T1": []}}, "'T1' has none"),
    ],
)
def test_a_loading_plan_that_does_not_fit_says_why(plain: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=words):
        open_dataset({"path": people(tmp_path), "loading": plain})


def test_an_owner_writes_it_as_json_or_toml(tmp_path: Path) -> None:
    json, toml = tmp_path / "plan.json", tmp_path / "plan.toml"
    json.write_text('{"columns": {"age": "ALTER"}, "modalities": {"T1": "T1w"}}')
    toml.write_text('[columns]\nage = "ALTER"\n[modalities]\nT1 = ["T1w"]\n')
    assert read_loading_plan(json) == read_loading_plan(toml)
    assert read_loading_plan(toml).to_plain() == {"columns": {"age": "ALTER"}, "modalities": {"T1": ["T1w"]}}
    assert loading_plan({}).to_plain() == {}
    for wrong in ("[", "3", '["age"]'):
        json.write_text(wrong)
        with pytest.raises(SpecError, match=r"plan\.json"):
            read_loading_plan(json)


class Lines(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The lines of a file."""

    def __init__(self, path: Path, size: int = 1) -> None:
        self.lines = path.read_text().split() * size

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, place: int) -> str:
        return self.lines[place]


def test_a_plans_own_dataset_class_gets_the_place_and_no_more_rows_than_were_registered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lines.bin"
    path.write_text("a b c")
    dataset: Any = open_dataset({"path": path, "reader": "torch", "options": {"rows": "4"}})
    assert dataset.num_rows == 4
    assert dataset.build(Lines)[2] == "c"
    with pytest.raises(SpecError, match="Lines has 6 examples; its owner registered 4"):
        dataset.build(Lines, size=2)
    with pytest.raises(SpecError, match="takes a Dataset class"):
        dataset.build(Lines(path))
    with pytest.raises(SpecError, match="register --option rows=N, found ''"):
        describe(path, "torch")


class Digits(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Numbers of a file and whether they are large."""

    def __init__(self, path: Path) -> None:
        self.numbers = [float(word) for word in path.read_text().split()]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        number = torch.tensor([self.numbers[place]])
        return number, (number > 5).float()


class OwnDataset(TorchPlan):
    """A plan that brings the class that reads the data: its text is part of what owners approve."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(1, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.build(Digits)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)


def test_a_plan_trains_on_a_dataset_class_that_is_part_of_its_approved_text(tmp_path: Path) -> None:
    path = tmp_path / "digits.bin"
    path.write_text("1 9 2 8")
    data = {"path": path, "reader": "torch", "options": {"rows": "4"}}
    args = {"num_updates": 2, "batch_size": 2}
    job = Job(
        FedAvg(),
        training_plan=OwnDataset,
        data=data,
        training_args=args,
        nodes="local",
        home=tmp_path / "home",
    )
    assert "class Digits" in job.training_plan_file.read_text()
    job.run(progress=False)
    assert job.result.params["weight"].shape == (1, 1)


PLUG_IN = """\
import json
import os
import pandas
from fedjob.data.readers.base import Reader
from fedjob.data.readers.table import TableDataset


class RecordsDataset(TableDataset):
    def read(self):
        assert os.environ.get("WARD_KEY", "node-held")      # credentials are the node's: nothing of them travels
        return pandas.DataFrame(json.loads(self.path.read_text()))


class RecordsReader(Reader):
    name = "ward-records"
    options = {"target": "the target"}

    def open(self, path, options=None, *, name="", tags=()):
        checked, given = self.check(path, options)
        return RecordsDataset(checked, given, name=name, tags=tags)
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> Iterator[Path]:
    """A package with a reader, installed as pip would; yields a file that it reads."""
    packages = tmp_path / "packages"
    about = packages / "ward_reader-1.0.dist-info"
    about.mkdir(parents=True)
    (packages / "ward_reader.py").write_text(PLUG_IN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-reader\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedjob.reader]\nward-records = ward_reader:RecordsReader\n")
    data = tmp_path / "records.ward"
    data.write_text('[{"age": 61, "ill": 1}, {"age": 47, "ill": 0}]')
    sys.path.insert(0, str(packages))
    yield data
    sys.path.remove(str(packages))
    sys.modules.pop("ward_reader", None)


@fedjob.function
def mean_age(dataset):  # type: ignore[no-untyped-def]
    return float(dataset.frame()["age"].mean())


@pytest.mark.feature("BF-30")
def test_a_reader_of_another_package_is_registered_described_and_computed_on(
    plug_in: Path, tmp_path: Path
) -> None:
    assert describe(plug_in, "ward-records")["num_rows"] == 2
    data = {"path": plug_in, "reader": "ward-records"}
    job = Job(mean_age, data=data, nodes="local", home=tmp_path / "home")
    job.run(progress=False)
    assert job.result.value == 54.0


def test_without_the_package_its_reader_is_not_known() -> None:
    with pytest.raises(SpecError, match="there is no reader 'ward-records'"):
        find_reader("ward-records")
