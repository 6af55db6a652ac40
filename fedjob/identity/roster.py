"""The roster of a federation: its parties, with their public keys and roles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from fedjob.common.errors import NotPermitted
from fedjob.identity.statements.pin import Pin, RosterRefused
from fedjob.identity.statements.roster_statement import DAY_S, days_left
from fedjob.identity.statements.succession import Succession

Role = Literal["researcher", "node"]

REFRESH_EVERY_S = 1.0
FOLLOW_EVERY_S = 30.0
"""Between two questions to the hub for a newer roster."""

WAITING_EVERY_S = 5.0
"""The same while this party is not in it yet."""

WITHHELD_S = 600.0
"""After so long without an answer that counts, the hub may withhold a newer roster, and that is said."""

ON_FIRST_USE = (
    "trust on first use: the hub says who belongs to the federation, and each party believes the keys that it was given "
    "first; `fedjob federation create` ends that"
)

log = logging.getLogger(__name__)


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
    @property
    def valid_from(self) -> float: ...
    @property
    def valid_until(self) -> float: ...


class Roster:
    """The known parties, fetched again from the hub when a message of an unknown one arrives.

    Args:
        parties: by name.
        refresh: returns the hub's current list; called on the caller's thread
            when a sender is unknown, at most once a second, so that a flood of
            made-up names does not cause a flood of requests. An error that it raises is
            kept in `last_error`, and the known parties stay known.
        clock: monotonic seconds.
        pin: returns this party's trust in the federation; None where there is none but in the hub.
    """

    def __init__(
        self,
        parties: Mapping[str, RosterEntry],
        refresh: Callable[[], Mapping[str, RosterEntry]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pin: Callable[[], Pin] | None = None,
    ) -> None:
        self._parties: dict[str, RosterEntry] = dict(parties)
        self._refresh = refresh
        self._clock = clock
        self._pin = pin
        self._refreshed: float | None = None
        self._answered = clock()
        self._num_refused = 0
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
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

    def took_over(self, before: str, now: str) -> bool:
        """Return whether a party's key before signed the one that it has now; False where somebody else replaced it."""
        successions = () if self._pin is None else self._pin().successions
        for signed in successions:
            new = Succession.of(signed)
            before = new.keys.signing if new.before == before else before
        return before == now

    @property
    def is_pinned(self) -> bool:
        """True if the roster is signed with the federation's key, which this party pinned from its invitation."""
        return self._pin is not None

    def has(self, party: str, role: str) -> bool:
        """Return whether a party is known and may take part now; the hub is not asked."""
        entry = self._parties.get(party)
        return entry is not None and entry.role == role and self._counts(party, entry)

    @property
    def refused(self) -> str:
        """Why the hub takes this party for none of its own any more; empty unless it said so twice in a row."""
        return str(self.last_error) if self._num_refused > 1 else ""

    @property
    def expired(self) -> str:
        """That the signed roster has expired and what to do; empty while it is valid, and where nobody signs one."""
        return "" if self._pin is None else self._pin().expired(time.time())

    def waiting(self, party: str) -> str:
        """Return that a party waits for the federation's signature, and who can give it; empty where it does not."""
        if self._pin is None:
            return ""
        entry = self._parties.get(party)
        if entry is not None and entry.revoked:
            signer = self._pin().keys.signer
            return f"{party} was revoked: ask {signer}, and the hub's owner for `fedjob hub invite {party}`"
        return self._pin().waiting(party)

    def trouble(self) -> str:
        """Return what is wrong with the roster, in words; empty for nothing."""
        if self._pin is None:
            return ""
        if self.expired:
            return self.expired
        silent_s = self._clock() - self._answered
        if self.last_error is not None and (
            isinstance(self.last_error, NotPermitted) or silent_s > WITHHELD_S
        ):
            return f"no newer roster for {silent_s / 60:.0f} min: {self.last_error}"
        roster = self._pin().roster
        if (
            roster is not None
            and days_left(roster, time.time()) < (roster.valid_until - roster.created) / DAY_S / 4
        ):
            days = days_left(roster, time.time())
            return f"roster {roster.number} expires in {days} days: ask {self._pin().keys.signer} to sign a new one"
        return ""

    def describe(self) -> str:
        """Return on what the trust in the parties' keys stands, in words."""
        if self._pin is None:
            return ON_FIRST_USE
        pin = self._pin()
        which = f"{pin.keys.name}, key {pin.keys.fingerprint}"
        if pin.roster is None:
            return f"pinned: {which}; no roster is signed yet"
        until = time.strftime("%Y-%m-%d", time.localtime(pin.roster.valid_until))
        return f"pinned: roster {pin.number} of {which}, valid until {until}"

    def role_of(self, party: str) -> str | None:
        """Return `researcher` or `node`; None if the party is unknown or revoked."""
        entry = self._find(party)
        return None if entry is None else entry.role

    def parties(self, role: str | None = None) -> list[str]:
        """Return the sorted names of all parties that are not revoked, of one role or of all."""
        known = self._parties
        return sorted(
            name for name, e in known.items() if self._counts(name, e) and (role is None or e.role == role)
        )

    def follow(self, own: str, changed: Callable[[], object] | None = None) -> None:
        """Fetch the roster every `FOLLOW_EVERY_S`, on a thread of its own, until `stop`.

        Args:
            own: this party; while it waits for a signature, every `WAITING_EVERY_S`.
            changed: called on that thread when the parties are others than before.
        """
        if self._refresh is None or self._stopping.is_set():
            return

        def poll() -> None:
            problem = ""
            while not self._stopping.wait(
                WAITING_EVERY_S if self._num_refused == 1 or self.waiting(own) else FOLLOW_EVERY_S
            ):
                before = self._parties
                self.refresh()
                if (self._parties != before or self.refused) and changed is not None:
                    changed()
                if (text := self.trouble()) != problem:
                    problem = text
                    log.warning("%s", text or "the roster is in order again")

        threading.Thread(target=poll, name="roster", daemon=True).start()

    def stop(self) -> None:
        """End the thread of `follow`."""
        self._stopping.set()

    def refresh(self) -> bool:
        """Fetch the current list, unless that was tried in the last second; return whether it was fetched."""
        with self._refreshing:
            return self._refresh_now()

    def reach(self) -> None:
        """Fetch the current list once, at a party's start.

        Raises:
            RepositoryUnreachable, NotPermitted, DecodeError: the hub does not answer, not this party, or not as a hub does.
        """
        self.refresh()
        self._refreshed = None  # the first stranger is looked up at once
        trouble = self.last_error
        if trouble is not None and not isinstance(trouble, RosterRefused):
            raise trouble  # of a roster that is refused, what was known counts

    def _refresh_now(self) -> bool:
        now = self._clock()
        if self._refresh is None or (self._refreshed is not None and now - self._refreshed < REFRESH_EVERY_S):
            return False
        self._refreshed = now
        try:
            self._parties = dict(self._refresh())
        except Exception as error:  # the hub may not answer; the known parties stay known
            self.last_error = error
            is_refusal = isinstance(error, NotPermitted) and not isinstance(error, RosterRefused)
            self._num_refused = self._num_refused + 1 if is_refusal else 0
            return False
        finally:
            self._refreshed = (
                self._clock()
            )  # counted from the end, so that a slow hub does not take all the time
        self.last_error = None
        self._num_refused = 0
        self._answered = self._clock()
        return True

    def _find(self, party: str) -> RosterEntry | None:
        entry = self._parties.get(party)
        if entry is None and self.refresh():
            entry = self._parties.get(party)
        return entry if entry is not None and self._counts(party, entry) else None

    def _counts(self, party: str, entry: RosterEntry) -> bool:
        if entry.revoked or self._pins.get(party, entry.key_hex) != entry.key_hex:
            return False
        return entry.valid_from <= time.time() and (not entry.valid_until or time.time() < entry.valid_until)
