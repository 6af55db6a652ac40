"""Federations of tests: keys, parties, signed rosters, and hubs that lie."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedjob.identity.keys import Identity
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.key_file import FederationKey
from fedjob.identity.statements.roster_statement import DAY_S, RosterParty, RosterStatement
from fedjob.identity.statements.signed import Signed


class SignedFederation:
    """A federation whose keys lie in memory, and its parties' identities."""

    def __init__(
        self, *names: str, num_keys: int = 1, threshold: int = 1, federation: str = "fed_" + "ab" * 8
    ) -> None:
        self.keys_in_hand = [FederationKey.generate() for _ in range(num_keys)]
        public = tuple(sorted(key.public_hex for key in self.keys_in_hand))
        self.keys = FederationKeys(federation, "heart", 1, public, threshold, "Dr. Kim").check()
        self.identities = {name: Identity.generate(name) for name in names}

    def party(self, name: str, **changes: Any) -> RosterParty:
        """Return a party; whose name begins with `ann` is a researcher."""
        identity = self.identities.setdefault(name, Identity.generate(name))
        role = "researcher" if name.startswith("ann") else "node"
        made = RosterParty(name, role, identity.public_key_hex, identity.sealing.public_key_hex)
        return replace(made, **changes)

    def statement(
        self, number: int, parties: Sequence[RosterParty] | None = None, **changes: Any
    ) -> RosterStatement:
        """Return a roster of all identities, or of other parties."""
        rows = [self.party(name) for name in self.identities] if parties is None else list(parties)
        now = int(time.time())
        made = RosterStatement(
            self.keys.federation,
            number,
            now - 60,
            now + 90 * DAY_S,
            tuple(sorted(rows, key=lambda row: row.party)),
        )
        return replace(made, **changes)

    def sign(self, statement: RosterStatement, signers: Sequence[FederationKey] | None = None) -> Signed:
        """Return a roster with signatures: of as many keys as it takes, or of others."""
        signed = statement.statement()
        for key in self.keys_in_hand[: self.keys.threshold] if signers is None else signers:
            signed = signed.signed_by(key.public_hex, key.sign)
        return signed

    def roster(self, number: int, parties: Sequence[RosterParty] | None = None, **changes: Any) -> Signed:
        """Return a signed roster."""
        return self.sign(self.statement(number, parties, **changes))


def answer(roster: Signed | None = None, **more: Any) -> dict[str, Any]:
    """Return what a hub answers who is asked for the roster."""
    plain = None if roster is None else roster.to_plain()
    return {"keys": [], "roster": plain, "successions": [], "revoked": [], **more}
