"""The verifier that confirms nobody: the node takes no offers and no tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedjob.common.errors import NotPermitted
from fedjob.node.verifiers.base import Claim, Verified, Verifier


@dataclass(frozen=True, slots=True)
class Nobody(Verifier):
    """Refuse every claim; a node whose owner's choice of a verifier can't be read uses it."""

    name: ClassVar[str] = "nobody"
    waits: ClassVar[bool] = False

    def verify(self, claim: Claim) -> Verified:
        raise NotPermitted(
            "this node takes no work at the moment: ask its owner to look at `fedjob node status`"
        )
