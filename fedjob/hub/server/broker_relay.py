"""The broker behind the hub's own ports: MQTT over WebSocket and over TLS, carried byte by byte to the broker's port.

MQTT 5, section 6: packets are binary data frames of the sub-protocol `mqtt`, and need not
end where frames end. The hub reads a client's first packet, where it asks for certificates: who may not go to the
broker never reaches it. Everything after that it carries and does not read.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from fedjob.common.errors import BrokerUnreachable, DecodeError, NotPermitted
from fedjob.hub.broker.connect_packet import connect_bytes, read_connect
from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.server.broker_door import BrokerDoor
from fedjob.hub.server.client_certificates import CERTIFICATE
from fedjob.hub.storage.parties import Member
from fedjob.identity.membership import BROKER_PATH

SUBPROTOCOL = "mqtt"
LOGIN_S = 30.0
"""For a client to be let in by the broker: until then it is a stranger that holds a connection."""

SEND_S = 60.0
BLOCK_BYTES = 64 << 10
_CONNACK = 0x20
_LONGEST_HEAD = 8
_TRY_AGAIN_LATER = 1013
_POLICY = 1008


class _Line(Protocol):
    """A client's connection."""

    async def receive(self) -> bytes:
        """Return bytes that have come; raise where it has ended."""

    async def send(self, block: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _WebSocketLine:
    socket: WebSocket

    async def receive(self) -> bytes:
        return await self.socket.receive_bytes()  # a text frame, which MQTT has none of, raises

    async def send(self, block: bytes) -> None:
        await self.socket.send_bytes(block)


@dataclass(frozen=True, slots=True)
class _StreamLine:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self) -> bytes:
        if not (block := await self.reader.read(BLOCK_BYTES)):
            raise EOFError
        return block

    async def send(self, block: bytes) -> None:
        self.writer.write(block)
        await self.writer.drain()


@dataclass(slots=True, eq=False)
class _Visitor:
    """A client.

    Args:
        is_known: the broker has let it in.
        leave: set where it has to make room, or was revoked.
        member: the party that it is; None where the broker alone knows.
        ends: of its certificate, seconds since 1970, when the connection ends too.
    """

    is_known: bool = False
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    member: Member | None = None
    ends: float | None = None


