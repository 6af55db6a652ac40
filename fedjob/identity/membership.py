"""Enrolment of a party in a federation, and the membership that it stores afterwards."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fedjob._version import __version__, series_of
from fedjob.common.checks import printable
from fedjob.common.codec import from_plain, to_plain, unpack
from fedjob.common.config import read_config
from fedjob.common.errors import ConfigError, DecodeError, NotPermitted, SpecError, VersionMismatch
from fedjob.common.http_client import Patience, Web
from fedjob.common.network.addresses import EVERY_ADDRESS, is_loopback
from fedjob.common.network.credentials import Credentials
from fedjob.common.types import check_party
from fedjob.identity.client_certificate import ClientCertificate
from fedjob.identity.keys import PublicKeys
from fedjob.identity.loopback import proof_of, read_secret
from fedjob.identity.party_credentials import HubAddress, PartyCredentials, shown_by
from fedjob.identity.statements.federation_keys import FederationKeys

MEMBERSHIP_NAME = "membership.mpk"
MAX_INVITATION_BYTES = 64 << 10
BROKER_PATH = "/mqtt"
"""Path at a hub under which it carries MQTT over WebSocket to its broker."""

CLIENT_ID_SEPARATOR = ":"
"""Between a party's name and the rest of the id that its client has at the broker."""

PLAIN_SCHEMES = ("mqtt", "ws")
"""Of brokers that are reached without TLS."""

_PATIENCE = Patience(num_retries=2)
_ROLES = ("researcher", "node")


@dataclass(frozen=True, slots=True)
class HubInfo:
    """The public facts about a hub: its federation, its broker, and its clock."""

    url: str
    federation: str
    version: str
    broker_url: str
    broker_kind: str
    broker_version: str = ""
    read_urls: tuple[str, ...] = ()
    time: float = 0.0
    """The hub's clock when it answered, seconds since 1970; 0 if it does not report it."""

    secret_file: str = ""
    """On a hub that listens on loopback: the file by which it knows its own user; see `identity.loopback`."""

    certificates: str = ""
    """Who issues the certificates that parties show: `hub` or `parties`; empty where it asks for none."""

    asked: float = 0.0
    answered: float = 0.0
    """This machine's clock before and after the question, seconds since 1970."""

    federation_keys: FederationKeys | None = None
    """Who signs its roster, as the hub has it; None for a hub without one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The addresses and secrets with which a party reaches its federation. Its file has mode 0600.

    Args:
        broker_url: of the broker at enrolment; `fetch_hub` returns the present one.
        tls_ca: path of the certificate of the hub's own authority, in the file relative to the home; empty for the
            public ones.
        proxy: through which the hub is reached: its URL, perhaps with a login; `none`; empty for what the environment
            says.
        tls_cert, tls_key: files of a certificate that the party brings itself and of its key, in the file relative to
            the home; empty for the certificate that the hub issues.
        home: the party's folder; empty in the file.
        federation_keys: who signs the roster, pinned from the invitation; None where the hub is believed.
    """

    hub_url: str
    federation: str
    party: str
    role: str
    token: str = field(repr=False)
    broker_url: str
    broker_password: str = field(repr=False)
    tls_ca: str = ""
    proxy: str = field(default="", repr=False)
    tls_cert: str = ""
    tls_key: str = ""
    home: str = field(default="", compare=False)
    federation_keys: FederationKeys | None = None

    @property
    def own_certificate(self) -> ClientCertificate | None:
        """The certificate that the party brings itself; None for the one that the hub issues."""
        return ClientCertificate(self.tls_cert, self.tls_key, is_own=True) if self.tls_cert else None

    @property
    def credentials(self) -> PartyCredentials | None:
        """What the party shows its hub besides its token; None for a membership that has no home."""
        if not self.home:
            return None
        hub = HubAddress(self.hub_url, self.federation, self.token, self.verify, self.proxy)
        return PartyCredentials(Path(self.home), hub, self.own_certificate)

    @property
    def broker_at_hub(self) -> str:
        """The URL of the broker through the hub's own port, for a firewall that lets nothing else through."""
        return broker_at_hub(self.hub_url)

    @property
    def verify(self) -> bool | str:
        """Return the argument `verify` of `open_repository`: True, or the path of a certificate."""
        return self.tls_ca or True


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time permission to enrol under one name, as `fedjob hub invite` writes it."""

    hub: str
    party: str
    role: str
    code: str = field(repr=False)
    federation: FederationKeys | None = None
    """Who signs the roster, for this party to pin; None where nobody does."""
    authority: str = field(default="", repr=False)
    """The certificate of the hub's own authority, PEM; empty where a public one vouches for the hub."""

    @classmethod
    def load(cls, path: Path) -> Invitation:
        """Read an invitation file.

        Raises:
            SpecError: there is no such file, or it is not an invitation.
        """
        try:
            with path.open("rb") as file:
                found = from_plain(cls, json.loads(file.read(MAX_INVITATION_BYTES)))
                if found.federation is not None:
                    found.federation.check()
                return found
        except (OSError, ValueError, DecodeError, SpecError) as error:
            raise SpecError(
                f"expected an invitation as `fedjob hub invite` writes it in {path}: {error}"
            ) from error

    def dump(self) -> bytes:
        """Return the content of an invitation file."""
        return json.dumps(to_plain(self), indent=2).encode() + b"\n"


