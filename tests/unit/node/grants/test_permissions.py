"""What a finished task costs its grant, and what is left of a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.messaging.messages import Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.turn import Turn
from fedjob.node.data.datasets import Datasets, RegisteredDataset
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.grants.permissions import MAX_QUESTIONS, Permissions, speed_of
from fedjob.node.queue.book import Book, TaskRow
from fedjob.node.storage.costs import CostLedger, TaskCost
from fedjob.node.storage.database import Database
from fedjob.protocols.steps import SETUP, Steps
from fedjob.protocols.usage import INFERENCES

TASK = Task(dataset="toy", protocol="inference", project="heart", params={"params": Ref("ab" * 32, 9)})
ROW = TaskRow(
    key="k1", job="job", researcher="ann", dataset="toy", round=1, step="predict", epoch=1, attempt=1,
    reply_to="ann/s1", message="m1", order=pack(to_plain(TASK)), seq=1, state=State.RUNNING,
)  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def permissions(database: Database, tmp_path: Path) -> Permissions:
    Grants(database).projects.limit("heart", GrantLimits(inferences=10), "owner")
    return Permissions(
        config=NodeConfig(),
        database=database,
        datasets=Datasets(database),
        grants=Grants(database),
        versions=Datasets(database).versions(),
        secrets=tmp_path / "secrets.json",
        models=tmp_path / "models.json",
    )


def predicted(amount: int) -> Result:
    return Result(of="", key="k1", ok=True, used=[{"resource": INFERENCES, "amount": amount}])


def test_a_charge_changes_nothing_before_the_turn_makes_its_change(
    database: Database, permissions: Permissions
) -> None:
    charge = permissions.charge(ROW, predicted(4), {}, 0.0)
    assert charge.result.ok
    assert permissions.inferences_left(ROW) == 10
    turn = Turn(Book())
    turn.charge(charge)
    assert turn.predicted == {"project heart": 4}
    with database.transaction():
        for change in turn.rows:
            change()
    assert permissions.inferences_left(ROW) == 6
    assert permissions.used_up(ROW) is None


def test_tasks_of_one_turn_count_each_others_predictions(permissions: Permissions) -> None:
    turn = Turn(Book())
    turn.charge(permissions.charge(ROW, predicted(8), turn.predicted, 0.0))
    second = permissions.charge(ROW, predicted(8), turn.predicted, 0.0)
    assert (second.result.ok, second.result.reason) == (False, "limits_exceeded")
    assert second.result.detail.startswith("6 predictions were over")
    turn.charge(second)
    assert len(turn.rows) == 2, "the predictions of the one, and what both have moved"


def test_the_last_predictions_that_are_allowed_use_the_limit_up(permissions: Permissions) -> None:
    charge = permissions.charge(ROW, predicted(10), {}, 0.0)
    assert charge.result.usage == [0, 10]
    assert charge.count is not None
    charge.count()
    assert permissions.used_up(ROW) == (
        "limits_exceeded",
        "the predictions that the owner allows are used up",
    )


TEXT = "class Net:\n    pass\n"
TRAINED = Task(
    dataset="toy",
    protocol="fedavg",
    entry="Net",
    plan=Ref(hashlib.sha256(TEXT.encode()).hexdigest(), len(TEXT)),
)
TRAINING = replace(ROW, step="train", order=pack(to_plain(TRAINED)))


def granted(permissions: Permissions, grants: Grants) -> str:
    """Approve the training of `TRAINING`; return the id of its grant."""
    verdict = permissions.judge_row(TRAINING)
    assert verdict.subject is not None
    filed = grants.file(verdict.subject, TEXT.encode(), protocol="fedavg", asked=verdict.asked)
    return grants.approve(filed.id, by="owner").id


def writes(database: Database) -> int:
    found = database.row("SELECT total_changes() AS n")
    assert found is not None
    return int(found["n"])


def registered(database: Database) -> None:
    Datasets(database).add(
        RegisteredDataset(
            name="toy", path=str(database.home), reader="csv", options={}, num_rows=9, version="0"
        )
    )


def test_a_later_task_of_a_job_that_was_bound_when_it_came_begins_without_a_commit_of_its_own(
    database: Database, permissions: Permissions
) -> None:
    registered(database)
    grant = granted(permissions, Grants(database))
    assert permissions.may_start(TRAINING, TRAINING) is None
    usage = Grants(database).usage
    assert usage.uses_it(grant, "job")
    assert usage.bound("k1") == grant
    second = replace(TRAINING, key="k2")
    usage.bind("k2", grant)  # as the turn that takes it does
    before = writes(database)
    assert permissions.may_start(second, second) is None
    assert writes(database) == before
    third = replace(TRAINING, key="k3")  # a child was not bound
    assert permissions.may_start(third, third) is None
    assert usage.bound("k3") == grant


def test_a_task_that_was_judged_is_judged_anew_when_it_begins_though_it_is_read_once(
    database: Database, permissions: Permissions
) -> None:
    registered(database)
    grant = granted(permissions, Grants(database))
    assert permissions.judge_row(TRAINING).allowed
    permissions.config = replace(permissions.config, operations="none.*")
    refused = permissions.may_start(TRAINING, TRAINING)
    assert refused is not None
    assert refused[0] == "protocol"
    permissions.config = NodeConfig()
    assert permissions.judge_row(TRAINING).allowed
    Grants(database).revoke(grant, by="owner")
    refused = permissions.may_start(TRAINING, TRAINING)
    assert refused is not None
    assert refused[0] == "revoked"
    Datasets(database).remove("toy")
    refused = permissions.may_start(TRAINING, TRAINING)
    assert refused is not None
    assert refused[0] == "no_dataset"


def test_a_question_goes_to_the_owner_as_it_is_for_everybody_who_asks_it(
    database: Database, permissions: Permissions
) -> None:
    registered(database)
    asked = [
        permissions.judge_for(*who, TRAINED).subject
        for who in (("ann", "ab" * 32, "j1"), ("bob", "cd" * 32, "j1"))
    ]
    assert [subject and subject.researcher for subject in asked] == ["ann", "bob"]
    for number in range(3 * MAX_QUESTIONS):
        found = permissions.judge_for("ann", "ab" * 32, "j1", replace(TRAINED, seed=number))
        assert found.subject == asked[0]


def moving(key: str, megabytes: float, *, job: str = "job", params: str = "cd") -> TaskRow:
    """Return a task that names an object of this size."""
    task = Task(
        dataset="toy",
        protocol="fedavg",
        project="wide",
        plan=Ref("ef" * 32, 500_000),
        params={"params": Ref(params * 32, int(megabytes * 1e6))},
    )
    return replace(ROW, key=key, job=job, order=pack(to_plain(task)))


def test_a_task_that_would_move_more_than_the_owner_allows_does_not_begin(
    database: Database, permissions: Permissions
) -> None:
    Grants(database).projects.limit("wide", GrantLimits(moved_mb=10), "owner")
    assert permissions.used_up(moving("k1", 9.5)) is None, "9.5 MB, and 0.5 MB of the plan"
    reason, detail = permissions.used_up(moving("k1", 9.6))
    assert reason == "limits_exceeded"
    assert "with this task 10.1 MB would have gone to and from the hub, and the owner allows 10 MB" in detail
    assert "`compress=`" in detail
    done = Result(of="", key="k1", ok=True, params=Ref("12" * 32, 2_500_000))
    with database.transaction():
        permissions.charge(moving("k1", 4.0), done, {}, 0.0).count()
    assert permissions.used_up(moving("k2", 3.0)) is None, "7 MB went, and the plan is here"
    assert "10.1 MB" in permissions.used_up(moving("k2", 3.1))[1]
    assert permissions.used_up(moving("k3", 9.5, job="another job")) is None, (
        "without a grant each job has its own"
    )
    assert permissions.used_up(ROW) is None, "a project without that limit"


def test_what_a_task_that_fails_has_moved_counts_too(database: Database, permissions: Permissions) -> None:
    """A plan that raised each time could fetch as much as it wanted."""
    Grants(database).projects.limit("wide", GrantLimits(moved_mb=10), "owner")
    failed = Result(of="", key="k1", ok=False, reason="exception")
    with database.transaction():
        permissions.charge(moving("k1", 4.0), failed, {}, 0.0).count()
    assert permissions.used_up(moving("k2", 5.5)) is None
    assert "10.1 MB" in permissions.used_up(moving("k2", 5.6))[1]
    work = database.row("SELECT work, args FROM costs")
    assert work is not None
    assert CostLedger(database).time_of(work["work"], work["args"], 1.0) is None, (
        "its time says nothing of others"
    )


def test_a_task_that_only_looks_at_items_counts_what_it_fetches(
    database: Database, permissions: Permissions
) -> None:
    """Its step is the researcher's word: it could fetch as much as it wanted."""
    Grants(database).projects.limit("wide", GrantLimits(moved_mb=10), "owner")
    row = moving("k1", 4.0)
    task = replace(from_plain(Task, unpack(row.order)), protocol=Steps.name)
    looks = replace(row, step=SETUP, order=pack(to_plain(task)))
    with database.transaction():
        permissions.charge(looks, Result(of="", key="k1", ok=True), {}, 0.0).count()
    assert CostLedger(database).moved_by("job", "") == 4_500_000
    work = database.row("SELECT work, args FROM costs")
    assert work is not None
    assert CostLedger(database).time_of(work["work"], work["args"], 1.0) is None, "it is no round"


