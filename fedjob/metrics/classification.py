"""Metrics of labels and of scores: accuracy, precision, recall, f1 and roc_auc.

`roc_auc` keeps a sketch of the ranks of scores; `auc_error` bounds what that costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.metrics.base import MetricState, ratio
from fedjob.metrics.rank_sketch import area, joined, reduced, sketch_of

if TYPE_CHECKING:
    import numpy as np

ERRORS = "errors"
"""The entry of counts by label that holds `[true label, predicted label, number]` of all errors, and never leaves a node."""

AUC_PLACES = 1024

_AUC_CLASS_PLACES = 128


def auc_error(state: Mapping[str, Any]) -> float:
    """Bound the distance between `value(state)` and the exact area under the curve; NaN where that is undefined.

    It is 0 as long as there are few different scores, and for n examples about 1 / 1024 otherwise.
    """
    errors = [area(sketch)[1] for sketch in state["sketches"]]
    return sum(errors) / len(errors)


def labels_of(predicted: np.ndarray, truth: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Return predicted and true labels as plain ints and strings."""
    import numpy as np

    if predicted.ndim == 2:
        predicted = predicted.argmax(axis=1)
    elif predicted.dtype.kind == "f":
        predicted = (_probabilities(predicted) >= 0.5).astype(np.int64)
    return _plain_labels(predicted), _plain_labels(truth)


def _plain_labels(labels: np.ndarray) -> list[Any]:
    import numpy as np

    if labels.ndim != 1:
        raise SpecError(f"labels have the shape {labels.shape}; one per example is needed")
    if labels.dtype.kind == "f":
        whole = labels.astype(np.int64)
        if not (whole == labels).all():
            raise SpecError("labels are floating-point numbers with fractions; whole numbers are needed")
        labels = whole
    return [label if isinstance(label, str) else int(label) for label in labels.tolist()]


def _probabilities(scores: np.ndarray) -> np.ndarray:
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        raise SpecError(
            f"scores run from {scores.min():.4g} to {scores.max():.4g}; one column of scores is the "
            "probability of class 1, 0 to 1 (apply the sigmoid), and labels are whole numbers"
        )
    return scores


def measure_accuracy(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    """Count the labels that were found."""
    found, true = labels_of(predicted, truth)
    correct = sum(a == b for a, b in zip(found, true, strict=True))
    return {"kind": "accuracy", "n": len(true), "correct": correct}


def measure_per_label(
    name: str, predicted: np.ndarray, truth: np.ndarray, average: str = "auto"
) -> MetricState:
    """Count hits, false alarms and misses of each label, and for `disclosed` which label was taken for which."""
    found, true = labels_of(predicted, truth)
    labels = sorted({*found, *true}, key=label_key)
    index = {label: i for i, label in enumerate(labels)}
    counts = [[0, 0, 0] for _ in labels]
    for a, b in zip(found, true, strict=True):
        if a == b:
            counts[index[a]][0] += 1
        else:
            counts[index[a]][1] += 1
            counts[index[b]][2] += 1
    return {
        "kind": "labels",
        "metric": name,
        "average": average,
        "n": len(true),
        "labels": labels,
        "counts": counts,
        ERRORS: _sorted_errors(Counter((b, a) for a, b in zip(found, true, strict=True) if a != b)),
    }


def _sorted_errors(cells: Mapping[tuple[Any, Any], int]) -> list[list[Any]]:
    ordered = sorted(cells.items(), key=lambda item: (label_key(item[0][0]), label_key(item[0][1])))
    return [[true, found, count] for (true, found), count in ordered]


def label_key(label: int | str) -> tuple[str, int | str]:
    """Return what labels are sorted by: whole numbers before texts."""
    return (type(label).__name__, label)


def measure_auc(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    """Sketch how the scores of true and false examples are ranked; scores of one column may have any range."""
    import numpy as np

    true = np.asarray(_plain_labels(truth))
    if true.dtype.kind not in "iu" and len(true):
        raise SpecError("roc_auc needs whole numbers as targets: 0 and 1, or 0 to classes - 1")
    num_classes = predicted.shape[1] if predicted.ndim == 2 else 2
    if len(true) and (true.min() < 0 or true.max() >= num_classes):
        raise SpecError(
            f"roc_auc: targets run from {true.min()} to {true.max()}, expected 0 to {num_classes - 1}"
        )
    scores = predicted.astype(np.float64)
    if scores.ndim == 1:
        columns = [scores]
    elif num_classes == 2:
        columns = [scores[:, 1] if _are_shares(scores) else _log_odds(scores)]
    else:
        columns = list(_log_shares(scores).T)
    sketches = []
    for c, column in enumerate(columns):
        positive = true == (1 if len(columns) == 1 else c)
        sketches.append(reduced(sketch_of(column, positive), _places(num_classes)))
    return {"kind": "auc", "classes": num_classes, "n": len(true), "sketches": sketches}


def _places(num_classes: int) -> int:
    return AUC_PLACES if num_classes == 2 else _AUC_CLASS_PLACES


def _are_shares(scores: np.ndarray) -> bool:
    """Return whether the numbers of each row are probabilities, which add to 1."""
    import numpy as np

    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-4))


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """Return how far the logit of class 1 is above that of class 0: its sigmoid is the probability of class 1."""
    import numpy as np

    halves = logits[:, 1] / 2 - logits[:, 0] / 2  # of the largest doubles the difference itself overflows
    most = np.finfo(np.float64).max / 2
    return np.asarray(2 * np.clip(halves, -most, most))


