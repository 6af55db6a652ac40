"""The signature of a request by its sender's key, for a hub that the sender's certificate does not reach.

A certificate is shown in the TLS handshake, so it ends where TLS ends: at a web server before the hub, or at a proxy
that looks inside. The signature goes through. It is of the method, the path and the time, and good for a few minutes;
what stands in bodies is signed, or named by its hash, by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import unquote

from fedjob.common.errors import NotPermitted
from fedjob.identity.keys import Identity, verify

WINDOW_S = 300.0
"""The clocks of a party and its hub may differ by so much."""

_PREFIX = b"fedjob request 1\n"
_PROOF = re.compile(r"1 ([0-9]{1,12}) ([0-9a-f]{128})")


def prove(
    identity: Identity, federation: str, method: str, path: str, *, clock: Callable[[], float] = time.time
) -> str:
    """Return the proof that a party sends a request."""
    now = int(clock())
    return f"1 {now} {identity.sign(_signed(federation, method, path, now)).hex()}"


def check_proof(
    proof: str,
    key_hex: str,
    federation: str,
    method: str,
    path: str,
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Accept a proof by the owner of a key.

    Raises:
        NotPermitted: it is malformed, of another key or request, or of another time.
    """
    found = _PROOF.fullmatch(proof)
    if found is None:
        raise NotPermitted("the signature of the request is malformed")
    signed_at = int(found[1])
    if not verify(key_hex, bytes.fromhex(found[2]), _signed(federation, method, path, signed_at)):
        raise NotPermitted("the request is not signed by the key of the party whose token it carries")
    late_s = clock() - signed_at
    if abs(late_s) > WINDOW_S:
        raise NotPermitted(
            f"the request was signed {abs(late_s):.0f} s {'ago' if late_s > 0 else 'ahead'} by this hub's clock: set "
            "the clock of the party's machine, or of the hub's"
        )


def _signed(federation: str, method: str, path: str, signed_at: int) -> bytes:
    plain = unquote(path.partition("?")[0])  # as servers see it
    return _PREFIX + f"{federation}\n{method}\n{plain}\n{signed_at}".encode()
