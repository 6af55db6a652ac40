"""The list of parties as the hub sends it: all of it, or the parties that have changed since the last answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable

from fedjob.hub.storage.parties import Member, Parties
from fedjob.identity.party_list import hash_of_list, hash_of_row


class PartyRows:
    """The answers to `GET /v1/parties`, see `identity.party_list`.

    Marks are of this process: to one of an earlier process, all parties are the answer.
    """

    def __init__(self, parties: Parties) -> None:
        self._parties = parties
        self._of = secrets.token_hex(8)
        self._number = 0
        self._members: list[Member] = []
        self._changed: dict[str, tuple[int, Member]] = {}
        self._hashes: dict[str, bytes] = {}
        self._all = b"[]"

    def answer(self, after: str) -> tuple[str, bytes]:
        """Return the present mark, and the parties, in JSON.

        Args:
            after: the mark of an earlier answer; empty for none.
        """
        if (found := self._parties.all()) is not self._members:
            self._take(found)
        of, _, number = after.rpartition("-")[0].rpartition("-")
        since = int(number) if of == self._of and number.isascii() and number.isdigit() else -1
        mark = f"{self._of}-{self._number}-{hash_of_list(self._hashes)}"
        if not 0 < since <= self._number:
            return mark, self._all
        return mark, _json(member for changed, member in self._changed.values() if changed > since)

    def _take(self, found: list[Member]) -> None:
        self._number += 1
        known = {party: member for party, (_, member) in self._changed.items()}
        if not known.keys() <= {member.party for member in found}:  # the ledger was exchanged
            self._of, self._changed, self._hashes, known = secrets.token_hex(8), {}, {}, {}
        for member in found:
            if known.get(member.party) != member:
                self._changed[member.party] = self._number, member
                self._hashes[member.party] = hash_of_row(_row(member))
        self._members, self._all = found, _json(found)


def _row(member: Member) -> dict[str, str | bool]:
    return {
        "party": member.party,
        "role": member.role,
        "key": member.key,
        "sealing": member.sealing,
        "binding": member.binding,
        "revoked": member.revoked,
    }


def _json(members: Iterable[Member]) -> bytes:
    return json.dumps([_row(member) for member in members], separators=(",", ":")).encode()
