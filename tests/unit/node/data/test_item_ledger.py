"""What a node remembers of the items that plans worked on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import DecodeError
from fedjob.common.types import Ref
from fedjob.data.item_choice import ITEMS_NAME, Known
from fedjob.messaging.messages import Task
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.data.item_ledger import ItemLedger, read_items
from fedjob.node.storage.database import Database

A, B = Ref("a" * 64, 1), Ref("b" * 64, 1)


def task(**changes: Any) -> Task:
    return Task(
        **{"dataset": "scans", "protocol": "steps", "plan": A, "entry": "Sizes", "project": "p", **changes}
    )


@pytest.mark.feature("BF-62", "BF-63", "BF-47")
def test_items_are_remembered_per_plan_dataset_and_project(tmp_path: Path) -> None:
    database = Database(tmp_path / "node.sqlite")
    ledger = ItemLedger(database)
    with database.transaction():
        ledger.note(task(), {"processed": [["x", 1.0, "h"]], "failed": [["y", None, "h", "ValueError"]]})
    assert ledger.known(task()) == Known({"x": (1.0, "h")}, {"y": (None, "h")})
    assert ledger.known(task(training_args={"lr": 2}, seed=3)) == ledger.known(task()), (
        "arguments are no other plan"
    )
    for other in (
        {"plan": B},
        {"dataset": "labs"},
        {"project": ""},
        {"use": "mock"},
        {"params": {"params": B}},
    ):
        assert ledger.known(task(**other)) == Known(), other
    with database.transaction():
        ledger.note(task(), {"processed": [["y", 2.0, "h"]], "failed": [["x", 2.0, "h", "ValueError"]]})
    assert ledger.known(task()) == Known({"y": (2.0, "h")}, {"x": (2.0, "h")}), "the newest counts"
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "x").write_text("1")
    datasets = Datasets(database)
    datasets.add(describe_dataset("scans", tmp_path / "scans", reader="files"))
    datasets.remove("scans")
    assert ledger.known(task()) == Known()
    database.close()


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"processed": []}',
        '{"processed": [[1]], "failed": []}',
        '{"processed": [["\\ud800", 1, "h"]], "failed": []}',
        '{"processed": [], "failed": [["x", 1, "h", "\\udc80"]]}',
        f'{{"processed": [["x", 1{"0" * 400}, "h"]], "failed": []}}',
        f'{{"processed": {"[" * 100_000}{"]" * 100_000}, "failed": []}}',
    ],
    ids=range(8),
)
def test_what_a_worker_left_is_not_believed(tmp_path: Path, written: str) -> None:
    (tmp_path / ITEMS_NAME).write_text(written)
    with pytest.raises(DecodeError):
        read_items(tmp_path)
    (tmp_path / ITEMS_NAME).write_text(json.dumps({"processed": [["x", 1, "h"]], "failed": []}))
    assert read_items(tmp_path) == {"processed": [["x", 1.0, "h"]], "failed": []}
