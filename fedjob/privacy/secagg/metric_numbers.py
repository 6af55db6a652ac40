"""The states of metrics as numbers that add, and back.

A state is a map of numbers and of settings, which have to be the same at all nodes. Counts by label are told apart by the label; means and squared
deviations become sums and sums of squares, exactly.
A sketch of ranks, of which the area under a ROC curve is computed, holds the scores themselves as the borders of its
spans, which nobody is to see: it becomes counts in bins that are the same everywhere, see `rank_histograms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.metrics.classification import label_key
from fedjob.metrics.confusion import cells_of, state_of
from fedjob.privacy.secagg.rank_histograms import bins_for, histograms_of, sketch_of_histograms
from fedjob.privacy.secagg.vector import NamedNumbers, Outline, joined, numbers_in, value_of

METRICS = "metrics"

MAX_MATRIX = 64
"""Labels of a confusion matrix that is added."""

_OF_VARIANCE = ("error", "true")


def numbers_of_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[NamedNumbers, list[str]]:
    """Return the numbers of `{phase: {name: state}}`, and the `phase.name` of those that stay: of too many numbers.

    Raises:
        SpecError: a state holds something that is no number.
    """
    parts, staying = [], []
    for phase, states in metrics.items():
        for name, state in states.items():
            if _has_too_many(state):
                staying.append(f"{phase}.{name}")
                continue
            parts.append(numbers_in(_by_label(_as_sums(state)), METRICS, phase, name))
    return joined(parts), staying


def _has_too_many(state: Mapping[str, Any]) -> bool:
    if state.get("kind") == "confusion":
        return len(_labels_of(state)) > MAX_MATRIX
    return state.get("kind") == "auc" and not bins_for(len(state["sketches"]))


def metrics_in(outline: Outline, totals: Sequence[Fraction]) -> dict[str, dict[str, Any]]:
    """Return the metrics of a sum."""
    found = value_of(outline, totals, METRICS, exactly=True)
    phases: dict[str, Any] = found if isinstance(found, dict) else {}
    return {
        phase: {name: _rounded(_from_sums(_with_labels(state))) for name, state in states.items()}
        for phase, states in phases.items()
    }


def _as_sums(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return means and squared deviations from them as sums and sums of squares, and sketches as counts."""
    if state.get("kind") == "auc":
        bins = bins_for(len(state["sketches"]))
        found = {key: part for key, part in state.items() if key not in ("sketches", "classes")}
        # text, for a setting that has to be the same at all nodes
        histograms = [histograms_of(sketch, bins) for sketch in state["sketches"]]
        return {**found, "classes": str(state["classes"]), "histograms": histograms}
    if state.get("kind") != "variance":
        return state
    n, found = state["n"], {key: part for key, part in state.items() if not key.endswith(("_mean", "_m2"))}
    for what in _OF_VARIANCE:
        means = [Fraction(mean) for mean in state[f"{what}_mean"]]
        found[f"{what}_sum"] = [n * mean for mean in means]
        found[f"{what}_squares"] = [
            Fraction(m2) + n * mean * mean for mean, m2 in zip(means, state[f"{what}_m2"], strict=True)
        ]
    return found


def _from_sums(state: Any) -> Any:
    if isinstance(state, dict) and state.get("kind") == "auc":
        found = {key: part for key, part in state.items() if key not in ("histograms", "classes")}
        sketches = [sketch_of_histograms(one) for one in state["histograms"]]
        return {**found, "classes": int(state["classes"]), "sketches": sketches}
    if not isinstance(state, dict) or state.get("kind") != "variance":
        return state
    n, found = max(state["n"], 1), {k: p for k, p in state.items() if not k.endswith(("_sum", "_squares"))}
    for what in _OF_VARIANCE:
        sums, squares = state[f"{what}_sum"], state[f"{what}_squares"]
        found[f"{what}_mean"] = [one / n for one in sums]
        found[f"{what}_m2"] = [
            max(square - one * one / n, Fraction(0)) for one, square in zip(sums, squares, strict=True)
        ]
    return found


def _rounded(value: Any) -> Any:
    """Return exact numbers as the nearest doubles."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(value) if isinstance(value, Fraction) else value


def _by_label(state: Mapping[str, Any]) -> Mapping[str, Any]:
    if state.get("kind") == "confusion":
        return {"kind": "confusion", "n": state["n"], "pairs": _pairs(state)}
    if "labels" not in state or "counts" not in state:
        return state
    counts = {_key(label): row for label, row in zip(state["labels"], state["counts"], strict=True)}
    return {
        **{key: part for key, part in state.items() if key not in ("labels", "counts")},
        "by_label": counts,
    }


def _pairs(state: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return true label -> predicted label -> count, zeros too: which pairs never occur at a node is not told."""
    cells, labels = cells_of(state), _labels_of(state)
    return {_key(true): {_key(found): cells.get((true, found), 0) for found in labels} for true in labels}


def _labels_of(state: Mapping[str, Any]) -> list[Any]:
    return sorted({label for pair in cells_of(state) for label in pair}, key=label_key)


def _with_labels(state: Any) -> Any:
    if isinstance(state, dict) and state.get("kind") == "confusion":
        rows = state.get("pairs", {}).items()  # without it no node told a single pair
        cells = {(_label(true), _label(found)): count for true, row in rows for found, count in row.items()}
        return state_of(state["n"], cells)
    if not isinstance(state, dict) or "by_label" not in state:
        return state
    counts = {_label(key): row for key, row in state["by_label"].items()}
    labels = sorted(counts, key=lambda label: (type(label).__name__, label))
    rest = {key: part for key, part in state.items() if key != "by_label"}
    return {**rest, "labels": labels, "counts": [counts[label] for label in labels]}


def _key(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise SpecError(f"a label is a whole number or text, found {str(label)[:40]!r}")
    return f"i{label}" if isinstance(label, int) else f"s{label}"


def _label(key: str) -> int | str:
    return int(key[1:]) if key[:1] == "i" else key[1:]
