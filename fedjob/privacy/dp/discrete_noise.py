"""Discrete Laplace and discrete Gaussian noise on integers, without floating-point numbers that an attack could use.

Noise of floating-point numbers has gaps and low bits that tell the exact number beneath (Mironov 2012,
https://doi.org/10.1145/2382196.2382264); noise of integers on integers has none. The samplers of single numbers are
algorithms 1 to 3 of Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010, with whole numbers alone. The
one for long vectors decides by 64 bits where these suffice, and by 192 where they don't.

Random bytes are those of the operating system. A test gives a source of its own.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError

RandomBytes = Callable[[int], bytes]
"""Returns so many random bytes, each independent of all before."""

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

MAX_VARIANCE = 1 << 112
"""Of the noise: with it no number of 64 bits overflows."""

_BUFFERED = 4096
_CHUNK = 1 << 17
_TABLE_BITS = 8
"""The table of a long vector's noise is for a standard deviation of fewer than so many bits."""

_FINE = 192
"""Bits by which a number is decided that 64 do not decide."""

_DIGITS = Context(prec=90)
_SMALLEST = Decimal("1e-62")
_UNSURE = 2.0**-48
"""Bound on the error of a probability that was computed in floating point, many times over."""


def discrete_laplace(scale: Fraction | float, number: int, *, source: RandomBytes = os.urandom) -> list[int]:
    """Return independent integers `x` with probability in proportion to `exp(-|x| / scale)`, exactly.

    Args:
        scale: above 0; the sensitivity of a number by the epsilon that it may cost.

    Raises:
        SpecError: the scale is not above 0 and finite.
    """
    exact = _exact("scale", scale)
    bits = _RandomBits(source)
    return [_laplace(exact.numerator, exact.denominator, bits) for _ in range(number)]


def exact_discrete_gaussian(
    variance: Fraction | float, number: int, *, source: RandomBytes = os.urandom
) -> list[int]:
    """Return independent integers `x` with probability in proportion to `exp(-x^2 / (2 variance))`, exactly.

    Args:
        variance: above 0: the parameter of the distribution, of which its variance is never larger.

    Raises:
        SpecError: the variance is not above 0 and finite.
    """
    exact = _exact("variance", variance)
    bits = _RandomBits(source)
    return [_gaussian(exact.numerator, exact.denominator, bits) for _ in range(number)]


def discrete_gaussian(
    variance: Fraction | float, number: int, *, source: RandomBytes = os.urandom
) -> Integers:
    """Return the same as an array, for long vectors: ten million numbers take some seconds.

    The source gives a key, and AES-256 in counter mode the random numbers. Of the exact distribution this one differs
    in total by less than 2^-180, which no delta notices.

    Args:
        variance: above 0, at most `MAX_VARIANCE`.

    Returns:
        int64, of shape (number,).

    Raises:
        SpecError: the variance is out of its range.
    """
    exact = _exact("variance", variance)
    if exact > MAX_VARIANCE:
        raise SpecError(f"the variance of discrete noise is 2^112 at most, found {float(exact):.3g}")
    coarse = max(0, math.isqrt(math.floor(exact)).bit_length() - _TABLE_BITS)
    drawn = _LongDraw(exact, coarse, _table(exact / 4**coarse), _KeyStream(source))
    found = np.empty(number, dtype=np.int64)
    done = 0
    while done < number:
        some = drawn.some(min(_CHUNK, number - done + 64))[: number - done]
        found[done : done + len(some)] = some
        done += len(some)
    return found


def _exact(name: str, given: Fraction | float) -> Fraction:
    if not (math.isfinite(given) and given > 0):
        raise SpecError(f"the {name} of discrete noise is a finite number above 0, found {shown(given)}")
    return Fraction(given)


# --- single numbers ------------------------------------------------------------------------------


class _RandomBits:
    """Random whole numbers from a source of random bytes, of which it asks for many at once."""

    def __init__(self, source: RandomBytes) -> None:
        self._source = source
        self._held = self._number = 0

    def below(self, end: int) -> int:
        """Return a whole number from 0 to less than `end`, each as likely."""
        width = (end - 1).bit_length()
        while True:
            found = self._take(width)
            if found < end:
                return found

    def _take(self, width: int) -> int:
        while self._number < width:
            self._held |= int.from_bytes(self._source(_BUFFERED), "little") << self._number
            self._number += 8 * _BUFFERED
        found = self._held & ((1 << width) - 1)
        self._held >>= width
        self._number -= width
        return found


def _happens(above: int, below: int, bits: _RandomBits) -> bool:
    """Return True with probability `exp(-above / below)` (algorithm 1)."""
    whole, rest = divmod(above, below)
    for _ in range(whole):
        if not _happens_within(1, 1, bits):
            return False
    return _happens_within(rest, below, bits)


def _happens_within(above: int, below: int, bits: _RandomBits) -> bool:
    """Do the same for `above / below` of at most 1."""
    number = 1
    while bits.below(below * number) < above:
        number += 1
    return number % 2 == 1


def _laplace(above: int, below: int, bits: _RandomBits) -> int:
    """Return a number of discrete Laplace noise of scale `above / below` (algorithm 2)."""
    while True:
        rest = bits.below(above)
        if not _happens_within(rest, above, bits):
            continue
        turns = 0
        while _happens_within(1, 1, bits):
            turns += 1
        size = (rest + above * turns) // below
        negative = bits.below(2) == 1
        if negative and size == 0:
            continue
        return -size if negative else size


