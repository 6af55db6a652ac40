"""The signed roster of a federation: its parties, with their keys, for a time, under a number that only rises.

After The Update Framework (https://theupdateframework.github.io/specification): numbers against an older list, an end
of validity against a list that is withheld, a threshold of signatures against one key that was stolen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.types import check_party
from fedjob.identity.seals.sealing_key import PUBLIC_BYTES
from fedjob.identity.statements.federation_keys import fingerprint_of
from fedjob.identity.statements.signed import Signed, canonical, content_of

ROSTER_KIND = "fedjob roster 1"
ROLES = ("researcher", "node")
MAX_PARTIES = 5000
MAX_NUMBER = 1 << 53
MAX_VALID_S = 400 * 24 * 3600
DAY_S = 24 * 3600

_HEX = {length: re.compile(rf"[0-9a-f]{{{length}}}") for length in (64, 2 * PUBLIC_BYTES)}


@dataclass(frozen=True, slots=True)
class RosterParty:
    """A party, as the federation's signers have it.

    Args:
        key_hex: its public Ed25519 key.
        sealing_hex: to encrypt for it, see `identity.seals.sealing_key`.
        certificate: sha256 of the public key of its client certificate in hex, which stays when the certificate is
            renewed; empty where the hub issued none.
        valid_from, valid_until: seconds since 1970; 0 for as long as the roster is.
    """

    party: str
    role: str
    key_hex: str
    sealing_hex: str = ""
    certificate: str = ""
    valid_from: int = 0
    valid_until: int = 0
    revoked: bool = False

    def check(self) -> RosterParty:
        """Return itself if a roster may hold it.

        Raises:
            SpecError: it may not.
        """
        check_party(self.party)
        if self.role not in ROLES:
            raise SpecError(f"expected role researcher or node of {self.party!r}, found {self.role[:40]!r}")
        for value, length in (
            (self.key_hex, 64),
            (self.sealing_hex, 2 * PUBLIC_BYTES),
            (self.certificate, 64),
        ):
            if (value or not self.key_hex) and not _HEX[length].fullmatch(value):
                raise SpecError(
                    f"expected a key of {self.party!r} as {length} hex digits, found {value[:80]!r}"
                )
        if not (0 <= self.valid_from < 1 << 40 and 0 <= self.valid_until < 1 << 40):
            raise SpecError(f"expected the validity of {self.party!r} in seconds since 1970")
        return self


@dataclass(frozen=True)
class RosterStatement:
    """A roster without its signatures.

    Args:
        federation: its id.
        number: rises with every roster.
        created, valid_until: seconds since 1970.
        parties: sorted by name, each once.
    """

    federation: str
    number: int
    created: int
    valid_until: int
    parties: tuple[RosterParty, ...]

    def check(self) -> RosterStatement:
        """Return itself if it can be a roster.

        Raises:
            SpecError: it can't.
        """
        for value in (self.number, self.created, self.valid_until):
            if type(value) is not int or not 0 < value <= MAX_NUMBER:
                raise SpecError(f"expected number and times of a roster as whole numbers, found {value!r}")
        if not self.created < self.valid_until <= self.created + MAX_VALID_S:
            raise SpecError(
                f"expected a roster valid for at most {MAX_VALID_S // DAY_S} days, found "
                f"{(self.valid_until - self.created) / DAY_S:.1f}"
            )
        if len(self.parties) > MAX_PARTIES:
            raise SpecError(f"expected at most {MAX_PARTIES} parties, found {len(self.parties)}")
        names = [party.check().party for party in self.parties]
        if names != sorted(set(names)):
            raise SpecError("expected the parties of a roster sorted by name, each once")
        return self

    @cached_property
    def by_name(self) -> Mapping[str, RosterParty]:
        """The parties by their names."""
        return {party.party: party for party in self.parties}

    def statement(self) -> Signed:
        """Return the roster as a statement that nobody has signed yet."""
        return Signed(ROSTER_KIND, canonical(to_plain(self.check())))

    @classmethod
    def of(cls, signed: Signed) -> RosterStatement:
        """Read a statement's content; signatures are looked at elsewhere.

        Raises:
            DecodeError: it is malformed.
        """
        content = content_of(signed)
        try:
            found = from_plain(cls, content).check()
        except SpecError as error:
            raise DecodeError(str(error)) from error
        if canonical(to_plain(found)) != signed.payload:
            raise DecodeError("expected a roster without further fields: update fedjob, or ask who signed it")
        return found


def days_left(statement: RosterStatement, now: float) -> int:
    """Return for how many whole days a roster is still valid."""
    return math.floor((statement.valid_until - now) / DAY_S)


def changes(
    before: RosterStatement | None, after: RosterStatement, *, by_themselves: Collection[str] = ()
) -> list[str]:
    """Return in words what a roster changes, a line for each party that is new, changed, revoked or gone.

    Args:
        by_themselves: parties that signed their new keys with those before.
    """
    known: Mapping[str, Any] = {} if before is None else before.by_name
    lines = []
    for party in after.parties:
        old = known.get(party.party)
        if old is None:
            lines.append(f"new      {_described(party)}")
        elif old != party:
            lines += _changed(old, party, party.party in by_themselves)
    lines += [
        f"gone     {_described(old)}" for name, old in sorted(known.items()) if name not in after.by_name
    ]
    return lines


def _changed(old: RosterParty, new: RosterParty, by_itself: bool) -> list[str]:
    if new.revoked and not old.revoked:
        return [f"revoked  {_described(old)}"]
    lines = []
    if old.revoked and not new.revoked:
        lines.append(f"returns  {_described(new)}, after it was revoked")
    if old.key_hex != new.key_hex:
        how = "signed with it" if by_itself else "NOT signed with it, so ask its owner"
        keys = f"{fingerprint_of(new.key_hex)} instead of {fingerprint_of(old.key_hex)}"
        lines.append(f"new key  {new.role} {new.party}: {keys}, {how}")
    if old.role != new.role:
        lines.append(f"new role {new.party}: {new.role} instead of {old.role}")
    if old.sealing_hex != new.sealing_hex and old.key_hex == new.key_hex:
        lines.append(f"new key  {new.role} {new.party}: another one to encrypt for it, signed with its own")
    if old.certificate != new.certificate:
        key = fingerprint_of(new.certificate) if new.certificate else "none"
        lines.append(f"new key of the certificate of {new.role} {new.party}: {key}")
    if (old.valid_from, old.valid_until) != (new.valid_from, new.valid_until):
        lines.append(f"other validity of {new.role} {new.party}")
    return lines


def _described(party: RosterParty) -> str:
    return f"{party.role} {party.party}, key {fingerprint_of(party.key_hex)}{', revoked' if party.revoked else ''}"
