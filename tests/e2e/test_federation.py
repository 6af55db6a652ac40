"""A federation of three hospitals: keys, hub, invitations, joining, signature, jobs, revocation; as its people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedjob import connect
from fedjob.common.errors import NotPermitted
from tests.data import make_points
from tests.processes import Processes, wait_until

HOSPITALS = ("clinic-a", "clinic-b", "clinic-c")


@pytest.mark.timeout(300)
def test_three_hospitals_become_a_federation_and_one_is_revoked(processes: Processes, tmp_path: Path) -> None:
    offline, homes = tmp_path / "offline", {name: tmp_path / name for name in HOSPITALS}
    offline.mkdir()
    (words := tmp_path / "passphrase").write_text("four words of a poem\n")
    fedjob: Callable[..., str] = lambda *words, **more: _run(processes, *words, **more)  # noqa: E731
    made = fedjob(
        *(
            "federation",
            "create",
            "heart",
            "--folder",
            offline,
            "--contact",
            "Dr. Kim",
            "--passphrase-file",
            words,
        )
    )
    key, public = offline / "heart.key", offline / "heart.federation"
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    fingerprint = made.rpartition(": ")[2].strip()
    options = ("--port", "0", "--mqtt-port", "0", "--federation", public, "--invited-only")
    hub = processes.start("fedjob", "hub", "start", "--home", tmp_path / "hub", *options, name="hub")
    url = hub.wait_for(r"hub ready: (\S+)")[1]
    for name in (*HOSPITALS, "ann"):
        role = "researcher" if name == "ann" else "node"
        out = tmp_path / f"{name}.invitation"
        assert fingerprint in fedjob(
            "hub", "invite", name, "--role", role, "--home", tmp_path / "hub", "--out", out
        )
    nodes = {}
    for name, home in homes.items():
        start = ("fedjob", "node", "join", tmp_path / f"{name}.invitation", "--home", home)
        nodes[name] = processes.start(*start, name=name)
        nodes[name].wait_for(
            rf"{name} is enrolled and waits for the federation's signature: ask Dr. Kim to run"
        )
        fedjob(
            "node",
            "data",
            "add",
            "points",
            make_points(tmp_path / f"{name}.npz", 30, 1),
            "--tags",
            "points",
            "--home",
            home,
        )
    assert "waits for the federation's signature" in fedjob("node", "status", "--home", homes["clinic-a"])
    fedjob("init", "--id", "ann", "--invite", tmp_path / "ann.invitation", "--home", tmp_path / "ann")
    waits = pytest.raises(NotPermitted, match="ann is enrolled and waits for the federation's signature")
    with connect(home=tmp_path / "ann", timeout_s=30) as session, waits:
        session.nodes()
    signing = ("--key", key, "--hub", url, "--passphrase-file", words, "--yes")
    signed = fedjob("federation", "sign", *signing)
    assert all(f"new      node {name}, key " in signed for name in HOSPITALS)
    assert "roster 1 is at the hub" in signed
    for node in nodes.values():
        node.wait_for("node ready")
    assert f"pinned: roster 1 of heart, key {fingerprint}" in fedjob(
        "node", "status", "--home", homes["clinic-a"]
    )
    status = json.loads(fedjob("hub", "status", "--home", tmp_path / "hub", "--json"))
    assert (status["waiting"], status["roster"]) == ("nobody", "number 1, 4 parties")
    with connect(home=tmp_path / "ann", timeout_s=30) as session:
        assert "pinned: roster 1 of heart" in repr(session)
        online = lambda: {node.id for node in session.nodes() if node.online}  # noqa: E731
        wait_until(lambda: online() == set(HOSPITALS), timeout_s=60, what="the nodes to answer")
        assert not (tmp_path / "ann" / "known_nodes").exists()
        revoked = fedjob("federation", "revoke", "clinic-b", *signing)
        assert "revoked  node clinic-b" in revoked
        wait_until(
            lambda: session.roster.key_of("clinic-b") is None, timeout_s=100, what="a revocation everywhere"
        )
        assert {node.id for node in session.nodes()} == {"clinic-a", "clinic-c"}
    assert "clinic-b" in fedjob("hub", "party", "list", "--home", tmp_path / "hub")
    assert "is signed as it should be" in fedjob(
        "federation", "roster", "verify", "--home", homes["clinic-a"]
    )
    shown = fedjob("federation", "roster", "show", "--home", homes["clinic-a"])
    assert fingerprint in shown


def _run(processes: Processes, *words: object, expect: int = 0) -> str:
    done = processes.run("fedjob", *words, expect=expect)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
