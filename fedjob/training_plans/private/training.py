"""Private training as a step of a plan sees it: the terms, and the randomness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.privacy.dp.terms import TrainingTerms


def _unreported(done: int, total: int) -> None:
    """Take the progress of a training that nobody follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTraining:
    """The terms of a step that is computed with differential privacy.

    Args:
        draws: of samples and noise.
        progress: takes the number of steps done and their total, which tell nothing of the records.
    """

    terms: TrainingTerms
    draws: SecureDraws = field(default_factory=SecureDraws)
    progress: Callable[[int, int], None] = _unreported

    @property
    def sample_size(self) -> float:
        """The expected size of a sample, by which the sum of a step is divided.

        Dividing by the size of the sample that was drawn would tell how many records it has, and one record more
        would change the share of every other: the bound on what one record changes would not hold. It follows from
        the registered rows for the same reason, and not from those that preprocessing left.
        """
        return self.terms.rate * self.terms.num_rows

    def half(self, num_rows: int) -> list[int]:
        """Return about half of the places of so many rows, in order; one or more, and not all."""
        found: list[int] = self.draws.chosen(np.arange(num_rows), 0.5).tolist()
        return found[: num_rows - 1] or [0]
