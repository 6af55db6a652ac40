"""The verifier that requires an ID token of an OpenID provider beside the signature of a message.

OpenID Connect Core 1.0, section 3.1.3.7, https://openid.net/specs/openid-connect-core-1_0.html

A token is accepted if the provider signed it for this client, it has not expired, and it
names the party that signed the message. `fedjob login` asks the provider to put a hash
of the party's public key into it (`nonce`); a token with another nonce is refused, so
that a stolen token is of no use to another party. A token without a nonce is
accepted by its name alone, unless `nonce=required`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fedjob.common.errors import NotPermitted, SpecError
from fedjob.identity.openid.id_tokens import LEEWAY_S, ProviderKeys, check_token
from fedjob.identity.openid.provider import ProviderLine, check_issuer, discover, jwt_package, nonce_of
from fedjob.node.verifiers.base import Claim, Verified, Verifier


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
        try:
            token_claims = check_token(claim.proof, self._keys, self.client_id)
        except NotPermitted as error:
            raise NotPermitted(f"{error}: {login}") from error
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
    def _keys(self) -> ProviderKeys:
        line = ProviderLine(tls_ca=self.tls_ca)
        return ProviderKeys(discover(self.issuer, line), line)
