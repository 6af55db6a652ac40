"""The frames that arrived at a party and wait to be read, bounded in all and for each sender."""

from __future__ import annotations

from collections import deque

MAX_FRAMES = 10_000
MAX_BYTES = 16 * 1024 * 1024

Frame = tuple[str, bytes]
"""The sender, as the topic names it, and what it sent."""


class Inbox:
    """Waiting frames, oldest first, each once; whoever shares it between threads guards it.

    One sender fills half of it at most, so that there is room for the others.
    """

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._waiting: set[Frame] = set()
        self._bytes = 0
        self._of: dict[str, tuple[int, int]] = {}  # sender -> its frames here, and their bytes

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, sender: str, data: bytes) -> str:
        """Add a frame; return why it can't be: `replayed` where the same waits, `overflow` where there is no room; else nothing."""
        if (sender, data) in self._waiting:
            return "replayed"
        number, held = self._of.get(sender, (0, 0))
        if (
            len(self._frames) >= MAX_FRAMES
            or self._bytes + len(data) > MAX_BYTES
            or number >= MAX_FRAMES // 2
            or held + len(data) > MAX_BYTES // 2
        ):
            return "overflow"
        self._frames.append((sender, data))
        self._waiting.add((sender, data))
        self._bytes += len(data)
        self._of[sender] = number + 1, held + len(data)
        return ""

    def take(self, limit: int) -> list[Frame]:
        """Remove and return the oldest frames, `limit` at most."""
        taken = [self._frames.popleft() for _ in range(min(limit, len(self._frames)))]
        for sender, data in taken:
            self._waiting.discard((sender, data))
            self._bytes -= len(data)
            number, held = self._of[sender]
            if number > 1:
                self._of[sender] = number - 1, held - len(data)
            else:
                del self._of[sender]
        return taken
