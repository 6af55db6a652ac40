"""The interface of verifiers, which check the identity of a researcher for a node."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Claim:
    """The identity that the sender of a message claims.

    Args:
        researcher: the party that signed the message; the signature has been checked.
        key_hex: the public key that it signed with, as the federation's roster has it.
        proof: what the researcher sent for the verifier, such as a token; empty for nothing.
    """

    researcher: str
    key_hex: str
    proof: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """A claim that a verifier has confirmed.

    Args:
        subject: the verifier's own name for the researcher, for the node's log.
        until: seconds since 1970 until which the confirmation is valid.
    """

    subject: str
    until: float = math.inf


class Verifier(ABC):
    """A check of a researcher's identity: a frozen dataclass whose fields are text, with defaults."""

    name: ClassVar[str]

    waits: ClassVar[bool] = True
    """True if `verify` may wait for another server; it is then called on a thread of its own."""

    @abstractmethod
    def verify(self, claim: Claim) -> Verified:
        """Confirm a claim.

        Raises:
            NotPermitted: the claim is false or not proven; the message tells the researcher what to do.
            FedjobError: the check is not possible at the moment.
        """
