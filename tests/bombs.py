"""Answers of a bad node: each looks like one that was asked for, and none may cost the researcher memory, time or the job.

`TRAINING` is for an ask to train the plan `Linear`, `VALUES` for one whose answers are plain values.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import torch
from safetensors.torch import save

from fedjob.common.codec import pack
from fedjob.common.types import Ref
from fedjob.common.values import MARK, encode
from fedjob.metrics.states import mean_state

Put = Callable[[bytes], Ref]
NAN, INF = float("nan"), float("inf")
NOWHERE = "f" * 64


@dataclass(frozen=True)
class Bomb:
    """One bad answer.

    Args:
        name: what it tries.
        reason: how the reason for which it is left out begins.
        make: returns the fields of the result that differ from those of an honest one; it stores bytes by its argument.
    """

    name: str
    reason: str
    make: Callable[[Put], dict[str, Any]] = field(repr=False)


def _plain(name: str, reason: str, **fields: Any) -> Bomb:
    return Bomb(name, reason, lambda put: fields)


def _metric(name: str, state: Any) -> Bomb:
    return _plain(f"metric: {name}", "bad_metrics", metrics={"train": {"loss": state}})


def _large(name: str, reason: str, content: bytes | Callable[[], bytes]) -> Bomb:
    def make(put: Put) -> dict[str, Any]:
        return {
            "blob": put(content if isinstance(content, bytes) else content()),
            "value": None,
            "metrics": {},
        }

    return Bomb(f"large part: {name}", reason, make)


def _file(name: str, reason: str, content: Callable[[], bytes]) -> Bomb:
    return Bomb(f"file: {name}", reason, lambda put: {"params": put(content())})


def _value(name: str, value: Any, reason: str = "unreadable") -> Bomb:
    def make(put: Put) -> dict[str, Any]:
        made = value() if callable(value) else value
        return {"value": None, "blob": put(pack({"value": made, "metrics": {}}))}

    return Bomb(f"value: {name}", reason, make)


def _header(entries: Any, body: bytes = b"", *, text: str | None = None) -> bytes:
    raw = (json.dumps(entries) if text is None else text).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def _tensor(offsets: tuple[int, int] = (0, 4), shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def _odd_params(**changed: torch.Tensor) -> Callable[[], bytes]:
    return lambda: save({**HONEST, **changed})


HONEST = {"weight": torch.zeros(1, 4), "bias": torch.zeros(1)}
"""Tensors of the names, dtypes and shapes of the plan `Linear`."""

SKETCH = {"kind": "auc", "classes": 2, "n": 10}
LABELS = {"kind": "labels", "metric": "f1", "average": "auto", "n": 4}
VARIANCE = {
    "kind": "variance",
    "metric": "r2",
    "n": 3,
    "error_mean": [0.0],
    "error_m2": [0.0],
    "true_mean": [0.0],
}

TRAINING: tuple[Bomb, ...] = (
    _plain("a weight that is not a number", "bad_weight", weight=NAN),
    _plain("an infinite weight", "bad_weight", weight=INF),
    _plain("a negative weight", "bad_weight", weight=-1.0),
    _plain("a weight of 10^15", "bad_weight", weight=1e15),
    _plain("10^15 examples", "bad_weight", num_examples=10**15),
    _plain("a negative number of examples", "bad_weight", num_examples=-5),
    _plain("a million examples of each row", "bad_weight", num_examples=20_000_000, weight=2e7),
    _metric("a text", "most of all"),
    _metric("a list", [1, 2, 3]),
    _metric("a map of no kind", {"kind": "loss", "value": 1}),
    _metric("of a kind that is a list", {"kind": ["mean"], "weight": 1.0, "total": 1.0}),
    _metric("of another kind than the others'", {"kind": "accuracy", "n": 10, "correct": 5}),
    _metric("NaN", {"kind": "mean", "weight": 1.0, "total": NAN}),
    _metric("infinite", {"kind": "mean", "weight": 1.0, "total": INF}),
    _metric("of a text as its total", {"kind": "mean", "weight": 1.0, "total": "1"}),
    _metric("of a map as its weight", {"kind": "mean", "weight": {"a": 1}, "total": 1.0}),
    _metric("of a truth value as its weight", {"kind": "mean", "weight": True, "total": 1.0}),
    _metric("of 10^15 examples", {"kind": "mean", "weight": 1e15, "total": 1.0}),
    _metric("of a negative weight", {"kind": "mean", "weight": -3.0, "total": 1.0}),
    _metric("so large that its square overflows", {"kind": "mean", "weight": 1.0, "total": 1e200}),
    _metric("with more fields", {**mean_state(1.0, 2.0), "classes": 3}),
    _metric("more right answers than examples", {"kind": "accuracy", "n": 3, "correct": 10**9}),
    _metric("a label twice", {**LABELS, "labels": ["a", "a"], "counts": [[1, 0, 0], [1, 0, 0]]}),
    _metric("labels that are lists", {**LABELS, "labels": [["a"]], "counts": [[1, 0, 0]]}),
    _metric("labels without counts", {**LABELS, "labels": ["a", "b"], "counts": [[1, 0, 0]]}),
    _metric("counts below zero", {**LABELS, "labels": ["a"], "counts": [[-1, 0, 0]]}),
    _metric("an average that is none", {**LABELS, "average": "odd", "labels": [], "counts": []}),
    _metric("a sketch out of order", {**SKETCH, "sketches": [[[5, 64, 1, 0], [1, 64, 0, 1]]]}),
    _metric("a sketch of places beyond the tree", {**SKETCH, "sketches": [[[1 << 63, 99, 1, 0]]]}),
    _metric("a sketch of ten million classes", {**SKETCH, "classes": 10**7, "sketches": []}),
    _metric("errors without numbers", {"kind": "errors", "metric": "mse", "n": 3, "total": []}),
    _metric(
        "a longer list where one number is expected", {"kind": "mean", "weight": 1.0, "total": [1.0] * 900}
    ),
    _metric("variances of other lengths", {**VARIANCE, "true_m2": [0.0, 1.0]}),
    _metric("a variance below zero", {**VARIANCE, "true_m2": [-1.0]}),
    _plain("metrics: a number instead of a phase", "bad_metrics", metrics={"train": 0.5}),
    _plain(
        "metrics: a name of 20,000 characters",
        "bad_metrics",
        metrics={"train": {"x" * 20_000: mean_state(1, 1)}},
    ),
    _large(
        "50,000 metrics",
        "bad_metrics",
        lambda: pack(
            {"value": None, "metrics": {"train": {f"m{n}": mean_state(1, 1) for n in range(50_000)}}}
        ),
    ),
    _large(
        "a sketch of 50,000 places",
        "bad_metrics",
        lambda: pack(
            {
                "value": None,
                "metrics": {
                    "train": {"loss": {**SKETCH, "sketches": [[[n, 64, 1, 1] for n in range(50_000)]]}}
                },
            }
        ),
    ),
    _plain("file: 64 GB announced", "too_large", params=Ref(NOWHERE, 64 << 30)),
    _plain("file: 64 GB announced in parts", "too_large", params=Ref(NOWHERE, 64 << 30, parts=True)),
    _plain("file: two MB more than there can be", "too_large", params=Ref(NOWHERE, 2 << 20)),
    _plain("file: that is not there", "object_missing", params=Ref(NOWHERE, 200)),
    _file("no safetensors", "decode", lambda: b"x" * 200),
    _file("empty", "decode", lambda: b""),
    _file("a header of 2^63 bytes", "decode", lambda: struct.pack("<Q", 1 << 63) + b"{}"),
    _file("a header cut short", "decode", lambda: struct.pack("<Q", 500) + b"{"),
    _file("a header of nested lists", "decode", lambda: _header(0, text="[" * 100_000)),
    _file(
        "a header of a number with 100,000 digits",
        "decode",
        lambda: _header(0, text='{"w":' + "9" * 100_000 + "}"),
    ),
    _file("a tensor of 200,000 axes", "decode", lambda: _header({"weight": _tensor(shape=[9] * 200_000)})),
    _file(
        "a shape of enormous numbers", "decode", lambda: _header({"weight": _tensor(shape=[10**300] * 60)})
    ),
    _file("a shape that is negative", "decode", lambda: _header({"weight": _tensor(shape=[-1])}, b"\0" * 4)),
    _file(
        "tensors that overlap", "decode", lambda: _header({"bias": _tensor(), "weight": _tensor()}, b"\0" * 4)
    ),
    _file("tensors with gaps", "decode", lambda: _header({"bias": _tensor((8, 12))}, b"\0" * 12)),
    _file("a dtype that is none", "decode", lambda: _header({"bias": _tensor(dtype="F4096")}, b"\0" * 4)),
    _file(
        "a name twice",
        "decode",
        lambda: _header(0, b"\0" * 4, text='{"w":{},"w":' + json.dumps(_tensor()) + "}"),
    ),
    _file("a name that is a path", "decode", lambda: _header({"../../w": _tensor()}, b"\0" * 4)),
    _file("other names", "bad_names", lambda: save({"w": torch.zeros(3)})),
    _file("one tensor more", "bad_names", _odd_params(more=torch.zeros(1))),
    _file(
        "auxiliary variables that nobody asked for", "bad_names", _odd_params(**{"aux--x.w": torch.zeros(1)})
    ),
    _file("another shape", "bad_shape", _odd_params(bias=torch.zeros(4))),
    _file("another dtype", "bad_shape", _odd_params(bias=torch.zeros(1, dtype=torch.float64))),
    _file("NaN", "not_finite", _odd_params(bias=torch.full((1,), NAN))),
    _file("infinity", "not_finite", _odd_params(bias=torch.full((1,), -INF))),
    _plain("no tensors", "no_params", params=None),
    _plain(
        "a plain value in their place",
        "bad_value",
        params=None,
        value={"weight": [[1.0, 2.0]], "bias": [1.0]},
    ),
    _plain("a plain value beside them", "bad_value", value=[1.0]),
    _plain("large part: 10 GB announced", "too_large", blob=Ref(NOWHERE, 10 << 30)),
    _large("no map", "decode", pack([1, 2])),
    _large("other names", "decode", pack({"value": None, "metrics": {}, "ok": True})),
    _large("metrics that are a list", "message", pack({"value": None, "metrics": [1]})),
    _large("nothing", "decode", b""),
    _large("lists nested a million deep", "decode", b"\x91" * 1_000_000),
    _large("three million empty lists", "decode", lambda: pack([[[]] * 100_000] * 30)),
    _large("three million empty maps", "decode", lambda: pack([[{}] * 100_000] * 30)),
    _large("a list that claims 2^32 - 1 entries", "decode", b"\xdd\xff\xff\xff\xff"),
    _large("a map that claims 2^32 - 1 entries", "decode", b"\xdf\xff\xff\xff\xff"),
    _large("lists of 100,000 claimed entries in each other", "decode", b"\xdd\x00\x01\x86\xa0" * 500),
    _large("a text that is no UTF-8", "decode", b"\x81\xa5value\xa2\xff\xfe"),
    _large("an extension type", "decode", msgpack.packb(msgpack.ExtType(1, b"x" * 1000))),
    _plain("facts: an infinite time", "bad_reply", timing={"train": INF}),
    _plain("facts: 2,000 times", "bad_reply", timing={f"t{n}": 1.0 for n in range(2000)}),
    _plain("facts: 10^17 rows", "bad_reply", rows={"read": 10**17}),
    _plain("facts: items below zero", "bad_reply", items={"processed": -1}),
    _plain("facts: a usage of three numbers", "bad_reply", usage=[1, 2, 3]),
    _plain("facts: a million million threads", "bad_reply", threads=10**12),
    _plain("facts: a node state that is a path", "bad_reply", state="../../keys/ed25519"),
    _plain("facts: a resource that is a list", "bad_reply", used=[{"resource": [], "amount": "x"}]),
)


def _arrow(array: Any, *, compression: str | None = None, name: str = "0", words: Any = None) -> bytes:
    import pyarrow

    table = pyarrow.table({name: array})
    if words is not None:
        table = table.replace_schema_metadata({b"pandas": json.dumps(words).encode()})
    sink = pyarrow.BufferOutputStream()
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _series(array: Any, **more: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        index = {"kind": "range", "names": [None], "range": [0, 3, 1]}
        made = _arrow(array() if callable(array) else array, **more)
        return {MARK: "series", "name": None, "index": index, "column": {"kind": "arrow", "arrow": made}}

    return make


def _zeros(count: int) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow

        return pyarrow.array(np.zeros(count))

    return make


def _nulls(count: int) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow

        return pyarrow.nulls(count)

    return make


def _runs() -> Any:
    import pyarrow

    return pyarrow.RunEndEncodedArray.from_arrays(
        pyarrow.array([2_000_000_000], pyarrow.int32()), pyarrow.array([1.0])
    )


def _struct_of_nulls() -> Any:
    import pyarrow

    return pyarrow.StructArray.from_arrays([pyarrow.nulls(100_000_000)], names=["a"])


def _lists_of_nulls() -> Any:
    import pyarrow

    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(100_000_000), 1_000_000)


def _views() -> Any:
    import pyarrow

    return pyarrow.array(["x" * 1000] * 10, pyarrow.string_view())


def _inner_dictionary() -> Any:
    import pyarrow

    words = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int8()), ["x" * 100_000])
    return pyarrow.ListArray.from_arrays(pyarrow.array([0, 1000]), words)


def _texts() -> Any:
    import pyarrow

    return pyarrow.array([b""] * 4_000_000)


_ENDLESS = {"kind": "range", "names": [None], "range": [0, 10**15, 1]}
_COLLIDING = [n * ((1 << 61) - 1) for n in range(1, 30_000)]
"""Whole numbers with one hash."""


def _frame(**changes: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        import pandas

        return {**encode(pandas.DataFrame({"a": [1, 2, 3]})), **changes}

    return make


def _nested(depth: int) -> dict[str, Any]:
    made: Any = 1
    for _ in range(depth):
        made = {MARK: "tuple", "items": [made]}
    return dict(made)


def _array(**changes: Any) -> dict[str, Any]:
    return {MARK: "array", "dtype": "<f8", "shape": [1], "data": b"\0" * 8, **changes}


VALUES: tuple[Bomb, ...] = (
    _value("a table of 40 MB in 1.6 kB, zstd", _series(_zeros(5_000_000), compression="zstd")),
    _value("a table, lz4", _series(_zeros(1_000_000), compression="lz4")),
    _value("a column of 10^8 nothings", _series(_nulls(10**8))),
    _value("a column of two billion equal numbers", _series(_runs)),
    _value("a column of 10^8 maps of nothing", _series(_struct_of_nulls)),
    _value("a column of lists of a million nothings", _series(_lists_of_nulls)),
    _value("a column of views", _series(_views)),
    _value("a column of lists of one long word", _series(_inner_dictionary)),
    _value("a column of four million empty texts of bytes", _series(_texts)),
    _value(
        "a table whose words make an index of 10^15",
        _series(
            _zeros(3),
            words={"index_columns": [{"kind": "range", "start": 0, "stop": 10**15, "step": 1, "name": None}]},
        ),
    ),
    _value("a table with an index of 10^15", _frame(index=_ENDLESS)),
    _value("a table with 10^15 names of columns", _frame(columns=_ENDLESS)),
    _value("an index of 10^15", {MARK: "index", "index": _ENDLESS}),
    _value("no Arrow stream", _frame(arrow=b"\xff" * 100)),
    _value("an Arrow stream that is a text", _frame(arrow="text")),
    _value("half an Arrow stream", lambda: _frame(arrow=_arrow(np.zeros(100))[:300])()),
    _value("a decimal number of 10^9 digits", {MARK: "decimal", "text": "1E+999999999"}),
    _value("a whole number of a million digits", {MARK: "int", "digits": "f" * 1_000_000}),
    _value("an array of objects", _array(dtype="O")),
    _value("an array of a negative shape", _array(shape=[-1])),
    _value("an array of 10^18 numbers", _array(shape=[10**18])),
    _value("an array of a dtype with a million fields", _array(dtype=",".join(["f8"] * 1000))),
    _value("an array whose shape is a map", _array(shape={"0": 1})),
    _value("a tensor of garbage", {MARK: "tensor", "safetensors": b"\xff" * 100}),
    _value("a mask of another shape", {MARK: "masked", "array": _array(), "mask": _array(dtype="|b1")}),
    _value(
        "30,000 keys of one hash",
        lambda: {MARK: "map", "items": [[{MARK: "int", "digits": f"{n:x}"}, 1] for n in _COLLIDING]},
    ),
    _value(
        "a set of 30,000 numbers of one hash",
        lambda: {MARK: "set", "items": [{MARK: "int", "digits": f"{n:x}"} for n in _COLLIDING]},
    ),
    _value("a class of Python's", {MARK: "object", "class": "os.system"}),
    _value("tuples nested 120 deep", lambda: _nested(120), "decode"),
    _value(
        "categories that are not there",
        {
            MARK: "series",
            "name": None,
            "index": _ENDLESS,
            "column": {
                "kind": "category",
                "codes": _array(dtype="|i1", data=b"\x7f"),
                "categories": _ENDLESS,
                "ordered": False,
            },
        },
    ),
    _value("a period of no frequency", {MARK: "period", "ordinal": 1, "freq": "x" * 10_000}),
    _value("a date that is none", {MARK: "date", "iso": "9" * 100_000}),
    _value("a duration of 10^18 days", {MARK: "timedelta", "parts": [10**18, 0, 0]}),
    _value("a key that is a list of maps", {MARK: "map", "items": [[[{"a": 1}], 1]]}),
)