def _log_shares(scores: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities that scores are, or that their softmax is; none is rounded to 0."""
    import numpy as np

    if _are_shares(scores):
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(scores))
    apart = scores / 2 - scores.max(axis=1, keepdims=True) / 2  # halves: the largest doubles do not overflow
    with np.errstate(over="ignore"):
        return np.asarray(2 * apart - np.log(np.exp(2 * apart).sum(axis=1, keepdims=True)))


def add_accuracy(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Add counts of labels that were found."""
    return {"kind": "accuracy", "n": a["n"] + b["n"], "correct": a["correct"] + b["correct"]}


def add_labels(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Add counts by label; a label that only one has is kept."""
    total: dict[Any, list[int]] = {}
    for state in (a, b):
        for label, counts in zip(state["labels"], state["counts"], strict=True):
            before = total.get(label, [0, 0, 0])
            total[label] = [x + y for x, y in zip(before, counts, strict=True)]
    labels = sorted(total, key=label_key)
    added = {**a, "n": a["n"] + b["n"], "labels": labels, "counts": [total[label] for label in labels]}
    added.pop(ERRORS, None)
    if ERRORS in a and ERRORS in b:
        cells: Counter[tuple[Any, Any]] = Counter()
        for true, found, count in (*a[ERRORS], *b[ERRORS]):
            cells[true, found] += count
        added[ERRORS] = _sorted_errors(cells)
    return added


def add_auc(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Add sketches of scores; what takes too much room is made coarser."""
    limit = _places(a["classes"])
    sketches = []
    for left, right in zip(a["sketches"], b["sketches"], strict=True):
        total = joined(left, right)
        # batches are added one by one: made coarser at every second doubling, they lose less and take less time
        sketches.append(reduced(total, limit) if len(total) > 2 * limit else total)
    return {**a, "n": a["n"] + b["n"], "sketches": sketches}


def value_labels(state: Mapping[str, Any]) -> float:
    """Return precision, recall or f1, averaged over labels as the state says."""
    labels, counts, average = state["labels"], state["counts"], state["average"]
    if not labels:
        return math.nan
    if average == "auto":
        average = "binary" if set(labels) <= {0, 1} else "macro"
    if average == "binary":
        by_label = dict(zip(labels, counts, strict=True))
        return _score(state["metric"], *by_label.get(1, [0, 0, 0]))
    if average == "micro":
        return _score(state["metric"], *(sum(column) for column in zip(*counts, strict=True)))
    scores = [_score(state["metric"], *row) for row in counts]
    weights = [row[0] + row[2] for row in counts] if average == "weighted" else [1] * len(scores)
    return ratio(sum(s * w for s, w in zip(scores, weights, strict=True)), sum(weights))


def _score(metric: str, hits: int, false_alarms: int, misses: int) -> float:
    # a label that is never predicted, or never true, scores 0 as in scikit-learn
    if metric == "precision":
        part, whole = hits, hits + false_alarms
    elif metric == "recall":
        part, whole = hits, hits + misses
    else:
        part, whole = 2 * hits, 2 * hits + false_alarms + misses
    return part / whole if whole else 0.0


def value_auc(state: Mapping[str, Any]) -> float:
    """Return the area under the curve, averaged over classes."""
    areas = [area(sketch)[0] for sketch in state["sketches"]]
    return sum(areas) / len(areas)
