"""From an invitation to a node that runs, in one command."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_one_port import OnePortHub, one_port_hub
from tests.parts import program
from tests.processes import Processes

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnePortHub]:
    program("mosquitto")
    yield from one_port_hub(tmp_path_factory.mktemp("hub"), "mosquitto")


def invitation(hub: OnePortHub, processes: Processes, folder: Path, party: str, role: str = "node") -> Path:
    path = folder / f"{party}.invitation"
    processes.run(
        "fedjob", "hub", "invite", party, "--role", role, "--home", hub.ca.parent / "home", "--out", path
    )
    return path


def test_one_command_makes_checks_and_starts_a_node(
    hub: OnePortHub, processes: Processes, tmp_path: Path
) -> None:
    invited, home = invitation(hub, processes, tmp_path, "clinic-a"), tmp_path / "clinic-a"
    without = processes.run("fedjob", "node", "join", invited, "--home", home, "--detach", expect=1)
    assert "is not trusted" in without.stderr
    assert "--tls-ca FILE" in without.stderr
    assert not home.exists()  # nothing was begun, and the invitation is as good as before
    joined = processes.run(
        "fedjob", "node", "join", invited, "--home", home, "--tls-ca", hub.ca, "--detach", timeout_s=120
    ).stdout
    try:
        assert "node ready: clinic-a" in joined
        assert f"fedjob node data add NAME PATH --tags TAG --home {home}" in joined
        assert "BAD" not in joined
        status = json.loads(processes.run("fedjob", "node", "status", "--home", home, "--json").stdout)
        assert status["running"] is True
    finally:
        processes.run("fedjob", "node", "stop", "--home", home)


def test_an_invitation_of_a_researcher_is_told_where_it_belongs(
    hub: OnePortHub, processes: Processes, tmp_path: Path
) -> None:
    invited = invitation(hub, processes, tmp_path, "ann", "researcher")
    said = processes.run("fedjob", "node", "join", invited, "--home", tmp_path / "home", expect=1).stderr
    assert "fedjob init --id ann --invite" in said


def test_on_a_terminal_it_asks_for_the_certificate_and_writes_the_users_service(
    hub: OnePortHub, processes: Processes, tmp_path: Path
) -> None:
    invited, home = invitation(hub, processes, tmp_path, "clinic-b"), tmp_path / "clinic-b"
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "fedjob", "node", "join", str(invited), "--home", str(home), "--systemd"]
    asked = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "HOME": str(tmp_path)}
    )
    os.close(theirs)
    said, answered, deadline = "", False, time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            said += block.decode()
            if not answered and "Certificate of the hub's authority" in said:
                os.write(ours, f"{hub.ca}\n".encode())
                answered = True
        assert asked.wait(30) == 0, said
    finally:
        asked.kill()
        asked.wait(10)
        os.close(ours)
    assert answered
    unit = (tmp_path / ".config" / "systemd" / "user" / "fedjob-node.service").read_text()
    assert f"node start --home {home}" in unit
    assert "systemctl --user enable --now fedjob-node.service" in said
