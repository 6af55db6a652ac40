"""The broker behind the hub's own port: MQTT over WebSocket, brought to the broker's gate.

MQTT 5, section 6: packets are binary data frames of the sub-protocol `mqtt`, and need not end where frames end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from fedjob.hub.broker.gate import SEND_S, BrokerGate

SUBPROTOCOL = "mqtt"
_POLICY = 1008


class BrokerRelay:
    """The WebSocket endpoint at which a hub carries MQTT to its broker.

    Args:
        address_of: returns the address that a connection comes from, from its ASGI scope.
    """

    def __init__(self, gate: BrokerGate, address_of: Callable[[WebSocket], str]) -> None:
        self._gate = gate
        self._address_of = address_of

    async def carry(self, socket: WebSocket) -> None:
        """Carry one client's connection until either side ends it."""
        if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
            await socket.close(_POLICY)
            return
        await socket.accept(subprotocol=SUBPROTOCOL)
        with suppress(WebSocketDisconnect):
            await self._gate.carry(_WebSocketClient(socket), self._address_of(socket), socket)


class _WebSocketClient:
    """A client of the broker that came to the hub's own port."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        try:
            return await self._socket.receive_bytes() or b""
        except (WebSocketDisconnect, KeyError, RuntimeError):
            return b""  # it is gone, or sent text, which MQTT has none of

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(SEND_S):
            try:
                await self._socket.send_bytes(data)
            except (WebSocketDisconnect, RuntimeError) as error:
                raise EOFError from error

    async def close(self) -> None:
        with suppress(Exception):  # it may be closed by the other side already
            await self._socket.close()
