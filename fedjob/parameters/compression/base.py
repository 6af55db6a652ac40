"""The interface of a compressor: floating-point numbers as fewer bytes, and numbers near them again.

A compressor is a frozen dataclass with pure methods and no memory. What it loses is kept by whoever uses it, and added
before it compresses the next time: error feedback.

Seide, Fu, Droppo, Li, Yu 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
Training of Speech DNNs", section 3; Karimireddy, Rebjock, Stich, Jaggi 2019, "Error Feedback Fixes SignSGD and other
Gradient Compression Schemes", algorithm 2, https://arxiv.org/abs/1901.09847
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ItemSection:
    """A run of equal items in a compressed tensor, whose bytes are shuffled together.

    Args:
        item_bytes: of one item.
        num_items: their number.
    """

    item_bytes: int
    num_items: int

    @property
    def num_bytes(self) -> int:
        """The bytes of all of them."""
        return self.item_bytes * self.num_items


class Compressor(ABC):
    """A lossy form of floating-point numbers.

    The same numbers give the same bytes on every machine.
    """

    name: ClassVar[str]

    takes_whole: ClassVar[bool] = False
    """True if parameters as such can travel in this form; False if only their changes can."""

    working_copies: ClassVar[float] = 5
    """How many times the numbers of one tensor are in memory at once while they are compressed, with what is left of them."""

    @abstractmethod
    def sections(self, count: int) -> tuple[ItemSection, ...]:
        """Return the sections of so many compressed numbers; they depend on nothing else."""

    @abstractmethod
    def encode(self, numbers: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the sections' items.

        Args:
            numbers: finite float32 or float64 on the CPU, of one axis, contiguous; at least one.

        Raises:
            EncodeError: a number is too large for this form.
        """

    @abstractmethod
    def decode(self, sections: Sequence[bytes], count: int) -> torch.Tensor:
        """Return the float32 numbers that the sections' bytes stand for.

        Args:
            sections: of the sizes that `sections(count)` gives; from a peer, so that nothing else is sure.

        Raises:
            DecodeError: they are no such numbers.
        """
