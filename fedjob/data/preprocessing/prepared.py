"""A dataset as a plan sees it after preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fedjob.common.errors import SpecError
from fedjob.data.preprocessing import build_steps
from fedjob.data.preprocessing.base import Step, TableStep, preparing
from fedjob.data.preprocessing.images import Resize
from fedjob.data.preprocessing.learning import completed
from fedjob.data.readers.base import Dataset
from fedjob.data.readers.images import ImagesDataset
from fedjob.data.readers.table import TableDataset

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_ROWS_AS_THEY_ARE = ("select", "target", "filter")
"""Steps that leave out or reorder rows and columns, and change no value."""

S = TypeVar("S", bound=Step)


class PreparedTable(TableDataset):
    """A table that steps have prepared, in memory; it is never written to disk."""

    made_of_another: ClassVar[bool] = True

    def __init__(self, source: TableDataset, steps: Sequence[TableStep]) -> None:
        names = {str(column["name"]) for column in source.columns}
        super().__init__(source.path, source.options, name=source.name, tags=source.tags)
        self.assets = source.assets
        self._source = source
        self._steps = tuple(steps)
        if self.options.get("target") in names and any(step.name in ("target", "select") for step in steps):
            del self.options["target"]  # the steps decide which column is the last, and so the target

    @property
    def rows_read(self) -> int | None:
        return self._source.rows_read

    def read(self) -> pd.DataFrame:
        frame = self._source.frame()
        num_rows = len(frame)
        with preparing():
            for step in self._steps:
                frame = step.apply(frame)
        return frame if len(frame) == num_rows else frame.reset_index(drop=True)

    def texts(self, column: str) -> pd.Series[Any]:
        if any(step.name not in _ROWS_AS_THEY_ARE for step in self._steps):
            return super().texts(column)  # the steps may have changed the values
        kept = self._source.frame().reset_index(drop=True)
        with preparing():
            for step in self._steps:
                kept = step.apply(kept)
        if column not in kept.columns:
            raise SpecError(
                f"there is no column {column!r}; there are {', '.join(map(str, kept.columns))[:300]}"
            )
        return self._source.texts(column).iloc[kept.index.to_numpy()].reset_index(drop=True)

    def source(self) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
        changing = [step.name for step in self._steps if step.name not in _ROWS_AS_THEY_ARE]
        if changing:
            raise SpecError(
                f"where the owner sets a minimum of rows, step {changing[0]!r} can't stand before statistics: it "
                f"changes what is in the rows; {', '.join(_ROWS_AS_THEY_ARE)} can"
            )
        frame, kept = self._source.source()
        return frame, kept[self._kept()]

    def origin(self) -> tuple[Dataset, np.ndarray[Any, Any]]:
        root, kept = self._source.origin()
        return root, kept[self._kept()]

    def _kept(self) -> np.ndarray[Any, Any]:
        """Return the positions in the source of the rows that the steps left."""
        prepared = self._source.frame().reset_index(drop=True)
        with preparing():
            for step in self._steps:
                prepared = step.apply(prepared)
        places: np.ndarray[Any, Any] = prepared.index.to_numpy()
        return places


def prepare(
    dataset: Dataset, plain: Sequence[Mapping[str, Any]], learned: Sequence[Mapping[str, Any]] = ()
) -> Dataset:
    """Return a dataset that gives its data as these steps have prepared them.

    Args:
        learned: the complete steps, in place of those that take values from the data of all nodes.

    Raises:
        SpecError: a step does not fit this kind of data, or `learned` does not fit the steps.
    """
    steps = completed(build_steps(plain), build_steps(learned))
    if isinstance(dataset, TableDataset):
        return PreparedTable(dataset, _all_of(steps, TableStep, "a table"))  # type: ignore[type-abstract]
    if isinstance(dataset, ImagesDataset):
        options = dict(dataset.options)
        for step in _all_of(steps, Resize, "images"):
            options["size"] = f"{step.width}x{step.height}"
            if step.mode:
                options["mode"] = step.mode
        resized = ImagesDataset(dataset.path, options, name=dataset.name, tags=dataset.tags)
        resized.assets = dataset.assets
        return resized
    raise SpecError(f"preprocess works on tables and images; dataset {dataset.name!r} is neither")


def _all_of(steps: Sequence[Step], kind: type[S], what: str) -> list[S]:
    odd = [step.name for step in steps if not isinstance(step, kind)]
    if odd:
        raise SpecError(f"step {odd[0]!r} is not for {what}")
    return [step for step in steps if isinstance(step, kind)]
