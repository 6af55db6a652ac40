"""The statements of a federation that a hub keeps and hands out: its keys, its roster, and the new keys of parties.

The hub checks them as every party does, so that a mistake is found where it is made. It can sign none.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from fedjob.common.errors import ConfigError, DecodeError, NotPermitted, SpecError
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Member
from fedjob.identity.statements.federation_keys import KEYS_KIND, FederationKeys
from fedjob.identity.statements.pin import Pin
from fedjob.identity.statements.roster_statement import ROSTER_KIND, RosterStatement
from fedjob.identity.statements.signed import Signed
from fedjob.identity.statements.succession import SUCCESSION_KIND, Succession

DRAFT = "draft"
"""A roster that fewer keys signed than it takes."""


class RosterBook:
    """The statements in a hub's database.

    Args:
        clock: returns seconds since 1970.
    """

    def __init__(self, ledger: HubDatabase, *, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known: tuple[object, Pin | None] = ((), None)

    @property
    def first_keys(self) -> FederationKeys | None:
        """The keys that the hub was started with; None for a hub whose word parties take."""
        rows = self._ledger.read("SELECT value FROM facts WHERE key = 'federation_keys'")
        return FederationKeys.of_plain(json.loads(rows[0][0])) if rows else None

    def pin(self) -> Pin | None:
        """Return what a party that pinned the first keys would know now; read anew where something was kept since."""
        first = self.first_keys
        if first is None:
            return None
        names = self._ledger.read(
            "SELECT kind, number FROM statements WHERE kind != ? ORDER BY 1, 2", (DRAFT,)
        )
        known, pin = self._known
        if known != (first, names):
            self._known = ((first, names), pin := self._read(first))
        return pin

    def _read(self, first: FederationKeys) -> Pin:
        kept = self._kept(ROSTER_KIND)
        pin = Pin(first).with_keys(self._kept(KEYS_KIND))
        return Pin(pin.keys, kept[-1] if kept else None).with_successions(self._kept(SUCCESSION_KIND))

    def adopt(self, keys: FederationKeys) -> None:
        """Let a federation's keys sign the roster of this hub, from now on for good.

        Raises:
            ConfigError: the hub has other keys, or parties under another id.
        """
        first = self.first_keys
        if first is not None:
            current = self.pin()
            if keys in (first, None if current is None else current.keys):
                return
            raise ConfigError(
                f"this hub belongs to {first.name}, key {first.fingerprint}, and was given {keys.name}, key "
                f"{keys.fingerprint}: keys are changed by `fedjob federation rotate`, not by another file"
            )
        if self._ledger.federation != keys.federation and self._ledger.read("SELECT 1 FROM parties LIMIT 1"):
            raise ConfigError(
                f"this hub has parties of {self._ledger.federation}, and {keys.name} is {keys.federation}: make its keys "
                f"with `fedjob federation create {keys.name!r} --federation {self._ledger.federation}`"
            )

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO facts VALUES ('federation_keys', ?)", (json.dumps(keys.to_plain()),))
            db.execute("UPDATE facts SET value = ? WHERE key = 'federation'", (keys.federation,))

        self._ledger.write(work)
        self._ledger.federation = keys.federation

    def put(self, kind: str, data: bytes) -> dict[str, Any]:
        """Keep a roster, a draft of one, or a change of the federation's keys.

        Returns:
            The number, and how many signatures are there and needed.

        Raises:
            RosterRefused, DecodeError: it is not signed as it should be, or no newer than what is kept.
        """
        pin = self._pin_or_refuse()
        if kind == KEYS_KIND:
            signed = Signed.load(data, KEYS_KIND)
            keys = pin.with_keys([signed]).keys
            self._keep(KEYS_KIND, keys.number, "", signed)
            return {
                "number": keys.number,
                "signatures": len(signed.signatures),
                "threshold": pin.keys.threshold,
            }
        signed = Signed.load(data, ROSTER_KIND)
        count = len(signed.signers(pin.keys.keys))
        statement = RosterStatement.of(signed)
        if 0 < count < pin.keys.threshold:
            if statement.number <= pin.number:
                raise DecodeError(f"expected a draft of roster {pin.number + 1}, found {statement.number}")
            self._keep(DRAFT, 0, "", signed)
        else:
            pin.with_roster(signed, self._clock())
            self._keep(ROSTER_KIND, statement.number, "", signed, revoked=_revoked(statement))
        return {"number": statement.number, "signatures": count, "threshold": pin.keys.threshold}

    def succeed(self, member: Member, data: bytes) -> None:
        """Give a party the keys that it signed with those before.

        Raises:
            DecodeError, SpecError, NotPermitted: they are not its own, or not signed so.
        """
        signed = Signed.load(data, SUCCESSION_KIND)
        new = Succession.of(signed)
        if (new.party, new.federation) != (member.party, self._ledger.federation):
            raise NotPermitted(f"{member.party} can't give {new.party[:80]!r} new keys")
        if new.keys.signing == member.key:
            return  # asked again after a lost answer
        if new.before != member.key:
            raise SpecError(
                f"expected the new keys of {member.party} signed with the key that the hub has of it"
            )
        pin = self.pin()
        if pin is not None and member.party in pin.parties and pin.with_successions([signed]) == pin:
            raise NotPermitted(
                f"{member.party} has changed its keys too often, or is revoked: ask {pin.keys.signer} to sign a roster"
            )
        rows = self._ledger.read("SELECT max(number) FROM statements WHERE kind = ?", (SUCCESSION_KIND,))
        self._keep(SUCCESSION_KIND, (rows[0][0] or 0) + 1, member.party, signed, keys=new)

    def answer(self, number: int, keys_number: int, revoked: list[str]) -> dict[str, Any]:
        """Return what a party does not have yet.

        Args:
            number, keys_number: of the roster and the federation's keys that it has.
            revoked: whom the hub does not serve any more.
        """
        pin = self._pin_or_refuse()
        is_other = pin.signed is not None and pin.number != number
        return {
            "keys": [each.to_plain() for each in self._kept(KEYS_KIND, above=keys_number)],
            "roster": pin.signed.to_plain() if pin.signed is not None and is_other else None,
            "successions": [each.to_plain() for each in pin.successions],
            "revoked": revoked,
        }

    def candidates(self, members: list[Member]) -> dict[str, Any]:
        """Return what a signer needs: all who enrolled, the roster as it is, and the draft that others signed."""
        pin = self._pin_or_refuse()
        drafts = self._kept(DRAFT)
        return {
            "keys": pin.keys.to_plain(),
            "roster": None if pin.signed is None else pin.signed.to_plain(),
            "draft": drafts[-1].to_plain() if drafts else None,
            "successions": [each.to_plain() for each in pin.successions],
            "parties": [
                {
                    "party": member.party,
                    "role": member.role,
                    "key": member.key,
                    "sealing": member.sealing,
                    "binding": member.binding,
                    "revoked": member.revoked,
                    "certificate": member.tls_key,
                }
                for member in members
            ],
        }

    def check_certificate(self, member: Member, key_hash: str) -> None:
        """Refuse a certificate of another key than the one that the federation signed for a party.

        Whoever joins anew with an invitation gets one all the same, and the next roster names it.

        Raises:
            NotPermitted: it is of another key.
        """
        pin = self.pin()
        party = None if pin is None else pin.parties.get(member.party)
        if pin is None or party is None or party.key_hex != member.key:
            return
        if party.certificate and party.certificate == member.tls_key != key_hash:
            raise NotPermitted(
                f"the roster of {pin.keys.name} names the key of the certificate of {member.party}, and this is another "
                f"one: restore keys/tls.key from a backup of its home, or ask the hub's owner for `fedjob hub invite "
                f"{member.party}`, join again, and ask {pin.keys.signer} to sign"
            )

    def facts(self, members: list[Member]) -> Mapping[str, Any]:
        """Return what `fedjob hub status` shows of the roster."""
        pin = self.pin()
        if pin is None:
            return {"trust": "on first use: parties believe the keys that this hub hands out first"}
        waiting = [m.party for m in members if not m.revoked and m.party not in pin.parties]
        roster = pin.roster
        return {
            "trust": f"signed by {pin.keys.name}, key {pin.keys.fingerprint}",
            "roster": "none is signed yet"
            if roster is None
            else f"number {roster.number}, {len(roster.parties)} parties",
            "waiting": ", ".join(waiting) or "nobody",
        }

    def _pin_or_refuse(self) -> Pin:
        pin = self.pin()
        if pin is None:
            raise SpecError(
                "nobody signs a roster for this hub: `fedjob federation create NAME`, then `fedjob hub start --federation "
                "NAME.federation`"
            )
        return pin

    def _kept(self, kind: str, *, above: int = 0) -> list[Signed]:
        rows = self._ledger.read(
            "SELECT content FROM statements WHERE kind = ? AND number >= ? ORDER BY number",
            (kind, above + 1 if above else 0),
        )
        real = ROSTER_KIND if kind == DRAFT else kind
        return [Signed.load(bytes(content), real) for (content,) in rows]

    def _keep(
        self,
        kind: str,
        number: int,
        party: str,
        signed: Signed,
        *,
        revoked: tuple[tuple[str, str], ...] = (),
        keys: Succession | None = None,
    ) -> None:
        def work(db: sqlite3.Connection) -> None:
            if kind in (ROSTER_KIND, KEYS_KIND):
                db.execute("DELETE FROM statements WHERE kind = ?", (DRAFT,))
            if kind == ROSTER_KIND:
                db.execute("DELETE FROM statements WHERE kind = ?", (ROSTER_KIND,))
            db.execute(
                "INSERT OR REPLACE INTO statements VALUES (?, ?, ?, ?)", (kind, number, party, signed.dump())
            )
            for name, key in revoked:  # who enrolled anew since, with other keys, is another matter
                db.execute("UPDATE parties SET revoked = 1 WHERE party = ? AND key = ?", (name, key))
            if keys is not None:
                db.execute(
                    "UPDATE parties SET key = ?, sealing = ?, binding = ? WHERE party = ?",
                    (keys.keys.signing, keys.keys.sealing, keys.keys.binding, party),
                )

        self._ledger.write(work)


def _revoked(statement: RosterStatement) -> tuple[tuple[str, str], ...]:
    return tuple((party.party, party.key_hex) for party in statement.parties if party.revoked)