def enrol(
    hub_url: str | None,
    party: str,
    role: str,
    keys: PublicKeys,
    invite: Path | None = None,
    *,
    tls_ca: Path | None = None,
    proxy: str = "",
    token: str = "",
    own: ClientCertificate | None = None,
) -> Membership:
    """Join the federation of a hub.

    Args:
        hub_url: URL of the hub; may be None with an invitation, which names it.
        role: `researcher` or `node`.
        keys: with which this party signs and is written to.
        invite: the invitation's file; a hub on loopback needs none.
        tls_ca: the certificate of the hub's own authority.
        proxy: through which the hub is reached, see `Membership`.
        token: the secret to be known by from now on; a repetition with the same one is the same request. Empty makes one.
        own: the certificate that the party brings itself, at a hub that issues none.

    Raises:
        SpecError: a name, role, key, URL or invitation file is malformed.
        NotPermitted: the hub refuses; the message says what to do.
        RepositoryUnreachable: no hub answers there.
    """
    check_party(party)
    if role not in _ROLES:
        raise SpecError(f"expected role researcher or node, found {role[:40]!r}")
    invitation = None if invite is None else Invitation.load(invite)
    if invitation is not None:
        _check_invited(invite, invitation, party, role)
    url = hub_url or (None if invitation is None else invitation.hub)
    if url is None:
        raise SpecError("expected the URL of a hub or an invitation, found neither")
    # The token is made on this side, so that a repetition after a lost response is the same request.
    token = token or secrets.token_hex(32)
    wanted = {"party": party, "role": role, "key": keys.signing, "token": token}
    wanted |= {"sealing": keys.sealing, "binding": keys.binding}
    if invitation is not None:
        wanted["invite"] = invitation.code
    web = Web(url, verify=tls_ca or True, proxy=proxy, credentials=shown_by(own), patience=_PATIENCE)
    try:
        hub = _hub_info(web)
        pinned = None if invitation is None else invitation.federation
        if pinned is not None and pinned.federation != hub.federation:
            raise NotPermitted(
                f"{invite} invites to federation {pinned.federation}, and {web.url} is the hub of {hub.federation}: ask "
                "who sent it for another invitation"
            )
        if invitation is None and hub.secret_file and is_loopback(urlsplit(url).hostname or ""):
            wanted["proof"] = proof_of(read_secret(hub.secret_file), party, role, keys.signing, token)
            pinned = hub.federation_keys  # the hub is this user's own: its word for the keys is theirs
        body = json.dumps(wanted).encode()
        answer = web.call("POST", "/v1/parties", body=body, what=f"enrolment of {party}").json()
        if not isinstance(answer, dict) or answer.get("federation") != hub.federation:
            raise DecodeError(f"{web.url} does not answer as a hub of fedjob does")
    finally:
        web.close()
    return Membership(
        hub_url=web.url,
        federation=hub.federation,
        party=party,
        role=role,
        token=token,
        broker_url=hub.broker_url,
        broker_password=broker_password(token),
        tls_ca="" if tls_ca is None else str(tls_ca.resolve()),
        proxy=proxy,
        tls_cert="" if own is None else own.cert,
        tls_key="" if own is None else own.key,
        federation_keys=pinned,
    )