def _gaussian(above: int, below: int, bits: _RandomBits) -> int:
    """Return a number of discrete Gaussian noise of variance `above / below` (algorithm 3)."""
    scale = math.isqrt(above // below) + 1
    while True:
        found = _laplace(scale, 1, bits)
        distance = abs(found) * below * scale - above
        if _happens(distance * distance, 2 * above * below * scale * scale, bits):
            return found


# --- long vectors --------------------------------------------------------------------------------


class _KeyStream:
    """Random numbers of 64 bits by AES-256 in counter mode, under a key of a source."""

    def __init__(self, source: RandomBytes) -> None:
        self._encryptor = Cipher(algorithms.AES(source(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, number: int) -> Words:
        """Return so many."""
        return np.frombuffer(self._encryptor.update(bytes(8 * number)), dtype=np.uint64)

    def extended(self, number: int, width: int) -> int:
        """Return a number of so many random bits with as many more as make `_FINE` bits."""
        more = int.from_bytes(self._encryptor.update(bytes(_FINE // 8)), "little")
        return (number << (_FINE - width)) | (more >> width)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The distribution of sizes 0, 1, ... with probability in proportion to `exp(-k^2 / (2 variance))`.

    Args:
        fine: probability of at most `k`, in units of 2^-192, rounded down, for all `k` but the last.
        ends: the same in units of 2^-64.
        first: for each value of a random number's 16 highest bits the least size that it can mean.
        split: whether it can mean another one, too.
    """

    fine: list[int]
    ends: Words
    first: Integers
    split: npt.NDArray[np.bool_]

    def sizes(self, words: Words, stream: _KeyStream) -> Integers:
        """Return the sizes that random numbers mean."""
        high = (words >> np.uint64(48)).astype(np.int64)
        found = self.first[high]
        if not len(self.ends):
            return found
        open_places = np.flatnonzero(self.split[high])
        some = words[open_places]
        sizes = np.searchsorted(self.ends, some, side="left")
        for place in np.flatnonzero(self.ends[np.minimum(sizes, len(self.ends) - 1)] == some):
            sizes[place] = self.size_of(stream.extended(int(some[place]), 64))
        found[open_places] = sizes
        return found

    def size_of(self, number: int) -> int:
        """Return the size that a random number of 192 bits means."""
        return bisect_right(self.fine, number)


@lru_cache(maxsize=64)
def _table(variance: Fraction) -> _Table:
    twice = _DIGITS.divide(Decimal(variance.denominator), Decimal(2 * variance.numerator))
    weight, ratio = Decimal(1), _DIGITS.exp(-twice)
    squared = _DIGITS.multiply(ratio, ratio)
    weights = []
    while weight > _SMALLEST:
        weights.append(weight)
        weight = _DIGITS.multiply(weight, ratio)
        ratio = _DIGITS.multiply(ratio, squared)
    total, summed, fine = Decimal(0), Decimal(0), []
    for one in weights:
        total = _DIGITS.add(total, one)
    unit = Decimal(1 << _FINE)
    for one in weights[:-1]:
        summed = _DIGITS.add(summed, one)
        fine.append(int(_DIGITS.multiply(_DIGITS.divide(summed, total), unit)))
    ends = np.array([end >> (_FINE - 64) for end in fine], dtype=np.uint64)
    lows = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    first = np.searchsorted(ends, lows, side="left")
    last = np.searchsorted(ends, lows | np.uint64((1 << 48) - 1), side="right")
    return _Table(fine, ends, first, first != last)


@dataclass(frozen=True, slots=True, eq=False)
class _LongDraw:
    """Draws of one distribution: a coarse size of the table, times `2^coarse`, and a fine rest that is accepted or not.

    With `k` of the table and `r` from 0 to less than `m = 2^coarse`, the probability of `k m + r` is in proportion to
    `exp(-(k m)^2 / (2 v)) exp(-(2 k m r + r^2) / (2 v))`: the table gives the first factor, acceptance the second.
    """

    variance: Fraction
    coarse: int
    table: _Table
    stream: _KeyStream

    def some(self, number: int) -> Integers:
        """Return so many numbers less those that were not accepted."""
        sizes = self.table.sizes(self.stream.words(number), self.stream)
        words = self.stream.words(number)
        negative = (words & np.uint64(1)).astype(bool)
        kept = np.ones(number, dtype=bool)
        if self.coarse:
            mask = np.uint64((1 << self.coarse) - 1)
            fine = words >> np.uint64(1) if self.coarse <= 10 else self.stream.words(number)
            rest = (fine & mask).astype(np.int64)
            kept = self._accepted(sizes, rest, words >> np.uint64(11))
            sizes = (sizes << self.coarse) + rest
        kept &= ~(negative & (sizes == 0))
        np.negative(sizes, where=negative, out=sizes)
        return sizes[kept]

    def _accepted(self, sizes: Integers, rest: Integers, words: Words) -> npt.NDArray[np.bool_]:
        """Decide by random numbers of 53 bits."""
        one = rest.astype(np.float64)
        exponent = (sizes.astype(np.float64) * 2.0 ** (self.coarse + 1) + one) * one
        probability = np.exp(exponent * (-0.5 / float(self.variance)))
        above = words.astype(np.float64) * 2.0**-53 - probability
        accepted = above < 0
        for place in np.flatnonzero(np.abs(above) < _UNSURE):
            number = self.stream.extended(int(words[place]), 53)
            accepted[place] = self.accepts(int(sizes[place]), int(rest[place]), number)
        return accepted

    def accepts(self, size: int, rest: int, number: int) -> bool:
        """Decide by a random number of 192 bits."""
        exponent = Fraction((size << (self.coarse + 1)) * rest + rest * rest) / (2 * self.variance)
        power = _DIGITS.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
        return number < int(_DIGITS.multiply(_DIGITS.exp(power), Decimal(1 << _FINE)))
