"""The mechanisms that tell something about a dataset with noise, as a node's ledger keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedjob.common.checks import is_number
from fedjob.common.errors import DecodeError
from fedjob.privacy.dp.renyi import Curve, added, epsilon_of, gaussian_curve, pure_curve, times


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Gaussian noise, continuous or discrete, on a sum of vectors, each of a bounded norm.

    Args:
        noise: standard deviation by that bound, above 0.
        rate: probability with which each record is in the sum, drawn anew each time; 1 for all records.
        number: of sums.
    """

    noise: float
    rate: float = 1.0
    number: int = 1

    @property
    def curve(self) -> Curve:
        """Its bounds of Renyi differential privacy, see `renyi`."""
        return times(gaussian_curve(self.noise, self.rate), self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pure:
    """A mechanism with pure differential privacy, such as discrete Laplace noise on counts.

    Args:
        epsilon: of one answer, above 0.
        number: of answers.
    """

    epsilon: float
    number: int = 1

    @property
    def curve(self) -> Curve:
        """Its bounds of Renyi differential privacy, see `renyi`."""
        return times(pure_curve(self.epsilon), self.number)


Mechanism = Gaussian | Pure

_KINDS: Mapping[str, type[Gaussian] | type[Pure]] = {"gaussian": Gaussian, "pure": Pure}


def cost_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return the epsilon of all mechanisms together, 0 for none, infinity where no bound is known.

    Args:
        delta: from 0, which only pure mechanisms keep, to less than 1.
    """
    every = list(mechanisms)
    pure = math.inf
    if all(isinstance(one, Pure) for one in every):
        pure = math.fsum(one.epsilon * one.number for one in every if isinstance(one, Pure))
    if not delta > 0:
        return pure
    return min(pure, epsilon_of(added(one.curve for one in every), delta))


def mechanism_to_plain(mechanism: Mechanism) -> dict[str, Any]:
    """Return a mechanism as plain data."""
    return {"kind": "pure" if isinstance(mechanism, Pure) else "gaussian", **asdict(mechanism)}


def mechanism_of(plain: Mapping[str, Any]) -> Mechanism:
    """Build a mechanism from plain data.

    Raises:
        DecodeError: it is none, or its numbers are out of their range.
    """
    given = dict(plain)
    kind = _KINDS.get(str(given.pop("kind", "")))
    try:
        if kind is None:
            raise TypeError("there is no such kind")
        found = kind(**given)
    except TypeError as error:
        raise DecodeError(f"expected a mechanism of differential privacy, found {str(plain)[:80]}") from error
    strength = found.noise if isinstance(found, Gaussian) else found.epsilon
    rate = found.rate if isinstance(found, Gaussian) else 1.0
    if not (is_number(strength) and strength > 0 and is_number(rate) and 0 < rate <= 1):
        raise DecodeError(f"the numbers of a mechanism are out of range: {str(plain)[:80]}")
    if type(found.number) is not int or found.number < 1:
        raise DecodeError(f"a mechanism runs once or more, found {str(found.number)[:20]}")
    return found
