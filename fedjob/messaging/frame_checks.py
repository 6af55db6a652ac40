"""The checks that every frame passes before anybody acts on it, in a fixed order, with a counter for each.

size, frame, federation and topic, sender known, repetition, signature, addressee, expiry, role, plain
where encryption is required, rate, decryption, schema. What fails is dropped and counted and never answered: an answer
would be an oracle, or an amplifier.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from fedjob.common.errors import DecodeError, FedjobError
from fedjob.common.types import MAX_FRAME_BYTES, Address, check_party
from fedjob.identity.roster import Role, Roster
from fedjob.identity.seals.sealing_key import SealingKey
from fedjob.messaging.frame import Frame, decode_frame
from fedjob.messaging.frame_memory import FrameMemory
from fedjob.messaging.messages import (
    Answer,
    Body,
    End,
    Event,
    Message,
    Offer,
    Result,
    Task,
    decode_head,
    message_of,
)
from fedjob.messaging.sealed_payload import FIELD, decrypt_payload, open_payload
from fedjob.messaging.token_bucket import TokenBucket

CLOCK_TOLERANCE_S = 300.0
MAX_TTL_S = 7 * 24 * 3600.0
"""A message lives at most so long, and so does the memory of its id."""

MAY_SEND: dict[str, frozenset[str]] = {
    "researcher": frozenset({"ping", "search", "offer", "task", "end", "receipt"}),
    "node": frozenset({"reply", "event", "receipt"}),
}
TO_EVERYBODY = frozenset({"ping", "search"})
NEVER_RECEIPTED = frozenset({"ping", "search", "receipt"})
RATES: dict[str, tuple[float, float]] = {
    "ping": (20.0, 100.0),
    "search": (20.0, 100.0),
    "offer": (20.0, 100.0),
    "task": (200.0, 1000.0),
    "end": (20.0, 200.0),
    "event": (500.0, 2000.0),
    "reply": (300.0, 2000.0),
    "receipt": (500.0, 5000.0),
}
"""Of each kind from one sender: messages a second, and at once. What is more is dropped; a reliable one comes again.
The same frame counts once, however often somebody sends it."""
_MAX_BUCKETS = 10_000
_ID = re.compile(r"[0-9a-f]{32}")


class Dropped(FedjobError):
    """A frame failed a check; `cause` is the counter's name."""

    reason = "dropped"

    def __init__(self, cause: str, detail: str = "", *, sender: str = "", ahead_s: float = 0.0) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.sender = sender
        """Of an expired or plain frame, whose signature is right."""
        self.ahead_s = ahead_s
        """Seconds by which it is dated in the future; below 0 in the past."""


