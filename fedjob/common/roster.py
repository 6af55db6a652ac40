"""Who takes part in a federation, with which key and in which role."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

Role = Literal["researcher", "node"]

REFRESH_EVERY_S = 1.0


class RosterEntry(Protocol):
    """What the roster needs to know of a party; `enrol.Party` has it."""

    @property
    def role(self) -> str: ...
    @property
    def key_hex(self) -> str: ...
    @property
    def revoked(self) -> bool: ...


class Roster:
    """The parties that this side knows, asked for again when an unknown one shows up.

    Args:
        parties: by name.
        refresh: returns the hub's current list; called on the caller's thread
            when a sender is unknown, at most once a second, so that a flood of
            made-up names can't turn into a flood of requests. What it raises is
            kept in `last_error`, and the known parties stay known.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        parties: Mapping[str, RosterEntry],
        refresh: Callable[[], Mapping[str, RosterEntry]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parties: dict[str, RosterEntry] = dict(parties)
        self._refresh = refresh
        self._clock = clock
        self._refreshed: float | None = None
        self._pins: dict[str, str] = {}
        self.last_error: Exception | None = None

    def pin(self, keys: Mapping[str, str]) -> None:
        """Let these parties have these keys and no others: with another one they are unknown here.

        Args:
            keys: party -> public key in hex.
        """
        self._pins.update(keys)

    def key_of(self, party: str) -> str | None:
        """Return the public key of a party in hex; None if it is unknown or revoked, or has not its pinned key."""
        entry = self._find(party)
        return None if entry is None else entry.key_hex

    def role_of(self, party: str) -> str | None:
        """Return `researcher` or `node`; None if the party is unknown or revoked."""
        entry = self._find(party)
        return None if entry is None else entry.role

    def parties(self, role: str | None = None) -> list[str]:
        """Return the names of all parties (of one role) that are not revoked, in order."""
        return sorted(
            name for name, e in self._parties.items() if not e.revoked and (role is None or e.role == role)
        )

    def refresh(self) -> bool:
        """Ask for the current list, unless that was done in the last second; tell whether it was got."""
        now = self._clock()
        if self._refresh is None or (self._refreshed is not None and now - self._refreshed < REFRESH_EVERY_S):
            return False
        self._refreshed = now
        try:
            self._parties = dict(self._refresh())
        except Exception as error:  # the hub may be away; what is known stays known
            self.last_error = error
            return False
        finally:
            self._refreshed = self._clock()  # counted from the end: a slow hub must not fill all the time
        self.last_error = None
        return True

    def _find(self, party: str) -> RosterEntry | None:
        entry = self._parties.get(party)
        if entry is None and self.refresh():
            entry = self._parties.get(party)
        if entry is None or entry.revoked or self._pins.get(party, entry.key_hex) != entry.key_hex:
            return None
        return entry
