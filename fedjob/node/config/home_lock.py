"""The lock of a node's home: one daemon at a time holds it, and its file says which process that is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedjob.common.errors import ConfigError
from fedjob.common.files import is_locked, make_folder, open_locked
from fedjob.node.config.home import NodeHome

LOOK_S = 0.25
"""Somebody who looks whether a daemon runs holds the lock of the home for a moment, too."""


@contextmanager
def locked(home: NodeHome) -> Iterator[None]:
    """Hold a home for one daemon; the lock goes with the process, however it ends.

    Raises:
        ConfigError: another daemon holds it.
    """
    make_folder(home.root)
    descriptor = open_locked(home.lock, wait_s=LOOK_S)
    if descriptor is None:
        raise ConfigError(
            f"a node runs in {home.root} already (process {running_pid(home) or 'unknown'}): "
            "stop it with `fedjob node stop`, or use another --home"
        )
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_pid(home: NodeHome) -> int | None:
    """Return the process id of the daemon that holds a home; None if nobody does."""
    if not is_locked(home.lock):
        return None  # what the file says is of the past
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        text = home.lock.read_text("ascii", "replace").strip() if home.lock.exists() else ""
        if text.isdigit():
            return int(text)
        time.sleep(0.01)  # it took the lock and has not written its id yet
    return None