class FrameChecks:
    """The checks at one address of one federation.

    Args:
        role: of this party; a node accepts frames of researchers, a researcher those of nodes.
        sealing: the key by which this party reads what is encrypted for it.
        memory: of the frames that counted; None for one of the usual size.

    Attributes:
        encrypted: only encrypted messages are accepted.
    """

    def __init__(
        self,
        federation: str,
        address: Address,
        role: Role,
        roster: Roster,
        sealing: SealingKey,
        memory: FrameMemory | None = None,
    ) -> None:
        self.encrypted = False
        self._sealing = sealing
        self._federation = federation
        self._address = str(address)
        self._peer_role = "node" if role == "researcher" else "researcher"
        self._roster = roster
        self._buckets: dict[tuple[str, str, bool], TokenBucket] = {}
        self._memory = memory or FrameMemory()

    def open(self, topic_sender: str, data: bytes, *, now: float, wall: float) -> Message:
        """Return the message in a frame.

        Args:
            topic_sender: whom the broker says it is from.
            now: monotonic seconds.
            wall: seconds since 1970.

        Raises:
            Dropped: a check failed.
        """
        if len(data) > MAX_FRAME_BYTES:
            raise Dropped("oversized")
        try:
            frame = decode_frame(data)
        except DecodeError as error:
            raise Dropped("malformed", str(error)) from error
        if frame.federation != self._federation or topic_sender != frame.sender:
            raise Dropped("foreign", frame.sender[:63])
        key, role = self._roster.key_of(frame.sender), self._roster.role_of(frame.sender)
        if key is None or role is None:
            raise Dropped("unknown_sender", frame.sender[:63])
        repeated = self._memory.knows(frame.sender, frame.signature)
        if repeated and not self._memory.look_again(frame.sender, frame.signature, now):
            raise Dropped("replayed", frame.sender)
        key = self._signing_key(frame, key)
        head = self._head(frame, role, wall)
        if not repeated and not self._within_rate(frame, head, now, wall):
            raise Dropped("flooded", frame.sender)
        try:
            message = replace(self._message(frame, head), sender_key=key)
            if not _ID.fullmatch(message.id):
                raise DecodeError("an id has 32 hex digits")
            reply_address(message)
        except (DecodeError, ValueError) as error:
            raise Dropped("schema", str(error)) from error
        return message

    def _signing_key(self, frame: Frame, key: str) -> str:
        """Return the key that signed a frame: the one that is known, or the sender's new one."""
        if frame.signed_by(key):
            return key
        # It may have enrolled anew: the roster is asked for, as often as for strangers.
        fresh = self._roster.key_of(frame.sender) if self._roster.refresh() else None
        if fresh is None or fresh == key or not frame.signed_by(fresh):
            raise Dropped("bad_signature", frame.sender)
        return fresh

    def _head(self, frame: Frame, role: str, wall: float) -> dict[str, Any]:
        """Return what a signed payload says of itself, once that is for here, of now and of the sender's role."""
        try:
            head = decode_head(frame.payload)
        except DecodeError as error:
            raise Dropped("schema", str(error)) from error
        kind = head["kind"]
        everybody = head["to"] == "" and kind in TO_EVERYBODY
        if head["to"] != self._address and not everybody:
            raise Dropped("foreign", frame.sender)
        if not wall - CLOCK_TOLERANCE_S < head["expires"] < wall + MAX_TTL_S + CLOCK_TOLERANCE_S:
            issued = head.get("issued")
            ahead_s = issued - wall if isinstance(issued, (int, float)) else 0.0
            raise Dropped("expired", frame.sender, sender=frame.sender, ahead_s=ahead_s)
        if role != self._peer_role or kind not in MAY_SEND[role]:
            raise Dropped("role", f"{role} {frame.sender} sent {kind[:20]}")
        if self.encrypted and FIELD not in head:
            raise Dropped("plain", frame.sender, sender=frame.sender)
        return head

    def _message(self, frame: Frame, head: dict[str, Any]) -> Message:
        if FIELD not in head:
            return message_of(head, frame.sender)
        try:
            payload = decrypt_payload(
                head, federation=frame.federation, sender=frame.sender, key=self._sealing
            )
        except DecodeError as error:
            raise Dropped("undecryptable", frame.sender) from error
        return open_payload(payload, head, frame.sender)

    def _within_rate(self, frame: Frame, head: dict[str, Any], now: float, wall: float) -> bool:
        """Take a token for a frame that is not among those remembered; return whether there was one.

        One that is so old that it may have been forgotten has an allowance of its own: it may be a repetition.
        """
        sender, kind, issued = frame.sender, head["kind"], head.get("issued")
        issued = float(issued) if isinstance(issued, (int, float)) else 0.0
        rate, burst = RATES[kind]
        place = sender, kind, self._memory.may_be_forgotten(sender, issued)
        bucket = self._buckets.get(place)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:  # only known parties get here
                self._buckets.clear()
            bucket = self._buckets[place] = TokenBucket(rate, burst, burst, now)
        if not bucket.take(now):
            return False
        self._memory.remember(
            sender,
            frame.signature,
            issued=issued,
            forgettable=head["expires"] + CLOCK_TOLERANCE_S,
            receipted=kind not in NEVER_RECEIPTED,
            now=now,
            wall=wall,
        )
        return True


def is_reliable(body: Body) -> bool:
    """Tell whether messages of this kind are receipted."""
    return isinstance(body, (Task, Result, Offer, Answer, End)) or (isinstance(body, Event) and body.lasting)


def parse_address(text: str) -> Address:
    """Return the address written `party/session`.

    Raises:
        ValueError: it is not written so.
    """
    party, slash, session = text.partition("/")
    if not slash:
        raise DecodeError(f"an address reads party/session, not {text[:80]!r}")
    return Address(check_party(party), check_party(session))


def reply_address(message: Message) -> Address | None:
    """Return where answers and receipts go: a session of the sender, never of somebody else.

    Raises:
        DecodeError: it names another party, or a receipted message names none.
    """
    if not message.reply_to:
        if is_reliable(message.body):
            raise DecodeError("reply_to is missing: a receipt must go somewhere")
        return None
    address = parse_address(message.reply_to)
    if address.party != message.sender:
        raise DecodeError(f"reply_to names {address.party}, the sender is {message.sender}")
    return address
