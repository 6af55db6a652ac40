"""The ROC curve and the reliability of scores, from a sketch of their ranks.

Fawcett 2006, "An introduction to ROC analysis", https://doi.org/10.1016/j.patrec.2005.10.010, and DeGroot, Fienberg 1983,
"The comparison and evaluation of forecasters", https://doi.org/10.2307/2987588

A sketch counts positives and negatives in spans of scores (see `rank_sketch`). Where a span is wider than one score it is not
known which of its examples lie above a threshold within it: bounds take all or none of them, the curve itself takes
them as spread evenly over the probabilities of the span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjob.metrics.rank_sketch import Place, key_of

Floats = npt.NDArray[np.float64]

PROBABILITY, LOG_ODDS, LOG_PROBABILITY = "probability", "log odds", "log probability"
"""What scores are."""

BINS = 10

_TOP = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Points of a ROC curve, from (0, 0) to (1, 1), one for each threshold.

    Args:
        false_positives, true_positives: rates, 0 to 1, ascending.
        low: the points of the lowest curve that the counts allow: shape (thresholds, 2), of false and true positive rates.
        high: those of the highest one.
    """

    false_positives: Floats
    true_positives: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How often what was predicted came true, in bins of predicted probability of equal width.

    Args:
        predicted: mean probability in each bin, 0 to 1; NaN in an empty one.
        count: examples in it, not whole where a span lies across its edge.
        observed: the part of them that is positive; NaN in an empty bin.
        least, most: bounds of that part.
    """

    predicted: Floats
    count: Floats
    observed: Floats
    least: Floats
    most: Floats


def scale_of(state: Mapping[str, Any]) -> str:
    """Return what the scores of a state of `roc_auc` are.

    One column of scores that leaves 0 to 1 is of log odds, such as logits and margins.
    """
    if state["classes"] > 2:
        return LOG_PROBABILITY
    first, last = key_of(0.0), key_of(1.0)
    outside = any(high < first or low > last for sketch in state["sketches"] for low, high, *_ in sketch)
    return LOG_ODDS if outside else PROBABILITY


def roc_of(places: Sequence[Place], scale: str) -> RocCurve | None:
    """Return the ROC curve; None where a class is missing.

    Args:
        places: a sketch, in order.
        scale: of its scores.
    """
    ups = np.array([place[2] for place in places], dtype=np.float64)
    downs = np.array([place[3] for place in places], dtype=np.float64)
    if not ups.sum() or not downs.sum():
        return None
    lows, highs = _keys(places, 0), _keys(places, 1)
    wide = np.flatnonzero(lows < highs)
    one = np.uint64(1)
    last = highs[highs < np.uint64(2**64 - 1)]
    thresholds = np.unique(np.concatenate([lows, lows[wide] + one, last + one]))[::-1]
    sure = [_at_least(lows, counts, thresholds) for counts in (ups, downs)]
    possible = [_at_least(highs, counts, thresholds) for counts in (ups, downs)]
    spread = [np.array(part) for part in sure]
    cuts = probabilities(thresholds, scale)
    for place in wide:
        inside = np.flatnonzero((thresholds > lows[place]) & (thresholds <= highs[place]))
        bottom, top = probabilities(np.array([lows[place], highs[place]]), scale)
        part = (top - cuts[inside]) / (top - bottom) if top > bottom else np.full(len(inside), 0.5)
        spread[0][inside] += ups[place] * part
        spread[1][inside] += downs[place] * part
    return RocCurve(
        _from_zero(spread[1] / downs.sum()),
        _from_zero(spread[0] / ups.sum()),
        np.column_stack([_from_zero(possible[1] / downs.sum()), _from_zero(sure[0] / ups.sum())]),
        np.column_stack([_from_zero(sure[1] / downs.sum()), _from_zero(possible[0] / ups.sum())]),
    )


def reliability_of(places: Sequence[Place], scale: str, bins: int = BINS) -> Reliability:
    """Return how often what was predicted came true.

    Args:
        places: a sketch, in order.
        scale: of its scores.
    """
    ups = np.array([place[2] for place in places], dtype=np.float64)[:, None]
    downs = np.array([place[3] for place in places], dtype=np.float64)[:, None]
    low = probabilities(_keys(places, 0), scale)[:, None]
    high = probabilities(_keys(places, 1), scale)[:, None]
    edges = np.linspace(0.0, 1.0, bins + 1)
    left, right = edges[:-1], edges[1:]
    begins = np.clip(np.searchsorted(edges, low, side="right") - 1, 0, bins - 1)
    ends = np.clip(np.searchsorted(edges, high, side="right") - 1, 0, bins - 1)
    number = np.arange(bins)
    touches, within = (begins <= number) & (number <= ends), (begins == number) & (ends == number)
    width = np.where(high > low, high - low, 1.0)
    overlap = np.clip(np.minimum(high, right) - np.maximum(low, left), 0.0, None) / width
    part = np.where(within, 1.0, np.where(touches, overlap, 0.0))
    middle = np.where(within, (low + high) / 2, (np.minimum(high, right) + np.maximum(low, left)) / 2)
    count = (part * (ups + downs)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sure, possible = (within * ups).sum(axis=0), (touches * ups).sum(axis=0)
        sure_downs, possible_downs = (within * downs).sum(axis=0), (touches * downs).sum(axis=0)
        return Reliability(
            predicted=(part * (ups + downs) * middle).sum(axis=0) / count,
            count=count,
            observed=(part * ups).sum(axis=0) / count,
            least=sure / (sure + possible_downs),
            most=possible / (possible + sure_downs),
        )


def probabilities(keys: npt.NDArray[np.uint64], scale: str) -> Floats:
    """Return the probabilities, 0 to 1, of scores that are given as their numbers of 64 bits."""
    scores = np.where(keys & _TOP, keys ^ _TOP, ~keys).view(np.float64)
    # the first and the last numbers stand for no score: a span from there on has no end
    scores = np.where(np.isnan(scores), np.where(keys & _TOP, np.inf, -np.inf), scores)
    with np.errstate(over="ignore"):
        if scale == LOG_ODDS:
            return np.asarray(1 / (1 + np.exp(-scores)))
        return np.asarray(np.clip(np.exp(scores) if scale == LOG_PROBABILITY else scores, 0.0, 1.0))


def _keys(places: Sequence[Place], column: int) -> npt.NDArray[np.uint64]:
    return np.array([place[column] for place in places], dtype=np.uint64)


def _at_least(keys: npt.NDArray[np.uint64], counts: Floats, thresholds: npt.NDArray[np.uint64]) -> Floats:
    """Return the sum of counts whose key is at least each threshold."""
    order = np.argsort(keys, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(counts[order])])
    return np.asarray(sums[-1] - sums[np.searchsorted(keys[order], thresholds, side="left")])


def _from_zero(rates: Floats) -> Floats:
    return np.concatenate([[0.0], rates])
