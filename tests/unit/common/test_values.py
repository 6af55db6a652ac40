"""Values without pickle: whatever goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import datetime
import enum
import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, EncodeError
from fedjob.common.values import MARK, decode, encode

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
    ),
    max_leaves=20,
)


def through(value: Any) -> Any:
    """Return a value as it is after the wire."""
    return decode(unpack(pack(encode(value))))


@given(plain)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert through(value) == value


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3)),
        np.array(5),
        np.array(["a", "bc"]),
        np.array([1, 2], dtype=">i4"),
        np.arange(6).reshape(2, 3).T,
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        np.array([1 + 2j]),
        np.array([True]),
    ],
)
def test_arrays_keep_shape_and_kind(value: np.ndarray[Any, Any]) -> None:
    found = through(value)
    assert found.shape == value.shape
    assert found.dtype == value.dtype.newbyteorder("<") or found.dtype == value.dtype
    assert np.array_equal(found, value)
    found.setflags(write=True)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int8(-3), np.bool_(True), np.str_("x")])
def test_scalars_keep_their_type(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)


def test_numbers_that_are_none_and_members_of_enumerations() -> None:
    assert math.isnan(through(float("nan")))
    assert through(-math.inf) == -math.inf
    assert through(Colour.RED) == 3
    assert through({frozenset({1}): 1}.keys() and {"a": {1, 2}}) == {"a": {1, 2}}
    assert through(10**5000) == 10**5000


def test_tensors_of_every_kind() -> None:
    for value in (
        torch.ones(2, 3, dtype=torch.float16),
        torch.tensor(5),
        torch.zeros(0),
        torch.arange(6).reshape(2, 3).t(),
        torch.ones(2, requires_grad=True),
    ):
        found = through(value)
        assert torch.equal(found, value.detach())
        assert found.dtype == value.dtype
        assert not found.requires_grad


def test_tables_keep_types_names_and_index() -> None:
    stamps = pandas.to_datetime(["2024-01-01", None], utc=True)
    frame = pandas.DataFrame(
        {
            "a": pandas.array([1, None], dtype="Int64"),
            "b": pandas.array([True, None], dtype="boolean"),
            "c": pandas.Categorical(["x", "y"], ordered=True),
            "d": stamps,
            "e": np.array([1, 2], dtype="uint8"),
            5: [0.5, None],
            ("a", 1): ["p", "q"],
        },
        index=pandas.Index([7, 9], name="patient"),
    )
    pandas.testing.assert_frame_equal(through(frame), frame)
    several = pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    pandas.testing.assert_frame_equal(through(several), several)
    pandas.testing.assert_frame_equal(through(pandas.DataFrame()), pandas.DataFrame())
    series = pandas.Series([1.0, 2.0], name=("one", 2), index=["x", "y"])
    pandas.testing.assert_series_equal(through(series), series)
    grouped = pandas.DataFrame({"g": ["a", "a", "b"], "v": [1, 2, 3]}).groupby("g").v.agg(["mean", "count"])
    pandas.testing.assert_frame_equal(through(grouped), grouped)
    assert through(pandas.Timestamp("2024-02-29 12:00")) == pandas.Timestamp("2024-02-29 12:00")
    assert through([pandas.NaT])[0] is pandas.NaT
    assert through(pandas.NA) is pandas.NA
    assert list(through(pandas.Index([3, 4]))) == [3, 4]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "builtins.object"),
        ({"a": [1, print]}, r"\['a'\]\[1\]"),
        (np.array([object()]), "array of object"),
        (pandas.DataFrame({"a": [object()]}), "table"),
        (open, "can't travel"),
        (datetime.timedelta(1), "timedelta"),
        (list(range(200_000)), "numpy array"),
    ],
)
def test_what_can_not_travel_is_named(value: Any, says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        encode(value)


def test_what_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError, match="itself"):
        encode(loop)


@pytest.mark.parametrize(
    "odd",
    [
        {MARK: "function", "code": "x"},
        {MARK: 5},
        {MARK: "array"},
        {MARK: "array", "dtype": "O", "shape": [1], "data": b"12345678"},
        {MARK: "array", "dtype": "<f8", "shape": [1000], "data": b"12345678"},
        {MARK: "array", "dtype": "nonsense", "shape": [1], "data": b"1"},
        {MARK: "scalar", "dtype": "V8", "shape": [], "data": b"12345678"},
        {MARK: "tensor", "safetensors": b"no"},
        {MARK: "frame", "columns": [], "names": [], "arrow": b"no"},
        {MARK: "frame", "columns": ["a", "b"], "names": [None], "arrow": b""},
        {MARK: "date", "iso": "never"},
        {MARK: "map", "items": [[1]]},
        {MARK: "set", "items": [{}]},
        {MARK: "int", "digits": "-"},
    ],
)
def test_odd_bytes_of_a_peer_are_refused(odd: Any) -> None:
    with pytest.raises(DecodeError):
        decode([odd])


def test_a_map_that_uses_the_mark_travels_as_it_is() -> None:
    value = {MARK: "array", "mine": 1}
    assert through(value) == value
