"""The whole numbers of a node's rows to which noise is added: each row is looked at by itself.

A value that is not of the kind that is asked for counts as missing, and none is an error: whether an error occurs would be
something about a record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedjob.data.category import category_text
from fedjob.data.column_types import CODE, FALSE, FLOAT, INT, LONG, TRUE, USUAL
from fedjob.privacy.releases import Floats
from fedjob.protocols.analytics.measures import Measures, level_text
from fedjob.protocols.analytics.private_statistics.questions import (
    BINS,
    CATEGORIES,
    COMPLETE,
    GRID,
    LINEAR,
    PRESENT,
    PRODUCT,
    SQUARES,
    TABLE,
    TREE,
    PrivateQuestion,
    num_groups,
)

if TYPE_CHECKING:
    import pandas as pd

Places = npt.NDArray[np.int64]
"""For each row a number from 0; -1 for a row that does not count."""


def exact_sums(
    measures: Measures, questions: Sequence[PrivateQuestion], frame: pd.DataFrame
) -> list[list[int]]:
    """Return the numbers of each question: of the bins of the first group, of the second, and so on.

    Args:
        frame: with all columns that are asked about.
    """
    rows = _Rows(measures, frame)
    groups = rows.crossed(measures.by)
    found = []
    for question in questions:
        places, amounts = rows.of(question)
        total = np.zeros(num_groups(measures) * question.bins, dtype=np.int64)
        counted = (groups >= 0) & (places >= 0)
        np.add.at(total, groups[counted] * question.bins + places[counted], amounts[counted])
        found.append(total.tolist())
    return found


def real_numbers(column: pd.Series[Any]) -> Floats:
    """Return a column as float64, each value by itself; NaN for what is missing or no number.

    Texts of numbers are numbers: one value that is none makes texts of a whole column.
    """
    if getattr(column.dtype, "kind", "O") in "iufb":
        found: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        return found
    return np.array([_number(value) for value in column.tolist()], dtype=np.float64)


def _number(value: Any) -> float:
    if isinstance(value, str):
        if value in TRUE or value in FALSE:
            return float(value in TRUE)
        if USUAL.kind(value) not in (INT, LONG, FLOAT, CODE):
            return math.nan
    elif not isinstance(value, (bool, int, float, Decimal, np.number, np.bool_)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # of a whole number
        return math.inf if value > 0 else -math.inf
    except ValueError:
        return math.nan


class _Rows:
    """The rows of a table, by what each question looks at."""

    def __init__(self, measures: Measures, frame: pd.DataFrame) -> None:
        self._measures = measures
        self._frame = frame
        self._values: dict[str, Floats] = {}

    def of(self, question: PrivateQuestion) -> tuple[Places, Places]:
        """Return of each row the bin that it is in, and what it adds there."""
        ones = np.ones(len(self._frame), dtype=np.int64)
        name = question.columns[0]
        if question.kind == PRESENT:
            return np.where(self._present(name), 0, 1), ones
        if question.kind == BINS:
            return self._binned(name), ones
        if question.kind in (CATEGORIES, TABLE):
            return self.crossed(question.columns), ones
        if question.kind == TREE:
            return self._part(name, question.bins), ones
        joint = question.kind in (COMPLETE, LINEAR, PRODUCT)
        missing = np.zeros(len(self._frame), dtype=bool)
        for column in self._measures.joint_columns if joint else (name,):
            missing |= np.isnan(self._numbers(column))
        places = np.where(missing, -1, 0)
        if question.kind == COMPLETE:
            return places, ones
        amounts = self._on_grid(name)
        if question.kind in (SQUARES, PRODUCT):
            amounts = amounts * self._on_grid(question.columns[-1])
        return places, amounts

    def crossed(self, names: Sequence[str]) -> Places:
        """Return of each row the combination of its categories; 0 for all rows without columns."""
        found = np.zeros(len(self._frame), dtype=np.int64)
        for name in names:
            places = self._level(name)
            joined = found * len(self._measures.levels[name]) + places
            found = np.where((found >= 0) & (places >= 0), joined, -1)
        return found

    def _level(self, name: str) -> Places:
        numbers = {text: number for number, text in enumerate(self._measures.levels[name])}
        column = self._frame[name]
        texts = column.astype(object).map(lambda value: level_text(category_text(value)), na_action="ignore")
        return np.array([numbers.get(text, -1) for text in texts], dtype=np.int64)

    def _present(self, name: str) -> npt.NDArray[np.bool_]:
        if name in self._measures.summed_columns:
            return ~np.isnan(self._numbers(name))
        found: npt.NDArray[np.bool_] = self._frame[name].notna().to_numpy()
        return found

    def _binned(self, name: str) -> Places:
        values, edges = self._numbers(name), self._measures.histogram[name]
        places = np.searchsorted(edges, values, side="right")
        places[values == edges[-1]] = len(edges) - 1
        return np.where(np.isnan(values), -1, places)

    def _part(self, name: str, parts: int) -> Places:
        values, (low, high) = self._numbers(name), self._measures.bounds[name]
        missing = np.isnan(values)
        share = (np.clip(np.where(missing, low, values), low, high) - low) / (high - low)
        return np.where(missing, -1, np.minimum((share * parts).astype(np.int64), parts - 1))

    def _on_grid(self, name: str) -> Places:
        """Return whole numbers from -GRID to GRID, 0 for what is missing."""
        low, high = self._measures.bounds[name]
        values = np.nan_to_num(np.clip(self._numbers(name), low, high), nan=low)
        share = (values - low) / (high - low)
        return np.clip(np.rint((2 * share - 1) * GRID).astype(np.int64), -GRID, GRID)

    def _numbers(self, name: str) -> Floats:
        if name not in self._values:
            self._values[name] = real_numbers(self._frame[name])
        return self._values[name]
