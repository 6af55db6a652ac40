"""Numbers of numpy as arguments: they count as Python's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedjob import Job, LinearRegression, SpecError
from fedjob.common.checks import check_count, check_positive, is_number, python_numbers
from fedjob.common.codec import pack, unpack
from fedjob.common.errors import EncodeError
from fedjob.training_plans.training_args import TrainingArgs


def test_numbers_of_numpy_pass_every_check() -> None:
    assert type(check_count("n", np.int64(3))) is int
    check_positive("rate", np.float32(0.5))
    assert is_number(np.float32(1))
    assert not is_number(np.float32("nan"))
    assert not is_number(np.bool_(True))
    with pytest.raises(SpecError):
        check_count("n", np.float64(3))


def test_numbers_of_numpy_become_pythons_own_however_deep_they_lie() -> None:
    given = {
        "a": [np.int8(1), (np.float64(0.5), np.bool_(True))],
        "b": np.array([1, 2]),
        "c": np.str_("x"),
        "d": None,
    }
    found = python_numbers(given)
    assert found == {"a": [1, (0.5, True)], "b": [1, 2], "c": "x", "d": None}
    assert type(found["a"][0]) is int


def test_numbers_of_numpy_are_packed_and_arrays_are_not() -> None:
    assert unpack(pack({"rate": np.float32(0.5), "n": np.int64(3)})) == {"rate": 0.5, "n": 3}
    with pytest.raises(EncodeError):
        pack(np.array([1, 2]))


def test_training_arguments_take_numbers_of_numpy() -> None:
    args = TrainingArgs.parse({"epochs": np.int64(2), "batch_size": np.int32(8), "lr": np.float32(0.5)})
    assert (args.epochs, args.batch_size, args.raw["lr"]) == (2, 8, 0.5)


def test_a_job_takes_numbers_of_numpy_and_a_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [2.0, 4.0, 6.0, 9.0]})
    asked = LinearRegression(target="y", features=["x"])
    job = Job(asked, data=table, nodes="local", home=tmp_path, seed=np.int64(3))
    assert job.run(progress=False).value["rows"] == 4
    with pytest.raises(SpecError, match='nodes="local", takes the table itself'):
        Job(asked, data=table, home=tmp_path)
    with pytest.raises(SpecError, match="expected a DataFrame"):
        Job(asked, data=table["x"], nodes="local", home=tmp_path)
