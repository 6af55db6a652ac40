"""A run of a framework, watched from outside: what it used, its deadline, and that nothing of it is left."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.compare.measured import measure
from benchmarks.compare.peers.children import wait_for_rounds
from benchmarks.compare.peers.lines import Carried, Lines

WORKING = """
import json, sys, time
orders = json.loads(sys.argv[1])
ends = []
for _ in range(orders["rounds"]):
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    ends.append(time.time())
print("something else")
print(json.dumps({"ends": ends, "outcome": 1.5}))
"""
FORGETTING = """
import json, os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the process does that forks a simulation's workers
ends = [time.time()]
for _ in range(2):
    if not os.fork():
        until = time.process_time() + 1.0
        while time.process_time() < until:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:  # there is none any more
        pass
    time.sleep(0.6)
    ends.append(time.time())
print(json.dumps({"ends": ends, "outcome": 1.0}))
"""
LEAVING_A_CHILD = """
import subprocess, sys, time
middle = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
print(subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True).stdout, flush=True)
open(sys.argv[1].strip('"'), "w").write("begun")
time.sleep(60)
"""


def test_a_run_is_measured_from_outside(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WORKING)
    run = measure(sys.executable, script, {"rounds": 4}, deadline_s=60)
    assert run.error == ""
    assert len(run.seconds) == 3
    assert 0.15 < run.cpu_s < 0.6
    assert run.memory_mb > 1
    assert run.outcome == 1.5


def test_children_that_the_system_forgets_count_as_the_run_s_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FORGETTING)
    run = measure(sys.executable, script, {}, deadline_s=60)
    assert run.error == ""
    assert run.cpu_s > 0.5, (
        "each of two rounds has a child that computes for a second, and is looked at 4 times a second"
    )


def test_a_script_that_fails_is_a_run_with_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('no such model')")
    assert "ValueError: no such model" in measure(sys.executable, script, {}, deadline_s=60).error


def test_a_run_past_its_deadline_ends_with_all_that_it_started(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LEAVING_A_CHILD)
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    run = measure(sys.executable, script, str(tmp_path / "begun"), deadline_s=4)  # type: ignore[arg-type]
    assert run.error == "not done after 4 s"
    assert {each.pid for each in psutil.Process().children(recursive=True)} <= before


@pytest.mark.timeout(60)
def test_lines_to_a_server_are_as_slow_as_asked_for_and_count_what_they_carry() -> None:
    payload = bytes(250_000)
    server = socket.create_server(("127.0.0.1", 0))
    with server, Lines(2, server.getsockname()[1], mbit=8.0) as lines, Carried(lines.lines) as carried:
        ends = [time.time()]
        for line in lines.lines:
            with socket.create_connection(("127.0.0.1", line.port), timeout=30) as client:
                ours, _ = server.accept()
                with ours:
                    ours.settimeout(30)
                    ours.sendall(payload)
                    client.sendall(payload[:1000])
                    left = len(payload)
                    while left:
                        left -= len(client.recv(1 << 16))
                    assert len(ours.recv(1000, socket.MSG_WAITALL)) == 1000
        took = time.time() - ends[0]
        until = time.monotonic() + 30
        while carried.of_a_round([ends[0], time.time()])["down"] < len(payload):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert carried.of_a_round([ends[0], time.time()]) == {"down": len(payload), "up": 1000}
    assert took > 2 * 0.2, "a quarter of a megabyte takes a quarter of a second over 8 Mbit/s"


@pytest.mark.timeout(60)
def test_the_rounds_of_a_client_are_waited_for_until_a_deadline(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text(json.dumps({"ends": [1.0, 2.0], "outcome": 0.5}))
    assert wait_for_rounds(out, 2, 10.0)["outcome"] == 0.5
    for text in ('{"ends": [1.0], "outcome": 0.5}', '{"ends": [1.0, 2.', ""):
        out.write_text(text)
        with pytest.raises(TimeoutError, match="2 rounds were not finished"):
            wait_for_rounds(out, 2, 0.15)
