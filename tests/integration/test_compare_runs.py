"""A run of a framework, watched from outside: what it used, its deadline, and that nothing of it is left."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from benchmarks.compare.measured import measure

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
