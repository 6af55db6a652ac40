"""Private training as a step of a plan sees it: the terms, and the randomness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.privacy.dp.tree_terms import TreeStretch, TreeTerms


def _unreported(done: int, total: int) -> None:
    """Take the progress of a training that nobody follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTraining:
    """The terms of a step that is computed with differential privacy.

    Args:
        draws: of samples and noise, but for that of trees.
        progress: takes the number of steps done and their total, which tell nothing of the records.
        stretch: of the trees that the noise is of; None for noise that each step draws anew.
    """

    terms: TrainingTerms | TreeTerms
    draws: SecureDraws = field(default_factory=SecureDraws)
    progress: Callable[[int, int], None] = _unreported
    stretch: TreeStretch | None = None

    def half(self, num_rows: int) -> list[int]:
        """Return about half of the places of so many rows, in order; one or more, and not all."""
        found: list[int] = self.draws.chosen(np.arange(num_rows), 0.5).tolist()
        return found[: num_rows - 1] or [0]
