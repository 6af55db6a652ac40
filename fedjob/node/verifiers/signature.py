"""The signature of a message is proof enough: its key belongs to the party in the federation's roster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedjob.node.verifiers.base import Claim, Verified, Verifier


@dataclass(frozen=True, slots=True)
class Signature(Verifier):
    """Whoever signs as a party is that party; messages that are not signed so never come this far."""

    name: ClassVar[str] = "signature"
    waits: ClassVar[bool] = False

    def verify(self, claim: Claim) -> Verified:
        return Verified(claim.researcher)
