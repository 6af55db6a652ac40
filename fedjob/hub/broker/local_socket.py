"""The socket in the hub's home at which its broker listens, out of reach of everybody else."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path

CONNECT_S = 5.0
MAX_PAUSE_S = 0.05
NAME = "broker.socket"
_MAX_PATH_BYTES = 100
"""The kernel takes 107; a longer path is reached through a descriptor of its folder."""


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """A Unix socket.

    Args:
        folder: that it is in; nobody else may enter that.
    """

    folder: Path

    def make_private(self) -> None:
        """Let nobody but the owner use it, whatever mode the broker gave it."""
        (self.folder / NAME).chmod(0o600)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to it.

        Raises:
            OSError, TimeoutError: it can't be reached.
        """
        async with asyncio.timeout(CONNECT_S):
            path = self.folder / NAME
            if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
                return await _open(os.fspath(path))
            descriptor = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return await _open(f"/proc/self/fd/{descriptor}/{NAME}")
            finally:
                os.close(descriptor)


async def _open(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, as soon as fewer than the broker's queue holds are waiting: Mosquitto's is of ten.

    A full queue of a Unix socket refuses at once (EAGAIN) instead of letting the caller wait, and asyncio takes that
    for a connection.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        pause_s = 0.001
        while True:
            try:
                end.connect(path)
                break
            except BlockingIOError:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return await asyncio.open_unix_connection(sock=end)
    except BaseException:
        end.close()
        raise
