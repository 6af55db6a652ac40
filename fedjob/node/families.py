"""Who launched whom among a node's tasks: pure looks at the book."""

from __future__ import annotations

from collections.abc import Mapping

from fedjob.common.lifecycle import State
from fedjob.node.taskbook import TaskRow

Tasks = Mapping[str, TaskRow]


def root_of(tasks: Tasks, row: TaskRow) -> TaskRow:
    """Return the task of the job that a child task belongs to, however deep; itself if it is none."""
    while row.parent in tasks:
        row = tasks[row.parent]
    return row


def children_of(tasks: Tasks, row: TaskRow) -> list[TaskRow]:
    """Return the children of a task, in the order of their launch."""
    found = [child for child in tasks.values() if child.parent == row.key]
    return sorted(found, key=lambda child: child.seq)


def inputs_ready(tasks: Tasks, row: TaskRow) -> bool:
    """Tell whether everything that a task takes from its siblings is there."""
    return all(key in tasks and tasks[key].state == State.COMPLETED for key in row.inputs)


def failed_input(tasks: Tasks, row: TaskRow) -> TaskRow | None:
    """Return a sibling that a task waits for in vain."""
    for key in row.inputs:
        sibling = tasks.get(key)
        if sibling is not None and sibling.finished and sibling.state != State.COMPLETED:
            return sibling
    return None
