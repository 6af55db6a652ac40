"""The terms of private sums at one node: how much noise each has, and what all together cost."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from fedjob.common.codec import from_plain
from fedjob.common.errors import SpecError
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.discrete_noise import RandomBytes, discrete_laplace, exact_discrete_gaussian
from fedjob.privacy.dp.mechanisms import Gaussian, Mechanism, Pure

GAUSSIAN, LAPLACE = "gaussian", "laplace"

_CONTINUOUS = 1e6
"""From this scale on the variance of discrete Laplace noise is that of the continuous, but for rounding."""

_LEAST = 1e-3
"""The least noise of a sum: less would cost an epsilon that says nothing any more."""

_USEFUL = 2.0
"""So many times the standard deviation of a count's noise is less than the rows of a dataset, or nothing is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumTerms:
    """The terms of a number of sums over the same records, each of whole numbers of a bounded size.

    A histogram counts as one sum: a record is in one of its bins.

    Args:
        epsilon, delta: that all sums together keep for each record.
        distribution: of the noise, `gaussian` or `laplace`, both discrete.
        noise: standard deviation of the Gaussian, or scale of the Laplace distribution, by the most that one record
            adds to a sum.
        number: of sums.
        num_rows: of the dataset, as its owner registered it.
    """

    epsilon: float
    delta: float
    distribution: str
    noise: float
    number: int
    num_rows: int

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism of all sums, for the ledger."""
        if self.distribution == LAPLACE:
            return Pure(epsilon=math.nextafter(1 / self.noise, math.inf), number=self.number)
        return Gaussian(noise=self.noise, number=self.number)

    def variance(self, sensitivity: int) -> float:
        """Return the variance of the noise on a sum.

        Args:
            sensitivity: the most that one record adds to it, 1 or more.
        """
        size = self.noise * sensitivity
        if self.distribution == LAPLACE and size < _CONTINUOUS:
            ratio = math.exp(-1 / size)
            return 2 * ratio / math.expm1(-1 / size) ** 2
        return (2 if self.distribution == LAPLACE else 1) * size * size

    def noised(
        self, exact: Sequence[int], sensitivity: int, *, source: RandomBytes = os.urandom
    ) -> list[int]:
        """Return whole numbers with noise.

        Args:
            exact: the bins of one sum.
            sensitivity: the most that one record adds to one of them, while it adds nothing to the others.
        """
        size = Fraction(self.noise) * sensitivity
        if self.distribution == LAPLACE:
            found = discrete_laplace(size, len(exact), source=source)
        else:
            found = exact_discrete_gaussian(size * size, len(exact), source=source)
        return [number + noise for number, noise in zip(exact, found, strict=True)]

    def to_plain(self) -> dict[str, Any]:
        """Return them as plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SumTerms:
        """Build them from plain data."""
        return from_plain(cls, dict(plain))


def sum_terms(*, epsilon: float, delta: float, number: int, num_rows: int) -> SumTerms:
    """Divide a budget among sums, alike, by the distribution that takes less noise.

    Few sums take less with Laplace noise, many with Gaussian noise.

    Args:
        epsilon, delta: of all sums together.
        number: of sums, 1 or more.
        num_rows: of the dataset, as its owner registered it.

    Raises:
        SpecError: the noise on a count would be about as large as the number of rows.
    """
    shared = {"epsilon": epsilon, "delta": delta, "number": number, "num_rows": num_rows}
    found = SumTerms(distribution=LAPLACE, noise=max(_LEAST, number / epsilon * (1 + 1e-9)), **shared)  # type: ignore[arg-type]
    try:
        gaussian = SumTerms(distribution=GAUSSIAN, noise=noise_for(epsilon, delta, number=number), **shared)  # type: ignore[arg-type]
    except SpecError:  # then there is no Gaussian noise for it
        gaussian = found
    if gaussian.variance(1) < found.variance(1):
        found = gaussian
    deviation = math.sqrt(found.variance(1))
    if not _USEFUL * deviation < num_rows:
        raise SpecError(
            f"with epsilon={epsilon:g} divided among {number} sum{'s' * (number > 1)} the noise on a count has a standard "
            f"deviation of {deviation:,.3g}, and the dataset has {num_rows:,} rows: nothing could be seen. Ask for fewer "
            "statistics in one job, or for a larger epsilon"
        )
    return found
