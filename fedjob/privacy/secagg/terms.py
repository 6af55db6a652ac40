"""The terms of one secure sum: what every node that takes part has to agree on before it sends anything."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import astuple, dataclass

from fedjob.common.codec import pack
from fedjob.common.errors import SpecError
from fedjob.privacy.secagg.fixed_point import MAX_NODES, FixedPoint
from fedjob.privacy.secagg.neighbours import COLLUDING, DROPOUTS, MAX_ATTEMPTS
from fedjob.privacy.secagg.node_noise import NoiseShare, NoiseTerms, share_of

RULES = ("weighted", "plain", "sum")

MIN_GROUPS = 3
"""Of two groups neither is the one in the middle."""

MIN_NODES = 3
"""Of two nodes each would learn the other's number, with the sum that the researcher publishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a secure sum is about. Two nodes with other terms have other masks, which do not cancel.

    Args:
        attempt: counts the tries at the same ask, from 1.
        shared: sha256 of what all nodes begin with: another model at one node would be found out by its sum.
        threshold: so many nodes reveal a sum; fewer can't.
        clip, bits: of the fixed point of tensors, see `FixedPoint`.
        num_nodes: that were asked: no more are added.
        max_weight: a contribution weighs at most so much; tensors are multiplied by weight / max_weight.
        rule: `weighted` multiplies each contribution by its weight, so that sums become weighted means; `plain` counts
            all alike, `sum` adds what is there.
        noise: the noise of whole nodes, see `node_noise`; None for none.
        colluding, dropouts: parts of the nodes, which say how many neighbours each one has, see `neighbours`.
        groups: that the nodes are divided into, by a draw; each has a sum of its own.
    """

    federation: str
    job: str
    round: int
    step: str
    attempt: int
    shared: str
    threshold: int
    clip: float
    num_nodes: int
    max_weight: float
    rule: str
    bits: int = 32
    noise: NoiseTerms | None = None
    colluding: float = COLLUDING
    dropouts: float = DROPOUTS
    groups: int = 1

    @property
    def fixed_point(self) -> FixedPoint:
        """The fixed point of tensors."""
        if self.noise is None:
            return FixedPoint(self.num_nodes, self.clip, self.bits)
        clip = min(self.clip, self.noise.clip_norm)
        return FixedPoint(self.num_nodes, clip, self.bits, self.noise.scale)

    @property
    def share(self) -> NoiseShare | None:
        """The noise of one node; None for none.

        Raises:
            SpecError: a sum with it could overflow, or the grid is too coarse.
        """
        if self.noise is None:
            return None
        return share_of(
            self.noise,
            num_nodes=self.num_nodes,
            threshold=self.threshold,
            clip=self.clip,
            bits=self.bits,
        )

    @property
    def digest(self) -> bytes:
        """The sha256 of the terms."""
        return hashlib.sha256(pack(list(astuple(self)))).digest()

    @property
    def ask(self) -> str:
        """The name of the ask that the attempts of these terms have in common; a round may have several of one step."""
        about = [self.federation, self.job, self.round, self.step, self.shared]
        return hashlib.sha256(pack(about)).hexdigest()


def least_threshold(num_nodes: int) -> int:
    """Return the least threshold that a node accepts: two groups that do not overlap never both reach it."""
    return max(num_nodes // 2 + 1, MIN_NODES - 1)


def usual_threshold(num_nodes: int) -> int:
    """Return the threshold that holds against a researcher who does not follow the protocol, with a third of the nodes."""
    return 2 * num_nodes // 3 + 1


def check_groups(terms: Terms, num_nodes: int) -> None:
    """Check that nodes can be divided into the groups of terms.

    Raises:
        SpecError: there are too few for so many groups, or the sums have what they can't.
    """
    if terms.groups < MIN_GROUPS or num_nodes < terms.groups * MIN_NODES:
        raise SpecError(
            f"{num_nodes} nodes are no {terms.groups} groups: {MIN_GROUPS} groups or more are expected, of {MIN_NODES} "
            "nodes or more"
        )
    if terms.noise is not None or terms.rule != "plain":
        raise SpecError("sums of groups count all nodes alike and have no noise")


def check_terms(terms: Terms, members: Collection[str]) -> None:
    """Check terms against those who take part.

    Raises:
        SpecError: they are too few, too many, or the threshold is too low for so many.
    """
    if terms.rule not in RULES or not terms.max_weight > 0:
        raise SpecError(f"a secure sum is {', '.join(RULES)}, found {terms.rule[:20]!r}")
    if not 1 <= terms.attempt <= MAX_ATTEMPTS:
        raise SpecError(
            f"a node takes part in {MAX_ATTEMPTS} attempts at one sum, found the {terms.attempt}th"
        )
    if not MIN_NODES <= len(members) <= MAX_NODES:
        raise SpecError(f"a secure sum is of {MIN_NODES} to {MAX_NODES} nodes, found {len(members)}")
    if terms.groups != 1:
        check_groups(terms, len(members))
    if len(members) > terms.num_nodes:
        raise SpecError(f"{len(members)} nodes take part, the terms are for {terms.num_nodes}")
    if not least_threshold(len(members)) <= terms.threshold <= len(members):
        raise SpecError(
            f"the threshold of {len(members)} nodes is {least_threshold(len(members))} to {len(members)}, "
            f"found {terms.threshold}"
        )
