"""Randomness as a function of (job seed, round, node), never of global state."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, round_: int, node: str = "", purpose: str = "") -> int:
    """Derive an independent seed.

    Args:
        seed: the job's seed.
        round_: 0 for what stays the same over all rounds (first parameters, splits).
        node: empty for the researcher.
        purpose: keeps two uses in the same place apart.

    Returns:
        An int in [0, 2**63), the same on every machine.
    """
    text = f"fedjob\0{seed}\0{round_}\0{node}\0{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
