"""The device files of graphics cards that a worker needs for the cards that its job holds."""

from __future__ import annotations

import os
from collections.abc import Iterator

_COMMON = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


def gpu_paths(gpus: tuple[int, ...]) -> Iterator[str]:
    """Yield the device files of these cards that exist; none for no cards.

    Args:
        gpus: numbers as NVIDIA's driver gives them.
    """
    names = [*_COMMON, *(f"nvidia{number}" for number in gpus)] if gpus else []
    for path in (f"/dev/{name}" for name in names):
        if os.path.exists(path):
            yield path
