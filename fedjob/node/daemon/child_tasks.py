"""The children of running tasks: a worker requests them, the queue runs them, the worker gets their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import DecodeError
from fedjob.common.lifecycle import State
from fedjob.data.preprocessing.learning import LEARNED
from fedjob.execution.orders import CHILD_STEP, child_fields, child_place
from fedjob.messaging.messages import work_key
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book, TaskRow
from fedjob.node.queue.task import INPUTS, task_of
from fedjob.training_plans.child_tasks import MAX_CHILDREN, ChildOrder, ChildOutcome


class ChildTasks:
    """Queues the children that workers launch, and sends their outcomes to the workers that wait for them."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def launch(self, turn: Turn, parent: TaskRow, siblings: dict[int, str], wanted: ChildOrder) -> None:
        """Queue a child.

        Args:
            siblings: number -> key of the parent's children so far; the new one is added.

        Raises:
            DecodeError: a worker asked for what no plan can ask for.
        """
        numbers = set(wanted.inputs.values())
        if wanted.number != len(siblings) or wanted.number >= MAX_CHILDREN or not numbers <= siblings.keys():
            raise DecodeError(f"a worker launched child {wanted.number} out of turn")
        place = child_place(parent.child, wanted.number)
        inputs = {name: siblings[number] for name, number in wanted.inputs.items()}
        parent_task = task_of(parent)
        task = replace(
            parent_task,
            **child_fields(wanted),
            values={INPUTS: inputs, **_of_the_data(parent_task.values)},
            blobs=_of_the_data(parent_task.blobs),
            round_args={},
            state=None,
            keep_states=None,
        )
        key = work_key(
            job=parent.job,
            round_=parent.round,
            step=CHILD_STEP,
            node=self._context.node,
            task=task,
            child=f"{parent.key}/{place}",
        )
        siblings[wanted.number] = key
        turn.step(
            events.Launched(
                key=key,
                parent=parent.key,
                place=place,
                step=CHILD_STEP,
                order=pack(to_plain(task)),
                inputs=tuple(inputs.values()),
            )
        )

    def send_outcome(self, book: Book, siblings: Mapping[int, str], command: events.SendOutcome) -> None:
        """Send a parent's worker the outcome of the child that it waits for."""
        number = next((n for n, key in siblings.items() if key == command.child), None)
        if number is not None:
            outcome = self._outcome(number, book.tasks.get(command.child))
            self._context.workers.send(command.key, ["child", to_plain(outcome)])

    def _outcome(self, number: int, row: TaskRow | None) -> ChildOutcome:
        if row is None:
            return ChildOutcome(number=number, ok=False, reason="not_needed", detail="it was ended")
        if row.state != State.COMPLETED:
            return ChildOutcome(number=number, ok=False, reason=row.reason, detail=row.detail)
        try:
            return ChildOutcome(number=number, ok=True, value=self._context.spool.result(row.key).value)
        except DecodeError as error:
            return ChildOutcome(number=number, ok=False, reason="unreadable", detail=str(error))


def _of_the_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values of a parent's instruction that describe the data, which its children use too."""
    return {name: value for name, value in values.items() if name == LEARNED}
