"""The protection of what nodes contribute, as a job asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.checks import check_kinds, shown
from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.privacy.secagg.fixed_point import BITS
from fedjob.privacy.secagg.terms import MIN_NODES, least_threshold, usual_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAgg:
    """Secure aggregation: the researcher gets sums over nodes and never one node's contribution.

    Bonawitz et al. 2017, https://eprint.iacr.org/2017/281, see `privacy.secagg`.

    Args:
        threshold: so many nodes of those that answer reveal a sum; None for two thirds of them and one more, which holds against a
            researcher who does not follow the protocol. The least is more than half of them.
        min_nodes: a sum is of so many nodes at least, 3 or more.
        clip: the largest change of a single parameter in a round; larger ones count as much, and are reported.
        bits: of a sum's tensors, 32 or 16. The error of a mean of parameters is at most
            `clip * num_nodes^2 / 2^bits` where all nodes weigh alike.
        max_weight: the largest weight of a node, usually its number of examples; None for that of the largest dataset.
    """

    threshold: int | None = None
    min_nodes: int = MIN_NODES
    clip: float = 8.0
    bits: int = 32
    max_weight: float | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.min_nodes < MIN_NODES:
            raise SpecError(
                f"SecAgg(min_nodes=...) is {MIN_NODES} or more, found {self.min_nodes}: of two nodes each learns the "
                "other's numbers"
            )
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise SpecError(f"SecAgg(clip=...) is a number above 0, found {self.clip}")
        if self.bits not in BITS:
            raise SpecError(f"SecAgg(bits=...) is 16 or 32, found {self.bits}")
        if self.max_weight is not None and not (math.isfinite(self.max_weight) and self.max_weight > 0):
            raise SpecError(f"SecAgg(max_weight=...) is a number above 0, found {self.max_weight}")
        if self.threshold is not None and self.threshold < least_threshold(self.min_nodes):
            raise SpecError(
                f"SecAgg(threshold=...) is more than half of min_nodes={self.min_nodes}, found {self.threshold}"
            )

    def threshold_of(self, num_nodes: int) -> int:
        """Return how many of so many nodes reveal a sum."""
        return usual_threshold(num_nodes) if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """The protections of a job.

    Args:
        secagg: `True`, or `SecAgg(...)` with settings.
    """

    secagg: SecAgg | bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.secagg, (SecAgg, bool, type(None))):
            raise SpecError(f"Protect(secagg=...) is True or SecAgg(...), not {shown(self.secagg)}")

    def to_plain(self) -> dict[str, Any]:
        """Return it as a job's messages have it; empty for no protection."""
        if not self.secagg:
            return {}
        return {"secagg": to_plain(SecAgg() if self.secagg is True else self.secagg)}


def protect_of(plain: Mapping[str, Any]) -> Protect:
    """Build the protections of a message or a spec.

    Raises:
        SpecError: there is no such protection, or it has no such settings.
    """
    if odd := sorted(set(plain) - {"secagg"}):
        raise SpecError(f"there is no protection {shown(odd[0])}: this version of fedjob has secagg")
    settings = plain.get("secagg")
    if settings is None:
        return Protect()
    if not isinstance(settings, Mapping):
        raise SpecError(f"the settings of secagg are a map, found {shown(settings)}")
    try:
        return Protect(secagg=SecAgg(**settings))
    except TypeError as error:
        raise SpecError(f"SecAgg has no such settings: {error}") from error


def checked_protect(name: str, given: Any) -> dict[str, Any]:
    """Return the argument `protect` of a job as its spec keeps it.

    Raises:
        SpecError: it is no `Protect`.
    """
    if given is None:
        return {}
    if isinstance(given, SecAgg):
        given = Protect(secagg=given)
    if not isinstance(given, Protect):
        raise SpecError(f"{name} is Protect(secagg=True), SecAgg(...) or None, not {shown(given)}")
    return given.to_plain()
