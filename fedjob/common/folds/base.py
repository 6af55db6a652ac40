"""Contributions in, one total out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import torch

    from fedjob.common.contribution import Contribution

Origin = Mapping[str, "torch.Tensor"]
"""Named tensors that contributions are measured from: the parameters that nodes began with."""


class Fold(ABC):
    """A rule that makes one total of contributions.

    A fold is a frozen dataclass without I/O. It gets the contributions in the
    order of node ids and gives the same bytes for the same contributions,
    always: tensor by tensor, float64 inside.
    """

    name: ClassVar[str]

    arithmetic: ClassVar[bool] = True
    """Whether it computes with the values, so that one NaN would spoil the total."""

    @property
    def min_nodes(self) -> int:
        """The least number of contributions with which the settings make sense."""
        return 1

    @abstractmethod
    def fold(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        """Return the total of `min_nodes` or more contributions.

        Args:
            origin: what they are measured from; None for zero. Only folds that bound
                how far a contribution goes look at it.
        """


def totalled(value: Any, contributions: Sequence[Contribution]) -> Contribution:
    """Return a total: a folded value with weights and metrics added."""
    from fedjob.common.contribution import Contribution, add_phases

    metrics: dict[str, Any] = reduce(add_phases, (c.metrics for c in contributions), {})
    return Contribution(value, sum(c.weight for c in contributions), metrics)


def check_nodes(fold: Fold, num_nodes: int, of: str) -> None:
    """Check that a fold can be made of so many contributions.

    Args:
        of: says which nodes were counted, for the message.

    Raises:
        SpecError: its settings need more.
    """
    if num_nodes < fold.min_nodes:
        raise SpecError(
            f"{fold!r} needs {fold.min_nodes} nodes or more, but {of}: have more nodes take part, or "
            "expect fewer of them to be wrong"
        )
