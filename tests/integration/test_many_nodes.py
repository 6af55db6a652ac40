"""What a federation of many nodes needs: questions that are not repeated to all, and a broker that follows enrolments."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.hub.broker.child import Accounts, BrokerChild
from fedjob.hub.broker.local_socket import NAME, LocalSocket
from fedjob.hub.broker.probe import lets_in
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.storage.database import HubDatabase
from fedjob.hub.storage.parties import Parties
from fedjob.identity.membership import broker_password
from fedjob.messaging.messages import Ping
from tests.hubs import keys_of
from tests.integration.scripted import Field
from tests.parts import program

NUM_PARTIES = 60


@pytest.fixture
def field() -> Iterator[Field]:
    field = Field()
    yield field
    field.close()


def test_a_question_is_repeated_only_to_the_nodes_that_owe_an_answer(field: Field, tmp_path: Path) -> None:
    nodes = [field.node(f"n{k}") for k in range(8)]
    nodes[0].silent = True
    session = field.session(tmp_path / "home")
    listed = session.nodes(timeout_s=2.5)
    assert [node.id for node in listed if not node.online] == ["n0"]
    assert len(nodes[0].heard_of(Ping)) > 1
    assert [len(node.heard_of(Ping)) for node in nodes[1:]] == [1] * 7


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_broker_follows_parties_that_enrol_at_once_and_those_that_are_revoked(
    kind: str, tmp_path: Path
) -> None:
    if kind == "mosquitto":
        program("mosquitto")
    asyncio.run(_enrol_and_revoke(kind, tmp_path))


async def _enrol_and_revoke(kind: str, folder: Path) -> None:
    ledger = HubDatabase(folder / "hub.sqlite")
    parties = Parties(ledger, HubLimits())
    (folder / "broker").mkdir()
    child = BrokerChild(kind, folder / "broker", Accounts(folder / "broker", parties), HubLimits())
    await child.start()
    try:
        tokens = {f"p{k}": secrets.token_hex(32) for k in range(NUM_PARTIES)}

        async def join(party: str) -> bool:
            await asyncio.to_thread(
                parties.enrol,
                party,
                "node",
                keys_of(party),
                tokens[party],
                code=None,
                invited_only=False,
            )
            await child.admit(party, tokens[party])
            return await lets_in(child.socket, party, broker_password(tokens[party]))

        assert all(await asyncio.gather(*map(join, tokens)))
        for party in list(tokens)[:5]:
            parties.revoke(party)
            await child.sync()
            assert not await lets_in(child.socket, party, broker_password(tokens[party]))
    finally:
        await child.stop()
        ledger.close()


def test_a_burst_of_connections_waits_for_its_turn_at_the_brokers_socket(tmp_path: Path) -> None:
    asyncio.run(_connect_many(tmp_path))


async def _connect_many(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / NAME))
        listener.listen(2)
        listener.setblocking(False)

        async def greet() -> None:
            for number in range(NUM_PARTIES):
                end, _ = await asyncio.get_running_loop().sock_accept(listener)
                with end:
                    end.sendall(bytes([number]))

        async def first_byte() -> int:
            reader, writer = await LocalSocket(folder).connect()
            try:
                return (await reader.readexactly(1))[0]
            finally:
                writer.close()

        _, *heard = await asyncio.gather(greet(), *[first_byte() for _ in range(NUM_PARTIES)])
    assert sorted(heard) == list(range(NUM_PARTIES))
