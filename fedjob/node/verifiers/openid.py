"""The verifier that requires an ID token of an OpenID provider beside the signature of a message.

OpenID Connect Core 1.0, section 3.1.3.7, https://openid.net/specs/openid-connect-core-1_0.html

A token is accepted if the provider signed it for this client, it has not expired, and it
names the party that signed the message. `fedjob login` asks the provider to put a hash
of the party's public key into it (`nonce`); a token with another nonce is refused, so
that a stolen token is of no use to another party. A token without a nonce is
accepted by its name alone, unless `nonce=required`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from fedjob.common.errors import DecodeError, NotPermitted, SpecError
from fedjob.identity.openid import check_issuer, discover, fetch_json, jwt_package, nonce_of
from fedjob.node.verifiers.base import Claim, Verified, Verifier

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signature algorithms with public keys only: with a shared-secret one, anybody could sign."""

LEEWAY_S = 60.0
KEYS_EVERY_S = 30.0
"""Seconds between two requests for the provider's keys, however many unknown key ids tokens name."""


@dataclass(frozen=True)
class OpenId(Verifier):
    """A verifier that trusts one OpenID provider.

    Args:
        issuer: URL of the provider, as in its tokens.
        client_id: the client (audience) that tokens must be issued for.
        claim: name of the token's claim that must equal the party's name.
        nonce: `optional`, or `required` to refuse tokens that are not bound to the party's key.
        tls_ca: certificate file of the provider's own authority; empty for the public authorities.
    """

    issuer: str = ""
    client_id: str = ""
    claim: str = "preferred_username"
    nonce: str = "optional"
    tls_ca: str = ""

    name: ClassVar[str] = "oidc"

    def __post_init__(self) -> None:
        if not self.issuer or not self.client_id:
            raise SpecError("expected issuer=URL and client_id=NAME of the identity provider")
        check_issuer(self.issuer)
        if self.nonce not in ("optional", "required"):
            raise SpecError(f"nonce is 'optional' or 'required', not {self.nonce!r}")
        jwt_package()

    def verify(self, claim: Claim) -> Verified:
        login = f"run `fedjob login --issuer {self.issuer} --client-id {self.client_id}`"
        if not claim.proof:
            raise NotPermitted(f"this node serves researchers who are logged in at {self.issuer}: {login}")
        jwt = jwt_package()
        try:
            token_claims: dict[str, Any] = jwt.decode(
                claim.proof,
                self._keys.find(str(jwt.get_unverified_header(claim.proof).get("kid", ""))),
                algorithms=list(ALGORITHMS),
                audience=self.client_id,
                issuer=self._keys.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise NotPermitted(f"the login at {self.issuer} has expired: {login}") from error
        except jwt.PyJWTError as error:
            raise NotPermitted(
                f"the login is none of {self.issuer} ({type(error).__name__}): {login}"
            ) from error
        if token_claims.get(self.claim) != claim.researcher:
            raise NotPermitted(
                f"the login at {self.issuer} is somebody else's: its {self.claim} is not {claim.researcher}"
            )
        bound = token_claims.get("nonce")
        if bound is not None and bound != nonce_of(claim.key_hex):
            raise NotPermitted(f"the login at {self.issuer} was made for another key: {login}")
        if bound is None and self.nonce == "required":
            raise NotPermitted(
                f"{self.issuer} does not bind logins to keys (nonce), which this node requires"
            )
        return Verified(f"{token_claims['iss']}#{token_claims['sub']}", float(token_claims["exp"]) + LEEWAY_S)

    @cached_property
    def _keys(self) -> _Keys:
        return _Keys(self.issuer, self.tls_ca)


class _Keys:
    """The provider's public keys, fetched when a token names an unknown one."""

    def __init__(self, issuer: str, tls_ca: str) -> None:
        self._provider = discover(issuer, tls_ca)
        self._tls_ca = tls_ca
        self._known: dict[str, Any] = {}
        self._asked = -math.inf

    @property
    def issuer(self) -> str:
        """The issuer's URL as the provider writes it in tokens."""
        return self._provider.issuer

    def find(self, kid: str) -> Any:
        """Return the key with that id; if the token names none, the provider's only key.

        Raises:
            NotPermitted: the provider has no such key.
        """
        if kid not in self._known and time.monotonic() - self._asked >= KEYS_EVERY_S:
            self._asked = time.monotonic()
            self._known = self._fetch()
        if kid in self._known:
            return self._known[kid]
        if not kid and len(self._known) == 1:
            return next(iter(self._known.values()))
        raise NotPermitted(f"{self.issuer} has no key {kid[:80]!r}: log in again")

    def _fetch(self) -> dict[str, Any]:
        jwt = jwt_package()
        try:
            found = jwt.PyJWKSet.from_dict(fetch_json(self._provider.jwks_url, self._tls_ca)).keys
        except (jwt.PyJWTError, AttributeError, TypeError) as error:
            raise DecodeError(
                f"{self.issuer} has no keys of a known kind ({type(error).__name__})"
            ) from error
        return {key.key_id or "": key.key for key in found}
