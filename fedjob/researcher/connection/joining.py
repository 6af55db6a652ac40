"""The membership of a home: it joins a federation once, with an invitation, and finds it again later."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.identity.keys import Identity
from fedjob.identity.membership import (
    MEMBERSHIP_NAME,
    Invitation,
    Membership,
    enrol,
    fetch_hub,
    load_membership,
    save_membership,
)


def join(
    home: Path,
    *,
    hub: str | None,
    id: str | None,
    invite: str | Path | None,
    tls_ca: str | Path | None = None,
    key: str | Path | None = None,
) -> tuple[Membership, Identity]:
    """Return a home's membership, enrolling at the hub if it has none.

    Raises:
        ConfigError: no hub is known, or the home belongs to another federation.
    """
    if not (home / MEMBERSHIP_NAME).exists():
        if hub is None and invite is None:
            raise ConfigError(
                f"{home} belongs to no federation yet: connect(hub='http://...'), "
                f"or run `fedjob init --home {home} --id NAME --hub URL`"
            )
        invitation = None if invite is None else Path(invite)
        party = id or (default_party() if invitation is None else Invitation.load(invitation).party)
        identity = Identity.load_or_create(home / "keys", party, key=None if key is None else Path(key))
        membership = enrol(
            hub,
            party,
            "researcher",
            identity.public_key_hex,
            invitation,
            tls_ca=None if tls_ca is None else Path(tls_ca),
        )
        save_membership(home, membership)
        return membership, identity
    membership = load_membership(home)
    if id is not None and id != membership.party:
        raise ConfigError(f"{home} is the home of {membership.party!r}, not of {id!r}: give another home")
    identity = Identity.load_or_create(
        home / "keys", membership.party, key=None if key is None else Path(key)
    )
    info = fetch_hub(hub or membership.hub_url, verify=membership.verify)
    if info.federation != membership.federation:
        raise ConfigError(
            f"{home} belongs to federation {membership.federation}, but {info.url} is {info.federation}: "
            "give another home for it"
        )
    moved = replace(membership, hub_url=info.url, broker_url=info.broker_url)
    if moved != membership:
        save_membership(home, moved)
    return moved, identity


def default_party() -> str:
    """Return an id for a researcher who gave none: from the machine's name, made unique."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")[:40]
    return f"researcher-{host or 'local'}-{secrets.token_hex(2)}"
