"""Standing agreements and limits, from an owner's command line to a researcher's job."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedjob import FedAvg, Hook, Job, JobFailed, Quorum
from fedjob.researcher.dossier.signed_file import open_dossier
from fedjob.researcher.hooks.base import RoundReport
from fedjob.training_plans.source.extraction import extract
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, Node, background, preferred_kind
from tests.e2e.test_approval import failure, waits_for
from tests.plans import Tiny

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return one new node whose data have a mock."""
    with Federation(tmp_path_factory.mktemp("ward"), preferred_kind(), forked=True) as made:
        (node,) = made.add_nodes("ward", approval="on", contact="privacy@ward.example")
        mock = make_points(made.folder / "mock.npz", 12, 3)
        node.add("points", make_points(made.folder / "points.npz", 60, 1), "points", mock=mock)
        node.add("few", make_points(made.folder / "few.npz", 60, 2), "few", min_rows=50)
        made.start_nodes()
        yield made


def make_job(ward: Federation, **changes: object) -> Job:
    arguments = {"data": "points", "training_args": TRAINING, "rounds": 1, "seed": 1, **changes}
    return Job(FedAvg(), training_plan=Tiny, session=ward.session(), **arguments)  # type: ignore[arg-type]


def allow(ward: Federation, *words: str, node: str = "ward") -> str:
    return str(ward.nodes[node].json("grants", "allow", "--who", "lab", *words)["id"])


def revoke(ward: Federation, id_: str) -> None:
    ward.nodes["ward"].cli("grants", "revoke", id_)


@pytest.mark.feature("PS-20")
def test_a_mock_job_waits_until_the_owner_allows_mock_jobs(ward: Federation) -> None:
    job = make_job(ward, use="mock")
    with background(lambda: job.run(progress=False)) as run:
        waits_for(job, "ward")
        rule = allow(ward, "--use", "mock")
        run.result(timeout=PATIENCE_S)
    assert job.success
    revoke(ward, rule)


@pytest.mark.feature("TB-82")
def test_three_runs_are_allowed_and_the_fourth_waits(ward: Federation) -> None:
    plan = extract(Tiny).sha256
    rule = allow(ward, "--plan", plan, "--data", "points", "--runs", "3")
    for _ in range(3):
        make_job(ward).run(progress=False)
    fourth = make_job(ward)
    with background(lambda: fourth.run(progress=False)) as run:
        waits_for(fourth, "ward")
        (pending,) = ward.nodes["ward"].json("grants", "list", "--pending")
        ward.nodes["ward"].cli("grants", "approve", str(pending["id"]), "--runs", "1", "--note", "one more")
        run.result(timeout=PATIENCE_S)
    assert ward.nodes["ward"].json("grants", "show", rule)["uses"] == 3
    revoke(ward, rule)


@pytest.mark.feature("TB-83")
def test_a_job_over_too_few_rows_fails_by_that_reason(ward: Federation, tmp_path: Path) -> None:
    text = extract(Tiny).text.replace("dataset.arrays()", "(part[:3] for part in dataset.arrays())")
    file = tmp_path / "few.py"
    file.write_text(text)
    rule = allow(ward, "--plan", "*", "--data", "few")
    job = Job(
        FedAvg(),
        training_plan=f"{file}:Tiny",
        data="few",
        training_args={**TRAINING, "batch_size": 3},
        rounds=1,
        quorum=Quorum(min_nodes=1),
        session=ward.session(),
    )
    with pytest.raises(JobFailed) as raised:
        job.run(progress=False)
    said = str(raised.value) + str([event.body for event in job.events()])
    assert "min_rows" in said
    assert "ask privacy@ward.example" in said
    revoke(ward, rule)


@pytest.mark.feature("PS-28")
def test_a_grant_that_is_revoked_ends_the_job_that_runs_under_it(ward: Federation, tmp_path: Path) -> None:
    text = extract(Tiny).text.replace(
        "inputs, targets = batch\n", "inputs, targets = batch\n        __import__('time').sleep(0.5)\n", 1
    )
    file = tmp_path / "slow.py"
    file.write_text(text)
    rule = allow(ward, "--plan", f"{file}:Tiny", "--data", "points")
    job = Job(
        FedAvg(),
        training_plan=f"{file}:Tiny",
        data="points",
        training_args={**TRAINING, "num_updates": 100},
        rounds=2,
        session=ward.session(),
    )
    node = ward.nodes["ward"]
    with background(lambda: job.run(progress=False)) as run:
        while not [
            task for task in node.json("tasks") if task["job"] == job.id and task["state"] == "running"
        ]:
            assert not run.done(), run.exception()
        revoke(ward, rule)
        assert "revoked" in str(failure(run))
    ended = [task for task in node.json("tasks") if task["job"] == job.id]
    assert {task["reason"] for task in ended} == {"revoked"}
    audited = [r["body"] for r in node.json("audit", "--last", "500") if r["body"].get("job") == job.id]
    assert {body["grant"] for body in audited if "grant" in body} == {rule}


class CutsTheLog(Hook):
    """Leaves one record of a node's audit log after the first round, as whoever has the node's files can."""

    name = "cuts-the-log"

    def __init__(self, database: Path) -> None:
        self._database = database

    def round_done(self, report: RoundReport) -> str | None:
        if report.round == 1:
            with closing(sqlite3.connect(self._database)) as database, database:
                database.execute("DELETE FROM audit WHERE seq > 1")
                database.execute(
                    "UPDATE audit_head SET seq = 1, hash = (SELECT hash FROM audit WHERE seq = 1)"
                )
                database.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'audit'")
        return None


@pytest.fixture
def archive(ward: Federation) -> Node:
    """Return a further node, at which no other test's job runs: its audit log may be spoilt."""
    (node,) = ward.add_nodes("archive", approval="on")
    return node.add("records", make_points(ward.folder / "records.npz", 60, 4), "records").start()


def test_a_researcher_keeps_the_heads_of_audit_logs_and_sees_at_once_that_one_was_cut_back(
    ward: Federation, archive: Node, tmp_path: Path
) -> None:
    allow(ward, "--plan", "*", "--data", "records", node="archive")
    job = make_job(ward, data="records", rounds=2, keep=True)
    job.run(progress=False)
    heads = tmp_path / "heads.jsonl"
    shown = ward.cli("verify", job.id, "--heads", heads).stdout
    assert "1 of 1 audit logs without a contradiction: archive " in shown
    assert archive.json("audit", "verify", "--against", str(heads))["held"] >= 3
    dossier = open_dossier(job.dossier(tmp_path / "dossier.html").read_bytes())
    assert dossier.problems == ()
    assert dossier.key == dossier.content["job"]["researcher_key"]
    (permission,) = dossier.content["permissions"]
    assert (permission["node"], permission["decision"]) == ("archive", "granted")
    assert [each["node"] for each in dossier.content["audit_logs"]] == ["archive"]

    cut = make_job(
        ward, data="records", rounds=3, keep=True, hooks=[CutsTheLog(archive.home / "node.sqlite")]
    )
    cut.run(progress=False)
    notes = [event.body["text"] for event in cut.events() if event.type == "note" and event.node == "archive"]
    assert any("when it answered: it was cut back" in text for text in notes)
    assert "audit logs that contradict themselves: archive" in cut.result.about
    assert "it was cut back" in ward.cli("verify", cut.id, expect=1).stderr
    assert "CONTRADICTS ITSELF" in ward.cli("job", "show", cut.id).stdout
