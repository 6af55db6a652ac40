"""The proof by which a signer, who need not be a party, asks a hub: a signature over the request with a federation's key."""

from __future__ import annotations

from fedjob.identity.keys import verify
from fedjob.identity.statements.federation_keys import FederationKeys
from fedjob.identity.statements.key_file import FederationKey

SCHEME = "Federation"
TOLERANCE_S = 600.0
_CONTEXT = "fedjob federation request 1"


def make_proof(key: FederationKey, federation: str, method: str, path: str, now: float) -> str:
    """Return the value of the header `Authorization` for one request, good for `TOLERANCE_S`."""
    at = int(now)
    signature = key.sign(_signed(federation, method, path, at)).hex()
    return f"{SCHEME} {key.public_hex}.{at}.{signature}"


def check_proof(proof: str, keys: FederationKeys, method: str, path: str, now: float) -> bool:
    """Return whether one of the federation's keys signed this request a moment ago."""
    key, _, rest = proof.partition(".")
    at, _, signature = rest.partition(".")
    if key not in keys.keys or not (at.isascii() and at.isdigit() and len(at) < 12):
        return False
    try:
        signed = bytes.fromhex(signature)
    except ValueError:
        return False
    return abs(int(at) - now) <= TOLERANCE_S and verify(
        key, signed, _signed(keys.federation, method, path, int(at))
    )


def _signed(federation: str, method: str, path: str, at: int) -> bytes:
    return f"{_CONTEXT}\n{federation}\n{method} {path}\n{at}".encode()
