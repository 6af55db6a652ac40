"""The protection of what nodes contribute, as a job asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.checks import check_kinds, shown
from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.privacy.secagg.fixed_point import BITS, STOCHASTIC_BELOW
from fedjob.privacy.secagg.neighbours import COLLUDING, DROPOUTS
from fedjob.privacy.secagg.terms import MIN_GROUPS, MIN_NODES, least_threshold, usual_threshold

USUAL_CLIP = 8.0
LEAST_NORM, LARGEST_NORM = 1e-6, 1e6
"""Bounds on a norm that are taken: near the ends of what a float can be, rounding would be more than the noise."""

LEAST_COLLUDING, MOST_DROPOUTS = 0.1, 0.3
"""No researcher can have a sum for which fewer nodes are assumed to work with it."""
SAMPLED, TREE = "sampled", "tree"
MECHANISMS = (SAMPLED, TREE)
"""The mechanisms of a private training, see `RecordDP`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAgg:
    """Secure aggregation: the researcher gets sums over nodes and never one node's contribution.

    Bonawitz et al. 2017, https://eprint.iacr.org/2017/281, see `privacy.secagg`.

    Args:
        threshold: so many nodes of those that answer reveal a sum; None for two thirds of them and one more, which holds against a
            researcher who does not follow the protocol. The least is more than half of them.
        min_nodes: a sum is of so many nodes at least, 3 or more.
        clip: the largest change of a single parameter in a round; larger ones count as much, and are reported.
        bits: of a sum's tensors: 32, or 8 to 16, with a clip of your own below 16. The error of a mean of parameters is at most
            `clip * num_nodes^2 / 2^bits` where all nodes weigh alike, and twice that below 16, where numbers are rounded up or
            down by chance. With `8 + log2(num_nodes)` each node's numbers have 8 bits.
        max_weight: the largest weight of a node, usually its number of examples; None for that of the largest dataset.
        colluding: of more than 20 nodes at most this part works together with the researcher, 0.1 to 1/3. With more
            neighbours for each node a sum stays hidden from more of them. Of fewer nodes all are neighbours, and it is a third.
        dropouts: of more than 20 nodes this part may be lost while they add, 0 to 0.3; where more are, those that are left
            try again.
        groups: for the aggregators median and trimmed_mean, 3 or more: the nodes are divided by a draw into so many groups of
            `min_nodes` or more, and these aggregators compare the means of groups.
    """

    threshold: int | None = None
    min_nodes: int = MIN_NODES
    clip: float = USUAL_CLIP
    bits: int = 32
    max_weight: float | None = None
    colluding: float = COLLUDING
    dropouts: float = DROPOUTS
    groups: int = 1

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
            raise SpecError(f"SecAgg(bits=...) is 8 to 16, or 32, found {self.bits}")
        if self.bits < STOCHASTIC_BELOW and self.clip >= USUAL_CLIP:
            raise SpecError(
                f"SecAgg(bits={self.bits}) has few steps from 0 to clip, and with clip={self.clip:g} nearly every change of a "
                "parameter is less than one: give the largest change of one parameter in a round that is to count, such as "
                f"SecAgg(bits={self.bits}, clip=0.1); how many numbers were larger is reported"
            )
        if self.max_weight is not None and not (math.isfinite(self.max_weight) and self.max_weight > 0):
            raise SpecError(f"SecAgg(max_weight=...) is a number above 0, found {self.max_weight}")
        if not LEAST_COLLUDING <= self.colluding <= 1 / 3:
            raise SpecError(
                f"SecAgg(colluding=...) is a part of the nodes from {LEAST_COLLUDING} to 1/3, found {self.colluding}"
            )
        if not 0 <= self.dropouts <= MOST_DROPOUTS:
            raise SpecError(
                f"SecAgg(dropouts=...) is a part of the nodes from 0 to {MOST_DROPOUTS}, found {self.dropouts}"
            )
        if self.groups != 1 and (self.groups < MIN_GROUPS or self.threshold is not None):
            raise SpecError(
                f"SecAgg(groups=...) is {MIN_GROUPS} or more, without a threshold, or 1 for one sum; found "
                f"groups={self.groups}, threshold={self.threshold}"
            )
        if self.threshold is not None and self.threshold < least_threshold(self.min_nodes):
            raise SpecError(
                f"SecAgg(threshold=...) is more than half of min_nodes={self.min_nodes}, found {self.threshold}"
            )

    def threshold_of(self, num_nodes: int) -> int:
        """Return how many of so many nodes reveal a sum."""
        return usual_threshold(num_nodes) if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDP:
    """Differential privacy of single records: noise at each node, so that nobody is trusted with the exact numbers.

    What a node tells in all rounds of the job, taken together, is nearly as likely with any one of its records as
    without it. Nodes hold different records, so this is the job's promise to each.

    Args:
        epsilon: above 0; 1 is strong, 10 is weak.
        delta: above 0 and below 1, far below 1 divided by the number of records.
        max_grad_norm: the bound on the norm of one record's gradient, in training; from 1e-6 to 1e6.
        mechanism: `"sampled"` for DP-SGD, where each step draws records by chance and noise anew; `"tree"` for DP-FTRL in
            training, where records are taken in a fixed order, pass after pass, with noise of a tree over each pass.
    """

    epsilon: float
    delta: float
    max_grad_norm: float = 1.0
    mechanism: str = SAMPLED

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.mechanism not in MECHANISMS:
            raise SpecError(
                f'RecordDP(mechanism=...) is "{SAMPLED}" (DP-SGD) or "{TREE}" (DP-FTRL, for training), found '
                f"{shown(self.mechanism)}"
            )
        _check_promise("RecordDP", self.epsilon, self.delta)
        _check_norm("RecordDP(max_grad_norm=...)", self.max_grad_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDP:
    """Differential privacy of whole nodes: each adds a share of the noise inside a secure sum.

    Distributed discrete Gaussian noise, Kairouz, Liu and Steinke 2021, https://arxiv.org/abs/2102.06387. The shares of
    the smallest number of nodes that reveal a sum are enough, so no node that is lost takes noise away.

    Args:
        epsilon, delta: of all rounds of the job together, for whatever one node holds.
        clip_norm: the bound on the norm of one node's change of all parameters in a round; from 1e-6 to 1e6.
    """

    epsilon: float
    delta: float
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        check_kinds(self)
        _check_promise("NodeDP", self.epsilon, self.delta)
        _check_norm("NodeDP(clip_norm=...)", self.clip_norm)


def _check_promise(name: str, epsilon: float, delta: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise SpecError(f"{name}(epsilon=...) is a number above 0, found {epsilon}")
    if not 0 < delta < 1:
        raise SpecError(f"{name}(delta=...) lies between 0 and 1, such as 1e-5, found {delta}")


def _check_norm(name: str, bound: float) -> None:
    if not LEAST_NORM <= bound <= LARGEST_NORM:  # NaN is not, either
        raise SpecError(f"{name} is a number from {LEAST_NORM:g} to {LARGEST_NORM:g}, found {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect:
    """The protections of a job.

    Args:
        secagg: `True`, or `SecAgg(...)` with settings.
        dp: `RecordDP(...)`, or `NodeDP(...)` together with `secagg`.
    """

    secagg: SecAgg | bool | None = None
    dp: RecordDP | NodeDP | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.secagg, (SecAgg, bool, type(None))):
            raise SpecError(f"Protect(secagg=...) is True or SecAgg(...), not {shown(self.secagg)}")
        if not isinstance(self.dp, (RecordDP, NodeDP, type(None))):
            raise SpecError(f"Protect(dp=...) is RecordDP(...) or NodeDP(...), not {shown(self.dp)}")
        if isinstance(self.dp, NodeDP) and not self.secagg:
            raise SpecError(
                "NodeDP adds its noise inside secure aggregation: Protect(secagg=True, dp=NodeDP(...))"
            )

    def to_plain(self) -> dict[str, Any]:
        """Return it as a job's messages have it; empty for no protection."""
        plain: dict[str, Any] = {}
        if self.secagg:
            plain["secagg"] = to_plain(SecAgg() if self.secagg is True else self.secagg)
        if self.dp is not None:
            plain["dp"] = {"kind": "record" if isinstance(self.dp, RecordDP) else "node", **to_plain(self.dp)}
        return plain


_PRIVACY: Mapping[str, type[RecordDP] | type[NodeDP]] = {"record": RecordDP, "node": NodeDP}


def protect_of(plain: Mapping[str, Any]) -> Protect:
    """Build the protections of a message or a spec.

    Raises:
        SpecError: there is no such protection, or it has no such settings.
    """
    if odd := sorted(set(plain) - {"secagg", "dp"}):
        raise SpecError(f"there is no protection {shown(odd[0])}: this version of fedjob has secagg and dp")
    secagg, dp = plain.get("secagg"), plain.get("dp")
    for name, settings in (("secagg", secagg), ("dp", dp)):
        if not isinstance(settings, (Mapping, type(None))):
            raise SpecError(f"the settings of {name} are a map, found {shown(settings)}")
    try:
        return Protect(
            secagg=None if secagg is None else SecAgg(**secagg), dp=None if dp is None else _dp_of(dp)
        )
    except TypeError as error:
        raise SpecError(f"a protection has no such settings: {error}") from error


def dp_of(plain: Mapping[str, Any]) -> RecordDP | NodeDP | None:
    """Return the differential privacy that a message asks for; None for none.

    Raises:
        SpecError: there is no such protection, or it has no such settings.
    """
    return protect_of(plain).dp


def is_noised(plain: Mapping[str, Any]) -> bool:
    """Tell whether a message is about a contribution that leaves with the noise of a whole node on it."""
    return isinstance(dp_of(plain), NodeDP)


def _dp_of(plain: Mapping[str, Any]) -> RecordDP | NodeDP:
    settings = dict(plain)
    kind = _PRIVACY.get(str(settings.pop("kind", "")))
    if kind is None:
        raise SpecError(f"dp is of kind record or node, found {shown(plain.get('kind'))}")
    return kind(**settings)


def checked_protect(name: str, given: Any) -> dict[str, Any]:
    """Return the argument `protect` of a job as its spec keeps it.

    Raises:
        SpecError: it is no `Protect`.
    """
    if given is None:
        return {}
    if isinstance(given, SecAgg):
        given = Protect(secagg=given)
    if isinstance(given, (RecordDP, NodeDP)):
        given = Protect(dp=given)  # says what NodeDP needs beside it
    if not isinstance(given, Protect):
        raise SpecError(
            f"{name} is Protect(secagg=..., dp=...), SecAgg(...), RecordDP(...) or None, not {shown(given)}"
        )
    return given.to_plain()
