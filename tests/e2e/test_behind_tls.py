"""A hub with TLS and an authority of its own, joined by invitation, every command as the README has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data import make_points
from tests.e2e.test_hub import certificate
from tests.processes import Processes


@pytest.mark.timeout(240)
def test_parties_join_a_hub_behind_its_own_authority_by_invitation(
    processes: Processes, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    options = ("--invited-only", "--port", "0", "--mqtt-port", "0", "--home", "hub")
    hub = processes.start(
        "fedjob", "hub", "start", *options, "--tls-cert", cert, "--tls-key", key, cwd=tmp_path
    )
    url = hub.wait_for(r"hub ready: (https://127\.0\.0\.1:\d+)")[1]
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
