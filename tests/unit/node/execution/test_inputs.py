"""Inputs of a task that are at hand, so that the daemon's loop readies the task itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.types import Ref
from fedjob.messaging.messages import Task
from fedjob.node.execution.inputs import TaskInputs, is_at_hand
from fedjob.node.queue.book import TaskRow

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
