"""The metrics, as plain counts that add: adding two states equals measuring the union of their data.

A state is a dictionary of numbers, strings and lists, small enough for a
message. Ratios are formed once, by `value`, from the sum over all nodes; they are
never averaged.

What a model predicts may be given as

- labels: whole numbers or strings, one per example;
- scores: one floating-point column, the probability of class 1 (0 to 1, apply the
  sigmoid first), or one column per class, of which the largest wins;
- numbers, for mse, mae, r2 and explained_variance.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError
from fedjob.metrics import classification, confusion, regression
from fedjob.metrics.base import MetricState, as_array, ratio

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

METRICS = (
    "accuracy",
    "f1",
    "precision",
    "recall",
    "roc_auc",
    "confusion_matrix",
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

AVERAGES = ("auto", "binary", "macro", "micro", "weighted")

PER_LABEL = ("f1", "precision", "recall")


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
        if option != "average" or known not in PER_LABEL:
            raise SpecError(f"metric {known!r} has no option {option!r}")
        if setting not in AVERAGES:
            raise SpecError(f"metric {known!r}: average is one of {', '.join(AVERAGES)}, not {setting!r}")
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
    predicted, truth = as_array(predictions, "predictions"), as_array(targets, "targets")
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


def error(state: Mapping[str, Any]) -> float:
    """Return the most that `value(state)` can be off; 0 where it is exact, or where nothing defines the value."""
    bound = classification.auc_error(state) if state.get("kind") == "auc" else 0.0
    return bound if math.isfinite(bound) else 0.0


def _add_mean(a: Mapping[str, Any], b: Mapping[str, Any]) -> MetricState:
    return {"kind": "mean", "weight": a["weight"] + b["weight"], "total": a["total"] + b["total"]}


_MEASURES: dict[str, Callable[..., MetricState]] = {
    "accuracy": classification.measure_accuracy,
    "f1": classification.measure_per_label,
    "precision": classification.measure_per_label,
    "recall": classification.measure_per_label,
    "roc_auc": classification.measure_auc,
    "confusion_matrix": confusion.measure_confusion,
    "mse": regression.measure_errors,
    "mae": regression.measure_errors,
    "r2": regression.measure_variance,
    "explained_variance": regression.measure_variance,
}

_ADDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], MetricState]] = {
    "mean": _add_mean,
    "accuracy": classification.add_accuracy,
    "labels": classification.add_labels,
    "auc": classification.add_auc,
    "confusion": confusion.add_confusion,
    "errors": regression.add_errors,
    "variance": regression.add_variance,
}

_VALUES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "mean": lambda state: ratio(state["total"], state["weight"]),
    "accuracy": lambda state: ratio(state["correct"], state["n"]),
    "labels": classification.value_labels,
    "auc": classification.value_auc,
    "confusion": confusion.value_confusion,
    "errors": regression.value_errors,
    "variance": regression.value_variance,
}
