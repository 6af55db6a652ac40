"""What a finished task costs its grant, and what is left of a limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.messaging.messages import Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.turn import Turn
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.grants.permissions import Permissions
from fedjob.node.queue.book import Book, TaskRow
from fedjob.node.storage.database import Database
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
    assert len(turn.rows) == 1  # what fails costs nothing


def test_the_last_predictions_that_are_allowed_use_the_limit_up(permissions: Permissions) -> None:
    charge = permissions.charge(ROW, predicted(10), {}, 0.0)
    assert charge.result.usage == [0, 10]
    assert charge.count is not None
    charge.count()
    assert permissions.used_up(ROW) == (
        "limits_exceeded",
        "the predictions that the owner allows are used up",
    )
