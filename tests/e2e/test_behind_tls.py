"""A hub with TLS and an authority of its own, joined by invitation, every command as the README has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data import make_points
from tests.e2e.test_hub import certificate
from tests.processes import Processes


@pytest.mark.timeout(240)
def test_parties_join_a_hub_behind_its_own_authority_by_invitation(
    processes: Processes, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    hub = ("--invited-only", "--port", str(port), "--mqtt-port", "0", "--home", "hub")
    processes.start(
        "fedjob", "hub", "start", *hub, "--tls-cert", cert, "--tls-key", key, ready="hub ready", cwd=tmp_path
    )
    for party, role in (("cleveland", "node"), ("alice", "researcher")):
        invite = ("hub", "invite", party, "--role", role, "--url", url, "--home", "hub")
        processes.run("fedjob", *invite, cwd=tmp_path)
    join = ("--id", "cleveland", "--invite", "cleveland.invitation", "--home", "node")
    refused = processes.run("fedjob", "node", "init", *join, cwd=tmp_path, expect=None)
    assert refused.returncode != 0
    assert "--tls-ca" in refused.stderr
    processes.run("fedjob", "node", "init", *join, "--tls-ca", cert, cwd=tmp_path)
    points = make_points(tmp_path / "points.npz", 30, 1)
    processes.run("fedjob", "node", "data", "add", "points", points, "--home", "node", cwd=tmp_path)
    processes.start("fedjob", "node", "start", "--home", "node", ready="node ready", cwd=tmp_path)
    join = ("--id", "alice", "--invite", "alice.invitation", "--home", "alice")
    processes.run("fedjob", "init", *join, "--tls-ca", cert, cwd=tmp_path)
    checks = processes.run("fedjob", "doctor", "--home", "alice", cwd=tmp_path).stdout
    assert "1 of 1 answer: cleveland" in checks
    assert "mqtts://127.0.0.1" in checks
