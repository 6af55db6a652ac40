"""The broker's port as the hub's own machine reaches it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class BrokerPort:
    """The broker's own port on this machine."""

    host: str
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to it.

        Raises:
            OSError, TimeoutError: it can't be reached.
        """
        async with asyncio.timeout(CONNECT_S):
            return await asyncio.open_connection(self.host, self.port)
