"""Which of a task's states a researcher is told."""

from __future__ import annotations

from dataclasses import replace

from fedjob.common.lifecycle import State
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.state_reports import HOLD_S, StateReports

ROW = TaskRow(
    key="k",
    job="j",
    researcher="ann",
    dataset="d",
    round=1,
    step="train",
    epoch=1,
    attempt=1,
    reply_to="ann/1",
    message="m",
    order=b"",
    seq=1,
    state=State.STARTING,
)


def at(state: State, **changes: str) -> TaskRow:
    return replace(ROW, state=state, **changes)  # type: ignore[arg-type]


def test_a_task_that_is_completed_at_once_is_told_of_by_its_answer_alone() -> None:
    reports = StateReports()
    assert reports.take([at(State.STARTING), at(State.RUNNING)], 0.0) == []
    assert reports.take([at(State.COMPLETED)], HOLD_S / 2) == []
    assert reports.next_due() is None
    assert reports.due(10.0) == []


def test_a_task_that_takes_its_time_is_told_of_in_order() -> None:
    reports = StateReports()
    reports.take([at(State.STARTING), at(State.RUNNING)], 0.0)
    assert reports.next_due() == HOLD_S
    assert [row.state for row in reports.due(HOLD_S)] == [State.STARTING, State.RUNNING]
    assert [row.state for row in reports.take([at(State.COMPLETED)], 1.0)] == [State.COMPLETED]


def test_a_task_that_ends_badly_is_told_of_with_all_that_went_before() -> None:
    reports = StateReports()
    reports.take([at(State.STARTING)], 0.0)
    taken = reports.take([at(State.RUNNING), at(State.FAILED)], 0.1)
    assert [row.state for row in taken] == [State.STARTING, State.RUNNING, State.FAILED]


def test_a_child_is_told_of_however_short_it_is() -> None:
    reports = StateReports()
    reports.take([at(State.STARTING, parent="p")], 0.0)
    taken = reports.take([at(State.COMPLETED, parent="p")], 0.1)
    assert [row.state for row in taken] == [State.STARTING, State.COMPLETED]


def test_a_task_that_is_stopped_at_once_is_told_of_before_its_node_goes() -> None:
    reports = StateReports()
    reports.take([at(State.STARTING), at(State.RUNNING)], 0.0)
    taken = reports.take([at(State.STOPPING)], 0.1)
    assert [row.state for row in taken] == [State.STARTING, State.RUNNING, State.STOPPING]
    assert reports.next_due() is None
