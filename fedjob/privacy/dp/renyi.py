"""Renyi differential privacy: the curves of mechanisms, their composition, and the (epsilon, delta) that they give.

A curve holds a bound at each of `ORDERS`; curves of mechanisms that see the same data add. Sources: the Gaussian
mechanism on a Poisson sample, Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530; a mechanism with pure
differential privacy, Bun and Steinke 2016, https://arxiv.org/abs/1605.02065; the conversion, Canonne, Kamath
and Steinke 2020, https://arxiv.org/abs/2004.00010, proposition 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

ORDERS: tuple[float, ...] = (
    *(1 + step / 10 for step in range(1, 100)),
    *map(float, range(11, 64)),
    *(80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0),
)
"""The orders at which curves are held, all above 1."""

Curve = tuple[float, ...]
"""A bound at each of `ORDERS`."""

NOTHING: Curve = (0.0,) * len(ORDERS)
_MAX_TERMS = 2000
_SMALL = -30.0
"""Logarithm of a term from which on a series counts as summed."""


@lru_cache(maxsize=4096)
def gaussian_curve(noise: float, rate: float) -> Curve:
    """Return the curve of Gaussian noise on a sum over a Poisson sample.

    Args:
        noise: standard deviation of the noise by the largest norm that one record adds, above 0.
        rate: probability that a record is in the sample, above 0 and at most 1.
    """
    if rate == 1:
        return tuple(order / (2 * noise * noise) for order in ORDERS)
    return tuple(_sampled(noise, rate, order) for order in ORDERS)


@lru_cache(maxsize=4096)
def whole_curve(noise: float, rate: float) -> Curve:
    """Return the curve of `gaussian_curve` at whole orders alone, infinite at the others: finite sums, soon computed."""
    if rate == 1:
        return gaussian_curve(noise, rate)
    return tuple(_sampled(noise, rate, order) if order.is_integer() else math.inf for order in ORDERS)


def pure_curve(epsilon: float) -> Curve:
    """Return the curve of a mechanism with pure differential privacy, such as discrete Laplace noise."""
    return tuple(min(epsilon, order * epsilon * epsilon / 2) for order in ORDERS)


def added(curves: Iterable[Curve]) -> Curve:
    """Return the curve of mechanisms together."""
    return tuple(map(math.fsum, zip(NOTHING, *curves, strict=True)))


def times(curve: Curve, number: int) -> Curve:
    """Return the curve of the same mechanism so many times."""
    return tuple(number * bound for bound in curve)


def epsilon_of(curve: Curve, delta: float) -> float:
    """Return the least epsilon that a curve gives with a delta, 0 or more.

    Args:
        delta: above 0, below 1.
    """
    return tightest(curve, delta)[0]


def tightest(curve: Curve, delta: float) -> tuple[float, float]:
    """Return the least epsilon that a curve gives with a delta, and the order that gives it, infinity for 0."""
    if not any(curve):
        return 0.0, math.inf
    found, best = math.inf, math.inf
    for order, bound in zip(ORDERS, curve, strict=True):
        if delta * delta + math.expm1(-bound) > 0:
            return 0.0, math.inf  # by Pinsker's inequality the total variation is below delta
        epsilon = bound + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        if epsilon < found:
            found, best = epsilon, order
    return max(0.0, found), best


def _sampled(noise: float, rate: float, order: float) -> float:
    log_a = _log_a_whole(noise, rate, int(order)) if order.is_integer() else _log_a(noise, rate, order)
    return log_a / (order - 1)


def _log_a_whole(noise: float, rate: float, order: int) -> float:
    """Return the logarithm of the moment for an order that is a whole number: a finite sum."""
    found = -math.inf
    for k in range(order + 1):
        choices = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        term = choices + k * math.log(rate) + (order - k) * math.log1p(-rate)
        found = _log_add(found, term + (k * k - k) / (2 * noise * noise))
    return found


def _log_a(noise: float, rate: float, order: float) -> float:
    """Return the same for any order: two series, of the two sides of the point where the densities are alike."""
    low = high = -math.inf
    split = noise * noise * math.log(1 / rate - 1) + 0.5
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    log_choices, sign, k = 0.0, 1, 0
    while k < _MAX_TERMS:
        rest = order - k
        below = log_choices + k * log_rate + rest * log_rest + (k * k - k) / (2 * noise * noise)
        above = log_choices + rest * log_rate + k * log_rest + (rest * rest - rest) / (2 * noise * noise)
        below += _log_half_erfc((k - split) / (math.sqrt(2) * noise))
        above += _log_half_erfc((split - rest) / (math.sqrt(2) * noise))
        if sign > 0:
            low, high = _log_add(low, below), _log_add(high, above)
        else:
            low, high = _log_subtract(low, below), _log_subtract(high, above)
        if max(below, above) < _SMALL:
            return _log_add(low, high)
        factor = (order - k) / (k + 1)
        log_choices += math.log(abs(factor))
        sign = sign if factor > 0 else -sign
        k += 1
    return math.inf  # this order says nothing; others do


def _log_half_erfc(x: float) -> float:
    if x < 25:
        return math.log(0.5) + math.log(math.erfc(x))
    series = -0.5 * x**-2 + 0.625 * x**-4 - 37 / 24 * x**-6 + 353 / 64 * x**-8
    return math.log(0.5) - x * x - math.log(x) - 0.5 * math.log(math.pi) + series


def _log_add(one: float, other: float) -> float:
    low, high = min(one, other), max(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _log_subtract(one: float, other: float) -> float:
    if other >= one:  # by rounding: the terms that are left out are smaller still
        return -math.inf if other > one + 1e-9 else one
    return one + math.log1p(-math.exp(other - one))
