"""Sign-in in a browser by authorization code, with PKCE: the address to go to, and what comes back from there.

OpenID Connect Core 1.0, section 3.1; RFC 7636 (PKCE, S256); RFC 9207 (the issuer in the answer); RFC 6749, section 2.3.1
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

from fedjob.common.errors import DecodeError, NotPermitted
from fedjob.identity.openid.id_tokens import OutOfTime, ProviderKeys, check_for_browser, check_token
from fedjob.identity.openid.provider import Provider, ProviderLine, discover, jwt_package, refusal_words

DISCOVERY_FOR_S = 3600.0
MAX_CODE_CHARS = 4096

_ADDRESS = ("email", "email_verified")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserClient:
    """A client of a provider, as it is registered there.

    Args:
        secret: empty for a public client.
        redirect_url: to which the provider sends the browser back.
        scopes: what is asked for, with blanks between; `openid` among them.
        claims: that are asked of the provider's userinfo address where the token lacks one.
    """

    issuer: str
    client_id: str
    secret: str = field(default="", repr=False)
    redirect_url: str
    scopes: str = "openid profile email"
    claims: tuple[str, ...] = ("name",)
    line: ProviderLine = field(default_factory=ProviderLine)


@dataclass(frozen=True, slots=True)
class SignInAttempt:
    """One sign-in that has begun: what its answer has to fit.

    Args:
        state: that comes back with the browser.
        nonce: that stands in the token.
        verifier: whose hash the provider has, for the code.
        url: address to which the browser goes.
    """

    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    url: str = field(repr=False)


class CodeFlow:
    """Sign-ins at one provider; usable from several threads.

    Args:
        clock: returns seconds that never go back.

    Raises:
        MissingPackage: the extra `oidc` is not installed.
    """

    def __init__(self, client: BrowserClient, clock: Callable[[], float] = time.monotonic) -> None:
        jwt_package()
        self.client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._found: tuple[Provider, ProviderKeys, float] | None = None

    def provider(self) -> Provider:
        """Return the provider.

        Raises:
            RepositoryUnreachable, RepositoryError, DecodeError: none answers.
        """
        return self._provider()[0]

    def known_provider(self) -> Provider | None:
        """Return the provider if it was asked before; asks nobody."""
        found = self._found
        return None if found is None else found[0]

    def begin(self) -> SignInAttempt:
        """Begin a sign-in.

        Raises:
            RepositoryUnreachable, RepositoryError, DecodeError: no provider answers, or not one for browsers.
        """
        provider, client = self.provider(), self.client
        if not provider.authorize_url:
            raise DecodeError(f"{provider.issuer} offers no sign-in in a browser")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        asked = {
            "response_type": "code",
            "response_mode": "query",
            "client_id": client.client_id,
            "redirect_uri": client.redirect_url,
            "scope": client.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in provider.authorize_url else "?"
        url = f"{provider.authorize_url}{joint}{urlencode(asked, quote_via=quote)}"
        return SignInAttempt(state, nonce, verifier, url)

    def finish(self, attempt: SignInAttempt, answer: Mapping[str, str]) -> dict[str, Any]:
        """Return the claims about the person who signed in.

        Args:
            answer: fields of the address at which the browser came back.

        Raises:
            NotPermitted: the provider, or the person, refused; or the answer is not one to this attempt.
            RepositoryUnreachable, RepositoryError, DecodeError: the provider does not answer as it should.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise NotPermitted("this answer belongs to another sign-in: begin again")
        provider, keys, _ = self._provider()
        named = answer.get("iss")
        if (named is not None or provider.names_itself) and named != provider.issuer:
            raise NotPermitted(f"this answer comes from {str(named)[:80]!r}, not from {provider.issuer}")
        if "error" in answer:
            raise NotPermitted(f"{provider.issuer} refuses the sign-in: {refusal_words(dict(answer))}")
        code = answer.get("code", "")
        if not 0 < len(code) <= MAX_CODE_CHARS:
            raise NotPermitted(f"{provider.issuer} sent the browser back without a code: begin again")
        tokens = self._redeem(provider, code, attempt.verifier)
        try:
            claims = check_token(tokens["id_token"], keys, self.client.client_id)
        except OutOfTime as error:
            raise OutOfTime(f"{error}, though it is new: is the clock of this machine right?") from error
        check_for_browser(
            claims, client_id=self.client.client_id, nonce=attempt.nonce, issuer=provider.issuer
        )
        return _joined(claims, self._more_about(provider, tokens, claims))

    def _redeem(self, provider: Provider, code: str, verifier: str) -> dict[str, str]:
        """Return the tokens that a code stands for."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.client.redirect_url,
            "code_verifier": verifier,
        }
        status, answer = post_as_client(self.client, provider, form)
        if status != 200:
            raise NotPermitted(f"{provider.issuer} refuses the sign-in: {refusal_words(answer)}")
        match answer:
            case {"id_token": str(token)}:
                access = answer.get("access_token")
                return {"id_token": token, "access_token": access if isinstance(access, str) else ""}
        raise DecodeError(f"{provider.issuer} gave no ID token: its client needs the scope openid")

    def _more_about(
        self, provider: Provider, tokens: Mapping[str, str], claims: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the provider tells of the person beside the token; nothing of another person."""
        access = tokens["access_token"]
        if all(name in claims for name in self.client.claims):
            return {}
        if not provider.userinfo_url or not access or not access.isascii() or not access.isprintable():
            return {}
        about = self.client.line.fetch(provider.userinfo_url, {"Authorization": f"Bearer {access}"})
        if not isinstance(about, dict) or about.get("sub") != claims["sub"]:
            raise NotPermitted(f"{provider.issuer} tells of another person than the one who signed in")
        return about

    def _provider(self) -> tuple[Provider, ProviderKeys, float]:
        with self._lock:
            found = self._found
            if found is None or self._clock() - found[2] > DISCOVERY_FOR_S:
                provider = discover(self.client.issuer, self.client.line)
                keys = ProviderKeys(provider, self.client.line, self._clock)
                found = self._found = (provider, keys, self._clock())
            return found


def _joined(claims: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a token, with what came beside it. That an address was verified is of the address it came with."""
    source = claims if "email" in claims else more
    address = {name: source[name] for name in _ADDRESS if name in source}
    return {**{name: value for name, value in {**more, **claims}.items() if name not in _ADDRESS}, **address}


def post_as_client(
    client: BrowserClient, provider: Provider, form: Mapping[str, str]
) -> tuple[int, dict[str, Any]]:
    """Post a form to the provider's token endpoint, once, with the client's secret where it wants it.

    Raises:
        RepositoryUnreachable, RepositoryError, DecodeError: as `ProviderLine.post`.
    """
    headers = {}
    fields = dict(form)
    if client.secret and provider.secret_in == "basic":
        both = f"{quote_plus(client.client_id)}:{quote_plus(client.secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
    else:
        fields["client_id"] = client.client_id
        if client.secret:
            fields["client_secret"] = client.secret
    status, answer = client.line.post(provider.token_url, urlencode(fields).encode(), headers, once=True)
    return status, answer if isinstance(answer, dict) else {}


def challenge_of(verifier: str) -> str:
    """Return what a provider is shown of a PKCE verifier beforehand: its SHA-256, in base64url."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
