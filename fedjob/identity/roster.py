"""The roster of a federation: its parties, with their public keys and roles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

Role = Literal["researcher", "node"]

REFRESH_EVERY_S = 1.0


class RosterEntry(Protocol):
    """The fields of a party that the roster needs; `enrol.Party` has them."""

    @property
    def role(self) -> str: ...
    @property
    def key_hex(self) -> str: ...
    @property
    def revoked(self) -> bool: ...
    @property
    def sealing_hex(self) -> str: ...


class Roster:
    """The known parties, fetched again from the hub when a message of an unknown one arrives.

    Args:
        parties: by name.
        refresh: returns the hub's current list; called on the caller's thread
            when a sender is unknown, at most once a second, so that a flood of
            made-up names does not cause a flood of requests. An error that it raises is
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
        """Accept these parties with these keys only: with another key a party is unknown here.

        Args:
            keys: party -> public key in hex.
        """
        self._pins.update(keys)

    def key_of(self, party: str) -> str | None:
        """Return a party's public key in hex; None if it is unknown, revoked, or has not its pinned key."""
        entry = self._find(party)
        return None if entry is None else entry.key_hex

    def sealing_key_of(self, party: str) -> str | None:
        """Return the public key to encrypt for a party, in hex; None if it has none, or `key_of` is None."""
        entry = self._find(party)
        return None if entry is None else entry.sealing_hex or None

    @property
    def is_pinned(self) -> bool:
        """True if the roster is signed with the federation's key, which this party pinned from its invitation."""
        return False

    def role_of(self, party: str) -> str | None:
        """Return `researcher` or `node`; None if the party is unknown or revoked."""
        entry = self._find(party)
        return None if entry is None else entry.role

    def parties(self, role: str | None = None) -> list[str]:
        """Return the sorted names of all parties that are not revoked, of one role or of all."""
        return sorted(
            name for name, e in self._parties.items() if not e.revoked and (role is None or e.role == role)
        )

    def refresh(self) -> bool:
        """Fetch the current list, unless that was tried in the last second; return whether it was fetched."""
        now = self._clock()
        if self._refresh is None or (self._refreshed is not None and now - self._refreshed < REFRESH_EVERY_S):
            return False
        self._refreshed = now
        try:
            self._parties = dict(self._refresh())
        except Exception as error:  # the hub may not answer; the known parties stay known
            self.last_error = error
            return False
        finally:
            self._refreshed = (
                self._clock()
            )  # counted from the end, so that a slow hub does not take all the time
        self.last_error = None
        return True

    def _find(self, party: str) -> RosterEntry | None:
        entry = self._parties.get(party)
        if entry is None and self.refresh():
            entry = self._parties.get(party)
        if entry is None or entry.revoked or self._pins.get(party, entry.key_hex) != entry.key_hex:
            return None
        return entry
