"""An OpenID provider on a port of this machine: device codes, renewals, keys. Its people say yes when a test does."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from tests.provider_server import FormHandler, served

CLIENT = "fedjob-test"


class Provider:
    """Who has confirmed what, and what tokens say.

    Args:
        lasts_s: how long an ID token is good for.
        binds: whether it puts the nonce that it was given into tokens.
    """

    def __init__(self, lasts_s: float = 600.0, *, binds: bool = True) -> None:
        self.lasts_s = lasts_s
        self.binds = binds
        self.key: RSAPrivateKey = generate_private_key(65537, 2048)
        self.people: dict[str, str] = {}
        """User code -> who confirmed it; empty for who said no. `confirm_all` confirms every code."""
        self.confirm_all: str | None = None
        self.code_lasts_s = 60
        self._codes: dict[str, dict[str, str]] = {}
        self._renewals: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}/realm"

    @contextmanager
    def running(self) -> Iterator[Provider]:
        with served(self._server):
            yield self

    def token(self, person: str, *, key: Any = None, alg: str = "RS256", **changes: Any) -> str:
        """Return an ID token as the provider would make it, but for what is changed; None leaves a claim out."""
        now = time.time()
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": f"id-of-{person}",
            "iat": now,
            "exp": now + self.lasts_s,
            "preferred_username": person,
            **changes,
        }
        told = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(told, self.key if key is None else key, algorithm=alg, headers={"kid": "k1"})

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        """Answer a request."""
        match path.removeprefix("/realm"):
            case "/.well-known/openid-configuration":
                return 200, {
                    "issuer": self.issuer,
                    "jwks_uri": f"{self.issuer}/keys",
                    "token_endpoint": f"{self.issuer}/token",
                    "device_authorization_endpoint": f"{self.issuer}/device",
                }
            case "/keys":
                public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
                return 200, {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}
            case "/device":
                return self._device(form)
            case "/token" if form.get("grant_type") == "refresh_token":
                return self._renew(form)
            case "/token":
                return self._first(form)
        return 404, {}

    def _device(self, form: dict[str, str]) -> tuple[int, Any]:
        if form.get("client_id") != CLIENT:
            return 401, {"error": "invalid_client"}
        device, code = secrets.token_hex(8), secrets.token_hex(3)
        self._codes[device] = {"code": code, "nonce": form.get("nonce", "")}
        answer = {"device_code": device, "user_code": code, "verification_uri": f"{self.issuer}/confirm"}
        return 200, {**answer, "expires_in": self.code_lasts_s, "interval": 0.05}

    def _first(self, form: dict[str, str]) -> tuple[int, Any]:
        asked = self._codes.get(form.get("device_code", ""))
        if asked is None:
            return 400, {"error": "invalid_grant"}
        person = self.people.get(asked["code"], self.confirm_all)
        if person is None:
            return 400, {"error": "authorization_pending"}
        if not person:
            return 400, {"error": "access_denied", "error_description": "the person said no"}
        return 200, self._tokens({"person": person, "nonce": asked["nonce"]})

    def _renew(self, form: dict[str, str]) -> tuple[int, Any]:
        found = self._renewals.pop(form.get("refresh_token", ""), None)
        return (400, {"error": "invalid_grant"}) if found is None else (200, self._tokens(found))

    def _tokens(self, about: dict[str, str]) -> dict[str, str]:
        renewal = secrets.token_hex(8)
        self._renewals[renewal] = about
        nonce = about["nonce"] if self.binds else None
        return {"id_token": self.token(about["person"], nonce=nonce), "refresh_token": renewal}


def _handler(provider: Provider) -> type[FormHandler]:
    class Handler(FormHandler):
        def answer(self, form: dict[str, str]) -> None:
            status, found = provider.answer(self.path.rstrip("/"), form)
            content = json.dumps(found).encode()
            self.begin(status, {"Content-Type": "application/json"}, len(content))
            self.wfile.write(content)

    return Handler
