"""The limits of a hub on sizes, times and numbers."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.repository.parts import PART_BYTES


@dataclass(frozen=True, slots=True)
class HubLimits:
    """The limits of one hub.

    Args:
        object_bytes: largest size of one object.
        header_bytes: largest size of a request's line and headers together.
        num_connections: for HTTP at the same time; of more, the one that has been idle for longest is closed, and where
            none is idle the new one is answered with status 503.
        num_sessions: connections to the broker through the hub's own port, at the same time.
        num_uploads: in progress at the same time.
        idle_s: seconds without progress after which a request is cut off.
        min_body_bytes: that must arrive of a body within `idle_s`, unless it ends.
        reserve_bytes: of the disk that uploads leave free.
        party_bytes: that one party may have stored.
        num_parties: that may enrol.
        ttl_s: seconds after the last upload for a job until the job counts as ended.
        invitation_s: seconds for which an invitation is valid.
    """

    object_bytes: int = PART_BYTES
    header_bytes: int = 256 << 10
    num_connections: int = 2048
    num_sessions: int = 8192
    num_uploads: int = 64
    idle_s: float = 30.0
    min_body_bytes: int = 16 << 10
    reserve_bytes: int = 256 << 20
    party_bytes: int = 1 << 40
    num_parties: int = 10_000
    ttl_s: float = 30 * 86400.0
    invitation_s: float = 14 * 86400.0
