"""The enrolment of a home in a federation: begun, finished after a break, repeated with a new invitation."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import ConfigError, NotPermitted
from fedjob.common.files import make_folder, write_atomic
from fedjob.common.network.proxy import check_proxy
from fedjob.common.network.tls_trouble import check_authority
from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.keys import Identity
from fedjob.identity.membership import (
    MEMBERSHIP_NAME,
    Invitation,
    Membership,
    enrol,
    fetch_hub,
    load_membership,
)
from fedjob.identity.party_list import fetch_parties
from fedjob.identity.pinned_roster import load_pin
from fedjob.identity.statements.federation_keys import FederationKeys

AUTHORITY_NAME = "hub-authority.pem"
PENDING_NAME = "enrolment.json"
_FILES_OF = {"node": ("node.sqlite",), "hub": ("hub.sqlite",), "researcher": ("jobs", "known_nodes")}


def role_of_home(home: Path) -> str:
    """Return the role whose home a folder is: `node`, `researcher` or `hub`; empty for none yet."""
    if (home / "hub.sqlite").exists():
        return "hub"
    if (home / MEMBERSHIP_NAME).exists():
        return load_membership(home).role
    for role, names in _FILES_OF.items():
        if any((home / name).exists() for name in names):
            return role
    return ""


def check_role_of_home(home: Path, role: str) -> None:
    """Refuse the home of another role.

    Raises:
        ConfigError: it is one; the message says whose.
    """
    found = role_of_home(home)
    if found and found != role:
        raise ConfigError(
            f"{home} is the home of a {found}, not of a {role}: give another folder, --home FOLDER"
        )


def enrol_home(
    home: Path,
    party: str,
    role: str,
    *,
    hub: str | None,
    invite: Path | None,
    tls_ca: Path | None = None,
    proxy: str | None = None,
    key: Path | None = None,
    own: ClientCertificate | None = None,
) -> tuple[Membership, Identity]:
    """Make a home's keys, join a federation with them, and keep the membership in the home.

    A home whose enrolment failed holds keys of nobody yet: the next attempt takes them, under whatever name. One whose
    answer was lost is finished by the same command. A member whom the hub does not accept any more (revoked, restored
    from an old backup) joins again with a new invitation, with the same keys; a member whom it accepts stays as it is.

    Args:
        proxy: through which the hub is reached, see `Membership`; None keeps what the home has.
        own: the certificate that the party brings itself, at a hub that issues none; its files stay where they are.

    Raises:
        ConfigError: it is another role's home, or another party's.
        FedjobError: the hub refuses or does not answer.
    """
    check_role_of_home(home, role)
    if tls_ca is None and invite is not None:
        tls_ca = keep_authority(home, Invitation.load(invite))
    if tls_ca is not None:
        check_authority(tls_ca)
    if proxy is not None:
        check_proxy(proxy)
    if (home / MEMBERSHIP_NAME).exists():
        return _enrol_again(home, party, hub=hub, invite=invite, tls_ca=tls_ca, proxy=proxy, key=key, own=own)
    identity = Identity.load_or_create(home / "keys", party, key=key, is_enrolled=False)
    token = _pending_token(home, party, role, identity.public_key_hex)
    membership = enrol(
        hub,
        party,
        role,
        identity.public_keys,
        invite,
        tls_ca=tls_ca,
        proxy=proxy or "",
        token=token,
        own=own,
    )
    membership = save_membership(home, membership)
    (home / PENDING_NAME).unlink(missing_ok=True)
    ensure_certificate(membership)
    return membership, identity


def keep_authority(home: Path, invitation: Invitation) -> Path | None:
    """Write the certificate of the hub's own authority, if an invitation has one, into a home; return its path."""
    if not invitation.authority:
        return None
    make_folder(home)
    path = home / AUTHORITY_NAME
    write_atomic(path, invitation.authority.encode())
    check_authority(path)
    return path


def save_membership(home: Path, membership: Membership) -> Membership:
    """Store a membership in a party's home, durably, readable by its owner only; return it as it is stored.

    The certificate of the hub's authority is copied into the home, so that the file may be moved.
    """
    make_folder(home)
    stored = membership
    if membership.tls_ca:
        copy = home / AUTHORITY_NAME
        if Path(membership.tls_ca) != copy:
            write_atomic(copy, Path(membership.tls_ca).read_bytes())
        membership, stored = replace(membership, tls_ca=str(copy)), replace(membership, tls_ca=AUTHORITY_NAME)
    write_atomic(home / MEMBERSHIP_NAME, pack(to_plain(replace(stored, home=""))))
    return replace(membership, home=str(home))


