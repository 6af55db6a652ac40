"""The hub's own port carries MQTT for those whom the broker lets in; strangers keep nobody out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from starlette.websockets import WebSocket

from fedjob.hub.broker.port import BrokerPort
from fedjob.hub.server.broker_relay import BrokerRelay, lets_in

LET_IN, REFUSED = b"\x20\x03\x00\x00\x00", b"\x20\x03\x00\x87\x00"


@dataclass
class Broker:
    """A broker at the other ends of socket pairs: each client is told the next of `answers` at once."""

    answers: list[bytes]
    ends: list[socket.socket] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        theirs.sendall(self.answers[len(self.ends) - 1])
        return await asyncio.open_connection(sock=ours)


@dataclass
class Client:
    """A client as the server sees it: its connection, and what was sent to it."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    told: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    @property
    def is_gone(self) -> bool:
        return any(message["type"] == "websocket.close" for message in self.sent)

    @property
    def answered(self) -> bytes:
        return b"".join(message.get("bytes", b"") for message in self.sent)

    def socket(self) -> WebSocket:
        async def send(message: Any) -> None:
            self.sent.append(dict(message))

        self.told.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "subprotocols": ["mqtt"], "headers": [], "path": "/mqtt"}
        return WebSocket(scope, self.told.get, send)


@dataclass
class Relay:
    """A relay with a stand-in broker, and the clients that came."""

    broker: Broker
    num_sessions: int
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._relay = BrokerRelay(cast(BrokerPort, self.broker), self.num_sessions)

    def come(self) -> Client:
        client = Client()
        self.tasks.append(asyncio.create_task(self._relay.carry(client.socket())))
        return client


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def run(relay: Callable[[], Relay], scenario: Callable[[Relay], Awaitable[None]]) -> None:
    async def bounded() -> None:
        made = relay()
        async with asyncio.timeout(30):
            await scenario(made)
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)
        for end in made.broker.ends:
            end.close()

    asyncio.run(bounded())


def test_strangers_that_hold_all_places_make_room_the_longest_there_first() -> None:
    async def scenario(relay: Relay) -> None:
        first, second = relay.come(), relay.come()
        await eventually(lambda: len(relay.broker.ends) == 2)
        for stranger in (first, second):
            stranger.told.put_nowait({"type": "websocket.receive", "bytes": b"\x10"})
        node = relay.come()
        await eventually(lambda: first.is_gone and node.answered == LET_IN)
        assert not second.is_gone
        another = relay.come()
        await eventually(lambda: second.is_gone and another.answered == LET_IN)
        late = relay.come()
        await eventually(lambda: late.is_gone)
        assert not node.is_gone, "who was let in stays"
        assert not another.is_gone
        node.told.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await eventually(lambda: relay.tasks[2].done())
        again = relay.come()
        await eventually(lambda: again.answered == LET_IN)

    run(lambda: Relay(Broker([b"", b"", LET_IN, LET_IN, LET_IN]), 2), scenario)


def test_text_and_an_early_end_cost_their_sender_the_connection_and_give_the_place_back() -> None:
    odd = (
        {"type": "websocket.receive", "text": "hello"},
        {"type": "websocket.receive", "bytes": None, "text": "hello"},
        {"type": "websocket.disconnect", "code": 1006},
    )

    async def scenario(relay: Relay) -> None:
        for message in odd:
            relay.come().told.put_nowait(message)
            await eventually(lambda: relay.tasks[-1].done())
            assert relay.tasks[-1].exception() is None
        node = relay.come()
        await eventually(lambda: node.answered == LET_IN)

    run(lambda: Relay(Broker([b"", b"", b"", LET_IN]), 1), scenario)


@pytest.mark.parametrize(
    ("answer", "is_let_in"),
    [
        (LET_IN, True),
        (LET_IN[:4], True),
        (LET_IN[:3], False),
        (LET_IN[:1], False),
        (b"", False),
        (REFUSED, False),
        (b"\x20\x80\x01\x00\x00\x7d", True),
        (b"\x20\x80\x01\x00\x86\x7d", False),
        (b"\x20\x80\x80\x80\x80\x00\x00\x00", False),
        (b"\x30\x03\x00\x00\x00", False),
        (b"\xf0\x02\x00\x00", False),
    ],
)
def test_a_client_is_known_once_the_broker_has_let_it_in(answer: bytes, is_let_in: bool) -> None:
    assert lets_in(answer) == is_let_in
