"""The researcher's half of a secure sum: from shares that nodes reveal to the masks that are left on the sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from fedjob.common.errors import DecodeError, SpecError
from fedjob.privacy.secagg.key_agreement import SumKeys, matches
from fedjob.privacy.secagg.neighbours import Neighbours
from fedjob.privacy.secagg.node_session import (
    Mask,
    commitment_of,
    common_mask,
    own_mask_taken_away,
)
from fedjob.privacy.secagg.secret_sharing import combined
from fedjob.privacy.secagg.terms import Terms

MAX_TRIES = 2000
"""Groups of shares that are tried where some are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """What one node revealed: node -> share, of own masks' secrets and of mask keys."""

    own_masks: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]


def few_holders(
    graph: Neighbours, taking_part: Collection[str], survivors: Collection[str], there: Collection[str]
) -> list[str]:
    """Return whose secrets can't be put together, or are not to be, of those that a sum needs.

    Args:
        taking_part: who masked for each other (U2); the mask keys of those of them that are lost are needed.
        survivors: whose vectors are in the sum (U3).
        there: who can reveal shares.
    """
    found, added = set(there), set(survivors)
    needed = [node for node in taking_part if node in added or added.intersection(graph.of(node))]
    return sorted(node for node in needed if len(found.intersection(graph.holders(node))) < graph.threshold)


def masks_left(
    terms: Terms,
    keys: Mapping[str, SumKeys],
    commitments: Mapping[str, bytes],
    taking_part: list[str],
    survivors: list[str],
    found: Mapping[str, Revealed],
    graph: Neighbours,
) -> list[Mask]:
    """Return the masks that are to be applied to the sum of the survivors' vectors, which is then plain.

    Args:
        keys: of everybody who shared secrets (U1).
        commitments: node -> the hash of its own secret.
        taking_part: who masked for each other (U2).
        survivors: whose vectors are in the sum (U3).
        found: node -> what it revealed.
        graph: who is whose neighbour.

    Raises:
        SpecError: the shares do not give a secret back; nothing of the sum is known then.
    """
    place_of = {node: place for place, node in enumerate(graph.members, 1)}
    threshold = graph.threshold

    def secret_of(owner: str, shares: Mapping[str, bytes], fits: Callable[[bytes], bool]) -> bytes:
        placed = {place_of[node]: share for node, share in shares.items()}
        if len(placed) < threshold:
            raise SpecError(
                f"{len(placed)} nodes revealed a share of {owner}'s, {threshold} are needed: the sum stays hidden"
            )
        for group in islice(combinations(sorted(placed), threshold), MAX_TRIES):
            try:
                secret = combined({place: placed[place] for place in group})
            except DecodeError:
                continue
            if fits(secret):
                return secret
        raise SpecError(
            f"the shares of {owner}'s secret that nodes revealed are not of it: the sum stays hidden"
        )

    masks = []
    for node in survivors:
        shares = {giver: one.own_masks[node] for giver, one in found.items() if node in one.own_masks}
        wanted = commitments[node]
        secret = secret_of(node, shares, lambda s, w=wanted: commitment_of(s, terms) == w)  # type: ignore[misc]
        masks.append(own_mask_taken_away(secret, terms, graph))
    for node in sorted(set(taking_part) - set(survivors)):
        others = sorted(set(survivors).intersection(graph.of(node)))
        if not others:
            continue
        shares = {giver: one.mask_keys[node] for giver, one in found.items() if node in one.mask_keys}
        public = keys[node].masks
        key = secret_of(node, shares, lambda s, p=public: matches(s, p))  # type: ignore[misc]
        for other in others:
            sign = -1 if other < node else 1  # the other's sign, taken away
            masks.append(common_mask(key, keys[other].masks, terms, graph, sign))
    return masks
