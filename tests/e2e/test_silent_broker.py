"""A broker that takes connections and answers nobody, as RabbitMQ does while its disk is full: who waits for it says why."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.e2e.federation import Federation
from tests.processes import Processes, Running

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def broker(processes: Processes, mosquitto: Mosquitto) -> Iterator[Running]:
    """The process of `mosquitto`, which goes on at the end."""
    (process,) = (each for each in processes.started if each.name == "mosquitto")
    yield process
    process.send(signal.SIGCONT)


def test_a_node_and_the_doctors_name_a_broker_that_takes_connections_and_does_not_answer(
    broker: Running, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    with Federation(tmp_path / "federation", mosquitto.url) as federation:
        (node,) = federation.add_nodes("clinic")
        broker.send(signal.SIGSTOP)  # the system goes on taking connections for it
        process = federation.processes.start(
            "fedjob", "node", "start", "--home", node.home, name="clinic", fork=True
        )
        said = process.wait_for(r"^fedjob: the node waits for the broker: (.*)")[1]
        assert f"the broker at {mosquitto.url} did not answer in 10 s" in said
        assert "docs/rabbitmq.md" in said
        examined = federation.cli("hub", "doctor", home=federation.folder / "hub", expect=1).stdout
        assert "it takes connections and answers no login" in examined
        assert "rabbitmq-diagnostics alarms" in examined
        broker.send(signal.SIGCONT)
        process.wait_for("^node ready")
        federation.cli("hub", "doctor", home=federation.folder / "hub")