def _check_invited(invite: Path | None, invitation: Invitation, party: str, role: str) -> None:
    if (invitation.party, invitation.role) != (party, role):
        raise SpecError(
            f"{invite} invites {invitation.role} {invitation.party!r}, not {role} {party!r}: "
            "use that name, or ask for another invitation"
        )


def broker_password(token: str) -> str:
    """Return the password at the broker that belongs to a token at the hub."""
    return hmac.digest(bytes.fromhex(token), b"fedjob broker password", hashlib.sha256).hex()


def broker_at_hub(hub_url: str) -> str:
    """Return the URL at which a hub carries MQTT over WebSocket on its own port."""
    return f"ws{hub_url.removeprefix('http').rstrip('/')}{BROKER_PATH}"


def fetch_hub(
    hub_url: str,
    *,
    verify: bool | str | Path = True,
    proxy: str = "",
    credentials: Credentials | None = None,
) -> HubInfo:
    """Return the public facts about a hub, the broker's present URL included.

    Raises:
        RepositoryUnreachable: no hub answers there.
        DecodeError: something else answers.
        VersionMismatch: it runs a fedjob that this one does not work with.
        NotPermitted: the hub has TLS, and names a broker that has none.
    """
    web = Web(hub_url, verify=verify, proxy=proxy, credentials=credentials, patience=_PATIENCE)
    try:
        return _hub_info(web)
    finally:
        web.close()


def hub_of(membership: Membership) -> HubInfo:
    """Return the public facts about a party's hub, see `fetch_hub`."""
    return fetch_hub(
        membership.hub_url,
        verify=membership.verify,
        proxy=membership.proxy,
        credentials=membership.credentials,
    )


def load_membership(home: Path) -> Membership:
    """Return the membership stored in a party's home.

    The settings `proxy`, `tls_ca`, `tls_cert` and `tls_key` of the home, or of the environment, go before what it
    joined with.

    Raises:
        ConfigError: there is none, or its file is damaged; the message says what to do.
    """
    path = home / MEMBERSHIP_NAME
    try:
        found = from_plain(Membership, unpack(path.read_bytes(), limit_bytes=MAX_INVITATION_BYTES))
    except FileNotFoundError:
        raise ConfigError(f"{home} belongs to no federation yet: run init with --hub or --invite") from None
    except (OSError, DecodeError) as error:
        raise ConfigError(f"{path} is not readable ({error}): run init again with an invitation") from error
    tls_ca, proxy, cert, key = _settings(home, "tls_ca", "proxy", "tls_cert", "tls_key")
    if bool(cert) != bool(key):
        raise ConfigError("the settings tls_cert and tls_key belong together, and one of them is empty")

    def at_home(path: str) -> str:
        return str(home / path) if path else ""

    return replace(
        found,
        tls_ca=at_home(tls_ca or found.tls_ca),
        proxy=proxy or found.proxy,
        tls_cert=at_home(cert or found.tls_cert),
        tls_key=at_home(key or found.tls_key),
        home=str(home),
    )


