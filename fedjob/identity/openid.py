"""The discovery document of an OpenID provider, and the nonce that binds a token to a party's key.

OpenID Connect Discovery 1.0, https://openid.net/specs/openid-connect-discovery-1_0.html
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from fedjob.common.errors import DecodeError, MissingPackage, SpecError
from fedjob.common.http_client import Patience, Web, check_http_url

WELL_KNOWN = "/.well-known/openid-configuration"
_PATIENCE = Patience(connect_s=5.0, idle_s=10.0, num_retries=2)


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider, as its discovery document has it."""

    issuer: str
    jwks_url: str
    token_url: str
    device_url: str


def check_issuer(url: str) -> str:
    """Return `url` if tokens from there can be trusted: it is https, or on this machine.

    Raises:
        SpecError: they can't.
    """
    issuer = check_http_url(url)
    if issuer.startswith("http://") and not issuer.startswith(("http://127.0.0.1", "http://localhost")):
        raise SpecError(f"expected an https URL of the identity provider, found {issuer}")
    return issuer


def discover(issuer: str, tls_ca: str = "") -> Provider:
    """Fetch the provider's discovery document.

    Args:
        tls_ca: certificate file of the provider's own authority; empty for the public authorities.

    Raises:
        RepositoryUnreachable: the provider does not answer.
        DecodeError: what answers is not an OpenID provider.
    """
    document = fetch_json(check_issuer(issuer) + WELL_KNOWN, tls_ca)
    match document:
        case {"issuer": str(name), "jwks_uri": str(keys), "token_endpoint": str(token)}:
            if name.rstrip("/") != issuer.rstrip("/"):
                raise DecodeError(f"{issuer} calls itself {name[:200]!r}: give that as issuer")
            return Provider(name, keys, token, str(document.get("device_authorization_endpoint", "")))
    raise DecodeError(f"{issuer} does not answer as an OpenID provider does")


def fetch_json(url: str, tls_ca: str = "") -> Any:
    """Return the JSON that a URL answers with."""
    with closing(_web(url, tls_ca)) as web:
        return web.call("GET", "", what="the identity provider").json()


def post_form(url: str, form: bytes, tls_ca: str = "") -> tuple[int, Any]:
    """Post a form; return status and JSON of the answer, a refusal in OAuth's words included."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    with closing(_web(url, tls_ca)) as web:
        reply = web.call(
            "POST", "", headers=headers, body=form, what="the identity provider", accept=(400, 401, 403)
        )
        return reply.status, reply.json()


def nonce_of(key_hex: str) -> str:
    """Return the nonce that binds a token to a party's public key, so that a stolen token is useless."""
    return hashlib.sha256(f"fedjob openid {key_hex}".encode()).hexdigest()


def jwt_package() -> Any:
    """Return PyJWT.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import jwt
    except ImportError as error:
        raise MissingPackage("OpenID logins need PyJWT: pip install 'fedjob[oidc]'") from error
    return jwt


def _web(url: str, tls_ca: str) -> Web:
    return Web(url, verify=tls_ca or True, patience=_PATIENCE)
