"""Contributions in, one total out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fedjob.common.contribution import Contribution


class Fold(ABC):
    """A rule that makes one total of contributions.

    A fold is a frozen dataclass without I/O. It gets the contributions in the
    order of node ids and gives the same bytes for the same contributions,
    always: tensor by tensor, float64 inside.
    """

    name: ClassVar[str]

    @abstractmethod
    def fold(self, contributions: Sequence[Contribution]) -> Contribution:
        """Return the total of one or more contributions."""
