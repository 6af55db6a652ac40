"""The socket in the hub's home at which its broker listens, out of reach of everybody else."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

CONNECT_S = 5.0
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
                return await asyncio.open_unix_connection(path)
            descriptor = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{NAME}")
            finally:
                os.close(descriptor)
