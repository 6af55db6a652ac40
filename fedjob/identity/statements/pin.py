"""The state of a party's trust: the federation's keys that it pinned, and the newest roster that they signed.

Pure: what the hub hands out is accepted, or refused by name. Whoever speaks for the hub can withhold a roster, and
invent nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fedjob.common.errors import DecodeError, NotPermitted, SpecError
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.roster_statement import DAY_S, RosterParty, RosterStatement
from fedjob.identity.statements.signed import Signed
from fedjob.identity.statements.succession import MAX_IN_A_ROW, Succession

AHEAD_S = DAY_S
"""By which a roster may be dated ahead of this machine's clock."""


class RosterRefused(NotPermitted):
    """A roster, or what comes with it, is refused; `cause` is one word for it."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Pin:
    """The trust of one party in its federation.

    Args:
        keys: the federation's, pinned from the invitation or changed by the ones before.
        signed: the newest roster; None before there was one.
        successions: of parties that changed their own keys since that roster.
    """

    keys: FederationKeys
    signed: Signed | None = None
    successions: tuple[Signed, ...] = ()

    @cached_property
    def roster(self) -> RosterStatement | None:
        """What the newest roster says."""
        return None if self.signed is None else RosterStatement.of(self.signed)

    @property
    def number(self) -> int:
        """The newest roster's number; 0 before there was one."""
        return 0 if self.roster is None else self.roster.number

    @cached_property
    def parties(self) -> Mapping[str, RosterParty]:
        """The parties by name, with the keys that they have now."""
        found = {} if self.roster is None else dict(self.roster.by_name)
        for signed in self.successions:
            new = Succession.of(signed)
            found[new.party] = replace(
                found[new.party], key_hex=new.keys.signing, sealing_hex=new.keys.sealing, certificate=""
            )
        return found

    def with_keys(self, statements: Sequence[Signed]) -> Pin:
        """Return the trust after changes of the federation's keys, each signed by the ones before.

        Raises:
            RosterRefused: one is not.
        """
        keys = self.keys
        for signed in statements:
            try:
                keys = keys.followed_by(signed)
            except (DecodeError, SpecError) as error:
                raise RosterRefused(
                    "key_changed",
                    f"the hub hands out other keys of the federation than this party pinned: {error}. Ask "
                    f"{self.keys.signer} what `fedjob federation roster show` says",
                ) from error
        return self if keys == self.keys else replace(self, keys=keys)

    def with_roster(self, signed: Signed, now: float) -> Pin:
        """Return the trust after a newer roster.

        Args:
            now: seconds since 1970.

        Raises:
            RosterRefused: it is older, expired, of another federation, or too few keys signed it.
        """
        if self.signed is not None and signed.payload == self.signed.payload:
            return self
        new = self._read(signed)
        if new.federation != self.keys.federation:
            raise RosterRefused(
                "foreign",
                f"the roster is of federation {new.federation}, this party belongs to {self.keys.federation}",
            )
        self._check_signatures(signed)
        if new.number <= self.number:
            words = "older than" if new.number < self.number else "another one under the same number as"
            raise RosterRefused(
                "older",
                f"the hub hands out roster {new.number}, {words} roster {self.number}, which this party has: somebody may "
                f"want to bring back who was revoked, or the hub was restored from a backup; ask {self.keys.signer} to "
                "run `fedjob federation sign`",
            )
        if new.created > now + AHEAD_S:
            raise RosterRefused(
                "future", f"roster {new.number} is dated in the future: look at this machine's clock"
            )
        if new.valid_until <= now:
            raise RosterRefused(
                "expired",
                f"roster {new.number} has expired: ask {self.keys.signer} to run `fedjob federation sign`",
            )
        kept = replace(self, signed=signed, successions=())
        return kept.with_successions(self.successions)

    def with_successions(self, statements: Sequence[Signed]) -> Pin:
        """Return the trust after parties changed their keys; what does not follow their present ones changes nothing."""
        keys = {name: party.key_hex for name, party in self.parties.items() if not party.revoked}
        kept = list(self.successions)
        for signed in statements:
            try:
                new = Succession.of(signed)
            except (DecodeError, SpecError):
                continue
            in_a_row = sum(Succession.of(each).party == new.party for each in kept)
            if (
                new.federation == self.keys.federation
                and keys.get(new.party) == new.before
                and in_a_row < MAX_IN_A_ROW
            ):
                keys[new.party] = new.keys.signing
                kept.append(signed)
        return self if len(kept) == len(self.successions) else replace(self, successions=tuple(kept))

    def expired(self, now: float) -> str:
        """Return that the roster has expired and what to do, empty while it is valid."""
        if self.roster is None or now < self.roster.valid_until:
            return ""
        return (
            f"roster {self.number} of {self.keys.name} has expired, or the hub withholds a newer one: no new work until "
            f"{self.keys.signer} runs `fedjob federation sign`"
        )

    def waiting(self, party: str) -> str:
        """Return that a party is not in the roster yet and what to do; empty if it is."""
        if party in self.parties:
            return ""
        return (
            f"{party} is enrolled and waits for the federation's signature: ask {self.keys.signer} to run "
            "`fedjob federation sign`"
        )

    def _read(self, signed: Signed) -> RosterStatement:
        try:
            return RosterStatement.of(signed)
        except (DecodeError, SpecError) as error:
            raise RosterRefused("malformed", f"the hub hands out a malformed roster: {error}") from error

    def _check_signatures(self, signed: Signed) -> None:
        found = len(signed.signers(self.keys.keys))
        if found >= self.keys.threshold:
            return
        asked = f"it takes {self.keys.threshold} of the federation's {len(self.keys.keys)}"
        if signed.signatures and not found:
            raise RosterRefused(
                "key_changed",
                f"the roster is signed with other keys than those of {self.keys.name} that this party pinned "
                f"({self.keys.fingerprint}): the hub may have made it up; ask {self.keys.signer}",
            )
        raise RosterRefused("unsigned", f"the roster is signed by {found} of the federation's keys, {asked}")
