"""The noise of whole nodes inside a secure sum: each adds a share of it on the integer grid, before it masks.

Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", https://arxiv.org/abs/2102.06387, proposition 14. With T shares of discrete Gaussian noise of parameter s^2
each, on vectors of d whole numbers of which one node's may change by D in Euclidean norm, a sum has Renyi divergence of
order a of at most a/2 times

    D^2 / (T s^2) + tau d / 2        tau = 10 sum_(k = 1 .. T-1) exp(-2 pi^2 s^2 k / (k + 1))

for a sum of discrete Gaussian noise is nearly one itself. T is the threshold of the sum: no fewer nodes reveal it, and the
noise of more of them does not take any away.

A node's change x counts as the whole numbers nearest to `scale * x`, its Euclidean norm bounded by `clip_norm`. Rounding
adds sqrt(d) / 2 to the norm at most, so that with another node's change in its place a sum changes by at most

    D = 2 (scale clip_norm + sqrt(d) / 2)

Shares of noise end at a bound, so that no sum leaves its bits. That one of them would be longer has a probability that
`TAIL_BITS` keep below all that a delta is computed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from fedjob.common.errors import SpecError
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.secagg.mask_stream import derived

if TYPE_CHECKING:
    import numpy as np

TAIL_BITS = 64
"""The shares of all rounds are longer than their bound with a probability of delta by 2 to this power at most."""

MOST_BY_ROUNDING = 0.1
"""So much of the bound of a change's norm may come from rounding; a grid on which it is more is too coarse."""

MOST_BY_TAU = 0.01
"""So much of what the noise is to keep may be lost because a sum of discrete noise is not quite discrete noise."""

LEAST_DEVIATION = 0.5
"""Of a share, in steps of the grid: the proposition holds from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTerms:
    """The promise to whole nodes that everybody in a sum has agreed to, and the grid that it is kept on.

    Args:
        epsilon, delta: of all rounds together, with whatever else one node holds in place of what it has.
        clip_norm: the bound on the Euclidean norm of one node's change.
        rounds: of the job.
        length: number of parameters.
        scale: whole numbers in 1.
    """

    epsilon: float
    delta: float
    clip_norm: float
    rounds: int
    length: int
    scale: float

    @property
    def multiplier(self) -> float:
        """Standard deviation of a sum's noise by the most that one node can change it."""
        return noise_for(self.epsilon, self.delta, number=self.rounds)

    @property
    def norm(self) -> float:
        """The bound on the Euclidean norm of one node's whole numbers."""
        return self.scale * self.clip_norm + math.sqrt(self.length) / 2


@dataclass(frozen=True, slots=True)
class NoiseShare:
    """The noise of one node.

    Args:
        variance: of the discrete Gaussian distribution, in steps of the grid.
        bound: no number of it is larger.
    """

    variance: Fraction
    bound: int


def noise_terms(
    *,
    epsilon: float,
    delta: float,
    clip_norm: float,
    rounds: int,
    length: int,
    num_nodes: int,
    threshold: int,
    clip: float,
    bits: int,
) -> NoiseTerms:
    """Return the terms of a sum with the finest grid on which it can't overflow.

    Args:
        epsilon, delta, clip_norm, rounds: of the job, see `NoiseTerms`.
        length: number of parameters.
        num_nodes: that are asked.
        threshold: so many of them reveal the sum.
        clip: the largest change of a single parameter.
        bits: of a sum.

    Raises:
        SpecError: no noise is enough, or the grid is too coarse for it.
    """
    if not length:
        raise SpecError("NodeDP is about a change of parameters, and there are none")
    found = NoiseTerms(
        epsilon=float(epsilon),  # a whole number would be other bytes in the terms
        delta=float(delta),
        clip_norm=float(clip_norm),
        rounds=rounds,
        length=length,
        scale=1.0,
    )
    tail = _deviations(found, num_nodes)
    # a little more than the noise may be, which `share_of` computes: what remains is rounding
    by_norm = 2.02 * found.multiplier / math.sqrt(threshold) * tail
    room = (2 ** (bits - 1) - 1) / num_nodes - 4 - by_norm * math.sqrt(length) / 2
    scale = room / (min(clip, clip_norm) + by_norm * clip_norm)
    if not scale > 0:
        raise _too_coarse(found, bits)
    found = replace(found, scale=scale)
    share_of(found, num_nodes=num_nodes, threshold=threshold, clip=clip, bits=bits)
    return found


