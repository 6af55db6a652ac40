"""The commands of a researcher and of a hub's owner, on a federation that has worked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job
from tests.data import TRAINING
from tests.e2e.conftest import NODES, one_broker
from tests.e2e.federation import Federation
from tests.e2e.plans import Points
from tests.processes import wait_until

pytestmark = [pytest.mark.timeout(400), one_broker]


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {}


@pytest.fixture
def done(federation: Federation, jobs: dict[str, Job]) -> Job:
    """Return a completed job that kept its replies; it is run once."""
    if "kept" not in jobs:
        jobs["kept"] = Job(
            FedAvg(),
            training_plan=Points,
            data={"tags": ["points"]},
            training_args=TRAINING,
            rounds=3,
            name="kept",
            keep=True,
            session=federation.session(),
        )
        jobs["kept"].run(progress=False)
    return jobs["kept"]


@pytest.fixture
def said(federation: Federation) -> Callable[..., Any]:
    """Return a function that runs a command with --json and returns what it says."""
    federation.session()
    return lambda *words, **how: json.loads(federation.cli(*words, "--json", **how).stdout)


def test_nodes_and_data_are_listed(federation: Federation, said: Callable[..., Any]) -> None:
    nodes = said("nodes")
    assert [(node["id"], node["online"]) for node in nodes] == [(name, True) for name in NODES]
    data = said("data", "--tags", "points")
    assert [(found["node"], found["name"]) for found in data] == [(n, f"points-of-{n}") for n in NODES]
    assert [found["rows"] for found in data] == [60, 80, 100, 120]
    assert said("data", "--tags", "points,none-such") == []
    lines = federation.cli("nodes").stdout.splitlines()
    assert lines[0].split()[:2] == ["id", "online"]
    assert lines[1].split()[:2] == ["clinic-1", "yes"]


def test_jobs_are_listed_and_shown(federation: Federation, done: Job, said: Callable[..., Any]) -> None:
    (listed,) = [job for job in said("job", "list") if job["id"] == done.id]
    assert (listed["name"], listed["protocol"], listed["state"]) == ("kept", "fedavg", "completed")
    shown = said("job", "show", done.id[:12])
    assert shown["spec"]["plan_hash"] == done.spec.plan_hash
    assert shown["record"]["state"] == "completed"
    assert [Path(path).name for path in shown["breakpoints"]] == ["round_0001", "round_0002", "round_0003"]
    text = federation.cli("job", "show", done.id).stdout
    assert "completed" in text
    assert "clinic-1, clinic-2, clinic-3, clinic-4" in text


def test_every_round_of_a_kept_job_is_verified_and_a_changed_reply_is_noticed(
    federation: Federation, done: Job, said: Callable[..., Any]
) -> None:
    checks = said("verify", done.id)
    assert [(check["round"], check["verdict"]) for check in checks] == [
        (1, "equal"),
        (2, "equal"),
        (3, "equal"),
    ]
    reply = done.folder / "spool" / "round_0002" / "train_clinic-3.safetensors"
    before = reply.read_bytes()
    reply.unlink()  # it may be linked elsewhere
    reply.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    checks = said("verify", done.id, expect=1)
    assert [check["verdict"] for check in checks] == ["equal", "different", "equal"]
    assert "clinic-3" in checks[1]["detail"]
    reply.write_bytes(before)
    assert "3 of 3" in federation.cli("verify", done.id).stdout


def test_the_doctor_finds_everything_well(federation: Federation, said: Callable[..., Any]) -> None:
    findings = said("doctor")
    assert all(finding["ok"] for finding in findings), findings
    assert {"versions", "membership", "hub", "token", "repository", "broker", "nodes"} <= {
        finding["check"] for finding in findings
    }


def test_the_hubs_owner_sees_parties_jobs_and_objects(federation: Federation, done: Job) -> None:
    home = federation.folder / "hub"
    status = json.loads(federation.cli("hub", "status", "--json", home=home).stdout)
    assert status["running"]
    assert status["url"] == federation.url
    assert status["broker"].startswith(federation.kind)
    assert status["parties"] >= 5
    assert status["jobs"] >= 1  # the kept job's objects are still held
    parties = json.loads(federation.cli("hub", "party", "list", "--json", home=home).stdout)
    assert {party["party"]: party["role"] for party in parties}["clinic-1"] == "node"
    swept = json.loads(federation.cli("hub", "gc", "--json", home=home).stdout)
    assert swept["num_jobs"] == 0  # nothing has expired


def test_a_node_that_is_started_in_the_background_is_stopped(federation: Federation, tmp_path: Path) -> None:
    (node,) = federation.add_nodes("late-comer")
    del federation.nodes["late-comer"]
    try:
        assert "node ready: late-comer" in node.cli("start", "--detach").stdout
        wait_until(
            lambda: node.status()["connected"], timeout_s=30, what="the node to say that it is connected"
        )
        assert node.status()["running"]
        wait_until(
            lambda: "late-comer" in {info.id for info in federation.session().nodes() if info.online},
            timeout_s=30,
            what="the node to answer",
        )
    finally:
        assert "node stopped" in node.cli("stop").stdout
        federation.cli("hub", "party", "revoke", "late-comer", home=federation.folder / "hub")
    assert not node.status()["running"]
    wait_until(  # a session fetches the list of parties at most once a second
        lambda: "late-comer" not in {info.id for info in federation.session().nodes()},
        timeout_s=30,
        what="the session to know that the node was revoked",
    )
