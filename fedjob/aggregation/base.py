"""The interface of an aggregator: contributions in, one total out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import torch

    from fedjob.aggregation.contribution import Contribution

Origin = Mapping[str, "torch.Tensor"]
"""Named tensors that contributions are measured from: the shared parameters that nodes began the round with."""


class Aggregator(ABC):
    """An aggregator: a rule that makes one total of the nodes' contributions.

    A contribution is what others call an update. An aggregator is a frozen
    dataclass without I/O. It gets the contributions in the order of node ids
    and gives the same bytes for the same contributions, always: it works
    tensor by tensor and computes in float64.
    """

    name: ClassVar[str]

    arithmetic: ClassVar[bool] = True
    """True if the aggregator computes with the values, so that one NaN would spoil the total."""

    elementwise: ClassVar[bool] = False
    """True if each number of the total follows from the contributions' numbers at the same place and their weights
    alone, so that named tensors may be aggregated a stretch at a time (`aggregation/stretches.py`). It counts for the
    class that says so and for no subclass, whose rule may be another."""

    @property
    def min_nodes(self) -> int:
        """The least number of contributions with which the settings make sense."""
        return 1

    @abstractmethod
    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        """Return the total of `min_nodes` or more contributions.

        Args:
            origin: what the contributions are measured from; None for zero. Only aggregators that
                bound how far a contribution goes use it.
        """


def totalled(value: Any, contributions: Sequence[Contribution]) -> Contribution:
    """Return a total: the aggregated value, with the weights and metrics of all contributions added."""
    from fedjob.aggregation.contribution import Contribution, add_phases

    metrics: dict[str, Any] = reduce(add_phases, (c.metrics for c in contributions), {})
    return Contribution(value, sum(c.weight for c in contributions), metrics)


def check_nodes(aggregator: Aggregator, num_nodes: int, of: str) -> None:
    """Check that an aggregator's settings make sense with so many contributions.

    Args:
        of: the nodes that were counted, in words for the message.

    Raises:
        SpecError: the settings need more contributions.
    """
    if num_nodes < aggregator.min_nodes:
        raise SpecError(
            f"{aggregator!r} needs {aggregator.min_nodes} nodes or more, but {of}: have more nodes take part, or "
            "expect fewer of them to be wrong"
        )
