"""What steps find in the data of all nodes is what scikit-learn finds in the pooled rows; few rows are not told."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import SpecError, TooFewRows
from fedjob.data.preprocessing import build_steps, to_plain_steps
from fedjob.data.preprocessing.base import LearningStep
from fedjob.data.preprocessing.categories import Bin, Encode
from fedjob.data.preprocessing.columns import Select
from fedjob.data.preprocessing.disclosure import at_least, audited
from fedjob.data.preprocessing.learning import (
    completed,
    learn,
    measure,
    taken_over,
    to_learn,
    to_learn_together,
)
from fedjob.data.preprocessing.missing import Impute
from fedjob.data.preprocessing.rows import Filter
from fedjob.data.preprocessing.scale import Scale
from fedjob.privacy.release_book import ReleaseBook

NODES = {
    "large": pd.DataFrame(
        {
            "age": [61.0, 47.0, None, 33.0, 58.0, 70.0],
            "dose": [1e6 + 0.5, 1e6 + 1.0, 1e6, 1e6 + 0.25, None, 1e6 + 2],
            "sex": ["f", "m", "m", None, "f", "m"],
            "stage": [1, 2, 2, 1, 2, 1],
            "same": [3.0] * 6,
        }
    ),
    "one_row": pd.DataFrame({"age": [20.0], "dose": [1e6], "sex": ["x"], "stage": [4], "same": [3.0]}),
    "nothing": pd.DataFrame(
        {
            "age": [None, None],
            "dose": [None, 1e6 + 3],
            "sex": ["m", "m"],
            "stage": [1.0, None],
            "same": [3.0, 3.0],
        }
    ).astype({"age": "float64"}),
}
ANYTHING = at_least(0)
POOLED = pd.concat(NODES.values(), ignore_index=True)


def found(step: LearningStep) -> Any:
    """Return the step as a job finds it, over the same wire."""
    plain = to_plain_steps([step])
    told = {
        node: unpack(pack(measure(frame, plain, [], lambda frame: nullcontext(ANYTHING))[0]))
        for node, frame in NODES.items()
    }
    return build_steps(unpack(pack(learn(step, told))))[0]


@pytest.mark.parametrize(
    ("method", "fitted"), [("standard", StandardScaler), ("minmax", MinMaxScaler)], ids=["standard", "minmax"]
)
def test_scale_finds_what_scikit_learn_finds_in_the_pooled_rows(method: str, fitted: Any) -> None:
    columns = ["age", "dose", "same"]
    step = found(Scale(columns, method=method))
    expected = fitted().fit(POOLED[columns])
    for frame in NODES.values():
        scaled = step.apply(frame)
        np.testing.assert_allclose(scaled[columns], expected.transform(frame[columns]), rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(scaled[columns], step.transformer().transform(frame[columns]))
        assert list(scaled) == list(frame)
    np.testing.assert_allclose(step.transformer().scale_, expected.scale_, rtol=1e-9)


def test_a_nodes_own_scale_needs_nothing_found_and_is_its_own() -> None:
    step = Scale("age", own=True)
    assert step.complete
    scaled = step.apply(NODES["large"])["age"]
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(scaled.std(ddof=0)) == pytest.approx(1.0)


def test_encode_finds_the_categories_of_all_nodes_also_one_that_a_single_node_has() -> None:
    sex, stage = (
        found(Encode("sex", unknown="ignore")),
        found(Encode("stage", drop_first=True, unknown="ignore")),
    )
    assert sex.categories == ("f", "m", "x")
    assert stage.categories == (1, 2, 4)
    assert all(type(category) is int for category in stage.categories)  # a node with gaps has floats
    coded = stage.apply(sex.apply(NODES["large"]))
    assert list(coded) == ["age", "dose", "sex=f", "sex=m", "sex=x", "stage=2", "stage=4", "same"]
    assert coded["sex=x"].sum() == 0
    expected = OneHotEncoder(sparse_output=False).fit(POOLED[["stage"]].dropna())
    np.testing.assert_array_equal(
        Encode("stage", stage.categories).apply(NODES["large"])[["stage=1", "stage=2", "stage=4"]],
        expected.transform(NODES["large"][["stage"]].astype("float64")),
    )
    transformer = sex.transformer()
    assert list(transformer.get_feature_names_out()) == ["sex=f", "sex=m", "sex=x"]
    np.testing.assert_array_equal(
        transformer.transform(NODES["large"][["sex"]].astype(object)), coded[["sex=f", "sex=m", "sex=x"]]
    )


@pytest.mark.parametrize("strategy", ["mean", "most_frequent"])
def test_impute_finds_what_scikit_learn_finds_in_the_pooled_rows(strategy: str) -> None:
    columns = ["age", "stage"]
    step = found(Impute(columns, strategy=strategy))
    expected = SimpleImputer(strategy=strategy).fit(POOLED[columns])
    if strategy == "mean":
        np.testing.assert_allclose(step.values, expected.statistics_, rtol=1e-12)
    else:
        assert step.values[1] == expected.statistics_[1] == 1
    filled = step.apply(NODES["nothing"])
    np.testing.assert_allclose(
        filled[columns].astype("float64"), step.transformer().transform(NODES["nothing"][columns])
    )
    assert found(Impute("sex", strategy="most_frequent")).values == ("m",)


def test_a_step_finds_its_values_in_what_the_steps_before_it_leave() -> None:
    plain = to_plain_steps([Impute("age", strategy="mean"), Select(("age", "stage")), Scale("age")])
    impute, scale = to_learn(plain)
    first = learn(
        impute,
        {
            node: measure(frame, plain, [], lambda frame: nullcontext(ANYTHING))[0]
            for node, frame in NODES.items()
        },
    )
    second = learn(
        scale,
        {
            node: measure(frame, plain, first, lambda frame: nullcontext(ANYTHING))[0]
            for node, frame in NODES.items()
        },
    )
    filled = POOLED["age"].fillna(POOLED["age"].mean())
    (complete,) = build_steps(second)
    assert isinstance(complete, Scale)
    assert complete.centre == pytest.approx([filled.mean()])
    assert complete.spread == pytest.approx([filled.std(ddof=0)])


def test_of_fewer_rows_than_the_owners_minimum_nothing_is_told() -> None:
    large, one = NODES["large"], NODES["one_row"]
    for step in (Scale("age"), Scale("age", method="minmax"), Impute("age", strategy="mean")):
        assert step.measure(one, at_least(2)) == {"age": []}
        assert step.measure(large, at_least(5))["age"]
    assert Encode("sex").measure(large, at_least(3)) == {"categories": ["m"]}
    assert Impute("sex", strategy="most_frequent").measure(large, at_least(3)) == {"sex": [["m", 3]]}


def test_two_filters_do_not_tell_the_value_of_one_row(tmp_path: Path) -> None:
    people = pd.DataFrame({"age": [*range(20, 30), None], "sex": [*"ffffmmmmff", "f"]})
    people["dose"] = [1.0, 2.0, *[None] * 9]
    book = ReleaseBook(tmp_path / "book.safetensors", 3)

    def told(*steps: Any) -> Any:
        plain = to_plain_steps(steps)
        return measure(
            people, plain, [], lambda frame: audited(book, people, frame, releases_extremes=False)
        )[0]

    def is_withheld(*steps: Any) -> bool:
        try:
            return not any(told(*steps).values())
        except TooFewRows:
            return True

    assert told(Scale("age"))["age"][0] == 10
    assert is_withheld(Filter("age", "<", 29), Scale("age"))  # with the first: the age of the oldest
    assert told(Filter("age", "<", 26), Impute("age", strategy="mean"))["age"][0] == 6
    assert is_withheld(Filter("age", "<", 25), Bin("age", (0, 21)), Scale("age"))  # the same through a bin
    assert is_withheld(
        Filter("age", "<", 24), Encode("sex", ["f", "m"]), Scale("sex=m")
    )  # through a derived column
    assert is_withheld(Filter("age", "<", 22), Scale("dose"))
    book = ReleaseBook(tmp_path / "other.safetensors", 3)
    assert told(Encode("sex"))["categories"] == ["f", "m"]
    assert is_withheld(Filter("age", "<", 27), Encode("sex"))  # without the last man
    book = ReleaseBook(tmp_path / "third.safetensors", 3)
    assert is_withheld(Filter("age", "<", 26), Encode("sex"))  # four women of six would tell of two men
    book = ReleaseBook(tmp_path / "fourth.safetensors", 3)
    assert told(Scale(("dose", "age"))) == {"dose": [], "age": [10.0, 24.5, 82.5]}  # two have a dose
    with pytest.raises(SpecError, match="option extremes"):
        told(Scale("age", method="minmax"))


def test_names_and_numbers_of_patients_are_no_categories_and_none_is_quoted() -> None:
    people = pd.DataFrame({"name": [f"patient-{number}" for number in range(30)]})
    for step in (Encode("name"), Impute("name", strategy="most_frequent")):
        with pytest.raises(SpecError, match="'name' holds no categories") as caught:
            step.measure(people, ANYTHING)
        assert "patient-" not in str(caught.value)


@pytest.mark.parametrize(
    "step",
    [Scale("gone"), Scale("gone", method="minmax"), Encode("gone"), Impute("gone", strategy="mean")],
    ids=["scale", "minmax", "encode", "impute"],
)
def test_a_column_without_a_value_at_any_node_is_named(step: LearningStep) -> None:
    empty = pd.DataFrame({"gone": [None, None]}, dtype="float64")
    with pytest.raises(SpecError, match=r"no node has .*'gone'"):
        learn(step, {"a": step.measure(empty, ANYTHING), "b": step.measure(empty, ANYTHING)})


@pytest.mark.parametrize(
    ("step", "frame", "words"),
    [
        (Scale("sex"), NODES["large"], "'sex' does not hold numbers"),
        (Scale("age"), pd.DataFrame({"age": [1.0, np.inf]}), "not finite"),
        (Scale("agee"), NODES["large"], "no column 'agee'; there are age"),
        (Impute("sex", strategy="mean"), NODES["large"], "'sex' does not hold numbers"),
        (Encode("when"), pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), "Timestamp"),
    ],
    ids=["text", "infinite", "another-name", "mean-of-text", "dates"],
)
def test_what_a_step_can_not_find_its_values_in_is_named(step: Any, frame: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        step.measure(frame, ANYTHING)


@pytest.mark.parametrize(
    "step", [Scale("age"), Encode("sex"), Impute("age", strategy="mean")], ids=["scale", "encode", "impute"]
)
def test_before_its_values_are_found_a_step_says_so(step: LearningStep) -> None:
    assert not step.complete
    for use in (lambda: step.apply(NODES["large"]), step.transformer):
        with pytest.raises(SpecError, match="not found yet"):
            use()


def test_a_node_takes_complete_steps_only_for_those_that_were_declared() -> None:
    declared = [Select(("age", "sex")), Scale("age"), Encode("sex")]
    scale, encode = Scale("age", centre=[1.0], spread=[2.0]), Encode("sex", ["f"])
    assert completed(declared, [scale, encode]) == [declared[0], scale, encode]
    assert completed(declared, [scale]) == [declared[0], scale, declared[2]]
    for wrong in (
        [replace(scale, columns=("sex",))],
        [replace(scale, method="minmax")],
        [encode],
        [Select("sex")],
        [Scale("age")],
        [scale, encode, encode],
    ):
        with pytest.raises(SpecError, match=r"what was found is not for|has no place for"):
            completed(declared, wrong)


@pytest.mark.parametrize("told", [{}, {"age": [1.0]}, {"age": "many"}, {"age": [1.0, None, 2.0]}, []])
def test_a_node_that_tells_something_else_is_not_believed(told: Any) -> None:
    with pytest.raises(SpecError, match="something else than was asked"):
        learn(Scale("age"), {"odd": told})


def test_lists_of_several_datasets_agree_on_what_is_found() -> None:
    one, other = to_plain_steps([Select("age"), Scale("age")]), to_plain_steps([Scale("age")])
    assert to_learn_together([one, other]) == [Scale("age")]
    with pytest.raises(SpecError, match="own=True"):
        to_learn_together([one, to_plain_steps([Select("age")])])


def test_a_trained_models_steps_are_taken_over_and_others_refused() -> None:
    declared, learned = to_plain_steps([Scale("age")]), to_plain_steps([Scale("age", centre=[1], spread=[2])])
    later = to_plain_steps([Select("age"), Scale("age")])
    assert taken_over(later, declared, learned) == learned
    with pytest.raises(SpecError, match="no part of the training"):
        taken_over(to_plain_steps([Scale("dose")]), declared, learned)
