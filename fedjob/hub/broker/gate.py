"""The gate before the hub's broker, through which every client comes, with its limits on logins, sessions and messages.

The broker listens on a socket in the hub's home. The gate reads each client's login, checks it and what it asks for,
and then passes on its packets one by one: too many cost their sender time, and forbidden ones its session. So each party
has limits whichever the broker is; Mosquitto itself has some for all of its clients together, amqtt none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, Protocol

from fedjob.common.errors import FedjobError, NotPermitted
from fedjob.hub.broker.access import BROADCASTS, addressee_of, may_write, presence_of
from fedjob.hub.broker.local_socket import LocalSocket
from fedjob.hub.broker.mosquitto import MESSAGE_SIZE_LIMIT
from fedjob.hub.broker.mqtt_packets import (
    FROM_CLIENTS,
    PUBLISH,
    SUBSCRIBE,
    ConnectRequest,
    Malformed,
    Packets,
    Reason,
    farewell,
    is_accepted,
    kind_of,
    login_of,
    num_filters,
    refused_login,
    size_of,
    topic_of,
)
from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.broker.visitors import Visitor, Visitors
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.config.meters import Meter, Refusals, network_of
from fedjob.hub.storage.parties import Member, Parties, password_fits
from fedjob.identity.membership import CLIENT_ID_SEPARATOR

BLOCK_BYTES = 64 << 10
SEND_S = 30.0
"""For a block of that size to go out: whoever reads more slowly holds memory of the broker."""

ANSWER_S = 10.0
"""For the broker to answer a login."""

MAX_LOGIN_BYTES = 16 << 10
MAX_PACKET_BYTES = MESSAGE_SIZE_LIMIT + 4096
MAX_PRESENCE_BYTES = 1024
MAX_KEEP_ALIVE_S = 600
RECEIPT_WEIGHT = 0.2
"""Of a packet that is no message, as part of one."""

LATE_S = 0.02
"""By which a message may be early: a pause for each would cost more than it saves."""

HANDSHAKE_S = 10.0
BACKLOG = 512
_NOBODY = "$7$101$AAAAAAAAAAAAAAAA$AAAA"


class Client(Protocol):
    """A client's connection, of whichever kind."""

    async def read(self) -> bytes:
        """Return the next bytes; none at the end."""

    async def write(self, data: bytes) -> None:
        """Send bytes; return when there is room for more."""

    async def close(self) -> None:
        """End the connection, once or more often."""


class Door(Protocol):
    """A check of a client beyond its name and password."""

    def admit(self, member: Member, connection: Any) -> float | None:
        """Return when what it showed ends, seconds since 1970; raise NotPermitted where it may not come in."""


