"""The broker behind the hub's own port: MQTT over WebSocket, carried byte by byte to the broker's port.

MQTT 5, section 6: packets are binary data frames of the sub-protocol `mqtt`, and need not
end where frames end. The broker sees a client as it always does and checks its name and
password itself, so the hub carries bytes that it does not read.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.websockets import WebSocket, WebSocketDisconnect

from fedjob.hub.broker.port import BrokerPort

SUBPROTOCOL = "mqtt"
LOGIN_S = 30.0
"""For a client to be let in by the broker: until then it is a stranger that holds a connection."""

SEND_S = 60.0
BLOCK_BYTES = 64 << 10
_CONNACK = 0x20
_LONGEST_HEAD = 8
_TRY_AGAIN_LATER = 1013
_POLICY = 1008


@dataclass(slots=True, eq=False)
class _Visitor:
    """A client.

    Args:
        is_known: the broker has let it in.
        leave: set where it has to make room.
    """

    is_known: bool = False
    leave: asyncio.Event = field(default_factory=asyncio.Event)


class BrokerRelay:
    """The WebSocket endpoint at which a hub carries MQTT to its broker.

    Args:
        broker: to which connections lead.
        num_sessions: that may be open at the same time; where they are all taken, the stranger that has been there for
            longest makes room.
    """

    def __init__(self, broker: BrokerPort, num_sessions: int) -> None:
        self._broker = broker
        self._free = num_sessions
        self._strangers: dict[_Visitor, None] = {}  # the longest here first

    async def carry(self, socket: WebSocket) -> None:
        """Carry one client's connection until either side ends it."""
        if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
            await socket.close(_POLICY)
        elif self._free < 1 and not self._show_out():
            await socket.close(_TRY_AGAIN_LATER)
        else:
            visitor = _Visitor()
            self._strangers[visitor] = None
            self._free -= 1
            try:
                await self._carry(socket, visitor)
            finally:
                self._free += 1
                self._strangers.pop(visitor, None)

    def _show_out(self) -> bool:
        """Have a stranger make room; tell whether there is one."""
        visitor = next(iter(self._strangers), None)
        if visitor is None:
            return False
        del self._strangers[visitor]
        visitor.leave.set()
        return True

    async def _carry(self, socket: WebSocket, visitor: _Visitor) -> None:
        try:
            reader, writer = await self._broker.connect()
        except (OSError, TimeoutError):
            await socket.close(_TRY_AGAIN_LATER)
            return
        try:
            await socket.accept(subprotocol=SUBPROTOCOL)
            directions = [
                asyncio.create_task(_to_broker(socket, writer)),
                asyncio.create_task(self._from_broker(reader, socket, visitor)),
                asyncio.create_task(_until_shown_out(visitor)),
            ]
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
        except WebSocketDisconnect:
            pass
        finally:
            writer.close()
            with suppress(Exception):  # it may be closed by the other side already
                await socket.close()

    async def _from_broker(self, reader: asyncio.StreamReader, socket: WebSocket, visitor: _Visitor) -> None:
        begin = b""
        while block := await reader.read(BLOCK_BYTES):
            if not visitor.is_known:
                begin = (begin + block)[:_LONGEST_HEAD]
                if lets_in(begin):
                    visitor.is_known = True
                    self._strangers.pop(visitor, None)
            async with asyncio.timeout(SEND_S):
                await socket.send_bytes(block)


def lets_in(answer: bytes) -> bool:
    """Tell whether a broker's first bytes let a client in: CONNACK with the reason 0 (MQTT 5, section 3.2).

    Args:
        answer: as much of it as has come.
    """
    if not answer or answer[0] != _CONNACK:
        return False
    end_of_length = next((at for at in range(1, min(5, len(answer))) if answer[at] < 0x80), 0)
    return bool(end_of_length) and len(answer) > end_of_length + 2 and answer[end_of_length + 2] == 0


async def _until_shown_out(visitor: _Visitor) -> None:
    """Wait until a client has to go: a stranger who makes room, or was not let in in time."""
    with suppress(TimeoutError):
        await asyncio.wait_for(visitor.leave.wait(), LOGIN_S)
    if visitor.is_known:
        await asyncio.Event().wait()


async def _to_broker(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await socket.receive_bytes())  # a text frame, which MQTT has none of, raises
        async with asyncio.timeout(SEND_S):
            await writer.drain()
