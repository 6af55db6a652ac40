"""An OpenID provider for sign-in in a browser, on a port of this machine: strict with clients, and hostile where a test says so."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from tests.authorities import Pair
from tests.provider_server import FormHandler, served

CLIENT = "fedjob-page"
SECRET = "a secret: of the client's %2B"
HOLD_S = 3.0
"""Seconds that a slow answer takes at most."""


class SignInProvider:
    """Its client, its people, and what a test changes of its answers.

    Args:
        name: of this machine; `localhost` is another site than `127.0.0.1` to a browser.
        pair: its certificate and key, for TLS.

    Attributes:
        people: subject -> claims.
        redirect_urls: that the client has registered.
        claims: changes of ID tokens; None leaves one out.
        token: made in place of the ID token.
        document: changes of the discovery document.
        raw: path -> status, headers and body that are answered in place of the right ones.
        slow: paths that are answered in drips.
        keeps_codes: whether a code may be redeemed again.
        about: changes of what it tells of a person beside the token.
    """

    def __init__(self, name: str = "127.0.0.1", pair: Pair | None = None) -> None:
        self.key: RSAPrivateKey = generate_private_key(65537, 2048)
        self.kid = "k1"
        self.redirect_urls: set[str] = set()
        self.people: dict[str, dict[str, Any]] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._access: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.host = f"{name}:{self._server.server_address[1]}"
        self.issuer = f"http{'' if pair is None else 's'}://{self.host}/realm"
        if pair is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(pair.cert, pair.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.behave()

    def behave(self) -> None:
        """Do everything right from now on."""
        self.claims: dict[str, Any] = {}
        self.token: str | None = None
        self.document: dict[str, Any] = {}
        self.raw: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.slow: set[str] = set()
        self.keeps_codes = False
        self.in_token = True
        self.about: dict[str, Any] = {}
        self.keys: list[dict[str, Any]] | None = None
        self.asked: list[str] = []

    @contextmanager
    def running(self) -> Iterator[SignInProvider]:
        with served(self._server):
            yield self

    # --- the browser ----------------------------------------------------------------------------

    def sent_back(self, url: str, sub: str) -> str:
        """Return where a browser is sent that came by `url` and in which this person signs in."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert self.wrong_with(asked) == ""
        code = secrets.token_urlsafe(16)
        self._codes[code] = {**asked, "sub": sub}
        fields = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(fields)}"

    def nonce_in(self, url: str) -> str:
        """Return the nonce of the sign-in that a browser brings back by this address."""
        return self._codes[dict(parse_qsl(urlsplit(url).query))["code"]]["nonce"]

    def wrong_with(self, asked: dict[str, str]) -> str:
        if asked.get("client_id") != CLIENT or asked.get("redirect_uri") not in self.redirect_urls:
            return "an unknown client or redirect URL"
        wanted = {"response_type": "code", "code_challenge_method": "S256"}
        if any(asked.get(name) != value for name, value in wanted.items()):
            return "only codes with PKCE are given"
        missing = [name for name in ("state", "nonce", "code_challenge") if len(asked.get(name, "")) < 43]
        return f"without {missing[0]}" if missing else ""

    # --- answers --------------------------------------------------------------------------------

    def id_token(self, sub: str, nonce: str) -> str:
        now = time.time()
        claims = {"iss": self.issuer, "aud": CLIENT, "sub": sub, "iat": now, "exp": now + 300, "nonce": nonce}
        if self.in_token:
            claims |= self.people[sub]
        claims |= self.claims
        left = {name: value for name, value in claims.items() if value is not None}
        # PyJWT makes no token that it would not read: a hostile provider does
        return signed(left, self.key, kid=self.kid)

    def answer(self, path: str, query: dict[str, str], form: dict[str, str], login: str) -> tuple[int, Any]:
        """Return status and plain data, or a page's text, for a request."""
        match path:
            case "/realm/.well-known/openid-configuration":
                return 200, self._document()
            case "/realm/keys":
                return 200, {"keys": [public_jwk(self.key, self.kid)] if self.keys is None else self.keys}
            case "/realm/authorize" if wrong := self.wrong_with(query):
                return 400, f"<h1>{wrong}</h1>"
            case "/realm/authorize" if query.get("prompt") == "none":
                return 303, f"{query['redirect_uri']}?error=login_required&state={query['state']}"
            case "/realm/authorize":
                links = [
                    f'<p><a href="/realm/choose?{html.escape(urlencode({**query, "sub": sub}))}">{sub}</a></p>'
                    for sub in self.people
                ]
                return 200, "<h1>Who are you?</h1>" + "".join(links)
            case "/realm/choose":
                sub = query.pop("sub")
                return 303, self.sent_back(f"/?{urlencode(query)}", sub)
            case "/realm/token":
                return self._redeem(form, login)
            case "/realm/about":
                sub = self._access.get(login.removeprefix("Bearer "))
                return (401, {}) if sub is None else (200, {"sub": sub, **self.people[sub], **self.about})
            case "/realm/end":
                return 200, "<h1>Signed out</h1>"
        return 404, {}

    def _document(self) -> dict[str, Any]:
        found = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "token_endpoint": f"{self.issuer}/token",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "userinfo_endpoint": f"{self.issuer}/about",
            "end_session_endpoint": f"{self.issuer}/end",
            "authorization_response_iss_parameter_supported": True,
            **self.document,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _redeem(self, form: dict[str, str], login: str) -> tuple[int, Any]:
        words = base64.b64decode(login.removeprefix("Basic ")).decode()
        if [unquote_plus(word) for word in words.split(":")] != [CLIENT, SECRET]:
            return 401, {"error": "invalid_client", "error_description": "wrong secret"}
        find = self._codes.get if self.keeps_codes else self._codes.pop
        asked = find(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or form["redirect_uri"] != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            return 400, {"error": "invalid_grant", "error_description": "this code is no good"}
        access = secrets.token_urlsafe(16)
        self._access[access] = asked["sub"]
        token = self.id_token(asked["sub"], asked["nonce"]) if self.token is None else self.token
        return 200, {"id_token": token, "access_token": access, "token_type": "Bearer"}


def public_jwk(key: RSAPrivateKey, kid: str) -> dict[str, Any]:
    """Return the public half of a key as a provider shows it."""
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Any, key: Any, *, alg: str = "RS256", kid: str | None = "k1", **header: Any) -> str:
    """Return a token as a provider that minds no rules makes it."""
    head = {"alg": alg, "typ": "JWT", **({} if kid is None else {"kid": kid}), **header}
    text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
    algorithm = jwt.algorithms.get_default_algorithms()[alg]
    return f"{text}.{b64(algorithm.sign(text.encode(), key))}"


def _handler(provider: SignInProvider) -> type[FormHandler]:
    class Handler(FormHandler):
        def answer(self, form: dict[str, str]) -> None:
            parts = urlsplit(self.path)
            provider.asked.append(parts.path)
            if parts.path in provider.raw:
                self._send(*provider.raw[parts.path])
                return
            login = self.headers.get("Authorization", "")
            status, found = provider.answer(parts.path, dict(parse_qsl(parts.query)), form, login)
            if status == 303:
                self._send(303, {"Location": found}, b"")
            elif isinstance(found, str):
                self._send(status, {"Content-Type": "text/html; charset=utf-8"}, found.encode())
            else:
                self._send(
                    status,
                    {"Content-Type": "application/json"},
                    json.dumps(found).encode(),
                    drips=parts.path in provider.slow,
                )

        def _send(self, status: int, headers: dict[str, str], body: bytes, *, drips: bool = False) -> None:
            try:
                self.begin(status, headers, len(body))
                end = time.monotonic() + HOLD_S
                while drips and body and time.monotonic() < end:
                    self.wfile.write(body[:1])
                    body = body[1:]
                    time.sleep(0.1)
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # who asked has gone

    return Handler
