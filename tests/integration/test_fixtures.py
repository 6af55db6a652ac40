"""The shared fixtures do what they promise."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import preloaded
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


OF_A_FORKED_PROCESS = """\
import json, os, random, signal, sys
print(json.dumps({
    "loaded": "torch" in sys.modules,
    "arguments": sys.argv[1:],
    "session": os.getsid(0) == os.getpid(),
    "folder": os.getcwd(),
    "word": os.environ.get("WORD"),
    "random": random.random(),
    "signals": [signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler) for n in (1, 2, 15, 17)],
    "input": sys.stdin.read(),
}))
print("bad", file=sys.stderr)
sys.exit(3)
"""


def test_a_forked_process_has_its_own_streams_folder_environment_signals_and_status(tmp_path: Path) -> None:
    words = [sys.executable, "-c", OF_A_FORKED_PROCESS, "one", "two"]
    environment = {"PATH": os.environ["PATH"], "WORD": "spoken"}
    ran = [preloaded.run(words, env=environment, timeout_s=60, cwd=tmp_path) for _ in range(2)]
    assert [(done.returncode, done.stderr) for done in ran] == [(3, "bad\n")] * 2
    first, second = (json.loads(done.stdout) for done in ran)
    assert first.pop("random") != second.pop("random")
    assert first == {
        "loaded": True,
        "arguments": ["one", "two"],
        "session": True,
        "folder": str(tmp_path),
        "word": "spoken",
        "signals": [True] * 4,
        "input": "",
    }


def test_a_forked_process_is_killed_interrupted_and_late_as_any_other(processes: Processes) -> None:
    sleeps = "import sys, time; print('up', flush=True); time.sleep(60)"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        running = processes.start("python", "-c", sleeps, ready="^up", fork=True)
        assert running.alive
        with pytest.raises(AssertionError, match="still runs"):
            running.wait(timeout_s=0.1)
        running.send(number)
        assert running.wait(timeout_s=30) == -number
        assert not runs(running.pid)
    assert "KeyboardInterrupt" in running.log()
    with pytest.raises(subprocess.TimeoutExpired):
        preloaded.run([sys.executable, "-c", sleeps], env=dict(os.environ), timeout_s=0.2)
    done = preloaded.run([sys.executable, "-c", "raise SystemExit('no such room')"], env={}, timeout_s=60)
    assert (done.returncode, done.stderr) == (1, "no such room\n")
    failed = preloaded.run([sys.executable, "-c", "1 / 0"], env={}, timeout_s=60)
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_what_a_forked_process_starts_is_forked_behind_an_interpreter_that_stands_in_for_it(
    tmp_path: Path,
) -> None:
    python = preloaded.server().python
    shows = (
        "import json, os, sys; print(json.dumps([sys.argv, sys.executable, sys.stdin.read(), os.getcwd()]))"
    )
    nested = (
        f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {shows!r}]).decode())"
    )
    done = subprocess.run(
        [python, "-c", shows, "a b", ""], input="typed", capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == [["-c", "a b", ""], python, "typed", str(tmp_path)]
    done = subprocess.run([python, "-c", nested], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert json.loads(done.stdout)[1] == python
    for ends, status in (("sys.exit(3)", 3), ("os.kill(os.getpid(), 15)", -15), ("os._exit(0)", 0)):
        assert subprocess.run([python, "-c", f"import os, sys; {ends}"]).returncode == status


def test_what_stands_in_for_a_process_hands_on_descriptors_and_signals_and_is_killed_with_it(
    tmp_path: Path,
) -> None:
    python = preloaded.server().python
    reading, writing = os.pipe()
    text = f"import os, time; os.write({writing}, str(os.getpid()).encode()); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([python, "-P", "-c", text], pass_fds=[writing], cwd=tmp_path)
        pid = int(os.read(reading, 20))
        assert pid != process.pid
        process.send_signal(number)
        assert process.wait(30) == -number
        wait_until(lambda pid=pid: not runs(pid), timeout_s=30, what="the end of the forked process")
    process = subprocess.Popen([python, "-c", text], pass_fds=[writing])
    os.kill(int(os.read(reading, 20)), signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    os.close(reading)
    os.close(writing)


def test_what_can_not_be_forked_is_left_to_python(tmp_path: Path) -> None:
    python = preloaded.server().python
    shows = "import sys; print(sys.executable)"
    for words, environment in (
        (["-I", "-c", shows], os.environ),
        (["-c", shows], {**os.environ, "OMP_NUM_THREADS": "7"}),
    ):
        done = subprocess.run([python, *words], env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"{sys.executable}\n", "")


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
