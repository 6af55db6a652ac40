"""The formats of files that a result is saved in: a file's name says its format, or is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.researcher.results.table import frame_of

SAFETENSORS, CSV, PARQUET, JSON, MSGPACK = ".safetensors", ".csv", ".parquet", ".json", ".mpk"

_SAME: Mapping[str, str] = {".pq": PARQUET, ".msgpack": MSGPACK}

_HOLDS: Mapping[str, tuple[str, ...]] = {
    "params": (SAFETENSORS,),
    "table": (CSV, PARQUET, JSON, MSGPACK),
    "value": (JSON, MSGPACK),
}
"""Kind of result -> the formats that hold it, the usual one first but for a value, which is msgpack."""

_USUAL: Mapping[str, str] = {"params": SAFETENSORS, "table": CSV, "value": MSGPACK}

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")

_ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("params", CSV): "for what was measured, result.history.to_csv(path)",
    ("params", JSON): "for what was measured, result.history.to_json(path)",
    ("params", PARQUET): "for what was measured, result.history.to_parquet(path)",
    ("params", ".onnx"): 'for the model, result.export(path, "onnx", example=...)',
    ("value", CSV): "a csv file holds one table: pick one, such as result.value[name].to_csv(path)",
    (
        "value",
        PARQUET,
    ): "a parquet file holds one table: pick one, such as result.value[name].to_parquet(path)",
}


def format_of(path: Path, kind: str) -> str:
    """Return the format that a result of this kind gets in a file of this name; a name without an ending gets the usual.

    Raises:
        SpecError: the name says a format that can't hold it.
    """
    ending = path.suffix.lower()
    if not ending:
        return _USUAL[kind]
    wanted = _SAME.get(ending, ending)
    if wanted in _HOLDS[kind]:
        return wanted
    what = {"params": "parameters", "table": "a table", "value": "a value"}[kind]
    text = f"{path.name}: {what} can't be saved as {ending}; expected {' or '.join(_HOLDS[kind])}"
    if wanted in _PICKLES:
        text += f". {ending} files are pickles, which run code when they are opened: fedjob writes none"
    if hint := _ELSEWHERE.get((kind, wanted)):
        text += f"; {hint}"
    raise SpecError(text)


def check_ending(path: Path, name: str) -> None:
    """Check that a copy of a file has the ending of the file, or none.

    Raises:
        SpecError: it has another one.
    """
    ending, own = path.suffix.lower(), Path(name).suffix.lower()
    if ending and own and _SAME.get(ending, ending) != _SAME.get(own, own):
        raise SpecError(
            f"{path.name} would hold the bytes of {name}, which is no {ending} file: expected a name that ends in "
            f"{own}; result.save(...) writes other formats"
        )


def as_json(value: Any, place: str = "the result") -> Any:
    """Return a value as JSON holds it.

    Tables become lists of their rows, arrays and tuples lists, NaN and missing values null, and infinite numbers the
    texts `Infinity` and `-Infinity`.

    Raises:
        SpecError: JSON can't hold a part of it; the part is named.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, (str, int))]:
            raise SpecError(f"{place} has the key {odd[0]!r}, which is no text: save it as .mpk")
        return {str(key): as_json(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, f"{place}[{number}]") for number, item in enumerate(value)]
    frame = frame_of(value)
    if frame is not None:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return [as_json({str(key): cell for key, cell in row.items()}, place) for row in rows]
    for plain in ("tolist", "isoformat"):
        if hasattr(value, plain) and type(found := getattr(value, plain)()) is not type(value):
            return as_json(found, place)
    raise SpecError(f"{place} is a {type(value).__name__}, which is no JSON: save it as .mpk")


def _number(value: float) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if isinstance(value, float) else int(value)
