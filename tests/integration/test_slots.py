"""Slots of a home: so many at once, in the order of submission, nobody held up by the dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fedjob.researcher.runner.slots import Ticket


def test_slots_go_by_the_time_of_submission_not_of_asking(tmp_path: Path) -> None:
    first = Ticket(tmp_path, "job_1", "2026-01-01T00:00:01Z")
    assert first.take(1)
    third = Ticket(tmp_path, "job_3", "2026-01-01T00:00:03Z")
    second = Ticket(tmp_path, "job_2", "2026-01-01T00:00:02Z")
    assert not third.take(1)
    assert not second.take(1)
    first.close()
    assert not third.take(1)
    assert second.take(1)
    assert second.take(1)
    assert third.take(2)
    for ticket in (second, third):
        ticket.close()
    assert [path.name for path in (tmp_path / "slots").iterdir()] == ["lock"]


def test_one_that_leaves_its_place_does_not_hold_up_the_next(tmp_path: Path) -> None:
    first, second = (Ticket(tmp_path, f"job_{n}", f"2026-01-01T00:00:0{n}Z") for n in (1, 2))
    assert not second.take(1)
    first.close()
    assert second.take(1)
    again = Ticket(tmp_path, "job_1", "2026-01-01T00:00:01Z")
    assert not again.take(1)
    second.close()
    assert again.take(1)
    again.close()


def test_a_process_that_dies_gives_its_slot_back(tmp_path: Path) -> None:
    text = (
        "import os, sys; from pathlib import Path; from fedjob.researcher.runner.slots import Ticket;"
        "t = Ticket(Path(sys.argv[1]), 'job_0', '2026-01-01T00:00:00Z'); assert t.take(1);"
        "print('has', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has\n"
        mine = Ticket(tmp_path, "job_1", "2026-01-01T00:00:01Z")
        assert not mine.take(1)
        os.kill(other.pid, 9)
    assert mine.take(1)
    mine.close()
