"""Fixed-point numbers that add without error: tensors in 32 bits or 8 to 16, all other numbers in 192.

Tensors. A number x counts as the whole number nearest to `scale * x`, with

    scale = floor((2^(bits - 1) - 1) / num_nodes) / clip

so that the sum of `num_nodes` numbers, each within -clip to clip, never leaves the bits. What lies beyond is clipped, and
counted. The error of a sum is at most `num_nodes * step / 2`, with `step = 1 / scale`.

In fewer than 16 bits a number is rounded up or down by chance, up with the probability of what is over the whole number below it
(stochastic rounding, Suresh et al. 2017, https://arxiv.org/abs/1611.00429): what a coarse step takes from one number it gives to
others, so that the mean of many is not off, and a change of less than half a step is not lost in all rounds. The chance is drawn from the
contribution itself: the same contribution gives the same whole numbers, however often it is masked. A sum of `bits` bits for which
each node has 8 takes `8 + log2(num_nodes)`; they are packed without gaps.

All other numbers, such as counts, sums and metrics, count as the whole number nearest to `2^64 x`: whole numbers are exact, and
a sum is the nearest double of the exact sum of what was rounded to 2^-64. The sum of `MAX_NODES` numbers of less than 2^118 never
leaves 192 bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError

if TYPE_CHECKING:
    import numpy as np

MAX_NODES = 1000

BITS = (*range(8, 17), 32)
STOCHASTIC_BELOW = 16

LIMBS = 6
"""32-bit words of a wide number."""

WIDE_BYTES = 4 * LIMBS
_FRACTION_BITS = 64
_WIDE_LIMIT = 2.0**118


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The fixed point of tensors.

    Args:
        num_nodes: the most numbers that are added, 2 to `MAX_NODES`.
        clip: the largest size of a number.
        bits: of a sum, 8 to 16 or 32.
        steps: whole numbers in 1, where sums need room for noise; None for as many as fit.
    """

    num_nodes: int
    clip: float
    bits: int = 32
    steps: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.num_nodes <= MAX_NODES:
            raise SpecError(f"sums are of 2 to {MAX_NODES} nodes, found {self.num_nodes}")
        if not (math.isfinite(self.clip) and 1e-30 < self.clip < 1e30):
            raise SpecError(f"clip is a number above 0, found {self.clip}")
        if self.bits not in BITS:
            raise SpecError(f"bits is 8 to 16 or 32, found {self.bits}")
        if self.largest < 1:
            raise SpecError(
                f"the sum of {self.num_nodes} nodes has no room in {self.bits} bits: give SecAgg(bits="
                f"{min(bits for bits in BITS if 2 ** (bits - 1) > self.num_nodes)}) or more"
            )

    @property
    def largest(self) -> int:
        """The whole number that stands for `clip`."""
        if self.steps is not None:
            return math.ceil(self.steps * self.clip)
        return int(2 ** (self.bits - 1) - 1) // self.num_nodes

    @property
    def dtype(self) -> str:
        """The numpy dtype that the whole numbers are computed in, unsigned: sums go round."""
        return f"<u{self.word_bits // 8}"

    @property
    def word_bits(self) -> int:
        """The bits of `dtype`; of a sum that has fewer the lowest count."""
        return next(bits for bits in (8, 16, 32) if bits >= self.bits)

    @property
    def is_packed(self) -> bool:
        """True if the numbers lie in a file without the bits that do not count."""
        return self.bits != self.word_bits

    def num_bytes(self, length: int) -> int:
        """Return the bytes of so many whole numbers in a file; packed are 8 together."""
        return -(-length // 8) * self.bits if self.is_packed else length * self.bits // 8

    @property
    def scale(self) -> float:
        """Whole numbers in 1."""
        return self.largest / self.clip if self.steps is None else self.steps

    @property
    def error(self) -> float:
        """The most that the sum of all nodes is off where nothing was clipped."""
        return self.num_nodes / self.scale / (1 if self.is_stochastic else 2)

    @property
    def is_stochastic(self) -> bool:
        """True if numbers are rounded up or down by chance. Never where noise is to come, which counts on the nearest."""
        return self.bits < STOCHASTIC_BELOW and self.steps is None

    def quantised(
        self, numbers: np.ndarray, factor: float, chance: np.random.Generator | None = None
    ) -> tuple[np.ndarray, int]:
        """Return `factor * numbers` as whole numbers of `dtype`, and how many numbers were larger than `clip`.

        Args:
            numbers: float64; what lies beyond -clip and clip counts as these.
            factor: 0 to 1, of numbers within the clip.
            chance: by which numbers are rounded, see `rounding_of`; None for the nearest whole number.

        Raises:
            SpecError: a number is NaN or infinite.
        """
        import numpy as np

        largest = float(max(-numbers.min(), numbers.max())) if len(numbers) else 0.0  # NaN where one is
        if not math.isfinite(largest):
            raise SpecError("a number is NaN or infinite: it can't be added")
        over = int(np.count_nonzero(np.abs(numbers) > self.clip)) if largest > self.clip else 0
        within = np.clip(numbers, -self.clip, self.clip) if over else numbers
        whole = within * (factor * self.scale)
        if chance is None:
            np.rint(whole, out=whole)
        else:
            whole = np.floor(whole + chance.random(len(whole)))
        if largest * factor * self.scale > self.largest - 1:
            # a product may be rounded up past the largest by one
            np.clip(whole, -self.largest, self.largest, out=whole)
        words = whole.astype("<i4" if self.largest < 1 << 31 else "<i8")
        return (words.view(self.dtype) if self.bits == 8 * words.itemsize else words.astype(self.dtype)), over

    def restored(self, sums: np.ndarray) -> np.ndarray:
        """Return sums, of `dtype`, as float64."""
        import numpy as np

        signed, beyond = f"<i{self.word_bits // 8}", self.word_bits - self.bits
        whole = (sums << beyond).view(signed) >> beyond if beyond else sums.view(signed)
        return whole.astype(np.float64) / self.scale

    def packed(self, whole: np.ndarray) -> np.ndarray:
        """Return whole numbers, of `dtype`, as they lie in a file: those of fewer bits packed 8 together, the lowest bits first."""
        import numpy as np

        if not self.is_packed:
            return whole
        rows = -(-len(whole) // 8)
        words = np.zeros((rows, 8), dtype="<u2")
        words.reshape(-1)[: len(whole)] = whole & ((1 << self.bits) - 1)
        found = np.empty((rows, self.bits), dtype=np.uint8)
        for place in range(self.bits):
            first, gone = divmod(8 * place, self.bits)
            byte = words[:, first] >> gone
            if self.bits - gone < 8:  # the next number begins in this byte
                byte = byte | (words[:, first + 1] << (self.bits - gone))
            found[:, place] = byte & 0xFF
        return found.reshape(-1)

    def unpacked(self, stored: np.ndarray, length: int) -> np.ndarray:
        """Return so many whole numbers, of `dtype`, of bytes as `packed` returns them."""
        import numpy as np

        if not self.is_packed:
            return stored
        columns = stored.reshape(-1, self.bits)
        words = np.empty((len(columns), 8), dtype="<u2")
        for number in range(8):
            first, gone = divmod(number * self.bits, 8)
            found = columns[:, first].astype(np.uint32) >> gone
            for further in range(1, 3):
                if 8 * further - gone < self.bits:
                    found |= columns[:, first + further].astype(np.uint32) << (8 * further - gone)
            words[:, number] = found & ((1 << self.bits) - 1)
        return words.reshape(-1)[:length]


def rounding_of(bound: str) -> np.random.Generator:
    """Return the chance by which a contribution is rounded.

    It depends on the contribution alone: rounded anew and masked with the same masks, the difference of the two would tell of it.

    Args:
        bound: the contribution's digest.
    """
    import numpy as np

    seed = hashlib.sha256(b"fedjob secure sum: rounding 1\0" + bound.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))


def wide_of(numbers: Sequence[Any]) -> np.ndarray:
    """Return numbers as an array of uint32, shape (n, 6), the lowest word first.

    Args:
        numbers: whole, floating-point or `Fraction`.

    Raises:
        SpecError: one is NaN, infinite, or 2^118 or more.
    """
    import numpy as np

    found = bytearray()
    for number in numbers:
        exact = Fraction(number) if isinstance(number, (int, Fraction)) else _finite(number)
        if abs(exact) >= _WIDE_LIMIT:
            raise SpecError(f"{float(exact):g} is too large to be added: less than 2^118 is expected")
        whole = round(exact * (1 << _FRACTION_BITS))
        found += whole.to_bytes(WIDE_BYTES, "little", signed=True)
    return np.frombuffer(bytes(found), dtype="<u4").reshape(-1, LIMBS).copy()


def wide_total(added: np.ndarray) -> np.ndarray:
    """Return wide numbers, uint32, of sums of their words, int64 of the same shape: carries go up, what leaves is dropped."""
    import numpy as np

    words = added.copy()
    for place in range(LIMBS - 1):
        words[:, place + 1] += words[:, place] >> 32
    return (words & 0xFFFFFFFF).astype(np.uint32)


def numbers_of(wide: np.ndarray) -> list[Fraction]:
    """Return the exact numbers of an array of wide ones."""
    raw = wide.astype("<u4").tobytes()
    return [
        Fraction(int.from_bytes(raw[at : at + WIDE_BYTES], "little", signed=True), 1 << _FRACTION_BITS)
        for at in range(0, len(raw), WIDE_BYTES)
    ]


def _finite(number: Any) -> Fraction:
    value = float(number)
    if not math.isfinite(value):
        raise SpecError("a number is NaN or infinite: it can't be added")
    return Fraction(value)
