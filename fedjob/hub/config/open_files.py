"""The number of files that a hub may have open: a connection is one, and a party has two or three."""

from __future__ import annotations

import resource

ENOUGH = 8192
"""For 1,000 nodes: each has a connection for MQTT at the hub, one at the broker, and one for HTTP now and then."""


def allow_open_files() -> str:
    """Allow this process, and the broker that it starts, as many open files as the system lets it.

    Returns:
        A warning where these are few; else nothing.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY or most >= ENOUGH:
        return ""
    return (
        f"this user may have {most} files open, enough for about {most // 4} nodes: raise the hard limit "
        f"(LimitNOFILE={ENOUGH} in a systemd unit, ulimit -Hn) for more, see docs/scale.md"
    )
