"""The ledger of what tasks cost a node, and the words that an owner reads of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.types import ENDLESS
from fedjob.node.owner.audit_words import summary_of
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.burden import UNKNOWN_BYTES, UNKNOWN_OUT, UNKNOWN_TIME, Burden
from fedjob.node.storage.costs import (
    CostLedger,
    MeasuredTime,
    Moved,
    TaskCost,
    arguments_hash,
    kind_of_work,
    passes_in,
)
from fedjob.node.storage.database import Database

TASK = TaskCost(
    job="job_1",
    grant="g1",
    work="plan",
    args="lr 0.1",
    passes=1.0,
    round=1,
    seconds=2.0,
    bytes_in=600,
    bytes_out=300,
    claimed=2000,
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "node.sqlite")


def test_a_job_that_moves_more_than_its_researcher_said_is_recorded_once(database: Database) -> None:
    ledger = CostLedger(database)
    for round_ in (1, 2, 3, 4):
        ledger.add(replace(TASK, round=round_))
        found = ledger.of_grant("g1")
        assert found is not None
        assert found.over == (round_ > 2)
    (record,) = [one for one in Audit(database).records() if one.kind == "cost"]
    body = record.to_plain()["body"]
    assert (record.subject, body["moved"], body["claimed"]) == ("g1", 2700, 2000)
    assert "moved 2.7 kB, more than the 2.0 kB that its researcher said" in summary_of(body)
    assert found == Moved(seconds=8.0, bytes_in=2400, bytes_out=1200, tasks=4, over=True)
    assert ledger.of_grant("another") is None


def test_a_job_of_which_nothing_was_said_is_never_over(database: Database) -> None:
    ledger = CostLedger(database)
    ledger.add(replace(TASK, claimed=0))
    found = ledger.of_grant("g1")
    assert found is not None
    assert not found.over


def test_the_time_of_a_round_is_that_of_rounds_with_the_same_arguments(database: Database) -> None:
    ledger = CostLedger(database)
    assert ledger.time_of("plan", "lr 0.1", 1.0) is None
    ledger.add(TASK)
    ledger.add(replace(TASK, seconds=1.0))  # a second task of the same round
    ledger.add(replace(TASK, round=2, seconds=5.0))
    assert ledger.time_of("plan", "lr 0.1", 1.0) == MeasuredTime(round_s=4.0, rounds=2, same=True)


def test_the_time_of_a_round_with_other_arguments_grows_with_its_passes(database: Database) -> None:
    ledger = CostLedger(database)
    ledger.add(replace(TASK, passes=2.0, seconds=6.0))
    assert ledger.time_of("plan", "lr 0.5", 4.0) == MeasuredTime(round_s=12.0, rounds=1, same=False)
    assert ledger.time_of("plan", "lr 0.5", 0.0) is None, "updates are not passes"
    assert ledger.time_of("another plan", "lr 0.1", 1.0) is None


def test_a_masked_contribution_counts_when_it_leaves(database: Database) -> None:
    ledger = CostLedger(database)
    ledger.add(replace(TASK, bytes_out=0))
    ledger.add_moved("job_1", "plan", bytes_out=80)
    found = ledger.of_grant("g1")
    assert found is not None
    assert found.bytes_out == 80


def test_what_is_fetched_for_a_step_of_a_sum_counts_as_well(database: Database) -> None:
    ledger = CostLedger(database)
    ledger.add(TASK)
    before = ledger.of_grant("g1")
    ledger.add_moved("job_1", "plan", bytes_in=80)
    found = ledger.of_grant("g1")
    assert before is not None
    assert found is not None
    assert (found.bytes_in - before.bytes_in, found.bytes_out) == (80, before.bytes_out)


def records_of(database: Database) -> list[int]:
    return [one.to_plain()["body"]["moved"] for one in Audit(database).records() if one.kind == "cost"]


def test_a_job_whose_masked_contributions_are_more_than_its_researcher_said_is_recorded_once(
    database: Database,
) -> None:
    ledger = CostLedger(database)
    for round_ in (1, 2, 3, 4):
        ledger.add(replace(TASK, round=round_, bytes_in=100, bytes_out=0))
        ledger.add_moved("job_1", "plan", bytes_out=700)
    assert records_of(database) == [2400]


def test_a_job_that_does_several_kinds_of_work_is_measured_by_all_of_them_together(
    database: Database,
) -> None:
    ledger = CostLedger(database)
    for work in ("plan", "evaluation", "statistics"):
        ledger.add(replace(TASK, work=work))
    found = ledger.of_grant("g1")
    assert found is not None
    assert (found.over, found.bytes_in + found.bytes_out) == (True, 2700)
    assert records_of(database) == [2700]


def test_two_jobs_under_one_grant_are_each_measured_by_what_was_said_of_one(database: Database) -> None:
    ledger = CostLedger(database)
    for job in ("job_1", "job_2", "job_3"):
        ledger.add(replace(TASK, job=job))
    found = ledger.of_grant("g1")
    assert found is not None
    assert (found.over, found.bytes_in + found.bytes_out) == (False, 2700)
    assert records_of(database) == []


def test_a_masked_contribution_of_a_job_with_two_grants_counts_under_the_newer_one_alone(
    database: Database,
) -> None:
    ledger = CostLedger(database)
    ledger.add(TASK)
    ledger.add(replace(TASK, grant="g2", round=2))
    ledger.add_moved("job_1", "plan", bytes_out=80)
    out = [found.bytes_out for found in map(ledger.of_grant, ("g1", "g2")) if found is not None]
    assert out == [300, 380]


def test_work_and_arguments_are_named_by_all_that_they_are_made_of() -> None:
    assert kind_of_work("a", "b") != kind_of_work("ab", "")
    assert arguments_hash({"a": 1, "b": 2}) == arguments_hash({"b": 2, "a": 1})
    assert arguments_hash({"a": 1}) != arguments_hash({"a": 1.0})
    assert [passes_in(args) for args in ({}, {"epochs": 3}, {"num_updates": 5}, {"epochs": "x"})] == [
        1,
        3,
        0,
        0,
    ]


def test_an_owner_reads_what_is_a_claim_and_what_was_measured() -> None:
    claimed = {"down": 15_000_000, "up": 7_500_000, "memory": 3_000_000}
    time = MeasuredTime(round_s=12.0, rounds=4, same=True)
    burden = Burden(claimed=claimed, rounds=15, time=time, moved=None)
    assert burden.bytes_words == (
        "15.0 MB in and 7.5 MB out in all, about 1.0 MB in and 500.0 kB out in each round, as the researcher says"
    )
    assert burden.time_words == (
        "about 3 min in all, about 12 s a round, as measured here in 4 rounds of the same work"
    )
    assert "as the researcher says" in burden.memory_words
    assert burden.short == "22.5 MB, 3 min"
    bound = replace(burden, claimed={**claimed, "most": 1}, rounds=1)
    assert bound.bytes_words == "at most 15.0 MB in and 7.5 MB out in all, as the researcher says"


def test_what_is_not_known_is_said_to_be_not_known() -> None:
    burden = Burden(claimed={}, rounds=ENDLESS, time=None, moved=None)
    assert (burden.bytes_words, burden.time_words, burden.memory_words) == (UNKNOWN_BYTES, UNKNOWN_TIME, "")
    assert burden.short == "? bytes, time unknown"
    endless = replace(burden, time=MeasuredTime(round_s=1.0, rounds=1, same=False))
    assert endless.time_words == (
        "about 1 s a round, as measured here in 1 round of the same plan with other arguments"
    )
    over = replace(burden, moved=Moved(seconds=3.0, bytes_in=10, bytes_out=20, tasks=1, over=True))
    assert over.moved_words == "1 task, 3 s, 10 B in and 20 B out: more than the researcher said"


def test_where_answers_are_as_large_as_what_is_found_an_owner_reads_what_comes_in() -> None:
    burden = Burden(claimed={"down": 15_000_000, "memory": 0}, rounds=3, time=None, moved=None)
    assert burden.bytes_words == f"15.0 MB in, as the researcher says; {UNKNOWN_OUT}"
    assert burden.memory_words == ""
    assert burden.short == "15.0 MB in, ? out, time unknown"
    most = replace(burden, claimed={**burden.claimed, "most": 1})
    assert most.bytes_words.startswith("at most 15.0 MB in, ")


def test_a_failed_task_counts_with_its_bytes_and_not_with_its_time(database: Database) -> None:
    ledger = CostLedger(database)
    ledger.add(replace(TASK, failed=True, seconds=99.0))
    assert ledger.time_of("plan", "lr 0.1", 1.0) is None
    ledger.add(TASK)
    ledger.add(replace(TASK, failed=True, seconds=99.0, round=2))
    assert ledger.time_of("plan", "lr 0.1", 1.0) == MeasuredTime(round_s=2.0, rounds=1, same=True)
    found = ledger.of_grant("g1")
    assert found is not None
    assert (found.bytes_in, found.bytes_out, found.tasks) == (1800, 900, 3)


def test_what_a_grant_has_moved_is_not_forgotten_with_its_oldest_jobs(database: Database) -> None:
    """After so many jobs, however small, a grant of so many bytes had all of them again."""
    database.execute(
        "INSERT INTO grants (id, origin, status, researcher, key_hex, plan, entry, dataset, version, use, project, "
        "question, protocol, asked, limits, approvals, requested) VALUES ('g1', 'request', 'granted', 'ann', '', '', '', "
        "'d', '', 'private', '', '', 'fedavg', x'80', x'80', x'90', 1.0)"
    )
    ledger = CostLedger(database, kept=3)
    for number in range(8):
        ledger.add(replace(TASK, job=f"job_{number}"))
        ledger.add(replace(TASK, job=f"other_{number}", grant="gone"))
    assert ledger.moved_by("job_9", "g1") == 8 * 900
    found = ledger.of_grant("g1")
    assert found is not None
    assert (found.tasks, found.seconds) == (8, 16.0)
    assert len(database.rows("SELECT job FROM costs")) <= 6
    assert not ledger.has_job("job_0")
