"""Preparing rows one by one: the steps that differential privacy takes, and the reasons for which it takes others not."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from fedjob import Bin, Cast, Encode, Filter, Impute, Scale, Select, SpecError, Target
from fedjob.data.preprocessing import to_plain_steps
from fedjob.data.preprocessing.row_wise import row_wise_problem


def problem(*steps: Any) -> str:
    return row_wise_problem(to_plain_steps(steps))


def test_steps_with_all_their_values_are_taken() -> None:
    assert problem() == ""
    given = Scale(["age"], centre=[50.0], spread=[10.0])
    encoded = Encode("sex", categories=["f", "m"], unknown="ignore")
    assert (
        problem(
            Select(["age", "sex"]),
            Impute(["age"], value=0),
            given,
            Filter("age", ">", 3),
            Filter("sex", "in", ["f"]),
            encoded,
            Target("age"),
        )
        == ""
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([Scale(["age"])], "'scale' finds values in the data.*give the values"),
        ([Scale(["age"], own=True)], "'scale' finds values in the data"),
        ([Impute(["age"], strategy="mean")], "'impute' finds values in the data"),
        ([Impute(["age"], strategy="median", own=True)], "'impute' finds values in the data"),
        ([Encode("sex")], "'encode' finds values in the data"),
        ([Encode("sex", categories=["f"])], r"an unknown category.*give Encode\(..., unknown='ignore'\)"),
        ([Cast(["age"], "int")], "'cast' fails where a value does not fit"),
        ([Bin("age", [0, 50])], "'bin' fails where a value does not fit"),
        ([Impute(["age"], value="none")], "'impute' fails at a text in a column of numbers"),
        ([Filter("age", "<", "b")], "'filter' fails at a text in a column of numbers"),
        ([Filter("id", "==", 7), Scale(["age"], centre=[0.0], spread=[1.0])], "put it before the filter"),
        ([Filter("id", "==", 7), Impute(["age"], value=0)], "put it before the filter"),
    ],
)
def test_steps_that_tell_of_single_records_are_refused_with_what_to_do(
    steps: list[Any], expected: str
) -> None:
    assert pd.Series([problem(*steps)]).str.contains(expected, regex=True).all(), problem(*steps)


def test_a_comparison_with_a_number_fails_by_the_type_of_the_column_and_not_by_its_rows() -> None:
    texts = pd.DataFrame({"name": ["ada", "bob"]})
    for frame in (texts, texts[:0]):
        with pytest.raises(SpecError, match="can't be compared with 3"):
            Filter("name", "<", 3).apply(frame)
    assert Filter("age", "<", 3).apply(pd.DataFrame({"age": [1, 4, None]}))["age"].tolist() == [1]