def ensure_certificate(membership: Membership) -> None:
    """Get a certificate from the hub, if it issues any and the home should have a new one.

    Raises:
        FedjobError: see `PartyCredentials.renew`.
    """
    credentials = membership.credentials
    if credentials is not None and membership.hub_url.startswith("https://"):
        credentials.renew()


def _enrol_again(
    home: Path,
    party: str,
    *,
    hub: str | None,
    invite: Path | None,
    tls_ca: Path | None,
    proxy: str | None,
    key: Path | None,
    own: ClientCertificate | None,
) -> tuple[Membership, Identity]:
    known = before = load_membership(home)
    invitation = None if invite is None else Invitation.load(invite)
    keys = _pinned(home, known, invitation)
    wanted = hub or (known.hub_url if invitation is None else invitation.hub)
    if party != known.party:
        raise ConfigError(f"{home} is the home of {known.party!r}, not of {party!r}: use another --home")
    identity = Identity.load_or_create(home / "keys", party, key=key)
    if tls_ca is not None:
        known = replace(known, tls_ca=str(tls_ca.resolve()))
    if proxy is not None:
        known = replace(known, proxy=proxy)
    if own is not None:
        known = replace(known, tls_cert=own.check().cert, tls_key=own.key)
    _check_tls_stays(home, known, wanted)
    info = fetch_hub(wanted, verify=known.verify, proxy=known.proxy)
    if info.federation != known.federation:
        raise ConfigError(
            f"{home} is the home of {party!r} in federation {known.federation} at {known.hub_url}, and {wanted} is "
            f"{info.federation}: use another --home"
        )
    known = replace(known, hub_url=info.url, broker_url=info.broker_url)
    try:
        ensure_certificate(known)
        fetch_parties(known)
    except NotPermitted:
        if invite is None:
            raise
        token = _pending_token(home, party, known.role, identity.public_key_hex)
        ca = Path(known.tls_ca) if known.tls_ca else None
        known = enrol(
            wanted,
            party,
            known.role,
            identity.public_keys,
            invite,
            tls_ca=ca,
            proxy=known.proxy,
            token=token,
            own=known.own_certificate,
        )
    if known.federation_keys != keys:
        known = replace(known, federation_keys=keys)
    if known != before:
        known = save_membership(home, known)
        ensure_certificate(known)  # of the key and token that it has by now
    (home / PENDING_NAME).unlink(missing_ok=True)
    return known, identity


def _check_tls_stays(home: Path, known: Membership, wanted: str) -> None:
    """Refuse a hub without TLS for a home that joined one with it."""
    if known.hub_url.startswith("https://") and not wanted.startswith("https://"):
        raise ConfigError(
            f"{home} joined {known.hub_url} over TLS, and {wanted} has none: it is not asked, because others on the "
            "network could read this party's token there; give the hub's https:// address"
        )


def _pinned(home: Path, known: Membership, invitation: Invitation | None) -> FederationKeys | None:
    """Return the federation's keys for a home that joins again: those that it pinned, or the first that it is given.

    Raises:
        ConfigError: the invitation has other keys than the home pinned.
    """
    pinned, given = known.federation_keys, None if invitation is None else invitation.federation
    if pinned is None:
        return given
    pinned = load_pin(home, pinned).keys
    if given is not None and given != pinned and given.number <= pinned.number:
        raise ConfigError(
            f"the invitation names other keys of the federation ({given.fingerprint}) than this home pinned "
            f"({pinned.fingerprint}): ask {pinned.signer} which are right; if those, set up another home"
        )
    return known.federation_keys


def _pending_token(home: Path, party: str, role: str, key_hex: str) -> str:
    """Return the token to enrol with: that of an attempt whose answer may have been lost, or a new one, kept first."""
    path = home / PENDING_NAME
    who = {"party": party, "role": role, "key": key_hex}
    try:
        found = json.loads(path.read_bytes())
        if found.pop("token", "") and {name: found.get(name) for name in who} == who:
            return str(json.loads(path.read_bytes())["token"])
    except (OSError, ValueError, AttributeError):
        pass  # there was no attempt, or it did not come so far
    token = secrets.token_hex(32)
    write_atomic(path, json.dumps({**who, "token": token}).encode())
    return token
