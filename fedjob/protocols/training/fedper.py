"""FedPer: shared base layers, and personal layers of each node on top.

Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with
Personalization Layers", algorithms 1 and 2, https://arxiv.org/abs/1912.00818

    (b_k, p_k)(t+1) = local training from (b(t), p_k(t))
    b(t+1)          = sum_k n_k / n * b_k(t+1)

The researcher keeps the base layers b. A node keeps its personal layers p_k and its
optimizer's state; p_k never leaves it. It leaks b_k and n_k to the researcher; the
weighted sum is enough, so it can run under secure aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from fedjob.common.checks import check_kinds, shown, some_of
from fedjob.common.errors import SpecError
from fedjob.protocols.training.partly_shared import PartlyShared


@dataclass(frozen=True, slots=True)
class FedPer(PartlyShared):
    """Federated averaging of all layers but the personal ones.

    Args:
        personal: names of parameters that stay at the nodes, or patterns of them: `("head.*",)`.
    """

    personal: tuple[str, ...]

    name: ClassVar[str] = "fedper"

    def __post_init__(self) -> None:
        check_kinds(self)
        given: Any = self.personal
        if isinstance(given, str) or not given or not all(isinstance(one, str) and one for one in given):
            raise SpecError(
                f'FedPer(personal=...) is a list of parameters\' names or patterns, such as ["head.*"], not {shown(given)}'
            )
        object.__setattr__(self, "personal", tuple(given))

    def own_names(self, params: Mapping[str, Any]) -> list[str]:
        for pattern in self.personal:
            if not any(fnmatchcase(name, pattern) for name in params):
                raise SpecError(
                    f"FedPer(personal=...): no parameter is named {shown(pattern)}; the model has {_some(params)}"
                )
        own = [name for name in params if any(fnmatchcase(name, pattern) for pattern in self.personal)]
        if len(own) == len(params):
            raise SpecError("FedPer(personal=...) names all parameters: then nothing is shared")
        return own


def _some(params: Mapping[str, Any]) -> str:
    names = list(params)
    return some_of(names, 8)
