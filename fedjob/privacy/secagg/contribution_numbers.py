"""A node's contribution as the numbers of a secure sum, by the sum's rule; and a sum as a contribution again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.privacy.secagg.metric_numbers import metrics_in, numbers_of_metrics
from fedjob.privacy.secagg.terms import Terms
from fedjob.privacy.secagg.vector import NamedNumbers, Outline, joined, numbers_in, value_of

WEIGHT, CLIPPED, VALUE, TENSOR = "weight", "clipped", "value", "tensor"


@dataclass(frozen=True, slots=True)
class Summed:
    """The sum, or the mean, of contributions beside their tensors in fixed point.

    Args:
        clipped: how many numbers of the tensors were larger than the fixed point has room for.
        tensors: name -> flat list, of those that were added without rounding.
    """

    value: Any
    weight: float
    clipped: int
    metrics: dict[str, Any]
    tensors: dict[str, list[float]]


def contribution_numbers(
    value: Any, weight: float, metrics: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, list[Any]]
) -> tuple[NamedNumbers, list[str]]:
    """Return what is added beside the tensors in fixed point, and the metrics that stay at the node.

    Args:
        value: plain data, where the contribution is no set of tensors.
        tensors: name -> flat list, of those that are added without rounding.

    Raises:
        SpecError: something of it can't be added.
    """
    of_metrics, staying = numbers_of_metrics(metrics)
    parts = [
        numbers_in(float(weight), WEIGHT),
        numbers_in(0, CLIPPED),
        of_metrics,
    ]  # counted when it is masked
    if value is not None:
        parts.append(numbers_in(value, VALUE))
    parts += [numbers_in(list(flat), TENSOR, name) for name, flat in tensors.items()]
    return joined(parts), staying


def noised_numbers() -> NamedNumbers:
    """Return what is added beside tensors with noise on them: nothing that says anything of a node."""
    return joined([numbers_in(1, WEIGHT), numbers_in(0, CLIPPED)])


def by_rule(numbers: NamedNumbers, outline: Outline, terms: Terms) -> list[Any]:
    """Return the numbers of a sum's outline as this node adds them, 0 for those that it lacks.

    Raises:
        SpecError: the outline lacks a number of this node, or the node weighs more than the terms allow.
    """
    if missing := sorted(set(numbers.values) - set(outline.names)):
        raise SpecError(
            f"the sum leaves out {len(missing)} numbers of this node: it would not be of its contribution"
        )
    weight = Fraction(numbers.values[WEIGHT])
    factor_of(float(weight), terms)
    found: list[Any] = []
    for name in outline.names:
        number = numbers.values.get(name, 0)
        is_weighted = terms.rule == "weighted" and name.startswith((VALUE, TENSOR))
        found.append(Fraction(number) * weight if is_weighted else number)
    return found


def factor_of(weight: float, terms: Terms) -> float:
    """Return what a node's tensors are multiplied by before they are added, 0 to 1.

    Raises:
        SpecError: the weight is more than the terms allow.
    """
    if terms.rule != "weighted":
        return 1.0
    if not 0 <= weight <= terms.max_weight:
        raise SpecError(
            f"a contribution weighs {weight:g}, the job's sums are for at most {terms.max_weight:g}: it takes "
            f"SecAgg(max_weight={weight:g}) or more"
        )
    return weight / terms.max_weight


def summed(outline: Outline, totals: Sequence[Fraction], rule: str, num_nodes: int) -> Summed:
    """Return what a sum says beside its tensors in fixed point."""
    weight = totals[outline.names.index(WEIGHT)]
    divisor = {"weighted": weight, "plain": Fraction(num_nodes), "sum": Fraction(1)}[rule]
    if not divisor:
        raise SpecError("all contributions weigh nothing: their mean is not defined")
    of_value = [
        total / divisor if rule != "sum" and name.startswith((VALUE, TENSOR)) else total
        for name, total in zip(outline.names, totals, strict=True)
    ]
    rough = outline if rule == "sum" else Outline(names=outline.names, exact=[], constants=outline.constants)
    has_value = any(name.startswith(VALUE) for name in (*outline.names, *outline.constants))
    tensors = value_of(rough, of_value, TENSOR)
    return Summed(
        value=value_of(rough, of_value, VALUE) if has_value else None,
        weight=float(weight),
        clipped=int(totals[outline.names.index(CLIPPED)]),
        metrics=metrics_in(outline, totals),
        tensors=tensors if isinstance(tensors, dict) else {},
    )
