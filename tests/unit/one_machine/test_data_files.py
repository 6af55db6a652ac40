"""The files that are made of what a federation on one machine is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import fedjob
from fedjob.common.errors import SpecError
from fedjob.one_machine.data_files import as_file, named_data
from fedjob.one_machine.janitor import MARK, remove_sandbox

PATIENTS = pd.DataFrame({"age": [61, 70], "sex": ["f", "m"], "crp": [1.5, np.nan], 7: [True, False]})


def test_a_table_keeps_its_values_and_loses_its_index(tmp_path: Path) -> None:
    path = as_file(PATIENTS.set_axis(["a", "b"]), tmp_path / "new" / "data", "clinic-1/data")
    assert path == tmp_path / "new" / "data.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), PATIENTS.rename(columns=str))


X, Y = np.arange(6, dtype="float32").reshape(3, 2), np.array([0, 1, 1])


class Pairs:
    """A dataset of two rows, as torch takes them."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        (torch.tensor(X), torch.tensor(Y)),
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
        Pairs([(X[row], int(Y[row])) for row in range(3)]),
    ],
    ids=["arrays", "list", "tensors", "TensorDataset", "own Dataset"],
)
def test_inputs_and_targets_are_the_arrays_x_and_y(data: Any, tmp_path: Path) -> None:
    with np.load(as_file(data, tmp_path / "data", "clinic-1/data")) as arrays:
        assert arrays["x"].dtype == np.float32
        np.testing.assert_array_equal(arrays["x"], X)
        np.testing.assert_array_equal(arrays["y"], Y)


def test_a_file_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,b\n1,2\n")
    assert as_file(str(tmp_path / "own.csv"), tmp_path / "data", "clinic-1/data") == tmp_path / "own.csv"
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


WRONG = {
    "a file that is not there": ("no/such.csv", r"clinic-1/data are not there: .*no/such\.csv"),
    "an empty table": (pd.DataFrame({"a": []}), "1 columns and 0 rows"),
    "a table without columns": (pd.DataFrame(index=[0, 1]), "0 columns and 2 rows"),
    "two columns of one name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named a"),
    "a column of several types": (pd.DataFrame({"a": [1, "x", None]}), "can't be written as parquet"),
    "one array": (X, "one array"),
    "unequal rows": ((X, Y[:2]), r"shapes \[3, 2\] and \[2\]"),
    "no rows": ((X[:0], Y[:0]), "1 or more"),
    "objects": ((np.array([{}, {}], dtype=object), Y[:2]), "objects"),
    "a number": (3, "pandas DataFrame, a path"),
    "three arrays": ((X, Y, Y), "pandas DataFrame, a path"),
    "rows that are no pairs": (Pairs([1, 2]), "no pairs"),
    "an empty Dataset": (Pairs([]), "no pairs"),
    "rows of several shapes": (Pairs([(X[0], 0), (X, 1)]), "not of one shape"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_other_data_are_refused_with_the_node_they_were_for(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message) as error:
        as_file(data, tmp_path / "data", "clinic-1/data")
    assert "clinic-1/data" in str(error.value)


def test_a_node_has_one_dataset_several_or_none() -> None:
    assert named_data("clinic-1", "a.csv", "heart") == {"heart": "a.csv"}
    assert named_data("clinic-1", {"a": 1, "b": 2}, "heart") == {"a": 1, "b": 2}
    assert named_data("clinic-1", None, "heart") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "nodes|missing"),
        (({},), "map from node ids to data"),
        (([PATIENTS],), "map from node ids to data"),
        (({"Clinic 1": PATIENTS},), "a party is named by"),
        (({"../up": PATIENTS},), "a party is named by"),
        (({3: PATIENTS},), "a party is named by"),
        (({"researcher": PATIENTS},), "a name of the federation's own"),
        (({"hub": PATIENTS},), "a name of the federation's own"),
        (({"clinic-1": {}},), "empty map of datasets"),
        (({"clinic-1": {"../up": PATIENTS}},), "a dataset is named by"),
        (({f"clinic-{number}": PATIENTS for number in range(33)},), "at most 32 nodes"),
    ],
)
def test_a_federation_that_can_not_be_is_refused_before_anything_is_started(
    given: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        fedjob.sandbox_federation(*given)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"approve": "some"}, "'all' or 'ask'"),
        ({"port": 70000}, "0 to 65535"),
        ({"port": -1}, "whole number"),
        ({"timeout_s": 0}, "timeout_s is a number above 0"),
        ({"name": "a b"}, "a dataset is named by"),
        ({"aprove": "ask"}, "approve"),
    ],
)
def test_a_wrong_option_of_a_federation_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        fedjob.sandbox_federation({"clinic-1": PATIENTS}, **option)


def test_only_a_folder_with_the_mark_is_removed(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").touch()
    assert not remove_sandbox(tmp_path / "own")
    assert (tmp_path / "own" / "thesis.tex").exists()
    (tmp_path / "own" / MARK).touch()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert remove_sandbox(tmp_path / "own")
    assert not (tmp_path / "own").exists()