def share_of(terms: NoiseTerms, *, num_nodes: int, threshold: int, clip: float, bits: int) -> NoiseShare:
    """Return the noise of one node, whatever grid the researcher has chosen.

    Raises:
        SpecError: a sum could overflow, or the grid is too coarse.
    """
    if min(terms.length, terms.rounds, threshold, num_nodes - 1) < 1:
        raise SpecError("noise is for one parameter, one round and two nodes or more")
    if not (math.isfinite(terms.scale) and terms.scale > 0):
        raise SpecError(f"the grid of a sum has a positive number of steps in 1, found {terms.scale}")
    steps = math.sqrt(terms.length) / 2
    if steps > MOST_BY_ROUNDING * terms.scale * terms.clip_norm:
        raise _too_coarse(terms, bits)
    wanted = terms.multiplier**-2
    most = (2 * terms.norm) ** 2
    deviation = math.sqrt(most / (threshold * wanted))
    lost = tau_of(deviation, threshold) * terms.length / 2
    if deviation < LEAST_DEVIATION or lost > MOST_BY_TAU * wanted:
        raise _too_coarse(terms, bits)
    # tau falls with the variance, so that what is lost with the larger one is less
    variance = Fraction(most / (threshold * (wanted - lost)) * (1 + 1e-9))
    bound = math.ceil(_deviations(terms, num_nodes) * math.sqrt(variance)) + 1
    largest = math.ceil(min(clip, terms.clip_norm) * terms.scale)
    if num_nodes * (largest + bound) > 2 ** (bits - 1) - 1:
        raise SpecError(
            f"the sum of {num_nodes} nodes with their noise has no room in {bits} bits: expected {terms.scale:g} steps "
            "in 1 or fewer"
        )
    return NoiseShare(variance, bound)


def tau_of(deviation: float, num_shares: int) -> float:
    """Return by how much a sum of discrete Gaussian noise is at most off one, see the module."""
    exponent = 2 * (math.pi * deviation) ** 2
    return 10 * math.fsum(math.exp(-exponent * k / (k + 1)) for k in range(1, num_shares))


def _deviations(terms: NoiseTerms, num_nodes: int) -> float:
    """Return the bound of a share's numbers by their standard deviation.

    Cut noise differs from uncut noise in total by the probability p that anything is cut, and adds `(1 + e^epsilon) p` to
    delta. A number of discrete Gaussian noise is beyond b deviations with a probability of `2 exp(-b^2 / 2)` at most.
    """
    of_all = math.log(2.0 * terms.length * num_nodes * terms.rounds) + terms.epsilon + math.log(2)
    return math.sqrt(2 * (of_all - math.log(terms.delta) + TAIL_BITS * math.log(2)))


def _too_coarse(terms: NoiseTerms, bits: int) -> SpecError:
    rather = "SecAgg(bits=32)" if bits < 32 else "a larger epsilon, fewer rounds, or fewer parameters"
    return SpecError(
        f"{bits} bits are too few for the noise of NodeDP(epsilon={terms.epsilon:g}, delta={terms.delta:g}) on "
        f"{terms.length:,} parameters: take {rather}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNoise:
    """The noise of one node's contribution, the same whenever it is drawn.

    Args:
        key: 32 bytes of the operating system, which are drawn once for a contribution and never leave the node.
        share: how much.
        dtype: of the whole numbers, unsigned: they go round.
        clip, clip_norm: the bounds of a single number's change, and of the Euclidean norm of all.
    """

    key: bytes = field(repr=False)
    share: NoiseShare
    dtype: str
    clip: float
    clip_norm: float

    def add_to(self, numbers: np.ndarray, place: int) -> None:
        """Add the noise of one chunk to its whole numbers, in place.

        Args:
            numbers: of `dtype`.
            place: of the chunk among all of the vector.
        """
        import numpy as np

        from fedjob.privacy.dp.discrete_noise import discrete_gaussian

        key = derived(self.key, b"noise", place.to_bytes(8, "big"))
        noise = discrete_gaussian(self.share.variance, len(numbers), source=_only(key))
        np.clip(noise, -self.share.bound, self.share.bound, out=noise)
        numbers += noise.astype(self.dtype)


def key_for(secret: bytes, of: str, threshold: int) -> bytes:
    """Return the key of the noise of one contribution in sums that so many nodes reveal.

    The same contribution has the same noise in all attempts, so that there is nothing to be averaged. An attempt with fewer
    nodes needs more noise, and gets another one.

    Args:
        secret: of the node, for the ask.
        of: what tells the contribution from all others: the key of its computation, and its own sha256.
    """
    return derived(secret, b"contribution", of.encode(), threshold.to_bytes(4, "big"))


def _only(key: bytes) -> Callable[[int], bytes]:
    """Return a source of random bytes that gives a key, and nothing more."""

    def source(number: int) -> bytes:
        if number != len(key):
            raise SpecError(f"a key of {len(key)} bytes was to be asked for, found {number}")
        return key

    return source
