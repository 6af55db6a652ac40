"""Weights of contributions, bounded so that no node decides the total alone."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

OUT_OF_PROPORTION = 1000.0
"""Examples of a row, as a multiple of the median over all nodes: the same plan makes no more of any data."""

MIN_COMPARED = 3
"""Nodes that are needed to see which one is out of proportion."""


def capped(weights: Mapping[str, float], max_share: float) -> dict[str, float]:
    """Return the weights with the largest lowered until none is more than a share of their total.

    Args:
        weights: node -> weight, finite and 0 or more.
        max_share: above 0 and below 1. With fewer nodes of a weight than `1 / max_share` all of them weigh the same.
    """
    heavy = sorted((weight for weight in weights.values() if weight > 0), reverse=True)
    cap = heavy[-1] if heavy else 0.0  # all the same, where nothing else holds the bound
    for num_lowered, weight in enumerate(heavy):
        if num_lowered * max_share >= 1:
            cap = heavy[num_lowered - 1]
            break
        # the heaviest lowered to c: c = max_share * (num_lowered * c + the others)
        bound = max_share * sum(heavy[num_lowered:]) / (1 - num_lowered * max_share)
        if weight <= bound:
            cap = bound
            break
    return {node: min(weight, cap) for node, weight in weights.items()}


def out_of_proportion(examples: Mapping[str, float], num_rows: Mapping[str, int | None]) -> dict[str, str]:
    """Return node -> reason, for nodes that claim far more examples of each of their rows than the others.

    The plan is the same at all nodes. A node can't make more of its rows than others do by that much, but it can say so.

    Args:
        examples: node -> number of examples, or weight if that is larger.
        num_rows: node -> registered size of its dataset, where it is known.
    """
    ratios = {node: count / rows for node, count in examples.items() if (rows := num_rows.get(node))}
    if len(ratios) < MIN_COMPARED:
        return {}
    usual = max(median(ratios.values()), 1.0)
    return {
        node: (
            f"bad_weight: {ratio:.4g} examples of each row claimed, {ratio / usual:.3g} times as many as the nodes do in "
            "the middle"
        )
        for node, ratio in sorted(ratios.items())
        if ratio > OUT_OF_PROPORTION * usual
    }
