"""The terms of a private training at one node: how much noise, on which samples, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.errors import SpecError
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTerms:
    """The terms of one round of private training (DP-SGD, Abadi et al. 2016, https://arxiv.org/abs/1607.00133).

    Each step draws every record with probability `rate`, bounds the norm of each one's gradient, adds Gaussian noise
    of standard deviation `noise * max_grad_norm` to the sum, and divides by the expected size of a sample.

    Args:
        epsilon, delta: that all rounds together keep for each record.
        noise: standard deviation of the noise by the bound of a gradient's norm.
        rate: of sampling, above 0 and at most 1.
        steps: of one round.
        rounds: that the noise is for.
        max_grad_norm: the bound on the Euclidean norm of one record's gradient.
        num_rows: of the dataset, as its owner registered it; the number is public.
    """

    epsilon: float
    delta: float
    noise: float
    rate: float
    steps: int
    rounds: int
    max_grad_norm: float
    num_rows: int

    @property
    def sample_size(self) -> float:
        """The expected size of a sample, by which the sum of a step is divided.

        Dividing by the size of the sample that was drawn would tell how many records it has, and one record more
        would change the share of every other: the bound on what one record changes would not hold. It follows from
        the registered rows for the same reason, and not from those that preprocessing left.
        """
        return self.rate * self.num_rows

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise on the sum of a step."""
        return self.noise * self.max_grad_norm

    @property
    def mechanism(self) -> Gaussian:
        """The mechanism of one round, for the ledger."""
        return Gaussian(noise=self.noise, rate=self.rate, number=self.steps)

    def to_plain(self) -> dict[str, Any]:
        """Return them as plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainingTerms:
        """Build them from plain data."""
        return from_plain(cls, dict(plain))


def training_terms(
    *,
    epsilon: float,
    delta: float,
    max_grad_norm: float,
    rounds: int,
    num_rows: int,
    batch_size: int,
    steps: int,
) -> TrainingTerms:
    """Return the terms that keep an epsilon over all rounds of a job.

    Args:
        num_rows: of the dataset, as its owner registered it.
        batch_size: the expected size of a sample.
        steps: of one round.

    Raises:
        SpecError: there are too few rows, no noise is enough, or nothing could be learned under it.
    """
    if num_rows < 2 * batch_size:
        raise SpecError(
            f"private training draws samples of about batch_size={batch_size} from twice as many rows or more, and "
            f"there are {num_rows}: give a smaller batch_size in training_args"
        )
    if steps < 1:
        raise SpecError(
            "private training takes one step a round or more, and the training arguments ask for none"
        )
    rate = batch_size / num_rows
    noise = noise_for(epsilon, delta, rate=rate, number=steps * rounds)
    if noise >= batch_size * math.sqrt(steps * rounds):
        raise SpecError(
            f"with {num_rows} rows and epsilon={epsilon:g} there would be nothing but noise: over all {steps * rounds} steps "
            "it moves every parameter by more than the records of the samples can. Ask for a larger epsilon, a larger "
            "batch_size, or datasets of more rows"
        )
    return TrainingTerms(
        epsilon=epsilon,
        delta=delta,
        noise=noise,
        rate=rate,
        steps=steps,
        rounds=rounds,
        max_grad_norm=max_grad_norm,
        num_rows=num_rows,
    )