class TurnedAway(FedjobError):
    """A client does what it may not do, or too much of it."""

    def __init__(self, mqtt_reason: Reason, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.mqtt_reason = mqtt_reason
        self.kind = kind


class BrokerGate:
    """The gate before a broker.

    Args:
        versions: of MQTT that the broker speaks, 4 for 3.1.1.
        door: checks more of a client than its name and password; None for no more.
    """

    def __init__(
        self,
        broker: LocalSocket | BrokerPort,
        parties: Parties,
        limits: HubLimits,
        refusals: Refusals,
        *,
        versions: tuple[int, ...] = (4, 5),
        door: Door | None = None,
    ) -> None:
        self._broker = broker
        self._parties = parties
        self._limits = limits
        self._refusals = refusals
        self._versions = versions
        self._door = door
        self._visitors = Visitors(limits)
        self._wrong_logins = Meter(limits.refusals_per_s, limits.refusals_at_once)
        self._logins = Meter(limits.logins_per_s, limits.logins_at_once)
        self._messages = Meter(limits.messages_per_s, limits.messages_at_once)
        self._bytes = Meter(limits.message_bytes_per_s, limits.message_bytes_at_once)
        self._bytes_to = Meter(limits.addressee_bytes_per_s, limits.addressee_bytes_at_once)
        self._broadcasts = Meter(limits.broadcasts_per_s, limits.broadcasts_at_once)

    @property
    def num_sessions(self) -> int:
        """The number of clients that were let in."""
        return len(self._visitors.members)

    async def listen(self, listener: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
        """Take clients at a port of the broker's own, beside those that come through the hub's."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername") or ("",)
            await self.carry(StreamClient(reader, writer), str(peer[0]), writer)

        return await asyncio.start_server(
            connected,
            sock=listener,
            ssl=context,
            limit=BLOCK_BYTES,
            backlog=BACKLOG,
            ssl_handshake_timeout=None if context is None else HANDSHAKE_S,
        )

    async def carry(self, client: Client, address: str, connection: Any) -> None:
        """Carry one client's connection until either side ends it.

        Args:
            address: that it comes from.
            connection: for the door to look at.
        """
        visitor = self._visitors.enter(network_of(address))
        try:
            greeted = await self._greet(client, visitor, connection)
            if greeted is not None:
                login, packet, more = greeted
                await self._serve(client, visitor, login, packet, more)
        finally:
            self._visitors.part(visitor)
            with suppress(Exception):  # it may be closed by the other side already
                await client.close()

    def close(self) -> None:
        """End all sessions."""
        for visitor in self._visitors.members:
            visitor.why = "the hub ends"
            visitor.leave.set()

    async def end_revoked(self) -> None:
        """End the sessions of those who are no members any more, or have another password by now."""
        members = await asyncio.to_thread(self._parties.all)
        hashes = {member.party: member.broker_hash for member in members if not member.revoked}
        for visitor in self._visitors.members:
            if hashes.get(visitor.party) != visitor.broker_hash:
                visitor.why = f"{visitor.party} was revoked, or enrolled anew"
                visitor.leave.set()

    # --- until a client is let in -------------------------------------------------------

    async def _greet(
        self, client: Client, visitor: Visitor, connection: Any
    ) -> tuple[ConnectRequest, bytes, bytes] | None:
        """Return a client's login, its packet and what came after that; None where the client was not let in."""
        reading = asyncio.create_task(_first_packet(client))
        leaving = asyncio.create_task(visitor.leave.wait())
        try:
            await asyncio.wait(
                {reading, leaving}, timeout=self._limits.login_s, return_when="FIRST_COMPLETED"
            )
            if not reading.done():
                why = visitor.why or f"sent no login within {self._limits.login_s:g} s"
                self._refusals.count("no login", f"a client at {visitor.address} {why}")
                return None
            packet, more = reading.result()
            login = login_of(packet)
        except (Malformed, EOFError, OSError, TimeoutError):
            return None  # no client of a broker, or one that is gone
        finally:
            reading.cancel()
            leaving.cancel()
            await asyncio.gather(reading, leaving, return_exceptions=True)
        try:
            await self._check_login(login, visitor, connection)
        except TurnedAway as refused:
            self._refusals.count(refused.kind, f"{refused} (from {visitor.address})")
            with suppress(OSError, TimeoutError):
                await client.write(refused_login(login.version, refused.mqtt_reason, str(refused)))
            return None
        return login, packet, more

    async def _check_login(self, login: ConnectRequest, visitor: Visitor, connection: Any) -> None:
        """Raise TurnedAway unless a client may come in; let it in otherwise."""
        if login.version not in self._versions:
            raise TurnedAway(
                Reason.VERSION, "version of MQTT", f"expected one of {self._versions}, found {login.version}"
            )
        if not login.user:
            raise TurnedAway(Reason.NOT_AUTHORIZED, "no user name", "expected a party's name and password")
        member = self._parties.by_name(login.user)
        hashed = _NOBODY if member is None else member.broker_hash
        if not password_fits(login.password, hashed) or member is None:
            late_s = self._wrong_logins.try_draw(visitor.address, patience_s=self._limits.patience_s)
            # The answer costs whoever guesses some time, and nobody else.
            await asyncio.sleep(min(late_s, self._limits.patience_s))
            raise TurnedAway(
                Reason.BAD_LOGIN,
                "wrong password",
                f"{login.user[:80]} and this password are of no party of this federation: enrol again, or ask whoever runs the hub "
                "whether it was revoked",
            )
        if self._door is not None:
            try:
                visitor.ends = self._door.admit(member, connection)
            except NotPermitted as error:
                raise TurnedAway(Reason.NOT_AUTHORIZED, "certificates", str(error)) from error
        _check_session(login)
        late_s = self._logins.try_draw(login.user, patience_s=self._limits.patience_s)
        if late_s > self._limits.patience_s:
            raise TurnedAway(
                Reason.CONNECTION_RATE,
                "logins",
                f"{login.user} connects more often than {self._limits.logins_per_s:g} times a second: try again in "
                f"{late_s:.0f} s (logins_per_s)",
            )
        await asyncio.sleep(late_s)
        if why := self._visitors.let_in(visitor, login.user, hashed):
            raise TurnedAway(Reason.QUOTA, "sessions", why)

    # --- after that ---------------------------------------------------------------------

    async def _serve(
        self, client: Client, visitor: Visitor, login: ConnectRequest, packet: bytes, more: bytes
    ) -> None:
        try:
            reader, writer = await self._broker.connect()
        except (OSError, TimeoutError):
            sentence = "the broker does not run at the moment: try again in some seconds"
            with suppress(OSError, TimeoutError):
                await client.write(refused_login(login.version, Reason.UNAVAILABLE, sentence))
            return
        try:
            writer.write(packet)
            async with asyncio.timeout(ANSWER_S):
                answer, rest = await _first_packet(_BrokerEnd(reader))
            await client.write(answer + rest)
            if not is_accepted(answer):
                return
            directions = [
                asyncio.create_task(self._to_broker(client, writer, login, more)),
                asyncio.create_task(_from_broker(reader, client)),
                asyncio.create_task(_until_shown_out(visitor, login)),
            ]
            left_s = None if visitor.ends is None else max(0.0, visitor.ends - time.time())
            try:
                await asyncio.wait(directions, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                outcomes = await asyncio.gather(*directions, return_exceptions=True)
            for refused in (outcome for outcome in outcomes if isinstance(outcome, TurnedAway)):
                self._refusals.count(refused.kind, str(refused))
                await client.write(farewell(login.version, refused.mqtt_reason, str(refused)))
        except (Malformed, EOFError, OSError, TimeoutError):
            pass  # either side is gone, or speaks something else
        finally:
            writer.transport.abort()

    async def _to_broker(
        self, client: Client, writer: asyncio.StreamWriter, login: ConnectRequest, block: bytes
    ) -> None:
        packets = Packets(MAX_PACKET_BYTES)
        num_subscriptions = 0
        while True:
            for packet in packets.feed(block):
                kind = kind_of(packet)
                if kind not in FROM_CLIENTS:
                    raise TurnedAway(
                        Reason.PROTOCOL_ERROR, "packets", f"{login.user} sends a packet of kind {kind}"
                    )
                if (late_s := self._count(packet, kind, login)) > LATE_S:
                    await _drained(writer)
                    await self._slow(late_s, login)
                if kind == SUBSCRIBE:
                    num_subscriptions += num_filters(packet, login.version)
                    self._check_subscriptions(num_subscriptions, login)
                writer.write(packet)
            await _drained(writer)
            block = await client.read()
            if not block:
                return

    async def _slow(self, late_s: float, login: ConnectRequest) -> None:
        self._refusals.count(
            "messages",
            f"{login.user} sends more than {self._limits.messages_per_s:g} messages or "
            f"{self._limits.message_bytes_per_s:g} bytes a second, or {self._limits.addressee_bytes_per_s:g} of them to one "
            "party, and is slowed (messages_per_s, message_bytes_per_s, addressee_bytes_per_s, broadcasts_per_s)",
        )
        await asyncio.sleep(late_s)

    def _count(self, packet: bytes, kind: int, login: ConnectRequest) -> float:
        """Count a packet; return how many seconds it came too early.

        Raises:
            TurnedAway: its sender may not send it.
        """
        whose = login.user
        late_s = max(
            self._messages.draw(whose, 1.0 if kind == PUBLISH else RECEIPT_WEIGHT),
            self._bytes.draw(whose, len(packet)),
        )
        if kind == SUBSCRIBE:
            return max(late_s, self._broadcasts.draw(whose, num_filters(packet, login.version)))
        if kind == PUBLISH:
            topic, is_retained = topic_of(packet)
            if not topic:
                raise TurnedAway(Reason.PROTOCOL_ERROR, "packets", f"{whose} uses an alias for a topic")
            if is_retained:
                _check_retained(topic, len(packet), whose)
            if topic.startswith(BROADCASTS):
                return max(late_s, self._broadcasts.draw(whose))
            return max(late_s, self._bytes_to.draw(f"{whose} {addressee_of(topic)}", len(packet)))
        return late_s

    def _check_subscriptions(self, count: int, login: ConnectRequest) -> None:
        if count > self._limits.session_subscriptions:
            raise TurnedAway(
                Reason.QUOTA,
                "subscriptions",
                f"{login.user} makes more than {self._limits.session_subscriptions} subscriptions in one session "
                "(session_subscriptions)",
            )


class StreamClient:
    """A client that came to the broker's own port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """Return the next bytes; none at the end."""
        return await self._reader.read(BLOCK_BYTES)

    async def write(self, data: bytes) -> None:
        """Send bytes; return when there is room for more."""
        self._writer.write(data)
        await _drained(self._writer)

    async def close(self) -> None:
        """End the connection, once or more often."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()


class _BrokerEnd:
    """The broker's side, as far as the first packet is read from it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self) -> bytes:
        return await self._reader.read(BLOCK_BYTES)


class _Source(Protocol):
    async def read(self) -> bytes: ...


async def _first_packet(source: _Source) -> tuple[bytes, bytes]:
    """Return the first packet and the bytes that came with it."""
    begin = bytearray()
    while True:
        size = size_of(begin)
        if size is not None and size > MAX_LOGIN_BYTES:
            raise Malformed(f"expected at most {MAX_LOGIN_BYTES} bytes")
        if size is not None and size <= len(begin):
            return bytes(begin[:size]), bytes(begin[size:])
        block = await source.read()
        if not block:
            raise EOFError
        begin += block


async def _drained(writer: asyncio.StreamWriter) -> None:
    if writer.transport.get_write_buffer_size() == 0:  # the system has taken it all, as it does nearly always
        return
    async with asyncio.timeout(SEND_S):
        await writer.drain()


async def _from_broker(reader: asyncio.StreamReader, client: Client) -> None:
    while block := await reader.read(BLOCK_BYTES):
        await client.write(block)


async def _until_shown_out(visitor: Visitor, login: ConnectRequest) -> None:
    await visitor.leave.wait()
    raise TurnedAway(Reason.NOT_AUTHORIZED, "revoked", visitor.why)


def _check_session(login: ConnectRequest) -> None:
    """Raise TurnedAway unless a party may have such a session."""
    whose = login.user
    if not login.client_id.startswith(f"{whose}{CLIENT_ID_SEPARATOR}"):
        # So that nobody takes over the session of another party, whose id leaked.
        raise TurnedAway(
            Reason.CLIENT_ID,
            "client id",
            f"expected a client id that begins with {whose}{CLIENT_ID_SEPARATOR}, found {login.client_id[:80]!r}",
        )
    if login.leaves_session:
        raise TurnedAway(
            Reason.ADMINISTRATIVE, "sessions", f"{whose} asks for a session that outlives its connection"
        )
    if not 0 < login.keep_alive_s <= MAX_KEEP_ALIVE_S:
        raise TurnedAway(
            Reason.ADMINISTRATIVE,
            "keep alive",
            f"expected a keep alive of 1 to {MAX_KEEP_ALIVE_S} s, found {login.keep_alive_s}",
        )
    if login.will_topic is None:
        return
    if not may_write(whose, login.will_topic):
        raise TurnedAway(
            Reason.NOT_AUTHORIZED, "last will", f"{whose} may not write to the topic of its last will"
        )
    if login.will_is_retained:
        _check_retained(login.will_topic, login.will_bytes, whose)


def _check_retained(topic: str, num_bytes: int, whose: str) -> None:
    if topic != presence_of(whose) or num_bytes > MAX_PRESENCE_BYTES:
        raise TurnedAway(
            Reason.RETAIN,
            "retained messages",
            f"{whose} wants the broker to keep a message; it keeps each party's presence, of at most "
            f"{MAX_PRESENCE_BYTES} bytes, and nothing else",
        )
