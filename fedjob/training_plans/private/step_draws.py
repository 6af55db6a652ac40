"""The records of each step of a private training and the noise on their sum: drawn by chance, or in a fixed order with a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from fedjob.privacy.dp.secure_draws import Floats, SecureDraws
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.privacy.dp.tree_noise import TreeDraws
from fedjob.privacy.dp.tree_terms import TreeStretch
from fedjob.training_plans.private.training import PrivateTraining

Rows = np.ndarray[Any, np.dtype[np.int64]]

Contents = Callable[[], Sequence[Any] | None]
"""Returns arrays with a row for each example; None where the examples would have to be loaded for it."""


class StepDraws(Protocol):
    """What the steps of a private training ask for, one step after the other."""

    def chosen(self) -> Rows:
        """Return the rows of the next step."""

    def noisy(self, totals: Sequence[Floats]) -> list[Floats]:
        """Return the sums of the next step's gradients, by parameter, with noise."""


class SampledSteps:
    """Steps that draw each record with the same probability, and noise anew (DP-SGD)."""

    def __init__(self, terms: TrainingTerms, draws: SecureDraws, rows: Rows) -> None:
        self._terms, self._draws, self._rows = terms, draws, rows

    def chosen(self) -> Rows:
        return self._draws.chosen(self._rows, self._terms.rate)

    def noisy(self, totals: Sequence[Floats]) -> list[Floats]:
        return [self._draws.noisy(total, self._terms.deviation) for total in totals]


class TreeSteps:
    """Steps that take one block of records after the other, pass after pass, with noise of a tree over each pass.

    Args:
        contents: of the examples, which decide their blocks. Of examples that are loaded one by one it is their place.
    """

    def __init__(self, stretch: TreeStretch, rows: Rows, contents: Contents) -> None:
        terms = stretch.terms
        self._draws = TreeDraws(stretch.seed, terms.blocks, stretch.first, terms.deviation)
        self._rows, self._next, self._num_blocks = rows, stretch.first, terms.blocks
        self._blocks = self._draws.blocks_of(_identities(rows, contents() if len(rows) else None))

    def chosen(self) -> Rows:
        found: Rows = self._rows[self._blocks == self._next % self._num_blocks]
        self._next += 1
        return found

    def noisy(self, totals: Sequence[Floats]) -> list[Floats]:
        ends = np.cumsum([len(total) for total in totals])[:-1]
        return list(np.split(self._draws.noisy(np.concatenate(totals)), ends))


def step_draws(private: PrivateTraining, rows: Rows, contents: Contents) -> StepDraws:
    """Return the draws of a training's steps.

    Args:
        rows: of the training split.
        contents: of the examples that the rows are of.
    """
    if private.stretch is not None:
        return TreeSteps(private.stretch, rows, contents)
    assert isinstance(private.terms, TrainingTerms)
    return SampledSteps(private.terms, private.draws, rows)


def _identities(rows: Rows, contents: Sequence[Any] | None) -> Iterator[bytes]:
    """Yield what tells records apart: the content of examples, or their places where they are not loaded yet."""
    for row in rows:
        if contents is None:
            yield int(row).to_bytes(8, "little")
        else:
            yield b"\0".join(_content(np.asarray(part)[row]) for part in contents)


def _content(value: Any) -> bytes:
    array = np.asarray(value)
    return repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
