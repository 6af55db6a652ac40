"""The way of a payload out of a party: encrypted for its addressee where that is required, signed, handed over."""

from __future__ import annotations

from collections import Counter

from fedjob.common.errors import SpecError
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Roster
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.sealed_payload import seal_payload
from fedjob.messaging.transport.base import Transport


class FrameSender:
    """Sends a party's payloads.

    Args:
        counters: of the party's endpoint; what could not be sent is counted there.

    Attributes:
        encrypted: nothing goes out plain.
    """

    def __init__(
        self,
        identity: Identity,
        federation: str,
        roster: Roster,
        transport: Transport,
        counters: Counter[str],
    ) -> None:
        self.encrypted = False
        self._identity = identity
        self._federation = federation
        self._roster = roster
        self._transport = transport
        self._counters = counters

    def send(self, to: Address | None, payload: bytes) -> int:
        """Send a payload, None to everybody; return how many bytes went out, 0 where it could not be sent.

        Where it has to be encrypted, one to everybody goes to each node by itself.
        """
        if not self.encrypted:
            return self._hand_over(to, payload)
        everybody = map(Address, self._roster.parties("node")) if to is None else [to]
        return sum(self._send_encrypted(address, payload) for address in everybody)

    def _send_encrypted(self, to: Address, payload: bytes) -> int:
        key_hex = self._roster.sealing_key_of(to.party)
        if key_hex is None:
            self._counters["no_key"] += 1  # it left the federation
            return 0
        sender = self._identity.party
        try:
            sealed = seal_payload(
                payload, federation=self._federation, sender=sender, to=str(to), key_hex=key_hex
            )
        except SpecError:  # what it signed as its key is none: its own loss, and nobody else's
            self._counters["no_key"] += 1
            return 0
        return self._hand_over(to, sealed)

    def _hand_over(self, to: Address | None, payload: bytes) -> int:
        frame = encode_frame(self._identity, self._federation, payload)
        if not self._transport.send(to, frame):
            self._counters["unsent"] += 1
            return 0
        return len(frame)
