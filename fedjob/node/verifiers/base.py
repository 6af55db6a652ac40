"""What a verifier is: it tells a node whether a researcher is who they say."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Claim:
    """Who says that they ask.

    Args:
        researcher: the party that signed the message; the gate has checked that it did.
        key_hex: the public key that it signed with, as the federation's roster has it.
        proof: what it sent along for the verifier; empty for nothing.
    """

    researcher: str
    key_hex: str
    proof: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    """They are who they say.

    Args:
        subject: what the verifier knows them by, for the node's log.
        until: seconds since 1970 up to which that holds.
    """

    subject: str
    until: float = math.inf


class Verifier(ABC):
    """Decides who may be listened to; a frozen dataclass whose fields are text, with defaults."""

    name: ClassVar[str]

    waits: ClassVar[bool] = True
    """Whether it may have to wait for somebody: then it is asked on a thread of its own."""

    @abstractmethod
    def verify(self, claim: Claim) -> Verified:
        """Return who it is.

        Raises:
            NotPermitted: they are not who they say, or do not show it; tells them what to do.
            FedjobError: it can't be told just now.
        """