def test_what_a_task_fetches_counts_once_however_many_workers_die_over_it(
    database: Database, permissions: Permissions
) -> None:
    Grants(database).projects.limit("wide", GrantLimits(moved_mb=10), "owner")
    died, done = (Result(of="", key="k1", ok=ok) for ok in (False, True))
    first = moving("k1", 6.0)
    with database.transaction():
        permissions.charge(first, died, {}, 0.0).count()
    again = replace(first, deaths=1)
    assert permissions.used_up(again) is None, "it fetches nothing anew"
    with database.transaction():
        permissions.charge(again, died, {}, 0.0).count()
        permissions.charge(replace(first, deaths=2), done, {}, 0.0).count()
    assert CostLedger(database).moved_by("job", "") == 6_500_000


def test_of_a_task_that_could_not_have_all_its_objects_those_count_that_came(
    database: Database, permissions: Permissions
) -> None:
    row = moving("k1", 4.0)
    failed = Result(of="", key="k1", ok=False)
    with database.transaction():
        permissions.charge(row, failed, {}, 0.0, came=lambda ref: ref.sha256 == "cd" * 32).count()
    assert CostLedger(database).moved_by("job", "") == 4_000_000


def test_all_jobs_of_a_grant_share_the_bytes_that_it_allows(
    database: Database, permissions: Permissions
) -> None:
    costs = CostLedger(database)
    for job in ("one", "two"):
        with database.transaction():
            costs.add(
                TaskCost(
                    job=job,
                    grant="g1",
                    work="w",
                    args="",
                    passes=1.0,
                    round=1,
                    seconds=1.0,
                    bytes_in=3,
                    bytes_out=4,
                )
            )
    assert costs.moved_by("three", "g1") == 14
    assert costs.moved_by("one", "") == 0
    assert costs.moved_by("three", "g2") == 0


@pytest.mark.parametrize("rows", [{"read": 100, "used": 100}, {}])
def test_a_speed_counts_the_rows_that_researchers_know_and_not_what_a_plan_makes_of_them(
    rows: dict[str, int],
) -> None:
    task = replace(TASK, protocol="fedavg", training_args={"epochs": 2, "test_ratio": 0.2})
    cost = TaskCost(
        job="job", grant="", work="w", args="a", passes=2.0, round=1, seconds=3.0, bytes_in=0, bytes_out=0
    )
    result = Result(of="", key="k1", ok=True, num_examples=320, timing={"train": 2.0}, rows=rows)
    assert speed_of(task, result, cost, {}).examples == (160.0 if rows else 640.0)
