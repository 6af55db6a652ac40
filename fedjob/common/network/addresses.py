"""Addresses of this machine: those that only it can reach, and those that stand for all it has."""

from __future__ import annotations

import ipaddress

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that a server listens on to be reached under each address of its machine -> how the machine itself does."""


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def on_this_machine(host: str) -> str:
    """Return the host under which this machine reaches a server of its own that listens on `host`."""
    return EVERY_ADDRESS.get(host, host)
