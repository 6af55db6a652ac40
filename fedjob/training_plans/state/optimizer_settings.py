"""The settings of a torch optimizer, as plain data for a round's report."""

from __future__ import annotations

import math
from typing import Any

import torch

MAX_GROUPS = 64
"""Groups of parameters whose settings are reported."""


def settings_of_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group of parameters, such as its learning rate, without the parameters."""
    return [
        {name: item for name, item in map(_plain_setting, group.items()) if name}
        for group in optimizer.param_groups[:MAX_GROUPS]
    ]


def _plain_setting(setting: tuple[str, Any]) -> tuple[str, Any]:
    """Return a setting of an optimizer's group as plain data, without a name if it is none, as parameters are."""
    name, item = setting
    if isinstance(item, torch.Tensor) and item.numel() == 1:
        item = item.item()
    if isinstance(item, (tuple, list)) and len(item) <= 4 and all(isinstance(part, float) for part in item):
        return name, list(item)
    finite = not isinstance(item, float) or math.isfinite(item)
    return (name if item is None or (isinstance(item, (bool, int, float)) and finite) else ""), item
