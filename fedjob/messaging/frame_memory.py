"""The memory of frames for which their senders' allowances have paid, so that each frame costs its sender once.

Whoever can send a party's frames again (a broker's operator, or somebody on a line without TLS) would otherwise use up
what that party may send. A frame is known again by its signature, before it is verified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fedjob.messaging.token_bucket import TokenBucket

MAX_FRAMES = 100_000
MAX_FRAMES_OF_SENDER = 20_000
REPEATS_PER_S, REPEATS_AT_ONCE = 100.0, 1000.0
"""Of one sender: frames that are looked at again, because their receipts may have been lost."""
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Paid:
    """A frame that took its token.

    Args:
        forgettable: when it can pass the checks no more, seconds since 1970.
        receipted: whether its sender may wait for a receipt.
    """

    issued: float
    forgettable: float
    receipted: bool


@dataclass(slots=True)
class _Sender:
    repeats: TokenBucket
    frames: dict[bytes, _Paid] = field(default_factory=dict)  # the oldest first
    forgotten_until: float = -math.inf  # the latest date of issue among those that were forgotten while valid


class FrameMemory:
    """The frames of each sender that took a token.

    Args:
        max_frames: remembered of all senders together.
        max_of_sender: of one of them.
    """

    def __init__(self, max_frames: int = MAX_FRAMES, max_of_sender: int = MAX_FRAMES_OF_SENDER) -> None:
        self._max_frames, self._max_of_sender = max_frames, max_of_sender
        self._senders: dict[str, _Sender] = {}
        self._num_frames = 0

    def knows(self, sender: str, signature: bytes) -> bool:
        """Return whether a frame with this signature has taken its token."""
        held = self._senders.get(sender)
        return held is not None and signature[:_KEY_BYTES] in held.frames

    def look_again(self, sender: str, signature: bytes, now: float) -> bool:
        """Return whether a known frame is worth another look: its receipt may be missing, and there are not too many."""
        held = self._senders[sender]
        return held.frames[signature[:_KEY_BYTES]].receipted and held.repeats.take(now)

    def may_be_forgotten(self, sender: str, issued: float) -> bool:
        """Return whether a frame of this date may be one that was remembered once."""
        held = self._senders.get(sender)
        return held is not None and issued <= held.forgotten_until

    def remember(
        self,
        sender: str,
        signature: bytes,
        *,
        issued: float,
        forgettable: float,
        receipted: bool,
        now: float,
        wall: float,
    ) -> None:
        """Note that a frame took its token.

        Args:
            forgettable: when it can pass the checks no more, seconds since 1970.
            receipted: whether its sender may wait for a receipt.
        """
        held = self._senders.get(sender)
        if held is None:
            held = _Sender(TokenBucket(REPEATS_PER_S, REPEATS_AT_ONCE, REPEATS_AT_ONCE, now))
            self._senders[sender] = held
        if len(held.frames) >= self._max_of_sender:
            self._shrink(held, wall)
        elif self._num_frames >= self._max_frames:
            self._shrink(max(self._senders.values(), key=lambda each: len(each.frames)), wall)
        held.frames[signature[:_KEY_BYTES]] = _Paid(issued, forgettable, receipted)
        self._num_frames += 1

    def _shrink(self, held: _Sender, wall: float) -> None:
        """Forget what is over of a sender, and the oldest quarter of the rest where that is little."""
        before = len(held.frames)
        held.frames = {key: paid for key, paid in held.frames.items() if paid.forgettable >= wall}
        if len(held.frames) > before * 3 // 4:
            for key in list(held.frames)[: before // 4 + 1]:
                held.forgotten_until = max(held.forgotten_until, held.frames.pop(key).issued)
        self._num_frames -= before - len(held.frames)
