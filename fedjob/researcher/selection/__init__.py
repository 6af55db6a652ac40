"""The registry of selectors, which choose the cohort: the nodes that take part in a round."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.researcher.selection.base import Selector

SELECTORS: Registry[Selector] = Registry(
    "selector",
    {
        "all": "fedjob.researcher.selection.all_nodes:AllNodes",
        "by_weight": "fedjob.researcher.selection.by_weight:ByWeight",
        "explicit": "fedjob.researcher.selection.explicit:Explicit",
        "fraction": "fedjob.researcher.selection.fraction:Fraction",
        "over_selection": "fedjob.researcher.selection.over_selection:OverSelection",
        "power_of_choice": "fedjob.researcher.selection.power_of_choice:PowerOfChoice",
    },
)
