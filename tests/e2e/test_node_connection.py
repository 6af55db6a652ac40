"""A node and its place in the federation: a hub that is away, a clock that is wrong, and a copy of its home."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Processes, Running, wait_until

pytestmark = pytest.mark.timeout(300)

SHIFT = """
import os, time
_real = time.time
if os.environ.get("SHIFT_S"):
    time.time = lambda: _real() + float(os.environ["SHIFT_S"])
"""


class Ward:
    """A hub on fixed ports, and homes of nodes and researchers."""

    def __init__(self, processes: Processes, folder: Path, free_port: Callable[[], int]) -> None:
        self.processes = processes
        self.folder = folder
        self.ports = free_port(), free_port()

    def hub(self) -> Running:
        port, mqtt_port = map(str, self.ports)
        return self.processes.start(
            "fedjob", "hub", "start", "--home", self.folder / "hub", "--port", port, "--mqtt-port", mqtt_port,
            ready="hub ready", name="hub",
        )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def node(self, home: str, ready: str | None = "node ready", **env: str) -> Running:
        command = ("fedjob", "node", "start", "--home", self.folder / home)
        return self.processes.start(*command, ready=ready, name=home, env=env)

    def status(self, home: str) -> dict[str, Any]:
        found = self.processes.run("fedjob", "node", "status", "--home", self.folder / home, "--json")
        return dict(json.loads(found.stdout))

    def log(self, home: str) -> str:
        return (self.folder / home / "logs" / "node.log").read_text(encoding="utf-8")

    def doctor(self, home: str, expect: int | None = None) -> str:
        return self.processes.run("fedjob", "doctor", "--home", self.folder / home, expect=expect).stdout


@pytest.fixture
def ward(processes: Processes, tmp_path: Path, free_port: Callable[[], int]) -> Ward:
    made = Ward(processes, tmp_path, free_port)
    (tmp_path / "shift").mkdir()
    (tmp_path / "shift" / "sitecustomize.py").write_text(SHIFT)
    return made


def test_a_node_waits_for_a_hub_that_is_away_and_says_why_it_is_not_connected(
    ward: Ward, processes: Processes
) -> None:
    hub = ward.hub()
    processes.run(
        "fedjob", "node", "init", "--home", ward.folder / "st-mary", "--id", "st-mary", "--hub", ward.url
    )
    hub.stop()
    node = ward.node("st-mary", ready="the node waits for its hub, and asks again until it answers")
    assert node.alive
    hub = ward.hub()
    node.wait_for("node ready: st-mary", timeout_s=90)
    wait_until(lambda: ward.status("st-mary")["connected"], timeout_s=30, what="the node to be connected")
    hub.kill()
    wait_until(lambda: not ward.status("st-mary")["connected"], timeout_s=60, what="the node to notice")
    assert "broke" in ward.status("st-mary")["trouble"] or "answers" in ward.status("st-mary")["trouble"]
    lost = [line for line in ward.log("st-mary").splitlines() if "not connected: " in line]
    assert len(lost) == 1
    ward.hub()
    wait_until(lambda: ward.status("st-mary")["connected"], timeout_s=90, what="the node to be back")
    assert ward.status("st-mary")["trouble"] == ""


def test_the_status_of_a_node_is_never_that_of_the_daemon_before(ward: Ward, processes: Processes) -> None:
    hub = ward.hub()
    processes.run(
        "fedjob", "node", "init", "--home", ward.folder / "st-mary", "--id", "st-mary", "--hub", ward.url
    )
    node = ward.node("st-mary")
    ready = ward.status("st-mary")
    assert (ready["connected"], ready["trouble"]) == (True, ""), (
        "what is ready is connected in the same moment"
    )
    node.kill()
    hub.stop()
    again = ward.node("st-mary", ready="the node waits for its hub, and asks again until it answers")
    waiting = ward.status("st-mary")
    assert not waiting["connected"]
    assert "the node waits for its hub" in waiting["trouble"]
    processes.run(
        "fedjob", "node", "config", "set", "workers", "2", "--home", ward.folder / "st-mary", expect=0
    )
    ward.hub()
    again.wait_for("node ready: st-mary", timeout_s=90)
    ready = ward.status("st-mary")
    assert (ready["connected"], ready["workers"]) == (True, 2)


def test_a_copy_of_a_home_is_noticed_by_both_daemons_and_by_doctor(ward: Ward, processes: Processes) -> None:
    ward.hub()
    processes.run("fedjob", "node", "init", "--home", ward.folder / "va", "--id", "va", "--hub", ward.url)
    processes.run("fedjob", "init", "--home", ward.folder / "lab", "--id", "lab", "--hub", ward.url)
    shutil.copytree(ward.folder / "va", ward.folder / "copy")
    ward.node("va")
    assert ward.status("va")["twin"] is False
    copy = ward.node("copy")
    for home in ("va", "copy"):
        wait_until(lambda home=home: ward.status(home)["twin"], timeout_s=60, what=f"{home} to notice")  # type: ignore[misc]
        assert "another daemon runs under this node's name" in ward.log(home)
        shown = processes.run("fedjob", "node", "status", "--home", ward.folder / home).stdout
        assert "identity  another daemon runs under this node's name" in shown
    assert "two daemons run under its name" in ward.doctor("lab", expect=1)
    copy.stop()
    for _ in range(5):  # its farewell does not hide the one that is there
        (found,) = json.loads(
            processes.run("fedjob", "nodes", "--home", ward.folder / "lab", "--json").stdout
        )
        assert found["online"] is True


def test_a_wrong_clock_is_said_at_the_start_of_a_node_and_of_a_researcher(
    ward: Ward, processes: Processes
) -> None:
    ward.hub()
    processes.run("fedjob", "node", "init", "--home", ward.folder / "slow", "--id", "slow", "--hub", ward.url)
    processes.run("fedjob", "init", "--home", ward.folder / "lab", "--id", "lab", "--hub", ward.url)
    shifted = {"PYTHONPATH": str(ward.folder / "shift")}
    node = ward.node("slow", SHIFT_S="-900", **shifted)
    assert "this machine's clock is 900 s slow, compared with the hub's" in node.log()
    assert "900 s slow" in ward.log("slow")
    wait_until(lambda: "900 s slow" in ward.status("slow")["clock"], timeout_s=60, what="status to say so")
    (found,) = json.loads(processes.run("fedjob", "nodes", "--home", ward.folder / "lab", "--json").stdout)
    assert found["online"] is False
    assert "its messages are dated 900 s in the past" in found["note"]
    assert "its messages are dated 900 s in the past" in ward.doctor("lab", expect=1)
    late = processes.run(
        "fedjob", "data", "--home", ward.folder / "lab", env={"SHIFT_S": "7200", **shifted}, expect=None
    )
    assert "this machine's clock is 7200 s fast" in late.stderr
