"""The record of which researchers' sessions are still there to receive a node's work.

A researcher's session that is silent is asked, by a message that it receipts without
doing anything; its work is given up when no answer comes. Pure: times are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

ASK_AFTER_FRACTION = 1 / 3
"""Of the time after which work is given up: how long a session may be silent before it is asked."""


@dataclass
class SessionLiveness:
    """The last sign of life of each session that waits for work; sessions that `look` was not given are forgotten."""

    _alive_at: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _questions: dict[str, str] = field(default_factory=dict)  # by message id, the session that it asks

    def note_alive(self, session: str, now: float) -> None:
        """Note that a message or a receipt came from there."""
        if session in self._alive_at:
            self._alive_at[session] = now
            self._asked.pop(session, None)

    def note_question(self, message: str, session: str) -> None:
        """Note the message by which a session is asked whether it is there."""
        self._questions[message] = session

    def close_question(self, message: str, now: float, *, is_there: bool) -> None:
        """Note what became of a message, if it is one that asks.

        Args:
            is_there: the session has receipted it.
        """
        session = self._questions.pop(message, "")
        if session and is_there:
            self.note_alive(session, now)

    def look(
        self, sessions: Iterable[str], now: float, *, after_s: float, connected: bool
    ) -> tuple[list[str], list[str]]:
        """Return the sessions that are gone, and those to be asked now.

        Args:
            sessions: that wait for something.
            after_s: of silence, after which one is gone.
            connected: while the node itself hears nothing, nobody's silence counts.
        """
        waiting = set(sessions)
        self._alive_at = {s: at if connected else now for s, at in self._alive_at.items() if s in waiting}
        self._asked = {s: at for s, at in self._asked.items() if s in waiting and connected}
        gone, ask = [], []
        for session in sorted(waiting):
            silent_s = now - self._alive_at.setdefault(session, now)
            if silent_s > after_s:
                gone.append(session)
            elif silent_s > after_s * ASK_AFTER_FRACTION and session not in self._asked:
                self._asked[session] = now
                ask.append(session)
        return gone, ask
