"""Preprocessing: each step on a small table, and what can't be done is said without quoting data."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.common.errors import MessageError, SpecError
from fedjob.data.category import category_text
from fedjob.data.loader import open_dataset
from fedjob.data.preprocessing import STEPS, build_steps, canonical, per_dataset, to_plain_steps
from fedjob.data.preprocessing.categories import Bin, Encode
from fedjob.data.preprocessing.columns import Cast, Select, Target
from fedjob.data.preprocessing.disclosure import at_least
from fedjob.data.preprocessing.images import Resize
from fedjob.data.preprocessing.missing import Impute
from fedjob.data.preprocessing.rows import Filter
from fedjob.data.preprocessing.scale import Scale

PATIENTS = pd.DataFrame(
    {"age": [40.0, 60.0, None, 80.0], "sex": ["f", "m", "m", "f"], "sick": [0, 1, 1, 0], "name": list("abcd")}
)


def test_select_keeps_the_named_columns_in_their_order() -> None:
    assert list(Select(("sick", "age")).apply(PATIENTS)) == ["sick", "age"]


def test_target_moves_a_column_to_the_end() -> None:
    assert list(Target("age").apply(PATIENTS))[-1] == "age"


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (Filter("age", ">=", 60), ["b", "d"]),
        (Filter("age", "<", 60), ["a"]),
        (Filter("age", "!=", 60), ["a", "d"]),  # a missing value passes no test
        (Filter("sex", "==", "m"), ["b", "c"]),
        (Filter("sex", "in", ["m", "x"]), ["b", "c"]),
        (Filter("age", "present"), ["a", "b", "d"]),
    ],
)
def test_filter_keeps_the_rows_that_pass(step: Filter, names: list[str]) -> None:
    assert list(step.apply(PATIENTS)["name"]) == names


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (Impute("age", value=1.5), 1.5),
        (Impute("age", strategy="mean", own=True), 60.0),
        (Impute("age", strategy="median", own=True), 60.0),
        (Impute(("age",), strategy="most_frequent", own=True), 40.0),
        (Impute("age", strategy="mean", values=[50.0]), 50.0),
    ],
)
def test_impute_fills_what_is_missing(step: Impute, value: float) -> None:
    assert step.apply(PATIENTS)["age"].tolist() == [40.0, 60.0, value, 80.0]


def test_encode_gives_every_node_the_same_columns_whatever_it_has() -> None:
    coded = Encode("sex", ("f", "m", "x")).apply(PATIENTS)
    assert list(coded) == ["age", "sex=f", "sex=m", "sex=x", "sick", "name"]
    assert coded["sex=m"].tolist() == [0, 1, 1, 0]
    assert list(Encode("sex", ("f", "m"), drop_first=True).apply(PATIENTS))[1] == "sex=m"


def test_a_category_that_was_not_declared_is_neither_quoted_nor_counted() -> None:
    with pytest.raises(SpecError, match="rows of column 'sex' have none of the 1 categories") as caught:
        Encode("sex", ("f",)).apply(PATIENTS)
    assert "'m'" not in str(caught.value)
    assert "2" not in str(caught.value)
    assert Encode("sex", ("f",), unknown="ignore").apply(PATIENTS)["sex=f"].tolist() == [1, 0, 0, 1]


def test_bin_numbers_the_intervals() -> None:
    frame = pd.DataFrame({"age": [10.0, 18.0, 64.9, 65.0]})
    assert Bin("age", (18, 65)).apply(frame)["age"].tolist() == [0, 1, 1, 2]


def test_cast_changes_the_type() -> None:
    assert Cast("sick", "bool").apply(PATIENTS)["sick"].dtype == np.bool_
    with pytest.raises(SpecError, match="impute what is missing first"):
        Cast("age", "int").apply(PATIENTS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Select(()), r"names of one or more columns, not \(\)"),
        (lambda: Filter("age", "~", 1), "== != < <= > >= in present, not '~'"),
        (lambda: Filter("age", "in", 3), "'in', .* can't compare with 3"),
        (lambda: Filter("age", "present", 3), "'present', .* can't compare with 3"),
        (lambda: Impute("age"), "takes a value, or strategy="),
        (lambda: Impute("age", value=1, strategy="mean"), "takes a value, or strategy="),
        (lambda: Impute("age", strategy="median"), "no median of all nodes together: give own=True"),
        (lambda: Impute("age", strategy="mean", own=True, values=[1.0]), "for each of its 1 columns"),
        (lambda: Impute(("age", "sick"), strategy="mean", values=[1.0]), "for each of its 2 columns"),
        (lambda: Scale("age", method="robust"), "standard or minmax, not 'robust'"),
        (lambda: Scale("age", centre=[0.0]), "centre and spread together"),
        (lambda: Scale("age", centre=[0.0], spread=[0.0]), "spreads above 0, not 0.0"),
        (lambda: Scale("age", centre=[0.0, 1.0], spread=[1.0, 1.0]), "for each of its 1 columns"),
        (lambda: Scale("age", centre=[0.0], spread=[1.0], own=True), "own=True takes neither"),
        (lambda: Encode("sex", ("f", "f")), "each of them once"),
        (lambda: Bin("age", (3, 2)), "increasing edges, not"),
        (lambda: Cast("age", "object"), "float, int, bool, str, not 'object'"),
        (lambda: Resize(0, 5), "width and height in pixels, not 0, 5"),
        (lambda: to_plain_steps([42]), "a list of steps such as .*; found 42"),
        (lambda: build_steps([{"step": "selekt", "columns": ["a"]}]), "did you mean 'select'"),
    ],
)
def test_a_wrong_step_is_refused_when_it_is_made(make: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()


def test_a_step_in_plain_data_whose_field_is_missing_is_named() -> None:
    with pytest.raises(MessageError, match="not a Select: columns: required field missing"):
        build_steps([{"step": "select", "colums": ["a"]}])


@pytest.mark.parametrize("name", STEPS.names())
def test_every_step_survives_the_way_over_plain_data(name: str) -> None:
    steps = {
        "select": Select(("a", "b")),
        "target": Target("a"),
        "filter": Filter("a", "in", [1, 2]),
        "impute": Impute("a", value=0),
        "encode": Encode("a", (1, 2), drop_first=True),
        "bin": Bin("a", (1.5, 2)),
        "cast": Cast("a", "float"),
        "scale": Scale(("a", "b"), centre=[1.0, 2.0], spread=[1.0, 0.5]),
        "resize": Resize(4, 5, "grey"),
    }
    plain = to_plain_steps([steps[name]])
    assert to_plain_steps(build_steps(plain)) == plain
    assert canonical(plain) == canonical(to_plain_steps(plain))


@pytest.mark.feature("TB-27")
def test_changing_one_step_changes_the_canonical_text_and_the_hash() -> None:
    one, other = to_plain_steps([Select("age")]), to_plain_steps([Select(("age", "sex"))])
    assert canonical(one) == '[{"columns":["age"],"step":"select"}]'
    assert canonical(one) != canonical(other)


def test_one_list_of_steps_is_for_all_and_several_are_one_for_each_dataset() -> None:
    steps = [Select("age")]
    assert per_dataset(None, 3) == []
    assert len(per_dataset(steps, 3)) == 1
    assert len(per_dataset([steps], 3)) == 1
    assert len(per_dataset([steps, steps, []], 3)) == 3
    with pytest.raises(SpecError, match="one for each of the 3; found 2"):
        per_dataset([steps, steps], 3)


def test_a_table_is_changed_in_memory_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    PATIENTS.to_csv(path, index=False)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    steps = [
        Impute("age", value=0),
        Encode("sex", ("f", "m"), drop_first=True),
        Select(("age", "sex=m", "sick")),
    ]
    info = {"path": str(path), "options": {"target": "sick"}, "preprocess": to_plain_steps(steps)}
    dataset = open_dataset(info)
    inputs, targets = dataset.arrays()
    assert [column["name"] for column in dataset.columns] == ["age", "sex=m", "sick"]
    assert inputs.tolist() == [[40, 0], [60, 1], [0, 1], [80, 0]]
    assert targets.tolist() == [0, 1, 1, 0]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_images_are_resized_and_a_table_step_on_them_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "1.png")
    info = {"path": str(tmp_path), "reader": "images"}
    images, _ = open_dataset({**info, "preprocess": to_plain_steps([Resize(4, 3, "grey")])}).arrays()
    assert images.shape == (1, 3, 4)
    with pytest.raises(SpecError, match="'select' is not for images"):
        open_dataset({**info, "preprocess": to_plain_steps([Select("a")])})


def gaps(values: list[Any], dtype: str) -> pd.DataFrame:
    return pd.DataFrame({"c": pd.array(values, dtype=dtype)})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2, 1]),
        pd.Series([1.0, 2.0, 1.0]),
        pd.Series(["1", "2", "1"]),
        pd.Series([1, 2, 1], dtype="Int64"),
        pd.Series([1, 2, 1], dtype="uint8"),
        pd.Series([np.int64(1), 2.0, "1"], dtype=object),
        pd.Series([Decimal(1), Decimal("2.0"), 1], dtype=object),
    ],
)
@pytest.mark.parametrize("categories", [(1, 2), ("1", "2"), (1.0, np.int64(2))])
def test_one_value_is_one_category_whatever_type_it_has(column: Any, categories: Any) -> None:
    found = Encode("c", categories=categories).apply(pd.DataFrame({"c": column}))
    assert found.to_dict("list") == {"c=1": [1, 0, 1], "c=2": [0, 1, 0]}
    for value in categories:
        kept = Filter("c", "==", value).apply(pd.DataFrame({"c": column}))
        assert len(kept) == (2 if category_text(value) == "1" else 1)
        assert len(Filter("c", "!=", value).apply(pd.DataFrame({"c": column}))) == 3 - len(kept)
    assert len(Filter("c", "in", list(categories)).apply(pd.DataFrame({"c": column}))) == 3


def test_truth_values_are_categories_by_name_and_by_number() -> None:
    frame = gaps([True, False, True], "boolean")
    assert Encode("c", categories=(0, 1)).apply(frame).to_dict("list") == {"c=0": [0, 1, 0], "c=1": [1, 0, 1]}
    assert Encode("c", categories=(False, True)).apply(frame)["c=True"].tolist() == [1, 0, 1]
    assert Encode("c", categories=("True",), unknown="ignore").apply(frame)["c=True"].tolist() == [1, 0, 1]
    with pytest.raises(SpecError, match="each of them once"):
        Encode("c", categories=(1, "1"))


@pytest.mark.parametrize(
    ("values", "dtype", "fill", "expected"),
    [
        ([1, None], "Int64", 2, [1, 2]),
        ([1, None], "Int64", 2.5, [1.0, 2.5]),
        ([1, None], "Int64", "2", [1, 2]),
        ([2**53 + 1, None], "Int64", 0, [2**53 + 1, 0]),
        ([True, None], "boolean", False, [True, False]),
        ([True, None], "boolean", 0.5, [1.0, 0.5]),
        ([1.5, None], "float64", np.float64(2), [1.5, 2.0]),
        (["a", None], "str", "b", ["a", "b"]),
        (["a", None], "str", 0, ["a", "0"]),
    ],
)
def test_impute_gives_a_column_room_for_what_it_fills_in(
    values: list[Any], dtype: str, fill: Any, expected: list[Any]
) -> None:
    frame = Impute("c", value=fill).apply(gaps(values, dtype))
    assert [(type(v), v) for v in frame["c"].tolist()] == [(type(v), v) for v in expected]
    assert frame["c"].to_numpy().dtype != object or isinstance(expected[0], str)


def test_impute_does_not_mix_texts_into_numbers() -> None:
    with pytest.raises(SpecError, match="holds numbers, and 'none' is none"):
        Impute("c", value="none").apply(gaps([1, None], "Int64"))


def test_cast_makes_truth_values_and_texts_of_what_is_there_and_nothing_of_gaps() -> None:
    texts = pd.DataFrame({"c": ["True", "false", "1", "0"]})
    assert Cast("c", to="bool").apply(texts)["c"].tolist() == [True, False, True, False]
    for wrong, to in ((["yes"], "bool"), ([1.0, None], "bool"), ([1.0, None], "int"), (["x"], "float")):
        with pytest.raises(SpecError, match="impute what is missing first"):
            Cast("c", to=to).apply(pd.DataFrame({"c": wrong}))
    found = Cast("c", to="str").apply(gaps([1, None], "Int64"))["c"]
    assert (
        found.dropna().tolist()
        == Cast("c", to="str").apply(pd.DataFrame({"c": [1.0]}))["c"].tolist()
        == ["1"]
    )
    assert found.isna().tolist() == [False, True]
    assert np.isnan(Cast("c", to="float").apply(gaps([1, None], "Int64"))["c"].tolist()[1])


def test_nodes_agree_on_categories_that_they_hold_as_different_types() -> None:
    frames = {"a": pd.DataFrame({"c": [1, 2, 1]}), "b": pd.DataFrame({"c": ["1", "2", "x"]})}
    step = Encode("c")
    found = step.learn({node: step.measure(frame, at_least(0)) for node, frame in frames.items()})
    assert found.categories == ("1", "2", "x")
    assert found.apply(frames["a"]).columns.tolist() == found.apply(frames["b"]).columns.tolist()
    assert found.apply(frames["a"])["c=1"].tolist() == [1, 0, 1]
    again = step.learn({node: step.measure(frames[node], at_least(0)) for node in ("b", "a")})
    assert again == found
    fill = Impute("c", strategy="most_frequent")
    shares = {node: fill.measure(frame, at_least(0)) for node, frame in frames.items()}
    assert fill.learn(shares).apply(gaps([2, None], "Int64"))["c"].tolist() == [2, 1]
