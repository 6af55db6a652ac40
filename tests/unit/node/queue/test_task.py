"""The contents of a task's row: read once, and kept without what came attached to it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from fedjob.common.codec import pack, to_plain
from fedjob.common.types import Ref
from fedjob.messaging.messages import Task
from fedjob.node.queue.task import ReadTasks, order_of

CONTENT = b"parameters"
NAME = hashlib.sha256(CONTENT).hexdigest()
TASK = Task(
    dataset="toy",
    protocol="fedavg",
    params={"params": Ref(NAME, len(CONTENT))},
    attached={NAME: CONTENT},
    seed=3,
)


def test_a_row_keeps_all_of_a_task_but_what_came_attached_to_it() -> None:
    order = order_of(TASK)
    assert order == pack(to_plain(replace(TASK, attached={})))
    assert ReadTasks().of(order) == replace(TASK, attached={})


def test_a_task_is_read_once_and_the_longest_unused_one_again() -> None:
    tasks = ReadTasks(most=2)
    orders = [order_of(replace(TASK, seed=seed)) for seed in range(3)]
    first, second = tasks.of(orders[0]), tasks.of(orders[1])
    assert tasks.of(orders[0]) is first
    assert tasks.of(orders[2]).seed == 2
    assert tasks.of(orders[0]) is first
    assert tasks.of(orders[1]) is not second
    assert tasks.of(orders[1]) == second
