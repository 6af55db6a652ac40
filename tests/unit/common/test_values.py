"""Values without pickle: whatever goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import datetime
import decimal
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
        (np.array([1.5], dtype=np.longdouble), "differs between machines"),
        (np.longdouble(1.5), "differs between machines"),
        (np.zeros(2, dtype=[("a", "i4")]), "array of"),
        (np.ma.zeros(2, dtype=[("a", "i4")]), "array of"),
        (np.array([1]).view(np.recarray), "numbers could travel"),
        (torch.eye(2).to_sparse(), "to_dense"),
        (torch.ones(2, device="meta"), "can't travel"),
        (pandas.Series(pandas.arrays.SparseArray([0, 1])), "to_dense"),
        (pandas.Series([1, "a"], dtype=object), "table that can't travel"),
        (pandas.Series([{"a": 1}, {"b": 2}]), "would arrive as another"),
        (pandas.DataFrame({"a": np.array([1.5], dtype=np.longdouble)}), "column 'a' .* differs between"),
        (list(range(200_000)), "numpy array"),
    ],
)
def test_what_can_not_travel_is_named(value: Any, says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        encode(value)


PERIODS = pandas.period_range("2020-01", periods=2, freq="M")
AGES = pandas.Series([10, 60, 30])
BINS = pandas.cut(AGES, [0, 50, 100])


@pytest.mark.parametrize(
    "value",
    [
        BINS,
        BINS.value_counts(),
        pandas.qcut(AGES, 2).value_counts(sort=False),
        AGES.groupby(BINS, observed=False).mean(),
        pandas.crosstab(pandas.Series(["a", "b", "a"]), BINS),
        pandas.DataFrame({"bin": pandas.cut(pandas.Series([10, None]), [0, 50]), "n": 1}),
        pandas.Series([1, 2], index=PERIODS, name="n"),
        pandas.Series(PERIODS.insert(0, pandas.NaT)),
        pandas.Series([1, 2], index=pandas.date_range("2020", periods=2, tz="Europe/Berlin")),
        pandas.Series([1, 2], index=pandas.RangeIndex(0, 4, 2, name="r")),
        pandas.Series(pandas.Categorical([1, None, 2], categories=[2, 1], ordered=True)),
        pandas.Series([1, None, 2**53 + 1], dtype=object),
        pandas.Series([2**63 + 5], dtype="uint64"),
        pandas.Series([1.5], dtype="float16"),
        pandas.Series([np.inf, -0.0, np.nan]),
        pandas.Series(["2020-01-01"], dtype="datetime64[s]"),
        pandas.Series(pandas.to_timedelta(["1D", None])),
        pandas.Series(["a", pandas.NA], dtype="string"),
        pandas.Series(["a", None], dtype="string[pyarrow]"),
        pandas.DataFrame({"c": np.array([1 + 2j]), "d": [1]}),
        pandas.DataFrame([[1, 2]], columns=["a", "a"]),
        pandas.DataFrame([[1, 2]], columns=pandas.interval_range(0, 2)),
        pandas.DataFrame(index=[1, 2]),
        pandas.DataFrame({"a": [1, 1], "b": ["x", "y"], "c": [1.0, 2.0]}).groupby(["a", "b"]).sum(),
    ],
)
def test_tables_of_every_kind_arrive_as_they_are(value: Any) -> None:
    frame = isinstance(value, pandas.DataFrame)
    compare = pandas.testing.assert_frame_equal if frame else pandas.testing.assert_series_equal
    compare(through(value), value, check_freq=False)


@pytest.mark.parametrize(
    "index",
    [
        pandas.Index([3, 4], name="n"),
        pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["x", None]),
        PERIODS,
    ],
)
def test_an_index_keeps_its_names(index: Any) -> None:
    pandas.testing.assert_index_equal(through(index), index)


@pytest.mark.parametrize(
    "value",
    [
        1 + 2j,
        decimal.Decimal("1.10"),
        datetime.timedelta(1, 2, 3),
        datetime.time(1, 2, 3),
        pandas.Timedelta("1D 3ns"),
        pandas.Interval(0, 1.5, closed="left"),
        pandas.Period("2020-01", "M"),
        pandas.Timestamp("2020-01-01 01:02:03.123456789", tz="Europe/Berlin"),
        {frozenset({1}), frozenset({2, (3,)})},
        2**64 - 1,
    ],
)
def test_single_values_of_every_kind_arrive_as_they_are(value: Any) -> None:
    assert through(value) == value
    assert type(through(value)) is type(value)


def test_tensors_of_complex_numbers_arrive_as_they_are() -> None:
    value = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert torch.equal(through(value), value)
    assert torch.equal(through(torch.ones(2, dtype=torch.bfloat16)), torch.ones(2, dtype=torch.bfloat16))


SECRET = 77_777_777


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_what_is_masked_never_leaves(kind: Any) -> None:
    values = np.array([SECRET, 2, 30], dtype=kind)
    masked = np.ma.masked_equal(values, SECRET)
    packed = pack(encode({"counts": [masked]}))
    assert kind(SECRET).tobytes() not in packed
    found = decode(unpack(packed))["counts"][0]
    assert found.mask.tolist() == [True, False, False]
    assert found.compressed().tolist() == [2, 30]
    assert through(np.ma.masked) is np.ma.masked
    assert through(np.ma.array([1, 2])).tolist() == [1, 2]
    assert through(np.ma.masked_less(np.array(3), 5)).mask


HIDING = {
    "Int64": np.int64(SECRET).tobytes(),
    "Float64": np.float64(SECRET).tobytes(),
    "int64[pyarrow]": np.int64(SECRET).tobytes(),
    "string": str(SECRET).encode(),
    "string[pyarrow]": str(SECRET).encode(),
}


@pytest.mark.parametrize("dtype", HIDING)
@pytest.mark.parametrize("way", ["set", "where", "cut off"])
def test_what_a_missing_value_replaced_never_leaves(dtype: str, way: str) -> None:
    text = dtype.startswith("string")
    column = pandas.Series([str(n) if text else n for n in (SECRET, 1, 2)], dtype=dtype)
    if way == "set":
        column[0] = pandas.NA
    elif way == "where":
        column = column.where(column != column[0])
    else:
        column = column[1:]
    for value in (column, column.to_frame("a"), pandas.Series(1, index=pandas.Index(column))):
        packed = pack(encode(value))
        assert HIDING[dtype] not in packed
        found = decode(unpack(packed))
        assert len(found) == len(value)


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
        {MARK: "frame", "columns": [], "index": [], "arrow": b"no", "apart": {}},
        {MARK: "frame", "columns": {"kind": "range", "names": [None], "range": [0, 1, 1]}, "arrow": b""},
        {MARK: "series", "name": None, "index": {"kind": "range"}, "column": {"kind": "odd"}},
        {MARK: "masked", "array": 1, "mask": 2},
        {MARK: "period", "ordinal": "x", "freq": "M"},
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
