"""Seeds derived from (job seed, round, node), so that no random number depends on global state."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, round_: int, node: str = "", purpose: str = "") -> int:
    """Derive an independent seed.

    Args:
        seed: the job's seed.
        round_: 0 for what stays the same over all rounds (initial parameters, splits).
        node: empty for the researcher.
        purpose: distinguishes two uses in the same round at the same node.

    Returns:
        An int in [0, 2**63), the same on every machine.
    """
    text = f"fedjob\0{seed}\0{round_}\0{node}\0{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
