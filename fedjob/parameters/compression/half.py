"""Floating-point numbers of 16 bits: bfloat16, and the binary16 of IEEE 754.

bfloat16 has the range of float32 and 8 bits of precision; binary16 has 11 bits, and no number beyond 65,504.

Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", https://arxiv.org/abs/1905.12322
IEEE Std 754-2019, section 3.6. Numbers are rounded to the nearest, ties to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedjob.common.errors import EncodeError
from fedjob.parameters.compression.base import Compressor, ItemSection

if TYPE_CHECKING:
    import torch


class _Half(Compressor):
    takes_whole: ClassVar[bool] = True
    working_copies: ClassVar[float] = 4
    dtype_name: ClassVar[str]

    def sections(self, count: int) -> tuple[ItemSection, ...]:
        return (ItemSection(2, count),)

    def encode(self, numbers: torch.Tensor) -> Sequence[torch.Tensor]:
        import torch

        half = numbers.to(getattr(torch, self.dtype_name))
        low, high = torch.aminmax(half)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            most = torch.finfo(half.dtype).max
            wider = "" if self.name == BFloat16.name else "take compress='bf16', "
            raise EncodeError(
                f"compress={self.name!r} holds numbers up to {most:g}; found {float(numbers.abs().max()):g}: "
                f"{wider}scale the model, or leave compress out"
            )
        return (half,)

    def decode(self, sections: Sequence[bytes], count: int) -> torch.Tensor:
        import torch

        return torch.frombuffer(bytearray(sections[0]), dtype=getattr(torch, self.dtype_name)).float()


@dataclass(frozen=True, slots=True)
class BFloat16(_Half):
    """bfloat16: 2 bytes a number, of any size, with a relative error of at most 2^-8."""

    name: ClassVar[str] = "bf16"
    dtype_name: ClassVar[str] = "bfloat16"


@dataclass(frozen=True, slots=True)
class Float16(_Half):
    """Half precision: 2 bytes a number up to 65,504, with a relative error of at most 2^-11 from 6.1e-5 on."""

    name: ClassVar[str] = "fp16"
    dtype_name: ClassVar[str] = "float16"
