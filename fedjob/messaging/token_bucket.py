"""A bucket of tokens: so many things a second, and so many at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """A bucket that fills with time and from which each thing that happens takes a token.

    Args:
        per_s: tokens that come in each second.
        at_once: that it holds at most.
        tokens: that it holds.
        at: when it held these, in seconds of the caller's clock.
    """

    per_s: float
    at_once: float
    tokens: float
    at: float

    def level(self, now: float) -> float:
        """Return how many tokens there are."""
        return min(self.at_once, self.tokens + (now - self.at) * self.per_s)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds there will be a token."""
        return max(0.0, (1.0 - self.level(now)) / self.per_s)

    def take(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        self.tokens, self.at = self.level(now), now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def draw(self, now: float, count: float = 1.0) -> float:
        """Take `count` tokens, those that are still to come as well; return in how many seconds they will be there."""
        self.tokens, self.at = self.level(now) - count, now
        return max(0.0, -self.tokens / self.per_s)
