"""Jobs under secure aggregation over real processes: the model of all, and nothing of a single node."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Job, JobFailed, NodeDP, Protect, RecordDP, SecAgg
from fedjob.messaging.messages import ROOM_BYTES
from fedjob.node.config.home import NodeHome
from fedjob.node.owner.departures import Departure, departures
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.storage.database import Database
from fedjob.parameters.files import FileParams
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.secagg.vector import Outline
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.replies import raw_replies
from tests.data import TRAINING
from tests.e2e.conftest import NODES, one_broker
from tests.e2e.federation import PATIENCE_S, ROOT, Federation, digest
from tests.processes import wait_until

pytestmark = [pytest.mark.timeout(400), one_broker]

PLAN = f"{ROOT}/tests/plans.py:Tiny"
PRIVATE = f"{ROOT}/tests/plans.py:Grouped"
NAMED = f"{ROOT}/tests/e2e/plans.py:Named"
SLOW = f"{ROOT}/tests/e2e/plans.py:Counting"


def job_of(federation: Federation, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": PLAN,
        "data": {"tags": ["points"]},
        "training_args": {**TRAINING, "test_ratio": 0.2, "test_on_global_updates": True},
        "rounds": 3,
        "seed": 5,
        "session": federation.session(),
    }
    return Job(FedAvg(), **{**arguments, **changes})


def weights(job: Job) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in job.result.params.values()])


def overall(job: Job) -> dict[tuple[int, str, str], float]:
    """Return what all nodes together measured."""
    return {(row.round, row.phase, row.metric): row.value for row in job.position.rows if row.node == "all"}


def replies(job: Job) -> list[dict[str, Any]]:
    """Return every answer that the researcher has kept, as it came."""
    kept = raw_replies(JobFolder(job.folder))
    return [body for by_step in kept.values() for by_node in by_step.values() for body in by_node.values()]


@pytest.mark.feature("TB-15", "FB-50")
def departures_of(federation: Federation, node: str) -> list[Departure]:
    """Return what left a node, as its audit log has it."""
    database = Database(NodeHome(federation.nodes[node].home).database)
    try:
        return departures(database)
    finally:
        database.close()


def test_the_model_is_that_of_plain_averaging_and_the_researcher_sees_no_nodes_numbers(
    federation: Federation,
) -> None:
    plain, secure = job_of(federation, keep=True), job_of(federation, keep=True, protect=Protect(secagg=True))
    plain.run(progress=False)
    secure.run(progress=False)
    assert (weights(plain) - weights(secure)).abs().max() < 1e-6
    assert secure.history["node"].unique().tolist() == ["all"]
    assert overall(secure) == pytest.approx(overall(plain), abs=1e-6)
    for body in replies(secure):
        assert body["params"] is None
        assert (body["weight"], body["num_examples"], body["metrics"], body["rows"]) == (0.0, 0, {}, {})
    # what came of the nodes is noise: no vector is anywhere near an update
    vectors = sorted(secure.folder.rglob("train_*.safetensors"))
    assert len(vectors) >= len(NODES)
    for path in vectors:
        numbers = FileParams(path)["tensors"].double()
        assert numbers.abs().mean() > 2**28
    # what left a node is in its audit log: an outline and a masked vector a round, or parameters in the plain job
    left = departures_of(federation, NODES[0])
    masked = [one for one in left if one.job == secure.id and one.is_masked]
    assert len(masked) >= len(secure.rounds)
    assert all(one.num_bytes == one.parameters_bytes > 0 for one in masked)
    assert not any(one.parameters_bytes for one in left if one.job == secure.id and not one.is_masked)
    assert any(one.parameters_bytes for one in left if one.job == plain.id)


def test_a_step_that_a_message_has_no_room_for_goes_through_the_hub(federation: Federation) -> None:
    args = {"lr": 0.05, "num_updates": 2, "batch_size": 20}
    about = {"training_plan": NAMED, "training_args": args, "rounds": 1}
    plain, secure = job_of(federation, **about), job_of(federation, **about, protect=SecAgg())
    plain.run(progress=False)
    secure.run(progress=False)
    names = sorted(secure.result.params)
    assert len(Outline(names=["weight"], relative=names).packed) > ROOM_BYTES
    assert (weights(plain) - weights(secure)).abs().max() < 1e-6


@pytest.mark.parametrize("secagg", [False, True])
def test_a_private_job_ends_with_noisy_parameters_and_tells_nothing_else(
    federation: Federation, secagg: bool
) -> None:
    dp = RecordDP(epsilon=8.0, delta=1e-3)
    job = job_of(
        federation,
        training_plan=PRIVATE,
        training_args={"lr": 0.2, "num_updates": 5, "batch_size": 16},
        rounds=2,
        keep=True,
        protect=Protect(secagg=True, dp=dp) if secagg else dp,
    )
    job.run(progress=False)
    assert torch.isfinite(weights(job)).all()
    assert job.history.empty
    assert 0 < max(job.result.epsilon.values()) <= 8.0
    for body in replies(job):
        assert (body["metrics"], body["optimizer_args"]) == ({}, {})
        assert set(body["timing"]) <= {"queued", "fetch"}  # before the work began
        assert body["num_examples"] in (0, 60, 80, 100, 120)
    told = {event.type for event in job.events() if event.node}
    assert not told & {"metrics", "note", "result", "log"}


def test_a_node_that_dies_while_it_computes_is_left_out_and_one_that_dies_before_it_has_masked_is_summed_around(
    federation: Federation,
) -> None:
    job = job_of(
        federation,
        training_plan=SLOW,
        training_args={**TRAINING, "tally": "", "pause_s": 1.0},
        rounds=2,
        protect=SecAgg(),
    )
    died = threading.Thread(target=_kill_when_it_computes, args=(federation, job))
    died.start()
    try:
        job.run(progress=False)
    finally:
        died.join()
        federation.start_nodes()
    last = job.rounds[2]
    assert sorted(last.replied) == [name for name in sorted(NODES) if name != "clinic-4"]
    assert torch.isfinite(weights(job)).all()


def _kill_when_it_computes(federation: Federation, job: Job) -> None:
    node = federation.nodes["clinic-4"]
    wait_until(
        lambda: any(task["job"] == job.id and task["round"] == 2 for task in node.tasks()),
        timeout_s=60,
        what="round 2 at clinic-4",
    )
    node.kill()


CUTS = [
    ["fedjob.researcher.storage.replies:Journal.append", "return", 3],  # while the nodes compute
    ["fedjob.researcher.rounds.secure_sum:_Attempt._step", "return", 1],  # shares are here
    ["fedjob.researcher.rounds.secure_sum:_Attempt._step", "call", 2],  # before anything is masked
    ["fedjob.researcher.rounds.secure_sum:_Attempt._step", "return", 2],  # vectors are here
    ["fedjob.researcher.rounds.secure_sum:_Attempt._step", "return", 4],  # all is revealed, nothing added up
    ["fedjob.researcher.rounds.gatherer:Gatherer._spool_total", "return", 1],
]


def test_a_researcher_that_is_killed_at_any_step_of_a_sum_ends_in_the_same_bytes(
    federation: Federation,
) -> None:
    about = {
        "plan": PLAN,
        "data": {"tags": ["points"]},
        "training_args": TRAINING,
        "rounds": len(CUTS) + 1,
        "seed": 9,
        "secagg": {},
    }
    golden = job_of(federation, training_args=TRAINING, rounds=len(CUTS) + 1, seed=9, protect=SecAgg())
    golden.run(progress=False)
    first = federation.research(
        {"job": about, "kill": ["fedjob.researcher.storage.breakpoints:save_breakpoint", "return", 1]}
    )
    folder = federation.folder / "lab" / "jobs" / first.wait_for(r"^job: (\S+)")[1]
    assert first.wait(timeout_s=PATIENCE_S) == -signal.SIGKILL
    for cut in CUTS:
        again = federation.research({"resume": str(_newest(folder)), "kill": cut})
        assert again.wait(timeout_s=PATIENCE_S) == -signal.SIGKILL, again.log()
    last = federation.research({"resume": str(_newest(folder))})
    assert last.wait(timeout_s=PATIENCE_S) == 0, last.log()
    assert last.wait_for(r"^done: (\S+)")[1] == digest(golden)


def _newest(folder: Path) -> Path:
    from fedjob.researcher.storage.breakpoints import newest_valid

    found = newest_valid(folder / "breakpoints")
    assert found is not None
    return found


def test_a_nodes_secrets_of_a_sum_are_gone_with_the_job(federation: Federation) -> None:
    job = job_of(federation, rounds=1, protect=SecAgg())
    job.run(progress=False)

    def left() -> int:
        number = 0
        for name in NODES:
            with closing(sqlite3.connect(federation.nodes[name].home / "node.sqlite")) as database:
                number += database.execute(
                    "SELECT count(*) FROM secure_sums WHERE job = ?", (job.id,)
                ).fetchone()[0]
        return number

    wait_until(lambda: left() == 0, timeout_s=30, what="the sums to be forgotten")


NOISY = NodeDP(epsilon=200.0, delta=1e-5, clip_norm=1.0)


@pytest.mark.feature("TB-15", "BF-24")
def test_under_noise_of_whole_nodes_each_is_charged_once_a_round_and_never_asked_twice(
    federation: Federation,
) -> None:
    job = job_of(
        federation,
        training_plan=f"{ROOT}/tests/e2e/plans.py:Points",
        training_args={"lr": 0.05, "num_updates": 4, "batch_size": 16},
        rounds=2,
        protect=Protect(secagg=True, dp=NOISY),
        keep=True,
    )
    job.run(progress=False)
    assert not job.position.rows
    assert sorted(job.result.epsilon) == sorted(NODES)
    for body in replies(job):
        assert (body["weight"], body["num_examples"], body["metrics"], body["rows"]) == (0.0, 0, {}, {})
        assert body["timing"] == {}
    for name in NODES:
        with closing(Database(federation.nodes[name].home / "node.sqlite")) as database:
            charges = list(PrivacyAccounts(database).charges(job=job.id))
        assert sorted(charge.round for charge in charges) == [1, 2]
        whole = [one for charge in charges for one in charge.mechanisms]
        assert 0.98 * NOISY.epsilon < cost_of(whole, NOISY.delta) <= NOISY.epsilon

    def bodies() -> set[tuple[int, bytes, int]]:
        found = set()
        for name in NODES:
            with closing(sqlite3.connect(federation.nodes[name].home / "node.sqlite")) as database:
                found |= set(
                    database.execute(
                        "SELECT attempt, body, revealed FROM secure_sums WHERE job = ?", (job.id,)
                    )
                )
        return found

    # the secrets are gone, and it is on record that these sums are over; their keys came with the contributions, or
    # there would have been a second attempt
    wait_until(lambda: bodies() == {(1, b"", 1)}, timeout_s=30, what="the sums to be forgotten")


@pytest.mark.feature("FB-91")
def test_an_owner_who_demands_secure_aggregation_gets_no_other_job(federation: Federation) -> None:
    node = federation.nodes["clinic-1"]
    node.cli("grants", "project", "default", "--protection", "secagg:4")
    try:
        with pytest.raises(JobFailed, match="clinic-1") as refused:
            job_of(federation, rounds=1, quorum=_everybody()).run(progress=False)
        assert "the owner demands secure aggregation" in str(refused.value)
        with pytest.raises(JobFailed, match=r"sums of 4 nodes or more.*SecAgg\(min_nodes=4\)"):
            job_of(federation, rounds=1, quorum=_everybody(), protect=SecAgg()).run(progress=False)
        allowed = job_of(federation, rounds=1, quorum=_everybody(), protect=SecAgg(min_nodes=4))
        allowed.run(progress=False)
        assert sorted(allowed.rounds[1].replied) == sorted(NODES)
    finally:
        node.cli("grants", "project", "default")


def _everybody() -> Any:
    from fedjob import Quorum

    return Quorum(required="all")


def test_a_job_file_may_ask_for_it(federation: Federation, tmp_path: Path) -> None:
    from fedjob.researcher.definition.job_file import read_definition

    found = read_definition(
        json.loads('{"operation": "fedavg", "protect": {"secagg": {"min_nodes": 4}}}'), tmp_path
    )
    assert found.arguments["protect"] == Protect(secagg=SecAgg(min_nodes=4))
