"""The form in which metric states leave a node: no part of them is about a handful of examples.

A sketch of the ranks of scores counts at least `LEAST` examples in each span, or the owner's minimum of rows where
that is more: else it would be a list of patients, each with a score and a label.

Where an owner sets a minimum, a confusion matrix and counts by label hold one rule: every label that occurs does so in as many
examples, as many of it were found or none, and no number tells of rarer errors which label was taken for which. Of a matrix rare
errors leave as one number; hits, false alarms and misses of f1, precision and recall, from which rare errors follow, do not leave, but
for the f1 of two labels, which needs the number of all errors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.metrics.base import MetricState
from fedjob.metrics.classification import ERRORS
from fedjob.metrics.confusion import together
from fedjob.metrics.rank_sketch import coarsened

LEAST = 5
"""The fewest examples that a sketch counts in one span, whatever the owner allows."""


def disclosed(states: Mapping[str, Mapping[str, Any]], min_rows: int) -> dict[str, MetricState]:
    """Return the states that may leave a node, made coarser where they have to be.

    Args:
        states: name -> state, of all that was measured.
        min_rows: the owner's minimum of rows; 0 or 1 for none.
    """
    found: dict[str, MetricState] = {}
    for name, state in states.items():
        if state.get("kind") == "auc":
            if min_rows <= 1 or all(_enough(sketch, min_rows) for sketch in state["sketches"]):
                least = max(LEAST, min_rows)
                found[name] = {
                    **state,
                    "sketches": [coarsened(sketch, least) for sketch in state["sketches"]],
                }
        elif state.get("kind") == "confusion":
            if (kept := together(state, min_rows)) is not None:
                found[name] = kept
        elif state.get("kind") == "labels":
            if (counted := _by_label(state, min_rows)) is not None:
                found[name] = counted
        else:
            found[name] = dict(state)
    return found


def _enough(sketch: list[list[int]], min_rows: int) -> bool:
    """Return whether each class that occurs does so in enough examples."""
    ups, downs = sum(place[2] for place in sketch), sum(place[3] for place in sketch)
    return not (0 < ups < min_rows or 0 < downs < min_rows)


def _by_label(state: Mapping[str, Any], min_rows: int) -> MetricState | None:
    """Return counts by label in which no number is about rare errors; None where nothing can be told."""
    counted = {name: item for name, item in state.items() if name != ERRORS}
    if min_rows <= 1:
        return counted
    labels, counts = state["labels"], state["counts"]
    if any(0 < number < min_rows for hits, _, misses in counts for number in (hits, hits + misses)):
        return None
    if not any(0 < number < min_rows for number in _kinds_of_error(state)):
        return counted
    errors = sum(misses for _, _, misses in counts)
    both = len(labels) == 2 and all(hits + misses for hits, _, misses in counts)
    if not both or state["metric"] != "f1" or state["average"] == "weighted":
        return None
    # f1 = 2 hits / (2 hits + false alarms + misses): of two labels the last two are all errors, for either
    return {**counted, "counts": [[hits, errors, 0] for hits, _, _ in counts]}


def _kinds_of_error(state: Mapping[str, Any]) -> list[int]:
    """Return how often each label was taken for each other; of counts without that the sums in which rare ones show."""
    if ERRORS in state:
        return [count for _, _, count in state[ERRORS]]
    if len(state["labels"]) <= 2:
        return [misses for _, _, misses in state["counts"]]
    return [1] if any(misses for _, _, misses in state["counts"]) else []
