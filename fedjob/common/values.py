"""The encoding of users' values (arrays, tensors, tables, dates) as plain data, and back, without code.

Beside plain data there are numpy arrays and scalars, torch tensors, pandas DataFrames
and Series, tuples, sets, dates and maps with keys other than strings. Each becomes a map
with one marked key; tensors are safetensors inside, tables Arrow IPC streams, so that types
are kept. Only packages that a value needs are imported.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.codec import MAX_ITEMS
from fedjob.common.errors import DecodeError, EncodeError, MissingPackage

MARK = "\0type"
"""The key that marks an encoded value, which no map of a user may have."""

_ARRAY_KINDS = "biufcMmUS"
_PLAIN = (bool, int, float, str, bytes, type(None))


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
            return {MARK: "int", "digits": f"{value:x}"}
        return value
    if isinstance(value, Mapping):
        return _encode_map(value, where)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _encode_items(value, where)
    if isinstance(value, datetime.date):
        return _encode_date(value)
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
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _encode_date(value: datetime.date) -> Any:
    """Encode a date, a time, or one of pandas' kinds of them, which are both."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.Timestamp, type(pandas.NaT))):
        return {MARK: "timestamp", "iso": value.isoformat()}
    kind = "datetime" if isinstance(value, datetime.datetime) else "date"
    return {MARK: kind, "iso": value.isoformat()}


def _encode_torch(value: Any, where: str) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        data = save({"t": value.detach().to("cpu").contiguous()})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise EncodeError(f"{where} is a tensor of {value.dtype}, which can't travel: {error}") from error
    return {MARK: "tensor", "safetensors": data}


def _decode_tensor(plain: Mapping[str, Any]) -> Any:
    from safetensors.torch import load

    return load(plain["safetensors"])["t"]


def _encode_numpy(value: Any, where: str) -> Any:
    import numpy

    if isinstance(value, numpy.ndarray):
        if value.dtype.kind not in _ARRAY_KINDS:
            raise EncodeError(
                f"{where} is an array of {value.dtype}, which can't travel: give it a dtype of numbers or of text"
            )
        kind = "array"
    elif isinstance(value, numpy.generic):
        if value.dtype.kind not in _ARRAY_KINDS:
            raise EncodeError(f"{where} is a numpy.{type(value).__name__}, which can't travel")
        value, kind = numpy.asarray(value), "scalar"
    else:
        return None
    ready = numpy.ascontiguousarray(value)
    if ready.dtype.byteorder == ">":
        ready = ready.astype(ready.dtype.newbyteorder("<"))
    return {MARK: kind, "dtype": ready.dtype.str, "shape": list(value.shape), "data": ready.tobytes()}


def _decode_array(plain: Mapping[str, Any]) -> Any:
    import numpy

    dtype = numpy.dtype(str(plain["dtype"]))
    if dtype.kind not in _ARRAY_KINDS:
        raise DecodeError(f"an array of {dtype} is not plain data")
    return numpy.frombuffer(plain["data"], dtype=dtype).reshape(plain["shape"]).copy()


def _encode_pandas(value: Any, where: str) -> Any:
    import pandas

    if value is pandas.NA:
        return {MARK: "missing"}
    if isinstance(value, pandas.Index):
        value = value.to_series(index=range(len(value)))
        return {MARK: "index", "arrow": _to_arrow(value.to_frame("0"), where)}
    if isinstance(value, pandas.Series):
        name = None if value.name is None else _encode(value.name, f"the name of {where}")
        return {MARK: "series", "name": name, "arrow": _to_arrow(value.to_frame("0"), where)}
    if isinstance(value, pandas.DataFrame):
        # Arrow names columns by text only, so that the original names are sent beside the table
        names = [_encode(name, f"a column of {where}") for name in value.columns]
        top = [None if name is None else _encode(name, "a name") for name in value.columns.names]
        plain = value.set_axis([str(number) for number in range(len(names))], axis=1)
        return {MARK: "frame", "columns": names, "names": top, "arrow": _to_arrow(plain, where)}
    return None


def _to_arrow(frame: Any, where: str) -> bytes:
    try:
        import pyarrow
    except ImportError as error:
        raise EncodeError(
            f"{where} is a table, and pyarrow is not installed here: pip install pyarrow"
        ) from error
    try:
        table = pyarrow.Table.from_pandas(frame)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise EncodeError(f"{where} is a table that can't travel: {error}") from error
    return data


def _from_arrow(data: bytes) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackage("tables need pyarrow and pandas: pip install 'fedjob[researcher]'") from error
    table = pyarrow.ipc.open_stream(data).read_all()
    table.validate(full=True)  # checks a peer's offsets and lengths before they are used
    return table.to_pandas()


def _decode_frame(plain: Mapping[str, Any]) -> Any:
    import pandas

    frame = _from_arrow(plain["arrow"])
    names = [_hashable(_decode(name)) for name in plain["columns"]]
    top = [None if name is None else _decode(name) for name in plain["names"]]
    if len(top) > 1:
        frame.columns = pandas.MultiIndex.from_tuples(names, names=top)
    elif names:
        frame.columns = pandas.Index(names, name=top[0], tupleize_cols=False)
    else:
        frame.columns = pandas.RangeIndex(0)
    return frame


def _decode_series(plain: Mapping[str, Any]) -> Any:
    return _from_arrow(plain["arrow"])["0"].rename(_hashable(_decode(plain["name"])))


def _decode_index(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.Index(_from_arrow(plain["arrow"])["0"], name=None)


def _decode_timestamp(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.Timestamp(plain["iso"])


def _decode_missing(plain: Mapping[str, Any]) -> Any:
    import pandas

    return pandas.NA


_DECODERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "int": lambda plain: int(str(plain["digits"]), 16),
    "map": lambda plain: {_hashable(_decode(key)): _decode(item) for key, item in plain["items"]},
    "set": lambda plain: {_hashable(_decode(item)) for item in plain["items"]},
    "tuple": lambda plain: tuple(_decode(item) for item in plain["items"]),
    "date": lambda plain: datetime.date.fromisoformat(plain["iso"]),
    "datetime": lambda plain: datetime.datetime.fromisoformat(plain["iso"]),
    "tensor": _decode_tensor,
    "array": _decode_array,
    "scalar": lambda plain: _decode_array(plain)[()],
    "frame": _decode_frame,
    "series": _decode_series,
    "index": _decode_index,
    "timestamp": _decode_timestamp,
    "missing": _decode_missing,
}
