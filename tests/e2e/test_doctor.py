"""What `fedjob doctor` finds where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.processes import Processes

pytestmark = pytest.mark.timeout(300)


def test_a_broker_that_lets_anybody_speak_for_others_is_found(
    processes: Processes, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    hub = processes.start(
        "fedjob", "hub", "start", "--home", tmp_path / "hub", "--port", "0",
        "--broker", f"mqtt://{mosquitto.host}:{mosquitto.port}", name="hub",
    )  # fmt: skip
    url = hub.wait_for(r"hub ready: (\S+)")[1]
    home = tmp_path / "lab"
    processes.run("fedjob", "init", "--home", home, "--id", "lab", "--hub", url)
    findings = json.loads(processes.run("fedjob", "doctor", "--home", home, "--json", expect=1).stdout)
    by_check = {finding["check"]: finding for finding in findings}
    assert not by_check["broker rights"]["ok"]
    assert "envs/mosquitto" in by_check["broker rights"]["do"]
    assert by_check["clock"]["ok"]


def test_a_home_without_a_federation_is_told_what_to_do(processes: Processes, tmp_path: Path) -> None:
    said = processes.run("fedjob", "doctor", "--home", tmp_path / "new", expect=1)
    assert "fedjob init" in said.stdout


def test_a_hub_that_is_away_is_told(processes: Processes, tmp_path: Path) -> None:
    hub = processes.start(
        "fedjob", "hub", "start", "--home", tmp_path / "hub", "--port", "0", "--mqtt-port", "0", name="hub"
    )
    url = hub.wait_for(r"hub ready: (\S+)")[1]
    processes.run("fedjob", "init", "--home", tmp_path / "lab", "--id", "lab", "--hub", url)
    hub.stop()
    said = processes.run("fedjob", "doctor", "--home", tmp_path / "lab", expect=1)
    assert "fedjob hub start" in said.stdout
