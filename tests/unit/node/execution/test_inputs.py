"""Inputs of a task: those that are at hand, so that the daemon's loop readies the task itself, and a disk without room."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.types import Ref
from fedjob.messaging.messages import Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.brought_data import Brought
from fedjob.node.execution.inputs import Sources, TaskInputs, is_at_hand, order_of
from fedjob.node.queue.book import TaskRow
from fedjob.node.storage.spool import Spool
from fedjob.repository.memory import MemoryRepository

PARAMS, OTHER, PLAN = (Ref(letter * 64, 10) for letter in "abc")
ROW = TaskRow(
    key="k", job="job_1", researcher="alice", dataset="d", round=1, step="train", epoch=1, attempt=1,
    reply_to="alice/s1", message="m", order=b"", seq=1, state="starting",
)  # fmt: skip
TASK = Task(dataset="d", protocol="fedavg", plan=PLAN, params={"params": PARAMS})


def inputs(task: Task = TASK, **about: Any) -> TaskInputs:
    given: dict[str, Any] = {
        "row": ROW, "run": 1, "task": task, "dataset": None, "plan": b"plan", "folder": Path("of the attempt"),
        "limits": {}, "known": None, "noise": {}, "attached": {PARAMS.sha256: b"0123456789"},
    }  # fmt: skip
    return TaskInputs(**{**given, **about})


def test_a_plan_that_is_known_and_parameters_that_came_with_the_task_are_at_hand() -> None:
    assert is_at_hand(inputs())
    assert is_at_hand(inputs(replace(TASK, plan=None), plan=None))
    assert is_at_hand(inputs(replace(TASK, params={}), attached={}))


@pytest.mark.parametrize(
    "wanted",
    [
        inputs(plan=None),
        inputs(attached={}),
        inputs(replace(TASK, params={"params": PARAMS, "aux": OTHER})),
        inputs(replace(TASK, artifacts={"tokens": OTHER})),
        inputs(replace(TASK, blobs={"value": OTHER})),
        inputs(replace(TASK, files=OTHER)),
        inputs(replace(TASK, models={"base": "d" * 64})),
        inputs(replace(TASK, state="e" * 32)),
        inputs(row=replace(ROW, parent="k0")),
        inputs(known={}),
    ],
    ids=["plan", "params", "aux", "artifacts", "blobs", "files", "models", "state", "child", "items"],
)
def test_what_has_to_be_fetched_or_read_is_left_to_a_thread(wanted: TaskInputs) -> None:
    assert not is_at_hand(wanted)


def test_parameters_that_came_with_a_task_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A disk with room for a part took that part, and the worker got a file that was cut short."""
    home, repository = NodeHome(tmp_path / "home"), MemoryRepository()
    home.create()
    spool, brought = Spool(home, repository), Brought(home.brought, repository)
    sources = Sources(
        home=home, config=NodeConfig(), node="n", spool=spool, repository=repository, brought=brought
    )
    ref = replace(PARAMS, size_bytes=10_000)
    wanted = inputs(
        replace(TASK, params={"params": ref}), folder=spool.begin("k"), attached={ref.sha256: bytes(10_000)}
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, before[1])
    )  # a write beyond it takes a part, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            order_of(wanted, sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    order = order_of(wanted, sources)
    assert Path(order.params["params"]).read_bytes() == bytes(10_000)
