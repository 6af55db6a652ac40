"""The broker behind the hub's own port: MQTT over WebSocket, carried byte by byte to the broker's port.

MQTT 5, section 6: packets are binary data frames of the sub-protocol `mqtt`, and need not
end where frames end. The broker sees a client as it always does and checks its name and
password itself, so the hub carries bytes that it does not read.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from fedjob.hub.broker.port import BrokerPort

SUBPROTOCOL = "mqtt"
LOGIN_S = 30.0
"""For a client's first bytes: until then it is a stranger that holds a connection."""

SEND_S = 60.0
BLOCK_BYTES = 64 << 10
_TRY_AGAIN_LATER = 1013
_POLICY = 1008


class BrokerRelay:
    """The WebSocket endpoint at which a hub carries MQTT to its broker.

    Args:
        broker: to which connections lead.
        num_sessions: that may be open at the same time.
    """

    def __init__(self, broker: BrokerPort, num_sessions: int) -> None:
        self._broker = broker
        self._free = num_sessions

    async def carry(self, socket: WebSocket) -> None:
        """Carry one client's connection until either side ends it."""
        if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
            await socket.close(_POLICY)
        elif self._free < 1:
            await socket.close(_TRY_AGAIN_LATER)
        else:
            self._free -= 1
            try:
                await self._carry(socket)
            finally:
                self._free += 1

    async def _carry(self, socket: WebSocket) -> None:
        try:
            reader, writer = await self._broker.connect()
        except (OSError, TimeoutError):
            await socket.close(_TRY_AGAIN_LATER)
            return
        try:
            await socket.accept(subprotocol=SUBPROTOCOL)
            writer.write(await asyncio.wait_for(socket.receive_bytes(), LOGIN_S))
            directions = [
                asyncio.create_task(_to_broker(socket, writer)),
                asyncio.create_task(_from_broker(reader, socket)),
            ]
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
        except (
            WebSocketDisconnect,
            TimeoutError,
            KeyError,
        ):  # KeyError: a text frame, which MQTT has none of
            pass
        finally:
            writer.close()
            with suppress(Exception):  # it may be closed by the other side already
                await socket.close()


async def _to_broker(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await socket.receive_bytes())
        async with asyncio.timeout(SEND_S):
            await writer.drain()


async def _from_broker(reader: asyncio.StreamReader, socket: WebSocket) -> None:
    while block := await reader.read(BLOCK_BYTES):
        async with asyncio.timeout(SEND_S):
            await socket.send_bytes(block)
