"""The step that fills in missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.checks import check_kinds
from fedjob.common.errors import SpecError
from fedjob.data.category import category_text
from fedjob.data.preprocessing.base import LearningStep, names_of, need
from fedjob.data.preprocessing.category_counts import added, counts_of
from fedjob.data.preprocessing.moments import combined, moments_of, numbers_of, present

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion

_STRATEGIES = ("mean", "median", "most_frequent")


@dataclass(frozen=True, slots=True)
class Impute(LearningStep):
    """Fill in missing values.

    Args:
        value: the value to fill in, in every column; give this or `strategy`.
        strategy: `mean` or `most_frequent` (of equally frequent ones the first) of all nodes together, found
            before the first round; or `median`, with `own=True` only.
        own: take the mean, median or most frequent value of the node's own rows. Nodes then fill in different
            values, and the node releases nothing.
        values: the value of the strategy for each column, where they are known.
    """

    name: ClassVar[str] = "impute"
    learned: ClassVar[tuple[str, ...]] = ("values",)
    columns: tuple[str, ...]
    value: Any = None
    strategy: str = ""
    own: bool = False
    values: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "columns", names_of(self.columns, "Impute"))
        if self.strategy not in ("", *_STRATEGIES) or (self.value is None) == (not self.strategy):
            raise SpecError(f"Impute takes a value, or strategy={', '.join(map(repr, _STRATEGIES))}")
        if self.strategy == "median" and not self.own:
            raise SpecError(
                "Impute(strategy='median') has no median of all nodes together: give own=True for each node's own, "
                "or take the mean"
            )
        if self.values is not None:
            object.__setattr__(self, "values", tuple(self.values))
            if len(self.values) != len(self.columns) or self.own or not self.strategy:
                raise SpecError(
                    f"Impute takes a value for each of its {len(self.columns)} columns, found by a strategy"
                )

    @property
    def complete(self) -> bool:
        return self.own or not self.strategy or self.values is not None

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        need(frame, self.columns, "Impute")
        if self.own:
            fills = {name: self._own(frame, name) for name in self.columns}
        else:
            fills = dict(zip(self.columns, self._found(), strict=True))
        return frame.assign(**{name: _filled(frame[name], fill) for name, fill in fills.items()})

    def _own(self, frame: pd.DataFrame, column: str) -> Any:
        import numpy as np

        values = frame[column].dropna()
        if values.empty:
            raise SpecError(f"Impute: column {column!r} has no value at all; give one: Impute(..., value=0)")
        if self.strategy == "most_frequent":
            return values.mode().iloc[0]
        numbers = numbers_of(frame, column, "Impute")
        return float(np.mean(numbers) if self.strategy == "mean" else np.median(numbers))

    def measure(self, frame: pd.DataFrame, discretion: Discretion) -> dict[str, Any]:
        need(frame, self.columns, "Impute")
        if self.strategy == "most_frequent":
            return {name: counts_of(frame, name, discretion, "Impute") for name in self.columns}
        values = {name: numbers_of(frame, name, "Impute") for name in self.columns}
        return {
            name: list(moments_of(values[name]))[:2] if discretion.admit(present(frame, name), name) else []
            for name in self.columns
        }

    def learn(self, measured: Mapping[str, Mapping[str, Any]]) -> Impute:
        return replace(
            self,
            values=tuple(
                self._together(name, [own[name] for own in measured.values()]) for name in self.columns
            ),
        )

    def _together(self, column: str, shares: list[list[Any]]) -> Any:
        there = [share for share in shares if share]
        if not there:
            raise SpecError(
                f"Impute: no node has values of column {column!r} to take its {self.strategy} from, or has as many as "
                "its owner's minimum: give a value, Impute(..., value=0)"
            )
        if self.strategy == "mean":
            return combined((share[0], share[1], 0.0) for share in there)[1]
        counted = added(there)
        return max(counted, key=counted.__getitem__)

    def transformer(self) -> Any:
        import pandas as pd
        from sklearn.impute import SimpleImputer

        fills = pd.DataFrame([self._found()], columns=list(self.columns))
        return SimpleImputer(strategy="most_frequent").fit(fills)

    def _found(self) -> tuple[Any, ...]:
        if self.values is not None:
            return self.values
        if self.strategy:
            raise SpecError(
                "Impute: the values are not found yet: run the job, and take the step from its result"
            )
        return (self.value,) * len(self.columns)


def _filled(column: pd.Series[Any], fill: Any) -> pd.Series[Any]:
    """Return a column without gaps, of a type that has room for what was filled in.

    Raises:
        SpecError: a text is to be filled into a column of numbers.
    """
    if not column.isna().any():
        return column
    if getattr(column.dtype, "kind", "O") not in "iufb":
        if getattr(column.dtype, "kind", "O") == "O" and isinstance(fill, (bool, int, float)):
            fill = category_text(fill)
        try:
            return column.fillna(fill)
        except (TypeError, ValueError) as error:
            raise SpecError(f"Impute: {fill!r} can't be filled into column {column.name!r}") from error
    number = _number(fill)
    if number is None:
        raise SpecError(
            f"Impute: column {column.name!r} holds numbers, and {fill!r} is none: cast the column to str first"
        )
    if column.dtype.kind == "b" and isinstance(number, bool):
        return column.fillna(number).astype("bool")
    if column.dtype.kind in "iub" and float(number).is_integer():
        return column.astype("Int64").fillna(int(number)).astype("int64")
    return column.astype("float64").fillna(float(number))


def _number(fill: Any) -> bool | int | float | None:
    """Return what is filled in as a number or a truth value, also if other nodes have it as text; None if it is none."""
    fill = fill.item() if hasattr(fill, "item") and not isinstance(fill, str) else fill
    if not isinstance(fill, str):
        return fill if isinstance(fill, (bool, int, float)) else None
    for kind in (int, float):
        try:
            return kind(fill)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(fill)