class BrokerRelay:
    """The endpoint at which a hub carries MQTT to its broker.

    Args:
        broker: to which connections lead.
        num_sessions: that may be open at the same time; where they are all taken, the stranger that has been there for
            longest makes room.
        door: checks who may go to the broker; None to leave that to the broker.
    """

    def __init__(self, broker: BrokerPort, num_sessions: int, door: BrokerDoor | None = None) -> None:
        self._broker = broker
        self._free = num_sessions
        self._door = door
        self._strangers: dict[_Visitor, None] = {}  # the longest here first
        self._visitors: set[_Visitor] = set()

    async def carry(self, socket: WebSocket) -> None:
        """Carry one client's WebSocket until either side ends it."""
        if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
            await socket.close(_POLICY)
        elif self._free < 1 and not self._show_out():
            await socket.close(_TRY_AGAIN_LATER)
        else:
            try:
                await self._carry(_WebSocketLine(socket), socket, socket)
            except _BrokerAway:
                await socket.close(_TRY_AGAIN_LATER)
            with suppress(Exception):  # it may be closed by the other side already
                await socket.close()

    async def carry_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's connection over TLS until either side ends it."""
        try:
            if self._free > 0 or self._show_out():
                with suppress(_BrokerAway):
                    await self._carry(_StreamLine(reader, writer), _connection_of(writer), None)
        finally:
            writer.close()

    async def review(self) -> None:
        """Close the connections of parties that were revoked, or joined again with another password."""
        if self._door is None:
            return
        present = await asyncio.to_thread(self._door.present)
        for visitor in self._visitors:
            member = visitor.member
            if member is not None and present.get(member.party) != member.broker_hash:
                visitor.leave.set()

    def close(self) -> None:
        """Close all connections."""
        for visitor in self._visitors:
            visitor.leave.set()

    def _show_out(self) -> bool:
        """Have a stranger make room; tell whether there is one."""
        visitor = next(iter(self._strangers), None)
        if visitor is None:
            return False
        del self._strangers[visitor]
        visitor.leave.set()
        return True

    async def _carry(self, line: _Line, connection: HTTPConnection, socket: WebSocket | None) -> None:
        visitor = _Visitor()
        self._strangers[visitor] = None
        self._visitors.add(visitor)
        self._free -= 1
        try:
            session = asyncio.create_task(self._session(line, connection, socket, visitor))
            leaving = asyncio.create_task(_until_shown_out(visitor))
            await asyncio.wait({session, leaving}, return_when=asyncio.FIRST_COMPLETED)
            session.cancel()
            leaving.cancel()
            ended, _ = await asyncio.gather(session, leaving, return_exceptions=True)
            if isinstance(ended, _BrokerAway):
                raise ended
        finally:
            self._free += 1
            self._strangers.pop(visitor, None)
            self._visitors.discard(visitor)

    async def _session(
        self, line: _Line, connection: HTTPConnection, socket: WebSocket | None, visitor: _Visitor
    ) -> None:
        begin = b""
        if self._door is not None:
            if socket is not None:
                await socket.accept(subprotocol=SUBPROTOCOL)
            begin = await self._let_through(self._door, line, connection, visitor)
            if not begin:
                return
        try:
            reader, writer = await self._broker.connect()
        except (OSError, TimeoutError):
            raise _BrokerAway from None
        try:
            if self._door is None and socket is not None:
                await socket.accept(subprotocol=SUBPROTOCOL)
            writer.write(begin)
            directions = [
                asyncio.create_task(_to_broker(line, writer)),
                asyncio.create_task(self._from_broker(reader, line, visitor)),
            ]
            try:
                left_s = None if visitor.ends is None else max(0.0, visitor.ends - time.time())
                await asyncio.wait(directions, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        except WebSocketDisconnect:
            pass
        finally:
            writer.close()

    async def _let_through(
        self, door: BrokerDoor, line: _Line, connection: HTTPConnection, visitor: _Visitor
    ) -> bytes:
        """Read a client's first packet; return what goes to the broker, nothing for one that may not go there."""
        begin = b""
        try:
            while (length := connect_bytes(begin)) is None or len(begin) < length:
                begin += await line.receive()
            connect = read_connect(begin[:length])
        except DecodeError:
            return b""  # no MQTT client: it gets no answer
        try:
            admitted = door.admit(begin[:length], connect, connection)
        except NotPermitted as error:
            async with asyncio.timeout(SEND_S):
                await line.send(connect.refusal(str(error)))
            return b""
        visitor.member, visitor.ends = admitted.member, admitted.ends
        return admitted.packet + begin[length:]

    async def _from_broker(self, reader: asyncio.StreamReader, line: _Line, visitor: _Visitor) -> None:
        begin = b""
        while block := await reader.read(BLOCK_BYTES):
            if not visitor.is_known:
                begin = (begin + block)[:_LONGEST_HEAD]
                if lets_in(begin):
                    visitor.is_known = True
                    self._strangers.pop(visitor, None)
            async with asyncio.timeout(SEND_S):
                await line.send(block)


class _BrokerAway(BrokerUnreachable):
    """The broker can't be reached by the hub."""


def _connection_of(writer: asyncio.StreamWriter) -> HTTPConnection:
    """Return a connection over TLS in the shape in which one over WebSocket comes."""
    secure: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    der = None if secure is None else secure.getpeercert(binary_form=True)
    return HTTPConnection({"type": "http", "headers": [], "path": BROKER_PATH, CERTIFICATE: der})


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
    """Wait until a client has to go: a stranger who makes room or was not let in in time, a revoked party."""
    with suppress(TimeoutError):
        await asyncio.wait_for(visitor.leave.wait(), LOGIN_S)
    if visitor.is_known:
        await visitor.leave.wait()


async def _to_broker(line: _Line, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await line.receive())
        async with asyncio.timeout(SEND_S):
            await writer.drain()
