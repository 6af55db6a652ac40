"""The contribution (update) that a node sends in reply to an ask; contributions can be added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.metrics.states import add as add_metrics


@dataclass(frozen=True, slots=True)
class Contribution:
    """A node's update: a value, its weight, and metrics.

    Adding two contributions equals computing one on the union of their data, as
    long as `value` is a sum; an aggregator computes means from value and weight.

    Args:
        value: named tensors (any mapping of them, lazily loaded or not), or plain data.
        weight: finite and 0 or more; usually the number of examples.
        metrics: `{phase: {name: state}}`.
        aux: auxiliary variables, `{module: {name: tensor}}`, see `parameters/auxiliary.py`.
        staleness: number of rounds completed between the ask and this reply.
    """

    value: Any = None
    weight: float = 0.0
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    aux: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    staleness: int = 0

    def __add__(self, other: Contribution) -> Contribution:
        return Contribution(
            add_values(self.value, other.value),
            self.weight + other.weight,
            add_phases(self.metrics, other.metrics),
            add_values(self.aux, other.aux),
            max(self.staleness, other.staleness),
        )


def add_values(a: Any, b: Any) -> Any:
    """Add numbers and tensors, maps and lists of them element by element; None is zero."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, Mapping):
        return {name: add_values(a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])}
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            raise ValueError(f"lists of {len(a)} and {len(b)} numbers do not add")
        return [add_values(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


def add_phases(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Combine metrics phase by phase, name by name, exactly."""
    total = {phase: dict(states) for phase, states in a.items()}
    for phase, states in b.items():
        mine = total.setdefault(phase, {})
        for name, state in states.items():
            mine[name] = add_metrics(mine[name], state) if name in mine else state
    return total
