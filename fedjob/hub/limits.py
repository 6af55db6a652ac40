"""What the hub bounds: sizes, times and numbers, all in one place."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.common.repository.parts import PART_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one hub.

    Args:
        object_bytes: of one object.
        header_bytes: of a request's line and headers together.
        num_connections: at the same time; more are told to come back.
        num_uploads: at the same time.
        idle_s: a request that stands still for so long is cut off.
        min_body_bytes: that a body must bring within `idle_s`, unless it ends.
        reserve_bytes: of the disk that uploads leave free.
        party_bytes: that one party may have stored.
        num_parties: that may enrol.
        ttl_s: a job in which nobody stored anything for so long is taken for ended.
        invitation_s: how long an invitation is good.
    """

    object_bytes: int = PART_BYTES
    header_bytes: int = 256 << 10
    num_connections: int = 512
    num_uploads: int = 64
    idle_s: float = 30.0
    min_body_bytes: int = 16 << 10
    reserve_bytes: int = 256 << 20
    party_bytes: int = 1 << 40
    num_parties: int = 10_000
    ttl_s: float = 30 * 86400.0
    invitation_s: float = 14 * 86400.0
