"""One party or stranger in a bad mood at the broker: an honest party is served meanwhile (`benchmarks/bad_mood.py`, smaller)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from fedjob.hub.config.limits import HubLimits
from tests.bad_mood import Honest, flood, idle, log_in_often, messenger
from tests.bare_mqtt import packet, text
from tests.gates import GateThread
from tests.parts import program

MB = 1 << 20


@pytest.fixture(scope="module", params=["mosquitto", "amqtt"])
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateThread]:
    if request.param == "mosquitto":
        program("mosquitto")
    with GateThread(request.param, tmp_path_factory.mktemp(request.param), HubLimits()) as made:
        yield made


def stays_idle(gate: GateThread) -> None:
    held = idle(gate.client, 400)
    assert len(held) == 400
    time.sleep(0.5)
    for client in held:
        client.close()


def floods(gate: GateThread) -> None:
    with gate.session("mallory") as mallory:
        assert flood(mallory, "mallory", "honest", 8000, within_s=6) > 0
        time.sleep(1)


def logs_in(gate: GateThread) -> None:
    password = gate.join("mallory")
    done: list[tuple[int, int]] = []

    def some() -> None:
        done.append(log_in_often(gate.client, "mallory", password, 40, within_s=4))

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(let_in for _, let_in in done) < sum(sent for sent, _ in done)


def never_acknowledges(gate: GateThread) -> None:
    """Subscribe with QoS 1, be sent a lot, and acknowledge nothing."""
    with gate.session("mallory") as mallory, gate.session("mallory") as reader:
        topic = b"fedjob/1/to/mallory/#"
        reader.send(packet(0x82, b"\x00\x01" + text(topic) + b"\x01"))
        flood(mallory, "mallory", "mallory", 4000, within_s=5)
        time.sleep(1)


@pytest.mark.parametrize("mood", [stays_idle, floods, logs_in, never_acknowledges])
def test_an_honest_party_waits_no_longer_than_two_seconds(
    gate: GateThread, mood: Callable[[GateThread], None]
) -> None:
    before = psutil.Process(gate.broker_pid).memory_info().rss
    with gate.session("honest") as client, Honest(messenger(client, "honest", "main")) as honest:
        mood(gate)
    median_s, most_s = honest.summary()
    assert most_s < 2, f"median {median_s}"
    assert psutil.Process(gate.broker_pid).memory_info().rss - before < 50 * MB
