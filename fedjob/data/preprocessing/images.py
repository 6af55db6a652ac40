"""Steps on images, applied before a plan sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing.base import Step


@dataclass(frozen=True, slots=True)
class Resize(Step):
    """Scale every image to one size.

    Args:
        width, height: in pixels.
        mode: `rgb`, `grey`, or empty for the mode that the owner registered.
    """

    name: ClassVar[str] = "resize"
    width: int
    height: int
    mode: str = ""

    def __post_init__(self) -> None:
        check_kinds(self)
        for side in (self.width, self.height):
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 65_536:
                raise SpecError(
                    f"Resize takes width and height in pixels, not {shown(self.width)}, {shown(self.height)}"
                )
        if self.mode not in ("", "rgb", "grey"):
            raise SpecError(f"Resize(mode=...) takes rgb or grey, not {shown(self.mode)}")
