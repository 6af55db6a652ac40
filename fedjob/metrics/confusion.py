"""The confusion matrix: how often each true label was taken for which.

Counts of pairs add. Where an owner sets a minimum of rows, errors that are as rare leave a node only together, as their
number: which label was taken for which is not said of them (`together`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.metrics.base import MetricState, ratio
from fedjob.metrics.classification import label_key, labels_of

if TYPE_CHECKING:
    import numpy as np

MAX_LABELS = 100
"""Different labels of a confusion matrix at one node."""

Label = int | str
Cells = dict[tuple[Label, Label], int]
"""(True label, predicted label) -> number of examples."""


def measure_confusion(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    """Count the pairs of true and predicted labels.

    Raises:
        SpecError: there are more different labels than a matrix can be read with.
    """
    found, true = labels_of(predicted, truth)
    if (number := len({*found, *true})) > MAX_LABELS:
        raise SpecError(
            f"{name}: there are {number} different labels, at most {MAX_LABELS}; accuracy, f1, precision and recall "
            "have no limit"
        )
    return state_of(len(true), Counter(zip(true, found, strict=True)))


def state_of(num_examples: int, cells: Mapping[tuple[Label, Label], int]) -> MetricState:
    """Return the state of these counts; examples beyond their sum are errors of which only the number is known."""
    ordered = sorted(cells.items(), key=lambda item: (label_key(item[0][0]), label_key(item[0][1])))
    return {
        "kind": "confusion",
        "n": num_examples,
        "cells": [[true, found, count] for (true, found), count in ordered if count > 0],
    }


def cells_of(state: Mapping[str, Any]) -> Cells:
    """Return the counts of a state by pair of labels; of the same pair twice their sum."""
    cells: Cells = {}
    for true, found, count in state["cells"]:
        cells[true, found] = cells.get((true, found), 0) + count
    return cells


def add_confusion(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Add counts by pair of labels."""
    cells = cells_of(a)
    for pair, count in cells_of(b).items():
        cells[pair] = cells.get(pair, 0) + count
    return state_of(a["n"] + b["n"], cells)


def value_confusion(state: Mapping[str, Any]) -> float:
    """Return the accuracy: the part of the examples on the diagonal."""
    return ratio(sum(count for true, found, count in state["cells"] if true == found), state["n"])


def together(state: Mapping[str, Any], min_rows: int) -> MetricState | None:
    """Return a state in which every count that is told is of `min_rows` examples or more.

    Kinds of errors that occur less often are counted together, with the next rarer ones until they are enough, or are all
    errors that there are: that number follows from the accuracy. Only their sum can be computed, as what is missing to `n`.

    Returns:
        None where a label is that of fewer examples, or fewer of a label were found: then nothing can be told.
    """
    cells = cells_of(state)
    of_label: Counter[Label] = Counter()
    for (true, _), count in cells.items():
        of_label[true] += count
    hits = [cells.get((label, label), 0) for label in of_label]
    if any(0 < number < min_rows for number in (*of_label.values(), *hits)):
        return None
    errors = [pair for pair in cells if pair[0] != pair[1]]
    pooled = 0
    for pair in sorted(errors, key=lambda pair: cells[pair]):
        count = cells[pair]
        if count >= min_rows and not 0 < pooled < min_rows:
            break
        pooled += count
        del cells[pair]
    return state_of(state["n"], cells)
