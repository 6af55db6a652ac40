"""The checks of a metric's state that somebody else made: exactly the fields of its kind, finite and in range.

Adding states of this form can't fail, overflow or make anything but a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.metrics.classification import AUC_PLACES
from fedjob.metrics.confusion import MAX_LABELS
from fedjob.metrics.rank_sketch import LAST
from fedjob.metrics.states import AVERAGES, PER_LABEL

MAX_COUNT = 10**12
"""The most examples that anybody has."""

MAX_SIZE = 1e140
"""The largest number in a state, so that squares of sums of them are finite."""

MAX_CLASSES = 10_000
MAX_TEXT = 1000

_LABEL_FIELDS = {"kind", "metric", "average", "n", "labels", "counts"}
_VARIANCE_LISTS = ("error_mean", "error_m2", "true_mean", "true_m2")


def odd_state(state: Any) -> str:
    """Return what is wrong with a metric's state, in words; empty if it can be added to others of its kind."""
    if not isinstance(state, Mapping):
        return "is no metric's state"
    kind = state.get("kind")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        return "is of no kind that fedjob knows"
    return check(state)


def settings_of(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two states must have in common to be added."""
    lengths = tuple(len(state[name]) for name in ("total", "error_mean") if isinstance(state.get(name), list))
    return (*(state.get(name) for name in ("kind", "metric", "average", "classes")), *lengths)


def _mean(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "weight", "total"}:
        return "has other fields than weight and total"
    if not _is_number(state["weight"]) or not 0 <= state["weight"] <= MAX_COUNT:
        return f"has a weight that is no finite number from 0 to {MAX_COUNT:g}"
    return "" if _is_number(state["total"]) else "has a total that is no finite number"


def _accuracy(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "n", "correct"}:
        return "has other fields than n and correct"
    if not _is_count(state["n"]) or not _is_count(state["correct"]) or state["correct"] > state["n"]:
        return "counts no whole numbers of examples, or more right ones than there are"
    return ""


def _labels(state: Mapping[str, Any]) -> str:
    if set(state) != _LABEL_FIELDS:
        return "has other fields than those of counts by label"
    if state["metric"] not in PER_LABEL or state["average"] not in AVERAGES:
        return "names no metric and average of labels"
    labels, counts = state["labels"], state["counts"]
    if not _is_count(state["n"]) or not isinstance(labels, list) or not isinstance(counts, list):
        return "holds no lists of labels and counts"
    if len(labels) != len(counts) or len(labels) > MAX_CLASSES or not all(map(_is_label, labels)):
        return f"has labels that are no whole numbers and short texts, or more than {MAX_CLASSES} of them"
    if len(set(map(_typed, labels))) != len(labels):
        return "has a label twice"
    rows = all(isinstance(row, list) and len(row) == 3 and all(map(_is_count, row)) for row in counts)
    return "" if rows else "has counts that are not three whole numbers for each label"


def _confusion(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "n", "cells"}:
        return "has other fields than n and cells"
    if not _is_count(state["n"]) or not isinstance(state["cells"], list):
        return "holds no number of examples and list of cells"
    if len(state["cells"]) > MAX_LABELS**2 or not all(map(_is_cell, state["cells"])):
        return f"has cells that are not a true label, a predicted one and a count, or more than {MAX_LABELS**2} of them"
    if len({(_typed(true), _typed(found)) for true, found, _ in state["cells"]}) < len(state["cells"]):
        return "has a pair of labels twice"
    if sum(count for _, _, count in state["cells"]) > state["n"]:
        return "counts more examples in its cells than there are"
    return ""


def _is_cell(cell: Any) -> bool:
    return isinstance(cell, list) and len(cell) == 3 and all(map(_is_label, cell[:2])) and _is_count(cell[2])


def _auc(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "classes", "n", "sketches"}:
        return "has other fields than those of a sketch of ranks"
    classes, sketches = state["classes"], state["sketches"]
    if not _is_count(state["n"]) or not _is_count(classes) or not 1 <= classes <= MAX_CLASSES:
        return "counts no whole numbers of examples and classes"
    if not isinstance(sketches, list) or len(sketches) != (1 if classes == 2 else classes):
        return "has not one sketch for each class"
    for sketch in sketches:
        if not isinstance(sketch, list) or len(sketch) > 2 * AUC_PLACES or not all(map(_is_place, sketch)):
            return "has a sketch that is no list of places with their counts"
        places = [place[:2] for place in sketch]
        if any(a >= b for a, b in itertools.pairwise(places)):
            return "has a sketch whose places are not in order"
    return ""


def _errors(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "metric", "n", "total"} or state["metric"] not in ("mse", "mae"):
        return "has other fields than those of errors"
    if not _is_count(state["n"]) or not _are_numbers(state["total"], least=0.0):
        return "has totals that are no finite numbers of 0 or more"
    return ""


def _variance(state: Mapping[str, Any]) -> str:
    if set(state) != {"kind", "metric", "n", *_VARIANCE_LISTS} or state["metric"] not in (
        "r2",
        "explained_variance",
    ):
        return "has other fields than those of a variance"
    if not _is_count(state["n"]):
        return "counts no whole number of examples"
    for name in _VARIANCE_LISTS:
        least = 0.0 if name.endswith("m2") else -MAX_SIZE
        if not _are_numbers(state[name], least=least) or len(state[name]) != len(state["error_mean"]):
            return f"has {name} that are no finite numbers, one for each output"
    return ""


def _is_number(number: Any) -> bool:
    return type(number) in (int, float) and -MAX_SIZE <= number <= MAX_SIZE and math.isfinite(number)


def _are_numbers(numbers: Any, *, least: float) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) > 0
        and all(_is_number(number) and number >= least for number in numbers)
    )


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= MAX_COUNT


def _is_label(label: Any) -> bool:
    return (type(label) is int and abs(label) < 1 << 64) or (
        isinstance(label, str) and len(label) <= MAX_TEXT
    )


def _typed(label: Any) -> tuple[str, Any]:
    return type(label).__name__, label


def _is_place(place: Any) -> bool:
    if not isinstance(place, list) or len(place) != 4 or not all(type(number) is int for number in place):
        return False
    low, high, ups, downs = place
    return 0 <= low <= high <= LAST and _is_count(ups) and _is_count(downs)


_CHECKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "mean": _mean,
    "accuracy": _accuracy,
    "labels": _labels,
    "auc": _auc,
    "confusion": _confusion,
    "errors": _errors,
    "variance": _variance,
}
