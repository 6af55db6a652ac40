"""Numbers of 8 bits, each block of them with a scale of its own.

    s = max |x| / 127 of the block,   q = round(x / s),   x ~ s * q

Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding", section 3, https://arxiv.org/abs/1610.02132, quantises by buckets with a scale each, as here. It rounds at
random, so that the error is 0 on average. Here error feedback makes up for what is lost, so numbers are rounded to the
nearest: half the error, and the same bytes for the same numbers. Blocks keep one large number from taking the precision
of all others, as in Dettmers, Lewis, Shleifer, Zettlemoyer 2022, "8-bit Optimizers via Block-wise Quantization", section
2.1, https://arxiv.org/abs/2110.02861
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.checks import check_count, check_kinds
from fedjob.common.errors import DecodeError, SpecError
from fedjob.parameters.compression.base import Compressor, ItemSection

if TYPE_CHECKING:
    import torch

_MOST = 127
_MAX_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Int8(Compressor):
    """8 bits a number, and a scale of 4 bytes for each block.

    Args:
        block: numbers with one scale, from 16 to 2^20: with fewer the error is smaller, and more bytes travel.
    """

    block: int = 256

    name: ClassVar[str] = "int8"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_count("Int8(block=...)", self.block, 16)
        if self.block > _MAX_BLOCK:
            raise SpecError(f"Int8(block=...) is at most {_MAX_BLOCK}, not {self.block}")

    def sections(self, count: int) -> tuple[ItemSection, ...]:
        return ItemSection(4, -(-count // self.block)), ItemSection(1, count)

    def encode(self, numbers: torch.Tensor) -> Sequence[torch.Tensor]:
        import torch

        blocks = self._blocks(numbers.float())
        scales = blocks.abs().amax(1).div_(_MOST)
        # a block of zeros, and one whose scale is too small to divide by, is all zeros
        divisors = torch.where(scales > torch.finfo(torch.float32).tiny, scales, torch.inf)
        codes = (blocks / divisors[:, None]).round_().clamp_(-_MOST, _MOST).to(torch.int8)
        return torch.where(divisors.isinf(), 0.0, scales), codes.reshape(-1)[: numbers.numel()]

    def decode(self, sections: Sequence[bytes], count: int) -> torch.Tensor:
        import torch

        scales = torch.frombuffer(bytearray(sections[0]), dtype=torch.float32)
        codes = torch.frombuffer(bytearray(sections[1]), dtype=torch.int8)
        if not torch.isfinite(scales).all() or (scales < 0).any() or (codes < -_MOST).any():
            raise DecodeError(f"int8: a scale is no finite number of 0 or more, or a code is below -{_MOST}")
        return (self._blocks(codes.float()) * scales[:, None]).reshape(-1)[:count]

    def _blocks(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers as rows of one block each, the last one filled up with zeros."""
        import torch

        missing = -numbers.numel() % self.block
        return torch.nn.functional.pad(numbers, (0, missing)).reshape(-1, self.block)
