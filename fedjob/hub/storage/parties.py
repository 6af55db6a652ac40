"""The parties that may use a hub, their tokens and their invitations; secrets are stored as hashes only."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedjob.common.errors import NotPermitted, SpecError
from fedjob.common.types import check_party
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.database import HubDatabase
from fedjob.identity.keys import PublicKeys
from fedjob.identity.membership import broker_password

ROLES = ("researcher", "node")
PBKDF2_ITERATIONS = 101
"""Mosquitto's own number; more would gain nothing, because the passwords are 256 random bits."""

_COLUMNS = (
    "party, role, key, revoked, broker_hash, sealing, binding, "
    "coalesce((SELECT key_hash FROM certificates c WHERE c.party = parties.party), '')"
)
_HEX32 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Member:
    """A party that has enrolled, as the ledger records it."""

    party: str
    role: str
    key: str
    revoked: bool
    broker_hash: str
    sealing: str = ""
    binding: str = ""
    tls_key: str = ""
    """Hash of the key of the certificate that the hub issued to it last; empty for none."""


class Parties:
    """The members of the federation.

    Args:
        clock: returns seconds since 1970.
    """

    def __init__(
        self, ledger: HubDatabase, limits: HubLimits, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._clock = clock
        self._read: tuple[int, list[Member]] = (-1, [])

    def all(self) -> list[Member]:
        """Return every party, revoked ones included, sorted by name; the same list for as long as nothing changed.

        A thousand nodes ask for it in the same second when they meet a researcher who has just enrolled.
        """
        version = self._ledger.version()
        read, members = self._read
        if version == read:
            return members
        rows = self._ledger.read(f"SELECT {_COLUMNS} FROM parties ORDER BY party")
        found = [_member(row) for row in rows]
        members = members if found == members else found
        self._read = version, members
        return members

    def by_token(self, token: str) -> Member | None:
        """Return the party that a token belongs to; None if it is unknown or the party is revoked."""
        rows = self._ledger.read(f"SELECT {_COLUMNS} FROM parties WHERE token_hash = ?", (_hash(token),))
        member = _member(rows[0]) if rows else None
        return None if member is None or member.revoked else member

    def revoked_by_token(self, token: str) -> str:
        """Return the name of the revoked party that a token belonged to; empty for none."""
        rows = self._ledger.read(
            "SELECT party FROM parties WHERE token_hash = ? AND revoked", (_hash(token),)
        )
        return str(rows[0][0]) if rows else ""

    def by_name(self, party: str) -> Member | None:
        """Return a party by its name; None if it is unknown or revoked."""
        rows = self._ledger.read(f"SELECT {_COLUMNS} FROM parties WHERE party = ?", (party,))
        member = _member(rows[0]) if rows else None
        return None if member is None or member.revoked else member

    def certified(self, party: str, key: str, key_hash: str) -> None:
        """Record the key of the certificate that a party gets; those of its earlier keys stop working.

        Args:
            key: the party's public Ed25519 key, which signed the request.

        Raises:
            NotPermitted: the party joined anew meanwhile, or was revoked.
        """

        def work(db: sqlite3.Connection) -> None:
            found = db.execute("SELECT key, revoked FROM parties WHERE party = ?", (party,)).fetchone()
            if found != (key, 0):
                raise NotPermitted(f"{party} was revoked, or joined again with another key")
            db.execute(
                "INSERT OR REPLACE INTO certificates VALUES (?, ?, ?)", (party, key_hash, self._clock())
            )

        self._ledger.write(work)

    def invite(self, party: str, role: str) -> str:
        """Return the code of a new invitation; earlier ones for that party become invalid.

        Raises:
            SpecError: `party` or `role` is malformed.
        """
        check_party(party)
        check_role(role)
        code = secrets.token_hex(32)

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM invitations WHERE party = ? OR expires < ?", (party, self._clock()))
            db.execute(
                "INSERT INTO invitations (code_hash, party, role, expires) VALUES (?, ?, ?, ?)",
                (_hash(code), party, role, self._clock() + self._limits.invitation_s),
            )

        self._ledger.write(work)
        return code

    def enrol(
        self, party: str, role: str, keys: PublicKeys, token: str, *, code: str | None, invited_only: bool
    ) -> None:
        """Make `party` a member.

        Enrolling again with the same keys and token succeeds and changes nothing; with
        an invitation, a member gets new keys and a new token.

        Raises:
            SpecError: `party`, `role`, a key or `token` is malformed.
            NotPermitted: the party is not invited, or the name is taken.
        """
        check_party(party)
        check_role(role)
        keys.check(party)
        if not _HEX32.fullmatch(token):
            raise SpecError(f"expected a token as 64 lower-case hex digits, found {token[:80]!r}")
        broker_hash = hash_password(broker_password(token))

        def work(db: sqlite3.Connection) -> None:
            known = db.execute(
                "SELECT role, key, sealing, token_hash, revoked FROM parties WHERE party = ?", (party,)
            ).fetchone()
            if known == (role, keys.signing, keys.sealing, _hash(token), 0):
                return
            if code is not None:
                self._use_invitation(db, code, party, role, token)
            elif invited_only:
                raise NotPermitted(
                    f"this hub enrols by invitation: ask its owner for `fedjob hub invite {party}`"
                )
            elif known is not None:
                raise NotPermitted(
                    f"the name {party!r} is taken: choose another, or ask the hub's owner for "
                    f"`fedjob hub invite {party}`"
                )
            elif db.execute("SELECT count(*) FROM parties").fetchone()[0] >= self._limits.num_parties:
                raise NotPermitted(f"this hub has its {self._limits.num_parties} parties already")
            db.execute("DELETE FROM certificates WHERE party = ?", (party,))
            db.execute(
                "INSERT OR REPLACE INTO parties (party, role, key, sealing, binding, token_hash, broker_hash, enrolled)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    party,
                    role,
                    keys.signing,
                    keys.sealing,
                    keys.binding,
                    _hash(token),
                    broker_hash,
                    self._clock(),
                ),
            )

        self._ledger.write(work)

    def revoke(self, party: str) -> None:
        """Revoke a party at once; its name stays taken until it is invited again.

        Raises:
            SpecError: no party has that name.
        """

        def work(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM invitations WHERE party = ?", (party,))
            return db.execute("UPDATE parties SET revoked = 1 WHERE party = ?", (party,)).rowcount

        if not self._ledger.write(work):
            raise SpecError(f"there is no party {party[:80]!r}: `fedjob hub party list` shows all")

    def _use_invitation(self, db: sqlite3.Connection, code: str, party: str, role: str, token: str) -> None:
        found = db.execute(
            "SELECT party, role, expires, used_by FROM invitations WHERE code_hash = ?", (_hash(code),)
        ).fetchone()
        again = f"ask the hub's owner for `fedjob hub invite {party}`"
        if found is None or found[2] < self._clock():
            raise NotPermitted(f"that invitation is not known or has expired: {again}")
        if found[3]:
            raise NotPermitted(f"that invitation was used already: {again}")
        if found[:2] != (party, role):
            raise NotPermitted(f"that invitation is for {found[1]} {found[0]!r}, not for {role} {party!r}")
        db.execute("UPDATE invitations SET used_by = ? WHERE code_hash = ?", (_hash(token), _hash(code)))


def _member(row: Sequence[Any]) -> Member:
    """Return the party of a row of `_COLUMNS`."""
    party, role, key, revoked, *more = row
    return Member(party, role, key, bool(revoked), *more)


def check_role(role: str) -> str:
    """Return `role` if it is one.

    Raises:
        SpecError: it is not.
    """
    if role not in ROLES:
        raise SpecError(f"expected role researcher or node, found {role[:40]!r}")
    return role


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return a password's hash in the format of Mosquitto's password file."""
    salt = secrets.token_bytes(12) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PBKDF2_ITERATIONS)
    return f"$7${PBKDF2_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def password_fits(password: str, hashed: str) -> bool:
    """Return whether `hashed`, a line of a password file, is the hash of `password`."""
    try:
        _, kind, iterations, salt, digest = hashed.split("$")
        if kind != "7" or int(iterations) != PBKDF2_ITERATIONS:
            return False
        found = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), PBKDF2_ITERATIONS)
        return secrets.compare_digest(found, base64.b64decode(digest))
    except ValueError:
        return False


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
