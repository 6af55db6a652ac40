"""The list of a federation's parties as the hub has it: fetched whole once, then only what has changed.

With its keys a party is 3 kB: of a thousand parties, a thousand nodes would fetch 3 GB whenever they look for one new
researcher. So each answer bears a mark, and who shows it gets what is new since. A mark ends with the hash of
the whole list, so that an answer that a box on the way changed, held back or mixed up is found out and asked for anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.errors import DecodeError, FedjobError, RepositoryUnreachable, SpecError
from fedjob.common.http_client import Patience, Web
from fedjob.identity.keys import is_bound
from fedjob.identity.membership import Membership

MARK = "X-Fedjob-Mark"
"""The header by which an answer of the hub says how new its list of parties is."""

MAX_PARTIES_BYTES = 64 << 20
"""Of the list of parties: 3 kB for each of the 10,000 that a hub may have, twice over."""

NUM_TRIES = 3
"""For the whole list, where what arrives is not what the hub sent."""

_MARK = re.compile(r"[0-9a-f]{16}-[0-9]{1,16}-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Party:
    """A member of the federation, as the hub's roster has it."""

    name: str
    role: str
    key_hex: str
    revoked: bool = False
    sealing_hex: str = ""
    """To encrypt for this party, see `identity.seals.sealing_key`; empty for none."""
    valid_from: float = 0.0
    valid_until: float = 0.0
    """Seconds since 1970; 0 for always."""


def fetch_parties(membership: Membership) -> dict[str, Party]:
    """Return every party of the federation by name, revoked ones too.

    Raises:
        NotPermitted: the hub does not accept this party's token.
        RepositoryUnreachable: the hub does not answer.
    """
    return PartyList(membership).fetch()


def check_mark(mark: str | None) -> str:
    """Return a mark of the list of parties as it is shown to a hub; empty for none.

    Raises:
        SpecError: it is no such mark.
    """
    if mark is not None and not _MARK.fullmatch(mark):
        raise SpecError(f"expected after=MARK, the header {MARK} of an earlier answer, found {mark[:40]!r}")
    return mark or ""


class PartyList:
    """The parties of a federation; after the first time the hub is asked only for those that have changed since."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._known: dict[str, Party] = {}
        self._hashes: dict[str, bytes] = {}
        self._mark = ""

    def fetch(self) -> dict[str, Party]:
        """Return every party by name, as the hub has them now, revoked ones too.

        Raises:
            NotPermitted: the hub does not accept this party's token.
            RepositoryUnreachable: the hub does not answer, or not with what it sent.
            DecodeError: its answer is no list of parties.
        """
        with contextlib.suppress(DecodeError):  # the whole list says whether it is the hub that is wrong
            if self._mark and self._take(self._mark):
                return dict(self._known)
        trouble: FedjobError = RepositoryUnreachable(
            f"the list of parties of {self._membership.hub_url} arrived {NUM_TRIES} times otherwise than it was sent: "
            "what is between here and the hub keeps or changes its answers"
        )
        for _ in range(NUM_TRIES):
            try:
                if self._take(""):
                    return dict(self._known)
            except DecodeError as error:
                trouble = error
        raise trouble

    def _take(self, after: str) -> bool:
        """Ask for the list, or for what has changed since a mark; return False where what is there by then is wrong.

        Where something in between takes the mark away, the whole list is taken as it is.
        """
        rows, mark = self._ask(after)
        is_all = _of(mark) != _of(after)
        if after and not mark:
            return False
        found = {party.name: (party, hash_of_row(row)) for row in rows for party in [_party(row)]}
        known, hashes = ({}, {}) if is_all else (self._known, self._hashes)
        hashes = hashes | {name: digest for name, (_, digest) in found.items()}
        if mark and mark.rpartition("-")[2] != hash_of_list(hashes):
            return False
        self._known = known | {name: party for name, (party, _) in found.items()}
        self._hashes, self._mark = hashes, mark
        return True

    def _ask(self, after: str) -> tuple[list[Any], str]:
        """Return the rows of the hub's answer, and its mark; empty for none."""
        member = self._membership
        web = Web(
            member.hub_url,
            token=member.token,
            verify=member.verify,
            proxy=member.proxy,
            credentials=member.credentials,
            patience=Patience(num_retries=1),
        )
        query = f"/v1/parties?after={after}" if after else "/v1/parties"
        try:
            reply = web.call("GET", query, what="the list of parties", limit_bytes=MAX_PARTIES_BYTES)
        finally:
            web.close()
        rows, mark = reply.json(), reply.headers.get(MARK, "")
        if not isinstance(rows, list):
            raise DecodeError(f"{member.hub_url} does not answer as a hub of fedjob does")
        return rows, mark if _MARK.fullmatch(mark) else ""


def hash_of_row(row: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a party's row, as the hub sends it."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).digest()


def hash_of_list(hashes: Mapping[str, bytes]) -> str:
    """Return the SHA-256, 64 hex digits, of the hashes of all rows in the order of the parties' names."""
    return hashlib.sha256(b"".join(hashes[name] for name in sorted(hashes))).hexdigest()


def _of(mark: str) -> str:
    """Return the hub's process that a mark is of."""
    return mark.partition("-")[0]


def _party(row: Any) -> Party:
    match row:
        case {
            "party": str(name),
            "role": str(role),
            "key": str(key),
            "sealing": str(sealing),
            "binding": str(binding),
            "revoked": bool(revoked),
        }:
            if not is_bound(name, key, sealing, binding):
                raise DecodeError(
                    f"the hub's list of parties gives {name[:80]!r} a sealing key that it did not sign: somebody may "
                    "want to read what is for it, ask the hub's owner"
                )
            return Party(name, role, key, revoked, sealing)
    raise DecodeError("the hub's list of parties has a malformed entry")
