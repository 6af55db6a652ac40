"""Functions that `@fedjob.on` decorates: what they hear, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import SpecError
from fedjob.researcher.monitoring.event_handlers import Handlers
from fedjob.researcher.storage.event import TYPES, JobEvent


def state(seq: int, name: str, job: str = "job_x", node: str = "") -> JobEvent:
    return JobEvent(type="state", seq=seq, job=job, node=node, body={"state": name})


def round_done(seq: int) -> JobEvent:
    return JobEvent(type="round", seq=seq, job="job_x", round=seq)


def recorded(handlers: Handlers, *names: str) -> list[tuple[str, int, Any]]:
    """Register a handler for each name and return what they will hear."""
    heard: list[tuple[str, int, Any]] = []
    for name in names:

        def handler(event: JobEvent, job: Any, name: str = name) -> None:
            heard.append((name, event.seq, job))

        handler.__qualname__ = name
        handlers.on(name)(handler)
    return heard


def test_a_handler_hears_its_moment_with_the_event_and_the_job() -> None:
    handlers = Handlers()
    heard = recorded(
        handlers, "round.finished", "job.finished", "job.started", "metrics", "state", "job.state"
    )
    metrics = JobEvent(type="metrics", seq=3, job="job_x", node="a", body={"loss": 1.0})
    handlers.tell([state(1, "running"), state(2, "running", node="a"), metrics, round_done(4)], "the job")
    handlers.tell([state(5, "completed")], "the job")
    assert heard == [
        ("job.started", 1, "the job"),
        ("state", 1, "the job"),
        ("job.state", 1, "the job"),
        ("state", 2, "the job"),
        ("metrics", 3, "the job"),
        ("round.finished", 4, "the job"),
        ("job.finished", 5, "the job"),
        ("state", 5, "the job"),
        ("job.state", 5, "the job"),
    ]


def task_state(seq: int, name: str, task: str, **body: Any) -> JobEvent:
    return JobEvent(type="state", seq=seq, job="job_x", node="a", task=task, body={"state": name, **body})


@pytest.mark.feature("BF-58")
def test_each_task_begins_once_and_ends_once_however_little_is_told_of_it() -> None:
    handlers = Handlers()
    heard = recorded(handlers, "task.finished", "task.started", "batch.done")
    batch = JobEvent(type="result", seq=3, job="job_x", node="a", task="long", body={"n": 2})
    handlers.tell([task_state(1, "queued", "long"), task_state(2, "running", "long"), batch], None)
    handlers.tell([task_state(4, "completed", "short"), task_state(5, "completed", "long")], None)
    handlers.tell([task_state(6, "rejected", "refused")], None)
    quick = JobEvent(type="result", seq=7, job="job_x", node="a", task="quick", body={"n": 1})
    log = JobEvent(type="log", seq=9, job="job_x", node="a", task="quick", body={"lines": ["late"]})
    handlers.tell([quick, task_state(8, "completed", "quick"), log, task_state(10, "running", "quick")], None)
    assert [entry[:2] for entry in heard] == [
        ("task.started", 2),
        ("batch.done", 3),
        ("task.started", 4),
        ("task.finished", 4),
        ("task.finished", 5),
        ("task.started", 6),
        ("task.finished", 6),
        ("task.started", 7),
        ("batch.done", 7),
        ("task.finished", 8),
        ("task.started", 10),  # again: the job was restarted
    ]


@pytest.mark.feature("BF-61")
@pytest.mark.parametrize("type_", [*TYPES, "of_a_plan"])
def test_a_handler_of_any_type_gets_the_event_and_the_job(type_: str) -> None:
    handlers = Handlers()
    heard: list[tuple[JobEvent, Any]] = []
    handlers.on(type_)(lambda event, job: heard.append((event, job)))
    event = JobEvent(type=type_, seq=1, job="job_x", node="a", task="t", round=2, body={"k": 1})
    handlers.tell([event, JobEvent(type="another", seq=2, job="job_x")], "the job")
    assert heard == [(event, "the job")]


def test_an_event_is_told_once_however_many_follow() -> None:
    handlers = Handlers()
    heard = recorded(handlers, "job.finished", "round.finished")
    for _ in range(3):
        handlers.tell([round_done(1), state(2, "failed")], None)
    handlers.tell([state(2, "failed", job="job_y")], None)
    assert [entry[:2] for entry in heard] == [("round.finished", 1), ("job.finished", 2), ("job.finished", 2)]


def test_an_end_that_was_followed_by_a_restart_was_not_the_end() -> None:
    handlers = Handlers()
    heard = recorded(handlers, "job.finished")
    handlers.tell([state(1, "failed"), state(2, "waiting"), state(3, "completed")], None)
    assert [seq for _, seq, _ in heard] == [3]


def test_what_a_handler_raises_is_said_and_ends_nothing() -> None:
    handlers = Handlers()

    @handlers.on("round.finished")
    def hasty(event: JobEvent, job: Any) -> None:
        raise ValueError("no such file")

    heard = recorded(handlers, "round.finished")
    problems = handlers.tell([round_done(1)], None)
    assert len(heard) == 1
    assert len(problems) == 1
    assert "hasty of 'round.finished' raised ValueError: no such file" in problems[0]


def test_a_notebook_cell_that_is_run_again_replaces_its_handler() -> None:
    handlers = Handlers()
    heard: list[int] = []
    for number in (1, 2):

        @handlers.on("note")
        def tell(event: JobEvent, job: Any, number: int = number) -> None:
            heard.append(number)

    handlers.tell([JobEvent(type="note", seq=1, job="job_x")], None)
    handlers.off(tell)
    handlers.tell([JobEvent(type="note", seq=2, job="job_x")], None)
    assert heard == [2]


@pytest.mark.parametrize("name", ["round.finishd", "Round", "", None, print])
def test_a_name_that_no_event_has_is_refused(name: Any) -> None:
    with pytest.raises(SpecError, match=r"expected one of|takes the name|event's type"):
        Handlers().on(name)


def test_only_so_many_jobs_are_remembered() -> None:
    handlers = Handlers()
    for number in range(1500):
        handlers.tell([state(1, "running", job=f"job_{number}")], None)
    assert len(handlers.delivered) == 1000