def _settings(home: Path, *keys: str) -> list[str]:
    """Return settings of a home that say how its hub is reached; empty where there is none."""
    try:
        written = read_config(home)
    except ConfigError:
        written = {}  # whoever reads the other settings says so
    return [os.environ.get(f"FEDJOB_{key.upper()}") or str(written.get(key, "")) for key in keys]


def _hub_info(web: Web) -> HubInfo:
    asked = time.time()
    facts = web.call("GET", "/v1/hub", what="the hub").json()
    answered = time.time()
    match facts:
        case {
            "federation": str(federation),
            "version": str(version),
            "broker": {"url": str(broker_url), "kind": str(kind), **more},
            "read_urls": list(read_urls),
            **rest,
        }:
            _check_version(web.url, version)
            info = HubInfo(
                web.url,
                federation,
                version,
                check_broker_for(web.url, _seen_from(web.url, broker_url) or broker_at_hub(web.url)),
                kind,
                str(more.get("version", "")),
                tuple(str(url) for url in read_urls),
                secret_file=str(rest.get("secret_file", "")),
                certificates=_issuer(rest.get("certificates")),
                time=hub_time if isinstance(hub_time := rest.get("time"), float) else 0.0,
                asked=asked,
                answered=answered,
                federation_keys=FederationKeys.of_plain(keys) if (keys := rest.get("keys")) else None,
            )
            return replace(info, read_urls=info.read_urls or (web.url,))
    raise DecodeError(f"{web.url} does not answer as a hub of fedjob does")


def _check_version(hub_url: str, version: str) -> None:
    if series_of(version) != (own := series_of(__version__)):
        raise VersionMismatch(
            f"the hub {hub_url} runs fedjob {printable(version)[:40]}, and this is {__version__}: all parties of a "
            f"federation run one series, here {own}. Install the hub's here, or ask its operator when it is upgraded"
        )


def _issuer(facts: Any) -> str:
    match facts:
        case {"from": ("hub" | "parties") as issuer}:
            return str(issuer)
    return ""


def _seen_from(hub_url: str, broker_url: str) -> str:
    """Return the broker's URL as seen from here: if it listens on all addresses, it is at the hub's host.

    Empty for a broker that is reached through the hub's own port alone.
    """
    broker, hub = urlsplit(broker_url), urlsplit(hub_url)
    is_here = is_loopback(broker.hostname or "") or broker.hostname in EVERY_ADDRESS
    if is_here and hub.scheme == "https" and broker.scheme in PLAIN_SCHEMES:
        return ""  # something before the hub adds TLS, and the broker behind it is reached through that alone
    if is_loopback(broker.hostname or "") and not is_loopback(hub.hostname or ""):
        return ""  # a proxy stands before the hub, whose own machine the broker's address is of
    if broker.hostname not in EVERY_ADDRESS:
        return broker_url
    host = hub.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit(broker._replace(netloc=f"{host}:{broker.port}"))


def check_broker_for(hub_url: str, broker_url: str) -> str:
    """Return a broker's URL if a party of that hub may use it.

    Raises:
        NotPermitted: the hub has TLS and the broker has none, so that others could read the party's password.
    """
    if hub_url.startswith("https://") and urlsplit(broker_url).scheme not in ("mqtts", "wss"):
        raise NotPermitted(
            f"the hub {hub_url} has TLS, and the broker {broker_url[:200]} that goes with it has none: it is not used, "
            "because others on the network could read passwords there; the hub's owner has to name it by mqtts:// or "
            "wss://"
        )
    return broker_url


def check_repository_for(hub_url: str, url: str) -> str:
    """Return the URL of a repository if a party of that hub may use it.

    Raises:
        NotPermitted: the hub has TLS and the repository has none, so that others could read the party's token.
    """
    if hub_url.startswith("https://") and url.startswith("http://"):
        raise NotPermitted(
            f"the hub {hub_url} has TLS, and the repository {url[:200]} has none: it is not used, because others on "
            "the network could read tokens there; give its https:// address"
        )
    return url
