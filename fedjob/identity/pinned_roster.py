"""The roster of a home: from its hub over HTTP, checked against what the home pinned, and kept in the home.

`roster.json` in the home holds the federation's keys and the newest roster that they signed, so that an older one is
refused after a restart, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.errors import ConfigError, DecodeError, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.http_client import Patience, Web
from fedjob.identity.membership import Membership
from fedjob.identity.party_list import PartyList
from fedjob.identity.roster import Roster, RosterEntry
from fedjob.identity.statements.federation_keys import KEYS_KIND, FederationKeys
from fedjob.identity.statements.pin import Pin
from fedjob.identity.statements.roster_statement import ROSTER_KIND
from fedjob.identity.statements.signed import MAX_STATEMENT_BYTES, Signed
from fedjob.identity.statements.succession import SUCCESSION_KIND

ROSTER_NAME = "roster.json"
_MAX_REPLY_BYTES = 2 * MAX_STATEMENT_BYTES


class PinnedRoster:
    """The trust of a home that pinned its federation's keys.

    Args:
        keys: as the invitation had them.
    """

    def __init__(self, home: Path, membership: Membership, keys: FederationKeys) -> None:
        self._path = home / ROSTER_NAME
        self._membership = membership
        self.pin = load_pin(home, keys)
        self._withdrawn: frozenset[str] = frozenset()

    def parties(self) -> Mapping[str, RosterEntry]:
        """Return the parties by name; whom the hub does not serve any more counts as revoked, which it could do anyway."""
        return {
            name: replace(party, revoked=True) if name in self._withdrawn else party
            for name, party in self.pin.parties.items()
        }

    def fetch(self) -> Mapping[str, RosterEntry]:
        """Ask the hub for what is newer, and return the parties.

        Raises:
            RosterRefused: what it hands out is older, expired, or not signed as it should be; what was known stays.
            DecodeError, RepositoryUnreachable, NotPermitted: it does not answer as a hub does.
        """
        query = f"/v1/roster?number={self.pin.number}&keys={self.pin.keys.number}"
        web = web_of(self._membership)
        try:
            answer = web.call("GET", query, what="the roster", limit_bytes=_MAX_REPLY_BYTES).json()
        finally:
            web.close()
        self.take(answer)
        return self.parties()

    def take(self, answer: Any) -> None:
        """Take what a hub answered; it is kept before it counts.

        Raises:
            RosterRefused, DecodeError: see `fetch`.
        """
        match answer:
            case {
                "keys": list(keys),
                "roster": roster,
                "successions": list(successions),
                "revoked": list(revoked),
            }:
                pass
            case _:
                raise DecodeError(
                    f"{self._membership.hub_url} answers with no roster, found {str(answer)[:80]!r}"
                )
        pin = self.pin.with_keys([Signed.of_plain(each, KEYS_KIND) for each in keys])
        if roster is not None:
            pin = pin.with_roster(Signed.of_plain(roster, ROSTER_KIND), time.time())
        pin = pin.with_successions([Signed.of_plain(each, SUCCESSION_KIND) for each in successions])
        if pin != self.pin:
            write_atomic(self._path, dump_pin(pin))
            self.pin = pin
        self._withdrawn = frozenset(name for name in revoked if isinstance(name, str))


def open_roster(home: Path, membership: Membership, *, ask: bool = True) -> Roster:
    """Return the roster of a home: pinned where its invitation named the federation's keys, else the hub's.

    Args:
        ask: the hub, at once; else what the home has counts until the roster is refreshed.

    Raises:
        RepositoryUnreachable, NotPermitted: the hub does not answer, or not this party.
    """
    if membership.federation_keys is None:
        roster = Roster({}, PartyList(membership).fetch)
    else:
        pinned = PinnedRoster(home, membership, membership.federation_keys)
        roster = Roster(pinned.parties(), pinned.fetch, pin=lambda: pinned.pin)
    if ask:
        roster.reach()
    return roster


def load_pin(home: Path, keys: FederationKeys) -> Pin:
    """Return the trust that a home keeps; that of its invitation where it has no roster yet, see `load_pin_file`."""
    return load_pin_file(home / ROSTER_NAME, keys)


def load_pin_file(path: Path, keys: FederationKeys) -> Pin:
    """Return the trust in a file as `dump_pin` gives it; that in `keys` where there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Pin(keys)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    match plain:
        case {"keys": kept, "roster": roster, "successions": list(successions)}:
            try:
                pin = Pin(
                    FederationKeys.of_plain(kept),
                    None if roster is None else Signed.of_plain(roster, ROSTER_KIND),
                    tuple(Signed.of_plain(each, SUCCESSION_KIND) for each in successions),
                )
                _ = pin.parties
            except (DecodeError, SpecError, KeyError) as error:
                raise _damaged(path, error) from error
            return (
                pin
                if pin.keys.federation == keys.federation and pin.keys.number >= keys.number
                else Pin(keys)
            )
    raise _damaged(path, "it lacks keys, roster or successions")


def dump_pin(pin: Pin) -> bytes:
    """Return the content of a home's `roster.json`."""
    plain = {
        "keys": pin.keys.to_plain(),
        "roster": None if pin.signed is None else pin.signed.to_plain(),
        "successions": [each.to_plain() for each in pin.successions],
    }
    return json.dumps(plain).encode() + b"\n"


def web_of(membership: Membership) -> Web:
    """Return a party's way to its hub, for a few short questions."""
    return Web(
        membership.hub_url,
        token=membership.token,
        verify=membership.verify,
        proxy=membership.proxy,
        credentials=membership.credentials,
        patience=Patience(num_retries=1),
    )


def _damaged(path: Path, error: object) -> ConfigError:
    return ConfigError(
        f"{path} is damaged ({error}): restore the home from a backup, or remove the file and see that the next roster is "
        "no older than the one before"
    )
