"""Metrics as plain counts that add: adding two states equals measuring the union of their data.

A state is a dictionary of numbers, strings and lists, small enough for a
message. Ratios are formed once, by `value`, from the sum over all nodes; they are
never averaged.

What a model predicts may be given as

- labels: whole numbers or strings, one per example;
- scores: one floating-point column, the probability of class 1 (0 to 1, apply the
  sigmoid first), or one column per class, of which the largest wins;
- numbers, for mse, mae, r2 and explained_variance.

Variances are kept as count, mean and sum of squared deviations and merged by
Chan, Golub and LeVeque (1979), which does not cancel where means are large.
`roc_auc` keeps a histogram of scores; `auc_error` bounds what the bins cost.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

MetricState = dict[str, Any]

METRICS = (
    "accuracy",
    "f1",
    "precision",
    "recall",
    "roc_auc",
    "mse",
    "mae",
    "r2",
    "explained_variance",
)
"""Names that `test_metric` understands."""

_ALIASES = {
    "f1_score": "f1",
    "precision_score": "precision",
    "recall_score": "recall",
    "accuracy_score": "accuracy",
    "roc_auc_score": "roc_auc",
    "r2_score": "r2",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "explained_variance_score": "explained_variance",
}
_AVERAGES = ("auto", "binary", "macro", "micro", "weighted")
_PER_LABEL = ("f1", "precision", "recall")
_AUC_BINS = 1024
_AUC_CLASS_BINS = 128
_LOGIT_LIMIT = 18.0  # where float32 can no longer tell a sigmoid from 1


def check_metric(name: str, **options: Any) -> str:
    """Return the canonical name of a metric after checking its options.

    Args:
        name: upper or lower case, or scikit-learn's name for it.
        options: `average` ("auto", "binary", "macro", "micro" or "weighted") for
            f1, precision and recall. "auto" is the score of class 1 where all
            labels of all nodes are 0 and 1, else macro.

    Raises:
        SpecError: there is no such metric or option; the nearest is named.
    """
    lowered = name.lower()
    known = _ALIASES.get(lowered, lowered)
    if known not in METRICS:
        nearest = difflib.get_close_matches(lowered, METRICS, n=1, cutoff=0.0)[0]
        raise SpecError(
            f"there is no metric {name!r}; the nearest is {nearest!r}, and all are {', '.join(METRICS)}. "
            "A plan measures anything else by returning {name: value} from testing_step"
        )
    for option, setting in options.items():
        if option != "average" or known not in _PER_LABEL:
            raise SpecError(f"metric {known!r} has no option {option!r}")
        if setting not in _AVERAGES:
            raise SpecError(f"metric {known!r}: average is one of {', '.join(_AVERAGES)}, not {setting!r}")
    return known


def measure(
    names: Iterable[str],
    predictions: ArrayLike,
    targets: ArrayLike,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, MetricState]:
    """Measure predictions against targets.

    Args:
        names: of metrics.
        predictions: shape (n,), (n, 1) or (n, classes) as the module says.
        targets: shape (n,) or (n, 1) of labels; (n,) or (n, outputs) of numbers.
        options: metric name -> its options.

    Returns:
        Name -> state.

    Raises:
        SpecError: shapes, types or values that a metric can't use.
    """
    predicted, truth = _array(predictions, "predictions"), _array(targets, "targets")
    if len(predicted) != len(truth):
        raise SpecError(f"there are {len(predicted)} predictions for {len(truth)} targets")
    states = {}
    for name in names:
        chosen = dict((options or {}).get(name, {}))
        known = check_metric(name, **chosen)
        states[name] = _MEASURES[known](known, predicted, truth, **chosen)
    return states


def mean_state(value: float, weight: float) -> MetricState:
    """Return the state of a mean, of a loss or of a plan's own metric, over `weight` examples."""
    number = float(value)
    if not math.isfinite(number):
        raise SpecError(f"a metric has the value {number}; a finite number is needed")
    return {"kind": "mean", "weight": float(weight), "total": number * float(weight)}


