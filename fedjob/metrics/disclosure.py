"""The form in which metric states leave a node: no part of them is about a handful of examples.

A sketch of the ranks of scores counts at least `LEAST` examples in each span, or the owner's minimum of rows where
that is more: else it would be a list of patients, each with a score and a label. Where an owner sets a minimum, counts by
label leave only if every label that occurs does so in as many examples. Of a confusion matrix rare errors leave as one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.metrics.base import MetricState
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
        elif state.get("kind") != "labels" or min_rows <= 1 or _labels_enough(state["counts"], min_rows):
            found[name] = dict(state)
    return found


def _enough(sketch: list[list[int]], min_rows: int) -> bool:
    """Return whether each class that occurs does so in enough examples."""
    ups, downs = sum(place[2] for place in sketch), sum(place[3] for place in sketch)
    return not (0 < ups < min_rows or 0 < downs < min_rows)


def _labels_enough(counts: list[list[int]], min_rows: int) -> bool:
    return not any(0 < hits + misses < min_rows for hits, _, misses in counts)
