"""The discovery document of an OpenID provider, the requests to it, and the nonce that binds a token to a party's key.

OpenID Connect Discovery 1.0, https://openid.net/specs/openid-connect-discovery-1_0.html

A provider has a whole deadline for each answer, a limit of its size, and no redirects. Its document may name addresses
of TLS alone, and where the provider itself is on this machine those of this machine.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fedjob.common.errors import (
    DecodeError,
    MissingPackage,
    RepositoryUnreachable,
    SpecError,
)
from fedjob.common.http_client import HttpReply, Passing, Patience, Tries, Web, check_http_url
from fedjob.common.network.addresses import is_loopback

WELL_KNOWN = "/.well-known/openid-configuration"
MAX_DOCUMENT_BYTES = 256 * 1024
ANSWER_WITHIN_S = 20.0
"""Seconds for a whole answer of a provider, tries included, however it trickles in."""

MAX_WAITING = 8
"""Requests to providers that may hang in this process at one time; others are refused meanwhile."""

_PATIENCE = Patience(connect_s=5.0, idle_s=10.0, num_retries=2)
_ONCE = Patience(connect_s=5.0, idle_s=10.0, num_retries=0)
_waiting = threading.BoundedSemaphore(MAX_WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An identity provider, as its discovery document has it.

    Args:
        issuer: its name in tokens.
        device_url, authorize_url, userinfo_url, end_url: empty where it has none.
        secret_in: where it wants a client's secret: `basic`, the header of a request; `post`, its form.
        names_itself: whether it says who it is in each answer that a browser carries (RFC 9207).
    """

    issuer: str
    jwks_url: str
    token_url: str
    device_url: str = ""
    authorize_url: str = ""
    userinfo_url: str = ""
    end_url: str = ""
    secret_in: str = "basic"
    names_itself: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLine:
    """The way to a provider.

    Args:
        tls_ca: certificate file of the provider's own authority; empty for the public authorities.
        proxy: a proxy's URL, `none`, or empty for what the environment says.
        within_s: seconds for each whole answer.
    """

    tls_ca: str = ""
    proxy: str = ""
    within_s: float = ANSWER_WITHIN_S

    def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return the JSON that a URL answers with.

        Raises:
            RepositoryUnreachable: it does not answer in time.
            RepositoryError: it refuses.
            DecodeError: it is no JSON, or too long.
        """
        reply = self.call("GET", url, headers={"Accept": "application/json", **(headers or {})})
        return _json(reply, url)

    def post(
        self, url: str, form: bytes, headers: Mapping[str, str] | None = None, *, once: bool = False
    ) -> tuple[int, Any]:
        """Post a form; return status and JSON of the answer, a refusal in OAuth's words included.

        Args:
            once: True for what may be sent a single time, such as a code.

        Raises:
            RepositoryUnreachable, RepositoryError, DecodeError: as `fetch`.
        """
        own = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        reply = self.call(
            "POST", url, headers={**own, **(headers or {})}, body=form, accept=(400, 401, 403), once=once
        )
        return reply.status, _json(reply, url)

    def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: tuple[int, ...] = (),
        once: bool = False,
    ) -> HttpReply:
        """Make a request and return the whole answer.

        Args:
            accept: statuses besides 2xx that are returned, not raised.
            once: True for no second try.

        Raises:
            RepositoryUnreachable: it does not answer within `within_s`.
            RepositoryError: it refuses.
            DecodeError: the answer is too long.
        """
        deadline = time.monotonic() + self.within_s
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        path = url.removeprefix(origin)  # with its slash at the end, and its query

        def work() -> HttpReply:
            web = Web(
                origin,
                verify=self.tls_ca or True,
                proxy=self.proxy,
                patience=_ONCE if once else _PATIENCE,
                peer="the identity provider",
            )
            with closing(web):
                return _answer(web, method, path, headers or {}, body, accept, deadline)

        return _within(self.within_s, f"the identity provider {_host(url)}", work)


def _answer(
    web: Web,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None,
    accept: tuple[int, ...],
    deadline: float,
) -> HttpReply:
    """Return the whole answer to a request, tried again while there is time."""
    tries = Tries(web)
    while True:
        try:
            with web.stream(
                method, path, headers=headers, body=body, what="the identity provider", accept=accept
            ) as stream:
                content = bytearray()
                for block in stream.blocks():
                    content += block
                    if len(content) > MAX_DOCUMENT_BYTES:
                        raise DecodeError(f"{web.url} answers with more than {MAX_DOCUMENT_BYTES >> 10} KiB")
                    if time.monotonic() > deadline:
                        raise RepositoryUnreachable(f"{web.url} does not answer within the time for it")
                return HttpReply(stream.status, stream.headers, bytes(content))
        except Passing as passing:
            if time.monotonic() > deadline:
                error = passing.error
                raise error from passing
            tries.wait(passing)


def _within(seconds: float, peer: str, work: Callable[[], HttpReply]) -> HttpReply:
    """Return what `work` returns; a thread in which it hangs longer is left to the time limits of its connection.

    Raises:
        RepositoryUnreachable: it took too long, or too many hang already.
    """
    if not _waiting.acquire(blocking=False):
        raise RepositoryUnreachable(f"{peer} keeps {MAX_WAITING} requests waiting: try again in a minute")
    done: queue.SimpleQueue[HttpReply | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(work())
        except Exception as error:  # whatever it is, it belongs to the caller
            done.put(error)
        finally:
            _waiting.release()

    threading.Thread(target=run, name="fedjob-openid", daemon=True).start()
    try:
        found = done.get(timeout=seconds)
    except queue.Empty:
        raise RepositoryUnreachable(f"{peer} does not answer within {seconds:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def _json(reply: HttpReply, url: str) -> Any:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError) as error:
        raise DecodeError(
            f"expected JSON from the identity provider at {url}, found {reply.content[:80]!r}"
        ) from error


def _host(url: str) -> str:
    return urlsplit(url).netloc[:200]


def check_issuer(url: str) -> str:
    """Return `url` if tokens from there can be trusted: it is https, or on this machine.

    Raises:
        SpecError: they can't.
    """
    issuer = check_http_url(url)
    if issuer.startswith("http://") and not is_loopback(urlsplit(issuer).hostname or ""):
        raise SpecError(f"expected an https URL of the identity provider, found {issuer}")
    return issuer


def discover(issuer: str, line: ProviderLine) -> Provider:
    """Fetch the provider's discovery document.

    Raises:
        RepositoryUnreachable: the provider does not answer.
        DecodeError: what answers is not an OpenID provider, or names addresses that others could listen to.
    """
    document = line.fetch(check_issuer(issuer) + WELL_KNOWN)
    match document:
        case {"issuer": str(name), "jwks_uri": str(), "token_endpoint": str()}:
            if name.rstrip("/") != issuer.rstrip("/"):
                raise DecodeError(f"{issuer} calls itself {name[:200]!r}: give that as issuer")
        case _:
            raise DecodeError(f"{issuer} does not answer as an OpenID provider does")

    def address(entry: str) -> str:
        return _address(issuer, entry, document.get(entry, ""))

    methods = document.get("token_endpoint_auth_methods_supported")
    takes_post = isinstance(methods, list) and "client_secret_post" in methods
    takes_basic = not isinstance(methods, list) or "client_secret_basic" in methods
    return Provider(
        issuer=name,
        jwks_url=address("jwks_uri"),
        token_url=address("token_endpoint"),
        device_url=address("device_authorization_endpoint"),
        authorize_url=address("authorization_endpoint"),
        userinfo_url=address("userinfo_endpoint"),
        end_url=address("end_session_endpoint"),
        secret_in="post" if takes_post and not takes_basic else "basic",
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _address(issuer: str, entry: str, url: Any) -> str:
    """Return an address of a discovery document, if nobody on the way can listen there."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("x://")
        host = parts.hostname or ""
        at_home = parts.scheme == "http" and is_loopback(host) and issuer.startswith("http://")
        fits = url == "" or (host and (parts.scheme == "https" or at_home) and not parts.fragment)
        fits = (
            fits and not parts.username and str(url).isascii() and str(url).isprintable() and " " not in url
        )
    except ValueError:
        fits = False
    if not fits:
        raise DecodeError(
            f"{issuer} names {str(url)[:200]!r} as its {entry}: expected an https address, which the provider's owner "
            "has to set"
        )
    return str(url)


def nonce_of(key_hex: str) -> str:
    """Return the nonce that binds a token to a party's public key, so that a stolen token is useless."""
    return hashlib.sha256(f"fedjob openid {key_hex}".encode()).hexdigest()


def refusal_words(answer: Any) -> str:
    """Return in OAuth's words why a provider refuses."""
    if isinstance(answer, dict):
        words = str(answer.get("error_description") or answer.get("error") or "it says no more")[:300]
        return "".join(c if c.isprintable() else " " for c in words)
    return "it says no more"


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
