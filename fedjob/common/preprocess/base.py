"""What a preprocessing step is: a frozen description, and a pure function on a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd


class Step(ABC):
    """One step; its fields are its configuration, plain data that an owner can read."""

    name: ClassVar[str]


class TableStep(Step):
    """A step on a table."""

    @abstractmethod
    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the changed table; the given one stays as it is.

        Raises:
            SpecError: a column is missing or holds something else than the step is for.
        """


def need(frame: pd.DataFrame, columns: Iterable[str], step: str) -> None:
    """Refuse a table that lacks columns.

    Raises:
        SpecError: names the first that is missing, and those that there are.
    """
    for column in columns:
        if column not in frame.columns:
            raise SpecError(f"{step}: there is no column {column!r}; there are {', '.join(map(str, frame))}")


def names_of(columns: object, step: str) -> tuple[str, ...]:
    """Return column names given as one string or a sequence of them.

    Raises:
        SpecError: neither.
    """
    given = (
        (columns,) if isinstance(columns, str) else tuple(columns) if isinstance(columns, Iterable) else ()
    )
    if not given or not all(isinstance(name, str) and name for name in given):
        raise SpecError(f"{step} takes the names of one or more columns, not {columns!r}")
    return tuple(str(name) for name in given)
