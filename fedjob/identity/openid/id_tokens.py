"""The public keys of an OpenID provider, and the check of a token against them.

OpenID Connect Core 1.0, sections 3.1.3.7 and 10.1, https://openid.net/specs/openid-connect-core-1_0.html
"""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from fedjob.common.errors import DecodeError, NotPermitted, RepositoryUnreachable
from fedjob.identity.openid.provider import Provider, ProviderLine, jwt_package

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signature algorithms with public keys only: with a shared-secret one, anybody could sign."""

LEEWAY_S = 60.0
"""Seconds by which the clocks of a provider and of this machine may differ."""

KEYS_EVERY_S = 30.0
"""Seconds between two requests for the provider's keys, however many unknown key ids tokens name."""

KEYS_FOR_S = 3600.0
"""Seconds for which keys are used without asking for them again: one that a provider withdraws ends then."""

MAX_TOKEN_CHARS = 64 * 1024


class OutOfTime(NotPermitted):
    """A token that has expired, or is not valid yet, by the clock of this machine."""


class ProviderKeys:
    """The provider's public keys, fetched when a token names an unknown one; usable from several threads.

    Args:
        clock: returns seconds that never go back.
    """

    def __init__(
        self, provider: Provider, line: ProviderLine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.issuer = provider.issuer
        self._url = provider.jwks_url
        self._line = line
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._asked = self._fetched = -math.inf

    def find(self, kid: str) -> Any:
        """Return the key with that id; if the token names none, the provider's only key.

        Raises:
            NotPermitted: the provider has no such key.
            RepositoryUnreachable, RepositoryError, DecodeError: it gives no keys.
        """
        with self._lock:
            is_old = self._clock() - self._fetched >= KEYS_FOR_S
            if kid not in self._known or is_old:
                self._refresh()
            if kid in self._known:
                return self._known[kid]
            if not kid and len(self._known) == 1:
                return next(iter(self._known.values()))
        raise NotPermitted(f"{self.issuer} has no key {kid[:80]!r}: log in again")

    def are_new(self) -> bool:
        """Ask for the keys again, because a signature fits none; tell whether they are others now."""
        with self._lock:
            before = dict(self._known)
            self._refresh()
            return {k: str(v) for k, v in before.items()} != {k: str(v) for k, v in self._known.items()}

    def _refresh(self) -> None:
        if self._clock() - self._asked < KEYS_EVERY_S:
            return
        self._asked = self._clock()
        try:
            self._known = self._fetch()
            self._fetched = self._clock()
        except RepositoryUnreachable:
            if not self._known:
                raise

    def _fetch(self) -> dict[str, Any]:
        jwt = jwt_package()
        try:
            plain = self._line.fetch(self._url)
            signing = [key for key in plain["keys"] if key.get("use", "sig") == "sig"]
            found = jwt.PyJWKSet.from_dict({"keys": signing}).keys
        except (jwt.PyJWTError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise DecodeError(
                f"{self.issuer} has no keys of a known kind ({type(error).__name__})"
            ) from error
        return {key.key_id or "": key.key for key in found if key.key_type != "oct"}


def check_token(token: str, keys: ProviderKeys, client_id: str) -> dict[str, Any]:
    """Return the claims of a token that the provider signed for this client, and that holds now.

    Raises:
        NotPermitted: it did not, or it has expired; the message says which, in the words of PyJWT.
        RepositoryUnreachable, RepositoryError, DecodeError: the provider gives no keys.
    """
    jwt = jwt_package()
    if len(token) > MAX_TOKEN_CHARS:
        raise NotPermitted(f"the login is none of {keys.issuer} (it is too long)")

    def decode() -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            keys.find(str(jwt.get_unverified_header(token).get("kid", ""))),
            algorithms=list(ALGORITHMS),
            audience=client_id,
            issuer=keys.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
        return claims

    try:
        try:
            return decode()
        except jwt.InvalidSignatureError:
            if not keys.are_new():  # another key under the same id
                raise
            return decode()
    except jwt.ExpiredSignatureError as error:
        raise OutOfTime(f"the login at {keys.issuer} has expired") from error
    except jwt.ImmatureSignatureError as error:
        raise OutOfTime(f"the login at {keys.issuer} is not valid yet") from error
    except jwt.PyJWTError as error:
        raise NotPermitted(f"the login is none of {keys.issuer} ({type(error).__name__})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise NotPermitted(f"the login is none of {keys.issuer} (it can't be read)") from error


def check_for_browser(claims: dict[str, Any], *, client_id: str, nonce: str, issuer: str) -> None:
    """Refuse a token that was made for another client, or for another sign-in than the one in this browser.

    Raises:
        NotPermitted: it was.
    """
    audience = claims["aud"]
    others = [one for one in audience if one != client_id] if isinstance(audience, list) else []
    party = claims.get("azp")
    if (others or party is not None) and party != client_id:
        raise NotPermitted(f"the login at {issuer} was made for another client ({str(party)[:80]!r})")
    found = claims.get("nonce")
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), nonce.encode()):
        raise NotPermitted(f"the login at {issuer} was made for another sign-in: begin again")
