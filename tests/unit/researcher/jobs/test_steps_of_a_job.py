"""The functions that a job's verbs are made of, on a spec, a record and a folder alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.errors import JobError, NotFinished, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.types import new_job_id
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.jobs.approval import check_is_draft, check_nodes, missing_permissions
from fedjob.researcher.jobs.lifecycle import (
    check_broker,
    check_has_ended,
    check_travel,
    find_beginning,
    name_of_breakpoint,
    take_next_attempt,
)
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import Component, JobSpec

SPEC = JobSpec(
    id=new_job_id(),
    protocol=Component(name="fedavg"),
    rounds=3,
    seed=1,
    plan_entry="Net",
    plan_hash="ab",
    datasets={"b": {"name": "scans"}, "a": {"name": "toy"}},
)
ASKED = {"needs": ["plan"], "since": 7.0, "contact": "ada@hospital.example"}
GRANTS = {
    "b": {**ASKED, "state": "pending"},
    "c": {**ASKED, "state": "granted"},
    "a": {**ASKED, "state": "pending"},
}


def test_a_waiting_job_names_the_nodes_whose_owners_have_not_decided() -> None:
    missing = missing_permissions(SPEC, JobRecord(state=State.WAITING, grants=GRANTS))
    assert missing == [
        {"node": "a", "plan": "ab", "dataset": "toy", **ASKED},
        {"node": "b", "plan": "ab", "dataset": "scans", **ASKED},
    ]


@pytest.mark.parametrize("state", [State.DRAFT, State.QUEUED, State.RUNNING, State.COMPLETED])
def test_a_job_that_does_not_wait_misses_no_permission(state: State) -> None:
    assert missing_permissions(SPEC, JobRecord(state=state, grants=GRANTS)) == []


def test_the_nodes_of_a_local_job_need_no_grants(tmp_path: Path) -> None:
    checks = check_nodes(None, SPEC, JobFolder(tmp_path), epoch=0, timeout_s=1.0, schema=None)
    assert [(answer.node, answer.dataset, answer.grant) for answer in checks] == [
        ("a", "toy", "not-needed"),
        ("b", "scans", "not-needed"),
    ]


def test_only_a_draft_asks_for_its_grants(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    JobRecord().save(folder.record)
    check_is_draft(folder)
    JobRecord(state=State.WAITING).save(folder.record)
    with pytest.raises(JobError, match=r"asked its nodes' owners already"):
        check_is_draft(folder)


def test_a_first_attempt_begins_at_no_breakpoint(tmp_path: Path) -> None:
    assert find_beginning(JobFolder(tmp_path), JobRecord(attempt=1)) is None


def test_only_a_job_that_has_ended_begins_again() -> None:
    check_has_ended("job_1", JobRecord(state=State.FAILED))
    with pytest.raises(NotFinished, match="job_1 is running: kill it"):
        check_has_ended("job_1", JobRecord(state=State.RUNNING))
    with pytest.raises(JobError, match="job_1 is a draft: submit it"):
        check_has_ended("job_1", JobRecord())


def test_an_attempt_that_cannot_be_written_lets_the_lock_go(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    SPEC.save(folder.spec)
    JobRecord(state=State.FAILED).save(folder.record)
    with pytest.raises(SpecError, match="rounds"):
        take_next_attempt(folder, lambda: "", 0)
    assert not folder.is_held()


def test_a_breakpoint_of_another_folder_begins_no_attempt(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is no breakpoint of job_1: .*Job\.resume"):
        name_of_breakpoint(JobFolder(tmp_path / "job_1"), "job_1", tmp_path / "elsewhere" / "round_1")


class OfThisProcess(Hook):
    """A hook that no registry knows."""


def test_a_hook_that_lives_in_this_process_is_not_submitted() -> None:
    check_travel(())
    with pytest.raises(SpecError, match="the hook OfThisProcess lives in this process only"):
        check_travel((OfThisProcess(),))


def test_a_local_job_has_no_broker() -> None:
    with pytest.raises(JobError, match="a local job has no session"):
        check_broker(None)
