"""The frames that arrived at a party and wait to be read, bounded in all and for each sender, and read in turns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MAX_FRAMES = 10_000
MAX_BYTES = 16 * 1024 * 1024

Frame = tuple[str, bytes]
"""The sender, as the topic names it, and what it sent."""


@dataclass(slots=True)
class _SenderFrames:
    """The frames of one sender, the oldest first, and their bytes."""

    frames: deque[bytes] = field(default_factory=deque)
    size_bytes: int = 0


class Inbox:
    """Waiting frames, each once; whoever shares it between threads guards it.

    One sender fills half of it at most, so that there is room for the others. Senders are read in turns, a frame of each,
    so that nobody waits for all that another one has sent.
    """

    def __init__(self) -> None:
        self._of: dict[str, _SenderFrames] = {}  # whose turn is next stands first
        self._known: set[Frame] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def put(self, sender: str, data: bytes) -> str:
        """Add a frame; return why it can't be: `replayed` where the same waits, `overflow` where there is no room; else nothing."""
        if (sender, data) in self._known:
            return "replayed"
        held = self._of.get(sender) or _SenderFrames()
        if (
            len(self._known) >= MAX_FRAMES
            or self._bytes + len(data) > MAX_BYTES
            or len(held.frames) >= MAX_FRAMES // 2
            or held.size_bytes + len(data) > MAX_BYTES // 2
        ):
            return "overflow"
        held.frames.append(data)
        held.size_bytes += len(data)
        self._of[sender] = held
        self._known.add((sender, data))
        self._bytes += len(data)
        return ""

    def take(self, limit: int) -> list[Frame]:
        """Remove and return frames, `limit` at most: of each sender the oldest, one after the other in turns."""
        taken: list[Frame] = []
        while self._of and len(taken) < limit:
            sender = next(iter(self._of))
            held = self._of.pop(sender)
            data = held.frames.popleft()
            held.size_bytes -= len(data)
            self._bytes -= len(data)
            self._known.discard((sender, data))
            taken.append((sender, data))
            if held.frames:
                self._of[sender] = held
        return taken
