"""The encoding of users' values (arrays, tensors, tables, dates) as plain data, and back, without code.

Beside plain data there are numpy arrays and scalars, torch tensors, pandas DataFrames
and Series, tuples, sets, dates and maps with keys other than strings. Each becomes a map
with one marked key; tensors are safetensors inside, tables Arrow IPC streams, so that types
are kept. Only packages that a value needs are imported.

A value travels without loss or is refused where it is: tables are decoded again and compared. What
is masked or missing leaves nothing of the numbers that lie under it.
"""

from __future__ import annotations

import datetime
import decimal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.codec import MAX_ITEMS
from fedjob.common.errors import DecodeError, EncodeError, MissingPackage
from fedjob.common.tables.arrow_stream import MAX_COLUMNS, read_table

MARK = "\0type"
"""The key that marks an encoded value, which no map of a user may have."""

_ARRAY_KINDS = "biufcMmUS"
_PLAIN = (bool, int, float, str, bytes, type(None))

MAX_DIGITS = 16_384
"""Hexadecimal digits of a whole number: more take a while to be written as decimal ones."""

MAX_EXPONENT = 10_000
"""Of a decimal number: as a whole number it has so many digits."""

MAX_RANGE = 10_000_000
"""Length of an index that is a range and belongs to no column of that length."""

_MAX_SAME_HASH = 64
"""Keys of one hash in a map or set: a map of many takes forever to be built."""


def encode(value: Any, where: str = "the value") -> Any:
    """Return `value` as plain data; equal values give equal data.

    Args:
        where: names the value in errors.

    Raises:
        EncodeError: something in it can't be encoded; the message names its place and type.
    """
    try:
        return _encode(value, where)
    except RecursionError as error:
        raise EncodeError(f"{where} holds itself, or is nested too deeply to travel") from error


def decode(value: Any) -> Any:
    """Return what `encode` was given.

    Raises:
        DecodeError: marked data are malformed.
    """
    try:
        return _decode(value)
    except RecursionError as error:
        raise DecodeError("the value is nested too deeply") from error


def _encode(value: Any, where: str) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        if kind is int and not -(1 << 63) <= value < 1 << 64:
            if value.bit_length() > 4 * MAX_DIGITS:
                raise EncodeError(
                    f"{where} has {value.bit_length()} bits; a whole number travels with {4 * MAX_DIGITS}"
                )
            return {MARK: "int", "digits": f"{value:x}"}
        return value
    if isinstance(value, Mapping):
        return _encode_map(value, where)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _encode_items(value, where)
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return _encode_date(value)
    if kind in (complex, decimal.Decimal, bytearray, memoryview):
        return _encode_builtin(value)
    for package, encoder in (("torch", _encode_torch), ("pandas", _encode_pandas), ("numpy", _encode_numpy)):
        if package in sys.modules and (found := encoder(value, where)) is not None:
            return found
    for plain in (int, float, str):  # such as a member of an enumeration
        if isinstance(value, plain):
            return _encode(plain(value), where)
    raise EncodeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which can't travel: return plain data, numpy arrays, "
        "torch tensors, pandas DataFrames, or lists and dicts of these"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {key: _decode(item) for key, item in value.items()}
    decoder = _DECODERS.get(str(value[MARK]))
    if decoder is None:
        raise DecodeError(f"there is no type {str(value[MARK])[:40]!r}: a newer fedjob may have sent it")
    try:
        return decoder(value)
    except (DecodeError, RecursionError, MissingPackage):
        raise
    except Exception as error:  # a peer's bytes may upset a parser in any way
        raise DecodeError(f"not a {value[MARK]}: {type(error).__name__}: {error}") from error


