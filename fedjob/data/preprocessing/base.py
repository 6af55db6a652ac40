"""The interface of a preprocessing step: a frozen description, and a pure function on a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fedjob.common.errors import PreparationError, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion


class Step(ABC):
    """One step; its fields are its configuration, plain data that an owner can read."""

    name: ClassVar[str]


class TableStep(Step):
    """A step on a table."""

    @abstractmethod
    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the changed table; the given one stays as it is.

        Raises:
            SpecError: a column is missing, or holds values that the step can't work on.
        """


class LearningStep(TableStep):
    """A step on a table that takes values, such as a mean, from the data of all nodes before the first round.

    A complete step is one of the same class with these values in its fields. A step that needs no such values is
    complete from the start.
    """

    learned: ClassVar[tuple[str, ...]]
    """The names of the fields with these values; the fields are None until then."""

    @property
    def complete(self) -> bool:
        """True if the step has all the values that it needs."""
        return all(getattr(self, name) is not None for name in self.learned)

    @abstractmethod
    def measure(self, frame: pd.DataFrame, discretion: Discretion) -> dict[str, Any]:
        """Return a node's contribution to the values, such as its count and sum for a mean, as plain data.

        Args:
            discretion: the rule on which numbers about rows may be released; the others are left out.

        Raises:
            SpecError: as in `apply`.
        """

    @abstractmethod
    def learn(self, measured: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return this step, complete with the values that follow from all nodes' contributions.

        Args:
            measured: node -> what its `measure` returned, in the order of the nodes' names.

        Raises:
            SpecError: no node contributes to a value; the message names the column.
        """

    @abstractmethod
    def transformer(self) -> Any:
        """Return a fitted scikit-learn transformer that does the same to the step's columns.

        Raises:
            SpecError: the step is not complete, or scikit-learn has no such transformer.
        """

    def declared(self) -> Self:
        """Return this step as it was declared, without the values found in the data."""
        return replace(self, **dict.fromkeys(self.learned))  # type: ignore[type-var]


@contextmanager
def preparing() -> Iterator[None]:
    """Turn the errors of steps into errors whose message a researcher may read.

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
    """Check that a table has these columns.

    Raises:
        SpecError: a column is missing; the message names it, and the columns that there are.
    """
    for column in columns:
        if column not in frame.columns:
            raise SpecError(f"{step}: there is no column {column!r}; there are {', '.join(map(str, frame))}")


def names_of(columns: object, step: str) -> tuple[str, ...]:
    """Return column names that are given as one string or a sequence of strings.

    Raises:
        SpecError: they are neither.
    """
    given = (
        (columns,) if isinstance(columns, str) else tuple(columns) if isinstance(columns, Iterable) else ()
    )
    if not given or not all(isinstance(name, str) and name for name in given):
        raise SpecError(f"{step} takes the names of one or more columns, not {columns!r}")
    return tuple(str(name) for name in given)
