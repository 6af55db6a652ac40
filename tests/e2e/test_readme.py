"""The README's first jobs, as they stand there, on the demo's hub and nodes; and what the demo promises."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.pages import ROOT, blocks
from tests.processes import Processes, Running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def demo(processes: Processes, tmp_path: Path) -> Running:
    """Run a small demo that keeps its hub and nodes; they are forked with it, see `tests.preloaded`."""
    command = ("fedjob", "demo", "--keep", "--nodes", "3", "--workers", "2", "--rounds", "6")
    return processes.start(*command, ready="Ctrl-C stops them", timeout_s=240, cwd=tmp_path, fork=True)


def scripts() -> list[str]:
    """Return the Python blocks of the README."""
    return [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]


def test_the_first_job_is_short() -> None:
    lines = [line for line in scripts()[0].splitlines() if line.strip()]
    assert len(lines) <= 22


@pytest.mark.feature("TB-18", "PS-11")
def test_the_jobs_of_the_readme_run_one_after_another_on_the_nodes_of_the_demo(
    demo: Running, processes: Processes, tmp_path: Path
) -> None:
    output = tmp_path / "demo-output"
    for name in ("plot.png", "model.safetensors", "plan.py"):
        assert (output / name).stat().st_size > 1000, name
    trained = re.search(r"^ *federated .* ([\d.]+)%", demo.log(), re.MULTILINE)
    assert trained is not None
    assert float(trained[1]) > 80
    (tmp_path / "first_job.py").write_text("\n\n".join(scripts()), encoding="utf-8")
    said = processes.run("python", "first_job.py", cwd=tmp_path, timeout_s=120).stdout
    assert "clinic-1" in said
    assert "before" in said
    assert (tmp_path / "first.safetensors").stat().st_size > 2000
    assert "mean_radius" in (tmp_path / "output.csv").read_text(encoding="utf-8")
    assert re.search(r"^mean_texture +[\d.-]+", said, re.MULTILINE)
    for line in demo.log().splitlines():  # what it says to do next
        if re.search(r"fedjob\S* (verify|nodes|node tasks) ", line):
            words = re.split(r"  +", line.strip())[0].split()
            processes.run("fedjob", *words[1:], cwd=tmp_path)
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 3
    demo.send(signal.SIGINT)
    assert demo.wait(timeout_s=60) == 0
    wait_until(lambda: not psutil.wait_procs(started, 0)[1], timeout_s=30, what="no process left behind")
    assert "fedjob.connect(home=" in demo.log()
    assert "is empty" in processes.run("fedjob", "demo", "--reset", cwd=tmp_path).stdout
    assert [path.name for path in output.iterdir()] == [".fedjob-demo"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_cut_leaves_no_process_behind(
    number: signal.Signals, processes: Processes, tmp_path: Path
) -> None:
    demo = processes.start("fedjob", "demo", "--nodes", "2", ready="node ready", cwd=tmp_path)
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 3
    demo.send(number)
    assert demo.wait(timeout_s=60) == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    wait_until(lambda: not psutil.wait_procs(started, 0)[1], timeout_s=30, what="no process left behind")


def test_a_demo_never_empties_a_folder_that_is_not_its_own(processes: Processes, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    said = processes.run("fedjob", "demo", "--home", mine.parent, expect=1)
    assert "not empty" in said.stderr
    assert mine.read_text() == "years of work"
    assert os.listdir(mine.parent) == ["thesis.txt"]
