"""The membership of a home: it joins a federation once, with an invitation, and finds it again later."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.enrolment import check_role_of_home, enrol_home
from fedjob.identity.keys import Identity
from fedjob.identity.membership import MEMBERSHIP_NAME, Invitation, Membership, load_membership


def join(
    home: Path,
    *,
    hub: str | None,
    id: str | None,
    invite: str | Path | None,
    tls_ca: str | Path | None = None,
    proxy: str | None = None,
    key: str | Path | None = None,
    own: ClientCertificate | None = None,
) -> tuple[Membership, Identity]:
    """Return a home's membership, enrolling at the hub if it has none.

    Raises:
        ConfigError: no hub is known, or the home belongs to another federation.
    """
    check_role_of_home(home, "researcher")
    is_member = (home / MEMBERSHIP_NAME).exists()
    if not is_member and hub is None and invite is None:
        raise ConfigError(
            f"{home} belongs to no federation yet: run `fedjob init --home {home} --id NAME --invite FILE` (or --hub "
            "URL for a hub on this machine), or connect(invite=FILE); or name the home that does, by --home, "
            "FEDJOB_HOME or connect(home=...)"
        )
    invitation = None if invite is None else Path(invite)
    party = (
        id or (load_membership(home).party if is_member else "") or _invited(invitation) or default_party()
    )
    return enrol_home(
        home,
        party,
        "researcher",
        hub=hub,
        invite=invitation,
        tls_ca=None if tls_ca is None else Path(tls_ca),
        proxy=proxy,
        key=None if key is None else Path(key),
        own=own,
    )


def _invited(invitation: Path | None) -> str:
    return "" if invitation is None else Invitation.load(invitation).party


def known_membership(home: Path, *, id: str | None, key: str | Path | None) -> tuple[Membership, Identity]:
    """Return the membership that a home has, without asking the hub.

    Raises:
        ConfigError: it is somebody else's home.
    """
    check_role_of_home(home, "researcher")
    membership = load_membership(home)
    if id is not None and id != membership.party:
        raise ConfigError(f"{home} is the home of {membership.party!r}, not of {id!r}: give another home")
    return membership, Identity.load_or_create(
        home / "keys", membership.party, key=None if key is None else Path(key)
    )


def default_party() -> str:
    """Return an id for a researcher who gave none: from the machine's name, made unique."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")[:40]
    return f"researcher-{host or 'local'}-{secrets.token_hex(2)}"