def _encode_map(value: Mapping[Any, Any], where: str) -> Any:
    if len(value) > MAX_ITEMS:
        raise EncodeError(f"{where} has {len(value)} entries; at most {MAX_ITEMS}: return a DataFrame")
    if all(type(key) is str for key in value) and MARK not in value:
        return {key: _encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    pairs = [
        [_encode(key, f"a key of {where}"), _encode(item, f"{where}[{key!r}]")] for key, item in value.items()
    ]
    return {MARK: "map", "items": pairs}


def _encode_items(value: Any, where: str) -> Any:
    if len(value) > MAX_ITEMS:
        raise EncodeError(f"{where} has {len(value)} items; at most {MAX_ITEMS}: return a numpy array")
    if isinstance(value, (set, frozenset)):
        items = sorted((_encode(item, f"an item of {where}") for item in value), key=repr)
        return {MARK: "set", "items": items}
    items = [_encode(item, f"{where}[{number}]") for number, item in enumerate(value)]
    return {MARK: "tuple", "items": items} if isinstance(value, tuple) else items


def _hashable(value: Any) -> Any:
    if isinstance(value, set):
        return frozenset(_hashable(item) for item in value)
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _keys(plain: Any) -> list[Any]:
    """Return keys of a map or set, decoded, unless so many have one hash that the map would take forever to build."""
    keys = [_hashable(_decode(key)) for key in plain]
    if len(keys) > _MAX_SAME_HASH:
        most = Counter(map(hash, keys)).most_common(1)[0][1]
        if most > _MAX_SAME_HASH:
            raise DecodeError(f"{most} keys of a map have one hash: nobody makes such keys by chance")
    return keys


def _encode_date(value: datetime.date | datetime.time | datetime.timedelta) -> Any:
    """Encode a date, a time, a duration, or one of pandas' kinds of them, which are both."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.Timestamp, type(pandas.NaT))):
        return {MARK: "timestamp", "iso": value.isoformat()}
    if pandas is not None and isinstance(value, pandas.Timedelta):
        return {MARK: "pandas.timedelta", "number": int(value.asm8.astype("int64")), "unit": value.unit}
    if isinstance(value, datetime.timedelta):
        return {MARK: "timedelta", "parts": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, datetime.time):
        return {MARK: "time", "iso": value.isoformat()}
    kind = "datetime" if isinstance(value, datetime.datetime) else "date"
    return {MARK: kind, "iso": value.isoformat()}


def _encode_builtin(value: Any) -> Any:
    if isinstance(value, complex):
        return {MARK: "complex", "parts": [value.real, value.imag]}
    if isinstance(value, decimal.Decimal):
        try:
            _decode_decimal({"text": str(value)})
        except DecodeError as error:
            raise EncodeError(f"a decimal number can't travel: {error}") from error
        return {MARK: "decimal", "text": str(value)}
    return bytes(value)


def _decode_int(plain: Mapping[str, Any]) -> int:
    digits = str(plain["digits"])
    if len(digits) > MAX_DIGITS + 1:
        raise DecodeError(
            f"a whole number has at most {MAX_DIGITS} hexadecimal digits, this one {len(digits)}"
        )
    return int(digits, 16)


def _decode_decimal(plain: Mapping[str, Any]) -> decimal.Decimal:
    text = str(plain["text"])
    if len(text) > MAX_EXPONENT:
        raise DecodeError(f"a decimal number has at most {MAX_EXPONENT} digits")
    found = decimal.Decimal(text)
    exponent = found.as_tuple().exponent
    if isinstance(exponent, int) and not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
        raise DecodeError(f"a decimal number has an exponent of at most {MAX_EXPONENT}, not {exponent}")
    return found


def _encode_torch(value: Any, where: str) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    from safetensors import SafetensorError
    from safetensors.torch import save

    for is_so, kind, way in (
        (isinstance(value, torch.masked.MaskedTensor), "masked", "give a numpy masked array"),
        (value.is_nested, "nested", "give a list of tensors"),
        (value.layout != torch.strided, "sparse", "give .to_dense()"),
        (value.is_quantized, "quantized", "give .dequantize()"),
    ):
        if is_so:
            raise EncodeError(f"{where} is a {kind} tensor, which can't travel: {way}")
    try:
        plain = value.detach().to("cpu").as_subclass(torch.Tensor).resolve_conj().resolve_neg()
        is_complex = plain.is_complex()
        data = save({"t": (torch.view_as_real(plain) if is_complex else plain).contiguous()})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise EncodeError(f"{where} is a tensor of {value.dtype}, which can't travel: {error}") from error
    return {MARK: "tensor", "safetensors": data, **({"complex": True} if is_complex else {})}


def _decode_tensor(plain: Mapping[str, Any]) -> Any:
    from safetensors.torch import load

    found = load(plain["safetensors"])["t"]
    if not plain.get("complex"):
        return found
    import torch

    return torch.view_as_complex(found)


def _encode_numpy(value: Any, where: str) -> Any:
    import numpy

    if not isinstance(value, (numpy.ndarray, numpy.generic)):
        return None
    _check_dtype(value.dtype, where)
    if value is numpy.ma.masked:
        return {MARK: "masked", "array": None}
    if isinstance(value, numpy.ma.MaskedArray):
        # neither what lies under the mask nor a fill value, which may be what was masked, leaves
        zero: Any = numpy.zeros((), value.dtype)[()]
        filled = _encode_array(value.filled(zero), "array")
        return {MARK: "masked", "array": filled, "mask": _encode_array(numpy.ma.getmaskarray(value), "array")}
    if isinstance(value, numpy.ndarray) and type(value) not in (numpy.ndarray, numpy.memmap, numpy.matrix):
        raise EncodeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, a kind of array of which only the "
            "numbers could travel: give numpy.asarray of it"
        )
    return _encode_array(value, "array" if isinstance(value, numpy.ndarray) else "scalar")


def _check_dtype(dtype: Any, where: str) -> None:
    """Refuse what is no numbers or text, and numbers whose bytes mean something else on another machine."""
    if dtype.kind not in _ARRAY_KINDS:
        raise EncodeError(
            f"{where} is an array of {dtype}, which can't travel: give it a dtype of numbers or of text"
        )
    if dtype.itemsize > {"f": 8, "c": 16}.get(dtype.kind, dtype.itemsize):
        raise EncodeError(f"{where} is of {dtype}, which differs between machines: give .astype of 64 bits")


def _encode_array(value: Any, kind: str) -> dict[str, Any]:
    import numpy

    ready = numpy.ascontiguousarray(value)
    if ready.dtype.byteorder == ">" or (ready.dtype.byteorder == "=" and sys.byteorder == "big"):
        ready = ready.astype(ready.dtype.newbyteorder("<"))
    return {MARK: kind, "dtype": ready.dtype.str, "shape": list(value.shape), "data": ready.tobytes()}


def _decode_array(plain: Mapping[str, Any]) -> Any:
    import numpy

    dtype = numpy.dtype(str(plain["dtype"]))
    if dtype.kind not in _ARRAY_KINDS:
        raise DecodeError(f"an array of {dtype} is not plain data")
    shape = plain["shape"]
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise DecodeError("the shape of an array is a list of whole numbers of 0 or more")
    return numpy.frombuffer(plain["data"], dtype=dtype).reshape(shape).copy()


def _decode_masked(plain: Mapping[str, Any]) -> Any:
    import numpy

    if plain["array"] is None:
        return numpy.ma.masked
    array, mask = _decode_array(plain["array"]), _decode_array(plain["mask"])
    if mask.dtype != bool or mask.shape != array.shape:
        raise DecodeError("a mask has a truth value for each number")
    return numpy.ma.MaskedArray(array, mask=mask)


def _encode_pandas(value: Any, where: str) -> Any:
    import pandas

    if value is pandas.NA:
        return {MARK: "missing"}
    if isinstance(value, pandas.Interval):
        ends = [_encode(value.left, where), _encode(value.right, where)]
        return {MARK: "interval", "ends": ends, "closed": value.closed}
    if isinstance(value, pandas.Period):
        return {MARK: "period", "ordinal": value.ordinal, "freq": value.freqstr}
    plain: dict[str, Any]
    if isinstance(value, pandas.Index):
        plain = {MARK: "index", "index": _encode_index(value, where)}
    elif isinstance(value, pandas.Series):
        name = None if value.name is None else _encode(value.name, f"the name of {where}")
        index = _encode_index(value.index, f"the index of {where}")
        plain = {MARK: "series", "name": name, "index": index, "column": _encode_column(value, where)}
    elif isinstance(value, pandas.DataFrame):
        plain = _encode_frame(value, where)
    else:
        return None
    try:
        found = _decode(plain)
    except DecodeError as error:
        raise EncodeError(f"{where} is a table that could not be read again: {error}") from error
    _check_arrival(value, found, where)
    return plain


def _encode_frame(value: Any, where: str) -> dict[str, Any]:
    """Encode a table: the columns that Arrow keeps as they are in one Arrow table, others one by one."""
    # Arrow names columns by text only, so that the original names are sent beside the table
    apart: dict[str, Any] = {}
    together = []
    for place in range(len(value.columns)):
        column = value.iloc[:, place]
        found = _encode_apart(column, f"column {value.columns[place]!r} of {where}")
        if found is None:
            together.append(column.reset_index(drop=True).rename(str(place)))
        else:
            apart[str(place)] = found
    import pandas

    table = pandas.concat(together, axis=1) if together else pandas.DataFrame(index=range(len(value)))
    return {
        MARK: "frame",
        "columns": _encode_index(value.columns, f"the columns of {where}"),
        "index": _encode_index(value.index, f"the index of {where}"),
        "arrow": _to_arrow(table, where),
        "apart": apart,
    }


def _encode_index(index: Any, where: str) -> dict[str, Any]:
    import pandas

    names = [None if name is None else _encode(name, f"a name of {where}") for name in index.names]
    if isinstance(index, pandas.RangeIndex):
        return {"kind": "range", "names": names, "range": [index.start, index.stop, index.step]}
    if isinstance(index, pandas.MultiIndex):
        levels = [index.get_level_values(place) for place in range(index.nlevels)]
        return {
            "kind": "levels",
            "names": names,
            "levels": [_encode_column(level, where) for level in levels],
        }
    if index.dtype == object:  # such as texts and numbers together, as names of columns may be
        return {"kind": "objects", "names": names, "objects": [_encode(item, where) for item in index]}
    return {"kind": "values", "names": names, "values": _encode_column(index, where)}


def _decode_index(plain: Mapping[str, Any]) -> Any:
    import pandas

    names = [_hashable(_decode(name)) for name in plain["names"]]
    if plain["kind"] == "range":
        start, stop, step = (int(number) for number in plain["range"])
        found = pandas.RangeIndex(start, stop, step, name=names[0])
        if len(found) > MAX_RANGE:
            raise DecodeError(f"an index has {len(found)} places, at most {MAX_RANGE}")
        return found
    if plain["kind"] == "levels":
        levels = [_decode_column(level) for level in plain["levels"]]
        return pandas.MultiIndex.from_arrays([_as_index(level) for level in levels], names=names)
    if plain["kind"] == "objects":
        objects = [_hashable(_decode(item)) for item in plain["objects"]]
        return pandas.Index(objects, dtype=object, name=names[0], tupleize_cols=False)
    return _as_index(_decode_column(plain["values"])).rename(names[0])


def _as_index(column: Any) -> Any:
    import pandas

    return pandas.Index(column.array, dtype=column.dtype, tupleize_cols=False)


_NULLABLE = frozenset(
    {
        *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
        *("Float32", "Float64", "boolean"),
    }
)


def _encode_column(column: Any, where: str) -> dict[str, Any]:
    """Encode the values of a Series or an Index."""
    import pandas

    found = _encode_apart(column, where)
    if found is None:
        values = pandas.Series(column.array, dtype=column.dtype, name="0")
        found = {"kind": "arrow", "arrow": _to_arrow(values.to_frame(), where)}
    return found


def _encode_apart(column: Any, where: str) -> dict[str, Any] | None:
    """Encode the values of a kind that Arrow does not keep as they are; None for all others."""
    import pandas

    dtype, array = column.dtype, column.array
    if isinstance(dtype, pandas.CategoricalDtype):
        codes = _encode_array(array.codes, "array")
        categories = _encode_index(dtype.categories, f"the categories of {where}")
        return {"kind": "category", "codes": codes, "categories": categories, "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pandas.IntervalDtype):
        ends = [_encode_column(end, where) for end in (array.left, array.right)]
        return {"kind": "interval", "ends": ends, "closed": dtype.closed}
    if isinstance(dtype, pandas.PeriodDtype):
        ordinals = _encode_array(array.astype("int64"), "array")
        return {"kind": "period", "ordinals": ordinals, "freq": dtype.name[len("period[") : -1]}
    if isinstance(dtype, pandas.SparseDtype):
        raise EncodeError(f"{where} is sparse, which can't travel: give .sparse.to_dense()")
    if isinstance(dtype, pandas.ArrowDtype):
        # pandas would take the name of its dtype for that of another, so that its words are left out
        values = pandas.Series(array, name="0").to_frame()
        return {"kind": "arrow types", "arrow": _to_arrow(values, where)}
    if str(dtype) in _NULLABLE:
        missing = array.isna()
        # what a missing value replaced is still in pandas' memory, and must not leave
        values = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return {
            "kind": "nullable",
            "dtype": str(dtype),
            "values": _encode_array(values, "array"),
            "missing": _encode_array(missing, "array"),
        }
    if getattr(dtype, "kind", "O") in "fc":
        _check_dtype(getattr(dtype, "numpy_dtype", dtype), where)
        if dtype.kind == "c":
            return {"kind": "numbers", "values": _encode_array(column.to_numpy(), "array")}
    return None


def _decode_column(plain: Mapping[str, Any]) -> Any:
    """Return the values as a Series with positions as its index."""
    import pandas

    kind = plain["kind"]
    if kind == "arrow":
        return _from_arrow(plain["arrow"])["0"]
    if kind == "arrow types":
        return _from_arrow(plain["arrow"], types_mapper=pandas.ArrowDtype)["0"]
    if kind == "category":
        dtype = pandas.CategoricalDtype(_decode_index(plain["categories"]), ordered=bool(plain["ordered"]))
        return pandas.Series(pandas.Categorical.from_codes(_decode_array(plain["codes"]), dtype=dtype))
    if kind == "interval":
        left, right = (_decode_column(end) for end in plain["ends"])
        return pandas.Series(
            pandas.arrays.IntervalArray.from_arrays(left, right, closed=str(plain["closed"]))
        )
    if kind == "period":
        ordinals = _decode_array(plain["ordinals"])
        return pandas.Series(pandas.PeriodIndex.from_ordinals(ordinals, freq=str(plain["freq"])))
    if kind == "numbers":
        return pandas.Series(_decode_array(plain["values"]))
    if kind == "nullable" and plain["dtype"] in _NULLABLE:
        array = pandas.array(_decode_array(plain["values"]), dtype=plain["dtype"])
        array[_decode_array(plain["missing"])] = pandas.NA
        return pandas.Series(array)
    raise DecodeError(f"there is no column of kind {str(kind)[:40]!r}")


def _check_arrival(value: Any, found: Any, where: str) -> None:
    """Compare a table with what will arrive of it.

    Raises:
        EncodeError: something would arrive as something else; the message names it.
    """
    import pandas

    if isinstance(value, pandas.Index):
        if not _is_same_index(value, found):
            raise EncodeError(f"{where} is an index of {value.dtype} that would arrive as another")
        return
    if not _is_same_index(value.index, found.index):
        raise EncodeError(f"the index of {where} would arrive as another: give .reset_index()")
    if isinstance(value, pandas.DataFrame) and not _is_same_index(value.columns, found.columns):
        raise EncodeError(f"the names of the columns of {where} would arrive as others: give them texts")
    if isinstance(value, pandas.Series):
        if not _is_same_column(value, found):
            raise EncodeError(f"{where} is a Series of {value.dtype} that would arrive as another")
        return
    for place in range(len(value.columns)):
        if not _is_same_column(value.iloc[:, place], found.iloc[:, place]):
            raise EncodeError(
                f"column {value.columns[place]!r} of {where}, of {value.dtypes.iloc[place]}, would arrive as another: "
                "give it a dtype of its own with .astype"
            )


def _is_same_index(one: Any, other: Any) -> bool:
    if one.nlevels != other.nlevels or list(one.names) != list(other.names):
        return False
    levels = range(one.nlevels)
    return all(
        _is_same_column(one.get_level_values(place), other.get_level_values(place)) for place in levels
    )


def _is_same_column(one: Any, other: Any) -> bool:
    """Return whether two columns have the same values; objects may become a dtype that holds the same."""
    if len(one) != len(other) or (one.dtype != other.dtype and one.dtype != object):
        return False
    there = ~one.isna()
    if list(there) != list(~other.isna()):
        return False
    if one.dtype != object:
        return bool((one[there].array == other[there].array).all())
    pairs = zip(one[there].tolist(), other[there].tolist(), strict=True)
    return all(_is_same_object(a, b) for a, b in pairs)


def _is_same_object(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) or hasattr(one, "tolist"):
        one, other = (list(item.tolist() if hasattr(item, "tolist") else item) for item in (one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _to_arrow(frame: Any, where: str) -> bytes:
    try:
        import pyarrow
    except ImportError as error:
        raise EncodeError(
            f"{where} is a table, and pyarrow is not installed here: pip install pyarrow"
        ) from error
    try:
        table = _without_hidden(pyarrow.Table.from_pandas(frame, preserve_index=False), frame.dtypes)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise EncodeError(f"{where} is a table that can't travel: {error}") from error
    return data


def _without_hidden(table: Any, dtypes: Any) -> Any:
    """Return a table in which nothing lies under missing values.

    Arrow marks a value as missing and may leave it where it was; whoever reads the bytes finds it. Columns of
    numpy's dtypes were made without.
    """
    import numpy
    import pyarrow

    for place, column in enumerate(table.columns):
        if column.null_count and not isinstance(dtypes.iloc[place], numpy.dtype):
            chunks = [pyarrow.array(chunk.to_pylist(), type=chunk.type) for chunk in column.chunks]
            table = table.set_column(place, table.field(place), pyarrow.chunked_array(chunks, column.type))
    return table


def _from_arrow(data: bytes, types_mapper: Any = None) -> Any:
    table = read_table(data)
    if types_mapper is not None:
        table = table.replace_schema_metadata(None)
    return table.to_pandas(integer_object_nulls=True, types_mapper=types_mapper)


def _decode_frame(plain: Mapping[str, Any]) -> Any:
    import pandas

    together, index = _from_arrow(plain["arrow"]), _decode_index(plain["index"])
    names = _decode_index(plain["columns"])
    if not len(names) == len(plain["apart"]) + len(together.columns) <= MAX_COLUMNS:
        raise DecodeError("a table has another number of columns than of their names")
    apart = {str(place): _decode_column(column) for place, column in plain["apart"].items()}
    places = [str(place) for place in range(len(names))]
    columns = [apart[place] if place in apart else together[place] for place in places]
    if any(len(column) != len(index) for column in columns):
        raise DecodeError("the columns of a table differ in length")
    frame = pandas.concat(columns, axis=1) if columns else pandas.DataFrame(index=index)
    frame.index, frame.columns = index, names
    return frame


def _decode_series(plain: Mapping[str, Any]) -> Any:
    found = _decode_column(plain["column"]).rename(_hashable(_decode(plain["name"])))
    found.index = _decode_index(plain["index"])
    return found


def _decode_timestamp(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.Timestamp(plain["iso"])


def _decode_duration(plain: Mapping[str, Any]) -> Any:
    import numpy
    import pandas

    unit: Any = str(plain["unit"])
    return pandas.Timedelta(numpy.timedelta64(int(plain["number"]), unit))


def _decode_interval(plain: Mapping[str, Any]) -> Any:
    import pandas

    left, right = (_decode(end) for end in plain["ends"])
    return pandas.Interval(left, right, closed=plain["closed"])


def _decode_period(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.Period(ordinal=int(plain["ordinal"]), freq=str(plain["freq"]))


def _decode_missing(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.NA


_DECODERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "int": _decode_int,
    "map": lambda plain: dict(
        zip(
            _keys([key for key, _ in plain["items"]]),
            [_decode(item) for _, item in plain["items"]],
            strict=True,
        )
    ),
    "set": lambda plain: set(_keys(plain["items"])),
    "tuple": lambda plain: tuple(_decode(item) for item in plain["items"]),
    "date": lambda plain: datetime.date.fromisoformat(plain["iso"]),
    "datetime": lambda plain: datetime.datetime.fromisoformat(plain["iso"]),
    "time": lambda plain: datetime.time.fromisoformat(plain["iso"]),
    "timedelta": lambda plain: datetime.timedelta(*plain["parts"]),
    "complex": lambda plain: complex(*plain["parts"]),
    "decimal": _decode_decimal,
    "tensor": _decode_tensor,
    "array": _decode_array,
    "scalar": lambda plain: _decode_array(plain)[()],
    "masked": _decode_masked,
    "frame": _decode_frame,
    "series": _decode_series,
    "index": lambda plain: _decode_index(plain["index"]),
    "timestamp": _decode_timestamp,
    "pandas.timedelta": _decode_duration,
    "interval": _decode_interval,
    "period": _decode_period,
    "missing": _decode_missing,
}
