"""The predictions of a model for a node's items, and the forms in which they are stored or sent.

Predictions are one array for each output of the model, with a row for each item. They leave a
node as arrays, as a table or as one file for each item, and in every form under the items' numbers:
the name of an item (`patient_17.png`) is written only to files that stay at the node.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import PlanError
from fedjob.common.values import decode, encode

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FORMS = ("array", "table", "csv", "files")
ONLY_OUTPUT = "prediction"
"""Name of the output of a model that has a single, unnamed output."""

MAX_TABLE_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions for some items.

    Args:
        outputs: name -> array with a row for each item; the primary one first.
        ids: the node's own names of the items; empty if they are not needed.
    """

    outputs: Mapping[str, np.ndarray[Any, Any]]
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values())))

    def first(self, count: int) -> Predictions:
        """Return the predictions of the first `count` items."""
        return Predictions({name: array[:count] for name, array in self.outputs.items()}, self.ids[:count])

    def to_plain(self) -> dict[str, Any]:
        """Return plain data."""
        outputs = [[name, encode(array, f"output {name}")] for name, array in self.outputs.items()]
        return {"outputs": outputs, "ids": list(self.ids)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Predictions:
        """Build predictions from what `to_plain` returned."""
        return cls({name: decode(array) for name, array in plain["outputs"]}, tuple(plain["ids"]))


def predictions_of(found: Any, ids: Sequence[str] = ()) -> Predictions:
    """Return the value that a plan returned as predictions.

    Args:
        found: an array, or name -> array for a model with several outputs.
        ids: of the items; dropped if their number is not that of the predictions.
    """
    import numpy as np

    outputs = found if isinstance(found, Mapping) else {ONLY_OUTPUT: found}
    made = Predictions({str(name): np.asarray(array) for name, array in outputs.items()})
    return Predictions(made.outputs, tuple(ids) if len(ids) == len(made) else ())


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several batches as one, in their order."""
    import numpy as np

    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return Predictions(outputs, tuple(id_ for part in parts for id_ in part.ids))


def led_by(found: Predictions, primary: str) -> Predictions:
    """Return predictions with their primary output first.

    Raises:
        PlanError: the model has no output of that name.
    """
    if not primary:
        return found
    if primary not in found.outputs:
        raise PlanError(f"the model has no output {primary!r}; it has {', '.join(found.outputs)}")
    return Predictions({primary: found.outputs[primary], **found.outputs}, found.ids)


def to_send(found: Predictions, form: str, primary: str) -> Any:
    """Return predictions in the form in which they leave the node; the result's reader decodes them.

    Args:
        primary: the only output that is sent as an array; empty for all.

    Raises:
        PlanError: the form does not fit the predictions.
    """
    if form == "files":
        return dict(_files(found, ""))
    if form != "array":
        return encode(table(found), "the predictions")
    name = primary or next(iter(found.outputs))
    if primary or len(found.outputs) == 1:
        return encode(found.outputs[name], "the predictions")
    return {name: encode(array, f"output {name}") for name, array in found.outputs.items()}


def to_keep(found: Predictions, form: str) -> list[tuple[str, bytes]]:
    """Return names and bytes of the files in which predictions stay at the node, under the items' own names.

    Raises:
        PlanError: the form does not fit the predictions.
    """
    if form == "files":
        return _files(found, "_")
    if form == "array":
        return [(f"{name}.npy", _npy(array)) for name, array in found.outputs.items()]
    frame = table(found)
    if found.ids:
        frame.insert(0, "item", found.ids)
    return [("predictions.csv", frame.to_csv(index=False).encode())]


def table(found: Predictions) -> pd.DataFrame:
    """Return predictions as a table: `row`, then a column for each number of each output.

    Raises:
        PlanError: an output has more than `MAX_TABLE_COLUMNS` numbers for an item, as an image has.
    """
    import pandas as pd

    columns: dict[str, Any] = {"row": range(len(found))}
    for name, array in found.outputs.items():
        flat = array.reshape(len(array), -1)
        if flat.shape[1] > MAX_TABLE_COLUMNS:
            raise PlanError(
                f"output {name} has {flat.shape[1]} numbers for an item, a table at most {MAX_TABLE_COLUMNS} columns: "
                "ask for output='files'"
            )
        single = array.ndim == 1 or flat.shape[1] == 1
        columns |= {name if single else f"{name}_{n}": flat[:, n] for n in range(flat.shape[1])}
    return pd.DataFrame(columns)


def _files(found: Predictions, names: str) -> list[tuple[str, bytes]]:
    """Return name and content of one file for each item and output.

    Args:
        names: separator between number and name of an item; empty to name files by numbers only.
    """
    several = len(found.outputs) > 1
    made = []
    for row in range(len(found)):
        own = found.ids[row].replace("/", "_") if names and found.ids else ""
        stem = f"{row:06d}{names + own if own else ''}"
        for name, array in found.outputs.items():
            suffix, data = _file(array[row])
            made.append((f"{stem}{'_' + name if several else ''}{suffix}", data))
    return made


def _file(item: np.ndarray[Any, Any]) -> tuple[str, bytes]:
    """Return suffix and content of one item's file: an image of bytes as PNG, everything else as npy."""
    import numpy as np

    is_image = item.dtype == np.uint8 and (item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (3, 4)))
    if not is_image:
        return ".npy", _npy(item)
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(item).save(stream, format="PNG")
    return ".png", stream.getvalue()


def _npy(array: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def merged(passes: Sequence[tuple[int, Any]]) -> Any:
    """Combine a node's encoded values of several passes into one, encoded.

    Args:
        passes: round and value, in order. Tables get a column `round`, counts add, later files win.
    """
    import numpy as np

    values = [(round_, decode(value)) for round_, value in passes]
    if len(values) == 1:
        return passes[0][1]
    shapes = {value.shape[1:] for _, value in values if isinstance(value, np.ndarray) and value.ndim}
    if len(shapes) == 1 and all(isinstance(value, np.ndarray) and value.ndim for _, value in values):
        return encode(np.concatenate([value for _, value in values]), "the predictions")
    if all(hasattr(value, "itertuples") and value.columns.is_unique for _, value in values):
        import pandas as pd

        frames = [value.assign(round=round_) for round_, value in values]
        return encode(pd.concat(frames, ignore_index=True), "the predictions")
    if all(is_count(value) for _, value in values):
        return {name: sum(value[name] for _, value in values) for name in COUNTS}
    return {str(round_): encode(value, "the predictions") for round_, value in values}


COUNTS = ("num_rows", "num_files")
"""The map that replaces predictions which stay at the node: their number only."""


def is_count(value: Any) -> bool:
    """Return whether a node's value is only the number of predictions that stayed there."""
    return (
        isinstance(value, Mapping)
        and set(value) == set(COUNTS)
        and all(type(number) is int and 0 <= number < 1 << 62 for number in value.values())
    )


def rows_of(value: Any, most: int) -> list[list[Any]]:
    """Return the first `most` rows of a node's value as lists; none if it is neither a table nor an array."""
    import numpy as np

    found = decode(value)
    if isinstance(found, np.ndarray):
        rows: list[list[Any]] = found[:most].reshape(min(most, len(found)), -1).tolist()
        return rows
    if hasattr(found, "itertuples"):
        return [list(row) for row in found.head(most).astype(object).itertuples(index=False, name=None)]
    return []
