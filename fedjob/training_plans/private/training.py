"""Private training as a step of a plan sees it: the terms, the randomness, and the numbers that are public."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.privacy.dp.terms import TrainingTerms
from fedjob.training_plans.training_args import TrainingArgs


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

    def num_examples(self, args: TrainingArgs) -> int:
        """Return the number of examples that the node reports: of its registered rows, those that are trained on.

        It follows from public numbers alone. Preprocessing that drops rows makes the true number smaller, and that
        one is not reported.
        """
        tested = 1 / args.test_fold[1] if args.test_fold else args.test_ratio
        return max(1, round(self.terms.num_rows * (1 - tested)))

    def sample_size(self, args: TrainingArgs) -> float:
        """Return the expected size of a sample, by which the sum of a step is divided.

        Dividing by the size of the sample that was drawn would tell how many records it has, and one record more
        would change the share of every other: the bound on what one record changes would not hold.
        """
        return self.terms.rate * self.num_examples(args)

    def half(self, num_rows: int) -> list[int]:
        """Return about half of the places of so many rows, in order; one or more, and not all."""
        found: list[int] = self.draws.chosen(np.arange(num_rows), 0.5).tolist()
        return found[: num_rows - 1] or [0]
