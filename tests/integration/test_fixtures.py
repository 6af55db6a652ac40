"""The shared fixtures do what they promise."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mosquitto
from tests.processes import Processes, end_processes_of, processes_of, runs, wait_until

ROOT = Path(__file__).parents[2]


def test_mosquitto_answers_where_its_url_says(mosquitto: Mosquitto) -> None:
    with socket.create_connection((mosquitto.host, mosquitto.port), timeout=5):
        assert mosquitto.url == f"mqtt://127.0.0.1:{mosquitto.port}"


def test_each_free_port_is_another_one(free_port: Callable[[], int]) -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_a_process_is_ready_when_it_says_so(processes: Processes) -> None:
    running = processes.start("python", "-c", "print('ready: 42')", ready=r"^ready: (\d+)$")
    assert running.wait_for(r"ready: (\d+)")[1] == "42"


def test_a_process_that_ends_before_it_is_ready_fails_with_what_it_said(processes: Processes) -> None:
    with pytest.raises(AssertionError, match="no such room"):
        processes.start("python", "-c", "raise SystemExit('no such room')", ready="never")


def test_a_process_that_never_says_so_fails_at_its_deadline(processes: Processes) -> None:
    with pytest.raises(AssertionError, match=r"in 0\.3 s"):
        processes.start("python", "-c", "import time; time.sleep(60)", ready="never", timeout_s=0.3)
    assert processes.started[0].alive


def test_neither_a_process_nor_its_child_outlives_its_owner(tmp_path: Path) -> None:
    program = "import subprocess; print('child', subprocess.Popen(['sleep', '60']).pid); input()"
    with Processes(tmp_path) as own:
        parent = own.start("python", "-c", program, ready=r"child \d+")
        child = int(parent.wait_for(r"child (\d+)")[1])
        assert runs(child)
    assert not parent.alive
    wait_until(lambda: not runs(child), timeout_s=30, what="the end of the child")


SIGNALS_OF_A_CHILD = """\
import subprocess, sys
from tests.processes import give_children_default_signals

if sys.argv[1] == "default":
    give_children_default_signals()
ask = "import signal; print([n for n in (1, 2, 3, 15) if signal.getsignal(n) == signal.SIG_IGN])"
subprocess.run([sys.executable, "-c", ask], check=True)
"""


def test_children_start_with_default_signals_where_a_shell_ignores_them(processes: Processes) -> None:
    shell = 'trap "" HUP INT QUIT TERM; exec "$@"'
    command = ("sh", "-c", shell, "sh", sys.executable, "-c", SIGNALS_OF_A_CHILD)
    assert processes.run(*command, "inherited", cwd=ROOT).stdout == "[1, 2, 3, 15]\n"
    assert processes.run(*command, "default", cwd=ROOT).stdout == "[]\n"


def test_what_works_in_a_folder_is_found_and_ended(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    inside = mine / "deeper"
    inside.mkdir(parents=True)
    other.mkdir()
    commands = [
        (["sleep", "60"], inside),
        ([sys.executable, "-c", "import time; time.sleep(60)", str(mine)], other),
    ]
    left = [subprocess.Popen(words, cwd=folder) for words, folder in commands]
    with Processes(tmp_path) as own:
        stays = own.start("sleep", "60", cwd=other)
        wait_until(lambda: len(processes_of(mine)) == 2, timeout_s=30, what="two processes")
        end_processes_of(mine)
        assert processes_of(mine) == []
        for process in left:
            process.wait(30)
            assert not runs(process.pid)
        assert stays.alive
