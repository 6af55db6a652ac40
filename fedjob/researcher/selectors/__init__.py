"""The registry of selectors, which choose the cohort: the nodes that take part in a round."""

from __future__ import annotations

from fedjob.common.registry import Registry
from fedjob.researcher.selectors.base import Selector

SELECTORS: Registry[Selector] = Registry(
    "selector",
    {
        "all": "fedjob.researcher.selectors.all_nodes:AllNodes",
        "by_weight": "fedjob.researcher.selectors.by_weight:ByWeight",
        "explicit": "fedjob.researcher.selectors.explicit:Explicit",
        "fraction": "fedjob.researcher.selectors.fraction:Fraction",
        "over_selection": "fedjob.researcher.selectors.over_selection:OverSelection",
        "power_of_choice": "fedjob.researcher.selectors.power_of_choice:PowerOfChoice",
    },
)
