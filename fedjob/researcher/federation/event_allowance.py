"""The bytes of events that each node may have recorded in a job: so many a second, and so many in all."""

from __future__ import annotations

from dataclasses import dataclass, field

BYTES_PER_S = 1 << 20
BYTES_AT_ONCE = 8 << 20


@dataclass(slots=True)
class _Spent:
    total: int = 0
    level: float = 0.0
    at: float = 0.0
    refused: int = 0


@dataclass(slots=True)
class EventAllowance:
    """What nodes have left of their events' bytes in one attempt at a job.

    Args:
        bytes_in_all: that one node may have recorded.
        bytes_at_once: that it may have recorded beside those of a second.
    """

    bytes_in_all: int
    bytes_at_once: int = BYTES_AT_ONCE
    _spent: dict[str, _Spent] = field(default_factory=dict)

    def admits(self, node: str, now: float) -> bool:
        """Return whether one more event of a node may be recorded.

        Args:
            now: seconds of a monotonic clock.
        """
        spent = self._spent.setdefault(node, _Spent(at=now))
        spent.level = max(0.0, spent.level - (now - spent.at) * BYTES_PER_S)
        spent.at = now
        if spent.level < self.bytes_at_once and spent.total < self.bytes_in_all:
            return True
        spent.refused += 1
        return False

    def charge(self, node: str, num_bytes: int) -> None:
        """Count the bytes of an event that was recorded."""
        spent = self._spent[node]
        spent.total += num_bytes
        spent.level += num_bytes

    def is_news(self, node: str) -> bool:
        """Return whether an event of a node was refused for the first time."""
        return self._spent[node].refused == 1

    def refused(self, node: str) -> int:
        """Return how many events of a node were not recorded."""
        return self._spent[node].refused if node in self._spent else 0
