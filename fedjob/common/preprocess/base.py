"""What a preprocessing step is: a frozen description, and a pure function on a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fedjob.common.errors import PreparationError, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.preprocess.discretion import Discretion


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


class LearningStep(TableStep):
    """A step on a table with values that are found in the data of all nodes, before the first round.

    A step that has found them is one of the same class with these fields filled in. A step that needs none is
    complete from the start.
    """

    learned: ClassVar[tuple[str, ...]]
    """The fields that are found; None before."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to find."""
        return all(getattr(self, name) is not None for name in self.learned)

    @abstractmethod
    def measure(self, frame: pd.DataFrame, discretion: Discretion) -> dict[str, Any]:
        """Return a node's share of what is to be found, as plain data.

        Args:
            discretion: what may be told; what may not is left out.

        Raises:
            SpecError: as in `apply`.
        """

    @abstractmethod
    def learn(self, measured: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return this step, complete.

        Args:
            measured: node -> its share, in the order of the nodes' names.

        Raises:
            SpecError: no node has anything to find it in; names the column.
        """

    @abstractmethod
    def transformer(self) -> Any:
        """Return a scikit-learn transformer, fitted, that does the same to the step's columns.

        Raises:
            SpecError: the step is not complete, or scikit-learn has none like it.
        """

    def declared(self) -> Self:
        """Return this step as it was before anything was found."""
        return replace(self, **dict.fromkeys(self.learned))  # type: ignore[type-var]


@contextmanager
def preparing() -> Iterator[None]:
    """Mark what steps say of the data as words that a researcher may read.

    Raises:
        PreparationError: in place of a step's `SpecError`.
    """
    try:
        yield
    except PreparationError:
        raise
    except SpecError as error:
        raise PreparationError(str(error)) from error


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
