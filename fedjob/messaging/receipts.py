"""The receipts that an endpoint owes: some wait for a moment, because the next message to the same address takes them along."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from fedjob.common.errors import EncodeError
from fedjob.common.types import Address
from fedjob.messaging.messages import MAX_RIDING, Message, Receipt, attached_bytes, encode_payload

RIDE_S = 0.1
"""How long the receipt of a message with attached parameters waits for a message that it can travel in: in a round of a
small model the answer, or the next task, is there by then. Its sender resends after more than that."""


class OwedReceipts:
    """The ids of messages that are durable here, by the address that waits for their receipts.

    Attributes:
        due: when they go by themselves, in the owner's monotonic seconds; infinity while there are none.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self._owed: dict[Address, list[str]] = {}

    def add(self, to: Address, id_: str) -> None:
        """Owe one more."""
        self._owed.setdefault(to, []).append(id_)

    def schedule(self, settled: Collection[Message], now: float) -> None:
        """Decide when the receipts of messages that were just settled go by themselves: those of messages with attached
        parameters after `RIDE_S`, others now, and whatever waits goes with them."""
        if settled:
            may_wait = all(attached_bytes(message.body) for message in settled)
            self.due = min(self.due, now + RIDE_S if may_wait else now)

    def hurry(self) -> None:
        """Let all of them go by themselves now."""
        self.due = -math.inf

    def encode(self, message: Message, to: Address | None) -> bytes:
        """Return the payload of a message that takes along what waits for its addressee, as far as there is room.

        Where it is never posted, the messages that it has receipts for come again.

        Raises:
            EncodeError: see `encode_payload`.
        """
        waiting = [] if to is None or isinstance(message.body, Receipt) else self._owed.get(to, [])
        riding = waiting[:MAX_RIDING]
        if not riding:
            return encode_payload(message)
        try:
            payload = encode_payload(replace(message, receipts=riding))
        except EncodeError:
            return encode_payload(message)
        del waiting[: len(riding)]
        return payload

    def take_due(self, now: float) -> dict[Address, list[str]]:
        """Return those that go by themselves now, which are then not owed any more."""
        if now < self.due:
            return {}
        due, self._owed, self.due = self._owed, {}, math.inf
        return {to: ids for to, ids in due.items() if ids}
