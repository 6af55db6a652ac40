"""The largest numbers of a tensor, and their places.

    keep the k = ceil(fraction * n) numbers of largest |x|; all others are 0

Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with Memory", definition 2.1 and algorithm 1,
https://arxiv.org/abs/1809.07599: with the memory of what was left out, the error feedback, it converges at the rate of
SGD. Chosen in each tensor by itself, so that no layer is silent; of equal numbers the earlier ones are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import DecodeError, EncodeError, SpecError
from fedjob.parameters.compression.base import Compressor, ItemSection

if TYPE_CHECKING:
    import torch

_MOST_NUMBERS = 1 << 32


@dataclass(frozen=True, slots=True)
class TopK(Compressor):
    """The largest changes alone, each with its place: 8 bytes for each number that is kept.

    Args:
        fraction: of the numbers of each tensor, above 0 and below 1, such as 0.01.
    """

    fraction: float

    name: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        check_kinds(self)
        if not (math.isfinite(self.fraction) and 0 < self.fraction < 1):
            raise SpecError(
                f"TopK(fraction) is above 0 and below 1, such as 0.01, not {shown(self.fraction)}"
            )

    def num_kept(self, count: int) -> int:
        """Return how many of so many numbers are kept."""
        return min(count, math.ceil(self.fraction * count))

    def sections(self, count: int) -> tuple[ItemSection, ...]:
        kept = self.num_kept(count)
        return ItemSection(4, kept), ItemSection(4, kept)

    def encode(self, numbers: torch.Tensor) -> Sequence[torch.Tensor]:
        import numpy
        import torch

        if numbers.numel() >= _MOST_NUMBERS:
            raise EncodeError(
                f"TopK takes tensors of less than {_MOST_NUMBERS} numbers; found {numbers.numel()}"
            )
        kept = self.num_kept(numbers.numel())
        sizes = numbers.abs().numpy()
        least = numpy.partition(sizes, sizes.size - kept)[sizes.size - kept]
        above = numpy.flatnonzero(sizes > least)
        equal = numpy.flatnonzero(sizes == least)[: kept - above.size]
        places = numpy.sort(numpy.concatenate([above, equal]))
        # the steps from place to place are small numbers, whose upper bytes zstd takes away
        steps = numpy.diff(places, prepend=0).astype(numpy.uint32)
        return torch.from_numpy(steps.view(numpy.int32)), numbers[torch.from_numpy(places)].float()

    def decode(self, sections: Sequence[bytes], count: int) -> torch.Tensor:
        import numpy
        import torch

        steps = numpy.frombuffer(sections[0], numpy.uint32).astype(numpy.int64)
        places = numpy.cumsum(steps)
        if (steps[1:] == 0).any() or places.max() >= count or places.min() < 0:
            raise DecodeError(
                f"top_k: the places of numbers are not in order, or beyond the {count} of the tensor"
            )
        found = torch.zeros(count)
        found[torch.from_numpy(places)] = torch.frombuffer(bytearray(sections[1]), dtype=torch.float32)
        return found
