"""Counting what is exchanged for a job."""

from __future__ import annotations

import pytest

from fedjob.common.errors import DecodeError
from fedjob.messaging import traffic
from fedjob.messaging.traffic import Traffic, from_csv, to_csv, together


def test_messages_are_counted_by_direction_and_kind() -> None:
    counted = Traffic()
    counted.note("job_a", "out", "task", 100, 5.0)
    counted.note("job_a", "out", "task", 300, 7.0)
    counted.note("job_a", "in", "reply", 50, 9.0)
    counted.note("job_b", "in", "reply", 1, 9.0)
    counted.note("", "in", "receipt", 1, 9.0)
    reply, task = counted.of("job_a")
    assert (reply.kind, reply.count, reply.bytes) == ("reply", 1, 50)
    assert (task.count, task.bytes, task.max_bytes, task.first, task.last) == (2, 400, 300, 5.0, 7.0)
    assert counted.of("") == ()


def test_what_was_taken_and_what_came_later_adds_up_to_all_of_it() -> None:
    counted = Traffic()
    counted.note("job_a", "out", "task", 100, 5.0)
    before = counted.take("job_a")
    assert counted.of("job_a") == ()
    counted.note("job_a", "out", "task", 10, 6.0)
    [both] = together(from_csv(to_csv(before)), counted.take("job_a"))
    assert (both.count, both.bytes, both.max_bytes, both.first, both.last) == (2, 110, 100, 5.0, 6.0)


def test_only_so_many_jobs_are_counted_at_a_time() -> None:
    counted = Traffic()
    for number in range(traffic.MAX_JOBS):
        counted.note(f"job_{number}", "in", "reply", 1, 1.0)
    counted.note("job_0", "in", "reply", 1, 1.0)
    counted.note("job_new", "in", "reply", 1, 1.0)
    assert counted.of("job_1") == ()
    assert counted.of("job_0")[0].count == 2


@pytest.mark.parametrize("text", ["", "a,b\n", to_csv(()) + "in,reply,x,1,1,1,1\n", to_csv(()) + "in\n"])
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        from_csv(text)
