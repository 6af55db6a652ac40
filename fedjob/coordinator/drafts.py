"""The draft of the next roster, from the one before and from those who enrolled at the hub. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedjob.common.errors import DecodeError, SpecError
from fedjob.identity.keys import PublicKeys
from fedjob.identity.statements.pin import Pin
from fedjob.identity.statements.roster_statement import DAY_S, RosterParty, RosterStatement


@dataclass(frozen=True, slots=True)
class Candidate:
    """A party as the hub has it.

    Args:
        keys: checked: the second is signed with the first.
        revoked: the hub does not serve it any more.
        certificate: sha256 of the public key of its certificate in hex; empty for none.
    """

    party: str
    role: str
    keys: PublicKeys
    revoked: bool
    certificate: str = ""

    @classmethod
    def of_plain(cls, row: Any) -> Candidate:
        """Read what a hub answers.

        Raises:
            DecodeError: it is malformed, or its keys do not belong together.
        """
        match row:
            case {
                "party": str(party),
                "role": str(role),
                "key": str(key),
                "sealing": str(sealing),
                "binding": str(binding),
                "revoked": bool(revoked),
            }:
                try:
                    keys = PublicKeys(key, sealing, binding).check(party)
                    certificate = str(row.get("certificate", ""))
                    RosterParty(party, role, key, sealing, certificate).check()
                except SpecError as error:
                    raise DecodeError(
                        f"the hub's list of parties is not as their homes made it: {error}"
                    ) from error
                return cls(party, role, keys, revoked, certificate)
        raise DecodeError(f"expected a party as a hub lists it, found {str(row)[:80]!r}")


@dataclass(frozen=True, slots=True)
class Wishes:
    """The changes that a signer asks for beside what the hub has.

    Args:
        revoke: names of parties that are revoked from now on.
        readmit: names of revoked parties that come back with the same keys.
        until: name -> seconds since 1970, after which a party does not count any more.
        days: for which the roster is valid.
    """

    revoke: frozenset[str] = frozenset()
    readmit: frozenset[str] = frozenset()
    until: Mapping[str, int] | None = None
    days: int = 90


def next_roster(pin: Pin, candidates: Sequence[Candidate], wishes: Wishes, now: float) -> RosterStatement:
    """Return the roster that follows the one in `pin`.

    A party that was revoked stays so, unless it enrolled anew with another key or is named in `readmit`. A party that
    the hub does not list any more is left out, unless it was revoked.

    Raises:
        SpecError: somebody is named who is in neither list.
    """
    before = {} if pin.roster is None else pin.roster.by_name
    listed = {candidate.party: candidate for candidate in candidates}
    _check_known({*wishes.revoke, *wishes.readmit, *(wishes.until or {})}, {*before, *listed})
    rows = [_party(before.get(name), one, wishes) for name, one in listed.items()]
    rows += [
        old if old.revoked else replace(old, revoked=True)
        for name, old in before.items()
        if name not in listed and (old.revoked or name in wishes.revoke)
    ]
    return RosterStatement(
        federation=pin.keys.federation,
        number=pin.number + 1,
        created=int(now),
        valid_until=int(now) + wishes.days * DAY_S,
        parties=tuple(sorted(rows, key=lambda row: row.party)),
    ).check()


def _party(old: RosterParty | None, one: Candidate, wishes: Wishes) -> RosterParty:
    came_back = (
        old is None or not old.revoked or old.key_hex != one.keys.signing or one.party in wishes.readmit
    )
    until = (wishes.until or {}).get(one.party, 0 if old is None else old.valid_until)
    return RosterParty(
        party=one.party,
        role=one.role,
        key_hex=one.keys.signing,
        sealing_hex=one.keys.sealing,
        certificate=one.certificate,
        valid_from=0 if old is None else old.valid_from,
        valid_until=until,
        revoked=one.party in wishes.revoke or one.revoked or not came_back,
    )


def _check_known(named: Collection[str], known: Collection[str]) -> None:
    if strangers := sorted(set(named) - set(known)):
        raise SpecError(
            f"there is no party {strangers[0][:80]!r}, neither in the roster nor enrolled at the hub; there are "
            f"{', '.join(sorted(known)) or 'none'}"
        )
