"""The change of a party's own keys: a statement that is signed with the key before, and with the new one."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError
from fedjob.identity.keys import Identity, PublicKeys
from fedjob.identity.statements.signed import Signed, canonical, content_of

SUCCESSION_KIND = "fedjob party keys 1"
MAX_IN_A_ROW = 16
"""Changes of one party between two rosters; the federation's signature is asked for then."""


@dataclass(frozen=True, slots=True)
class Succession:
    """A party's new keys.

    Args:
        before: the public Ed25519 key in hex that the new ones follow.
        keys: the new ones.
    """

    federation: str
    party: str
    before: str
    keys: PublicKeys

    def statement(self, old: Identity, new: Identity) -> Signed:
        """Return the statement, signed with both."""
        signed = Signed(SUCCESSION_KIND, canonical(to_plain(self)))
        return signed.signed_by(old.public_key_hex, old.sign).signed_by(new.public_key_hex, new.sign)

    @classmethod
    def of(cls, signed: Signed) -> Succession:
        """Read a statement and check that both keys signed it.

        Raises:
            DecodeError: it is malformed, or one of them did not.
            SpecError: the new keys are malformed.
        """
        found = from_plain(cls, content_of(signed))
        found.keys.check(found.party)
        if len(signed.signers({found.before, found.keys.signing})) != 2:
            raise DecodeError(
                f"expected the new keys of {found.party[:80]!r} signed with its key before and with the new one"
            )
        return found