def is_state(value: object) -> bool:
    """Tell whether a value is a metric state rather than a number."""
    return isinstance(value, dict) and value.get("kind") in _ADDS


def add(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    """Return the state of the union of what `a` and `b` were measured on.

    Raises:
        SpecError: they are not states of the same metric.
    """
    kind = a.get("kind")
    if kind != b.get("kind") or kind not in _ADDS:
        raise SpecError(f"a metric of kind {kind!r} can't be added to one of kind {b.get('kind')!r}")
    for setting in ("metric", "average", "bins", "classes"):
        if a.get(setting) != b.get(setting):
            raise SpecError(
                f"{kind} states differ in {setting}: {a.get(setting)!r} and {b.get(setting)!r}; "
                "measure all of them with the same options"
            )
    return _ADDS[kind](a, b)


def add_all(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> dict[str, MetricState]:
    """Add two sets of named states; a name that only one has is kept as it is."""
    total: dict[str, MetricState] = {name: dict(state) for name, state in a.items()}
    for name, state in b.items():
        total[name] = add(total[name], state) if name in total else dict(state)
    return total


def value(state: Mapping[str, Any]) -> float:
    """Return the number that a state stands for; NaN where nothing defines it.

    Raises:
        SpecError: not a metric state.
    """
    kind = state.get("kind")
    if kind not in _VALUES:
        raise SpecError(f"not a metric state: kind {kind!r}")
    return float(_VALUES[kind](state))


def values(states: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return name -> number for a set of states."""
    return {name: value(state) for name, state in states.items()}


def num_examples(state: Mapping[str, Any]) -> float:
    """Return how many examples a state was measured on."""
    if state.get("kind") == "mean":
        return float(state["weight"])
    return float(state.get("n", 0))


def auc_error(state: Mapping[str, Any]) -> float:
    """Bound the distance between `value(state)` and the exact area under the curve.

    Only pairs of a positive and a negative in the same bin can be ranked wrongly,
    and each counts one half.
    """
    errors = [_auc(row)[1] for row in state["histograms"]]
    return max(errors) if len(errors) == 1 else sum(errors) / len(errors)


def _array(data: ArrayLike, what: str) -> np.ndarray:
    import numpy as np

    array = np.asarray(data)
    if array.dtype == np.bool_:
        array = array.astype(np.int64)
    if array.ndim == 0:
        raise SpecError(f"{what} are one number; one per example is needed")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SpecError(f"{what} are not all finite")
    if array.dtype.kind not in "iufUSO":
        raise SpecError(f"{what} are of type {array.dtype}; labels or numbers are needed")
    return array


def _labels(predicted: np.ndarray, truth: np.ndarray) -> tuple[list[Any], list[Any]]:
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


def _measure_accuracy(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    found, true = _labels(predicted, truth)
    correct = sum(a == b for a, b in zip(found, true, strict=True))
    return {"kind": "accuracy", "n": len(true), "correct": correct}


def _measure_per_label(
    name: str, predicted: np.ndarray, truth: np.ndarray, average: str = "auto"
) -> MetricState:
    found, true = _labels(predicted, truth)
    labels = sorted({*found, *true}, key=_label_key)
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
    }


def _label_key(label: int | str) -> tuple[str, int | str]:
    return (type(label).__name__, label)


def _measure_auc(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
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
        columns, bins = [_logit(_probabilities(scores))], _AUC_BINS
    elif num_classes == 2:
        # the difference of two logits and of two probabilities ranks as p(class 1) does
        columns, bins = [_squash(scores)], _AUC_BINS
    else:
        shares = _shares(scores)
        columns, bins = [_logit(shares[:, c]) for c in range(num_classes)], _AUC_CLASS_BINS
    histograms = []
    for c, column in enumerate(columns):
        positive = true == (1 if len(columns) == 1 else c)
        place = np.clip((column + _LOGIT_LIMIT) / (2 * _LOGIT_LIMIT) * bins, 0, bins - 1).astype(np.int64)
        ups = np.bincount(place[positive], minlength=bins)
        downs = np.bincount(place[~positive], minlength=bins)
        used = np.flatnonzero(ups + downs)
        histograms.append([[int(b), int(ups[b]), int(downs[b])] for b in used])
    return {"kind": "auc", "bins": bins, "classes": num_classes, "n": len(true), "histograms": histograms}


def _logit(probabilities: np.ndarray) -> np.ndarray:
    import numpy as np

    tiny = 1e-12
    inside = np.clip(probabilities, tiny, 1 - tiny)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _squash(scores: np.ndarray) -> np.ndarray:
    import numpy as np

    total = scores.sum(axis=1)
    if (scores >= 0).all() and np.allclose(total, 1, atol=1e-4):
        return _logit(scores[:, 1])
    return np.asarray(scores[:, 1] - scores[:, 0])


def _shares(scores: np.ndarray) -> np.ndarray:
    """Return rows that add to 1: as they are where they do already, else their softmax."""
    import numpy as np

    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-4):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _numbers(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    if predicted.shape != truth.shape:
        raise SpecError(f"predictions have the shape {predicted.shape} and targets {truth.shape}")
    if predicted.dtype.kind not in "iuf" or truth.dtype.kind not in "iuf":
        raise SpecError(f"numbers are needed, found {predicted.dtype} and {truth.dtype}")
    rows = (len(truth), -1) if len(truth) else (0, 1)
    return predicted.astype(np.float64).reshape(rows), truth.astype(np.float64).reshape(rows)


def _measure_errors(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    found, true = _numbers(predicted, truth)
    errors = true - found
    total = (errors**2 if name == "mse" else abs(errors)).sum(axis=0)
    return {"kind": "errors", "metric": name, "n": len(true), "total": total.tolist()}


def _measure_variance(name: str, predicted: np.ndarray, truth: np.ndarray) -> MetricState:
    found, true = _numbers(predicted, truth)
    # r2 compares squared errors themselves, explained_variance those around their mean
    errors = true - found
    count = max(len(true), 1)
    error_mean = errors.sum(axis=0) / count
    true_mean = true.sum(axis=0) / count
    return {
        "kind": "variance",
        "metric": name,
        "n": len(true),
        "error_mean": error_mean.tolist(),
        "error_m2": ((errors - error_mean) ** 2).sum(axis=0).tolist(),
        "true_mean": true_mean.tolist(),
        "true_m2": ((true - true_mean) ** 2).sum(axis=0).tolist(),
    }


def _add_mean(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    return {"kind": "mean", "weight": a["weight"] + b["weight"], "total": a["total"] + b["total"]}


def _add_accuracy(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    return {"kind": "accuracy", "n": a["n"] + b["n"], "correct": a["correct"] + b["correct"]}


def _add_labels(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    total: dict[Any, list[int]] = {}
    for state in (a, b):
        for label, counts in zip(state["labels"], state["counts"], strict=True):
            before = total.get(label, [0, 0, 0])
            total[label] = [x + y for x, y in zip(before, counts, strict=True)]
    labels = sorted(total, key=_label_key)
    return {**a, "n": a["n"] + b["n"], "labels": labels, "counts": [total[label] for label in labels]}


def _add_auc(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    histograms = []
    for left, right in zip(a["histograms"], b["histograms"], strict=True):
        total: dict[int, list[int]] = {}
        for place, ups, downs in (*left, *right):
            before = total.get(place, [0, 0])
            total[place] = [before[0] + ups, before[1] + downs]
        histograms.append([[place, *total[place]] for place in sorted(total)])
    return {**a, "n": a["n"] + b["n"], "histograms": histograms}


def _add_errors(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    return {**a, "n": a["n"] + b["n"], "total": [x + y for x, y in zip(a["total"], b["total"], strict=True)]}


def _add_variance(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    if not a["n"] or not b["n"]:
        return dict(a if a["n"] else b)
    n = a["n"] + b["n"]
    total: MetricState = {**a, "n": n}
    for what in ("error", "true"):
        means, squares = [], []
        for mean_a, mean_b, m2_a, m2_b in zip(
            a[f"{what}_mean"], b[f"{what}_mean"], a[f"{what}_m2"], b[f"{what}_m2"], strict=True
        ):
            step = mean_b - mean_a
            means.append(mean_a + step * b["n"] / n)
            squares.append(m2_a + m2_b + step * step * a["n"] * b["n"] / n)
        total[f"{what}_mean"], total[f"{what}_m2"] = means, squares
    return total


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _value_labels(state: Mapping[str, Any]) -> float:
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
    return _ratio(sum(s * w for s, w in zip(scores, weights, strict=True)), sum(weights))


def _score(metric: str, hits: int, false_alarms: int, misses: int) -> float:
    # a label that is never predicted, or never true, scores 0 as in scikit-learn
    if metric == "precision":
        part, whole = hits, hits + false_alarms
    elif metric == "recall":
        part, whole = hits, hits + misses
    else:
        part, whole = 2 * hits, 2 * hits + false_alarms + misses
    return part / whole if whole else 0.0


def _auc(histogram: list[list[int]]) -> tuple[float, float]:
    """Return the area under the curve and the bound of its error."""
    positives = sum(ups for _, ups, _ in histogram)
    negatives = sum(downs for _, _, downs in histogram)
    if not positives or not negatives:
        return math.nan, math.nan
    below, ordered, tied = 0, 0, 0
    for _, ups, downs in histogram:
        ordered += ups * below
        tied += ups * downs
        below += downs
    pairs = positives * negatives
    return (ordered + tied / 2) / pairs, tied / 2 / pairs


def _value_auc(state: Mapping[str, Any]) -> float:
    areas = [_auc(histogram)[0] for histogram in state["histograms"]]
    return sum(areas) / len(areas)


def _value_errors(state: Mapping[str, Any]) -> float:
    return _ratio(sum(state["total"]), state["n"] * len(state["total"]))


def _value_variance(state: Mapping[str, Any]) -> float:
    """Average over outputs; a constant target scores 1 if met exactly, else 0, as in scikit-learn."""
    n = state["n"]
    if n < 2:
        return math.nan
    scores = []
    for mean, rest, spread in zip(state["error_mean"], state["error_m2"], state["true_m2"], strict=True):
        unexplained = rest + n * mean * mean if state["metric"] == "r2" else rest
        if spread:
            scores.append(1 - unexplained / spread)
        else:
            scores.append(0.0 if unexplained else 1.0)
    return float(sum(scores) / len(scores))


_MEASURES: dict[str, Callable[..., MetricState]] = {
    "accuracy": _measure_accuracy,
    "f1": _measure_per_label,
    "precision": _measure_per_label,
    "recall": _measure_per_label,
    "roc_auc": _measure_auc,
    "mse": _measure_errors,
    "mae": _measure_errors,
    "r2": _measure_variance,
    "explained_variance": _measure_variance,
}
_ADDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], MetricState]] = {
    "mean": _add_mean,
    "accuracy": _add_accuracy,
    "labels": _add_labels,
    "auc": _add_auc,
    "errors": _add_errors,
    "variance": _add_variance,
}
_VALUES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "mean": lambda state: _ratio(state["total"], state["weight"]),
    "accuracy": lambda state: _ratio(state["correct"], state["n"]),
    "labels": _value_labels,
    "auc": _value_auc,
    "errors": _value_errors,
    "variance": _value_variance,
}
