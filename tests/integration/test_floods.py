"""What a flood of unsolicited messages costs a node: the messages that are too many, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedjob.common.types import Address
from fedjob.messaging.frame_checks import RATES
from fedjob.messaging.messages import Ping, Pong, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.storage.outbox import MAX_FORGETTABLE, Forgettable
from tests.floods import MB, flood, kinds_of_frames
from tests.integration.nodes import Federation, Researcher
from tests.memory import held_bytes

NUM_MESSAGES = 5_000


@pytest.fixture
def federation(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Federation(tmp_path)
    yield made
    made.close()


def test_a_node_lives_through_a_flood_and_keeps_little_of_it(federation: Federation) -> None:
    node = federation.node("node1", NodeConfig(approval="on")).start()
    mallory = Researcher(federation, "mallory")
    to = str(mallory.endpoint.address)
    mallory.endpoint.stop()  # nobody receives the answers, so that none is receipted
    sender = federation.transport(Address("mallory", "s2"))
    sender.open(lambda who, data: None, timeout_s=5)
    frames = kinds_of_frames(federation.name, mallory.identity, "node1", to)
    flood(sender.send, "node1", frames, 200)
    before, file_before = held_bytes(), node.home.database.stat().st_size
    flood(sender.send, "node1", frames, NUM_MESSAGES)
    began = time.monotonic()
    question = federation.ann.send("node1", Ping())
    assert federation.ann.answer_to(question, Pong, 60).workers
    assert time.monotonic() - began < 30
    assert held_bytes() - before < 50 * MB
    assert node.home.database.stat().st_size - file_before < 20 * MB
    with node.database() as database:
        waiting = database.row("SELECT count(*) AS n, sum(length(payload)) AS size FROM outbox")
    assert waiting is not None
    assert waiting["n"] <= MAX_FORGETTABLE + 100
    assert node.error is None


def test_another_researcher_is_served_while_one_floods(federation: Federation) -> None:
    federation.node("node1", NodeConfig(approval="on")).start()
    mallory = Researcher(federation, "mallory")
    frames = kinds_of_frames(federation.name, mallory.identity, "node1", str(mallory.endpoint.address))
    sender = federation.transport(Address("mallory", "s2"))
    sender.open(lambda who, data: None, timeout_s=5)
    flood(sender.send, "node1", {"tasks": frames["tasks on no dataset"]}, 1500)
    refused = federation.ann.result("node1", Task(dataset="nothing", protocol="fedavg"))
    assert not refused.ok
    mallory.endpoint.stop()


def test_every_kind_of_message_has_a_rate() -> None:
    assert {"ping", "search", "offer", "task", "end", "receipt", "reply", "event"} == set(RATES)


def test_the_oldest_refusals_are_forgotten_first() -> None:
    kept = Forgettable(most=3)
    assert kept.add(["a", "b", "c"]) == []
    kept.drop(["b"])
    assert kept.add(["d"]) == []
    assert kept.add(["e", "f"]) == ["a", "c"]
    assert kept.add(["1", "2", "3", "4"]) == ["d", "e", "f", "1"]
