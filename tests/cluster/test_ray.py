"""Simulations on a Ray cluster: the bytes of worker processes, and named errors before the first round.

They stand with the tests of clusters because Ray's own processes listen on the machine's network address, take half a
minute to start, and abort themselves where the machine is too busy for that.
"""

from __future__ import annotations

import gc
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from fedjob import Dirichlet, Quorum, simulate
from fedjob.common.errors import JobFailed, SpecError
from tests.integration.test_simulated_nodes import (
    ARGS,
    EndsItsProcess,
    FromBase,
    end_of,
    simulated,
    wait_until,
)
from tests.parts import package

# Ray drops its handle of a process that fedjob has just ended, as it does after a start that failed on a busy machine
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function Popen:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import Ray before the first test, for it then adds to `sys.path`, for the whole process."""
    package("ray")


@pytest.fixture(autouse=True)
def handles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have Python reap the processes of Ray that have ended, whose handles Ray drops without asking how they ended."""
    monkeypatch.setenv("PYTHONBREAKPOINT", "")  # Ray sets it when it is joined
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for found in [each for each in gc.get_objects() if isinstance(each, subprocess.Popen)]:
            found.poll()
        gc.collect()


@pytest.mark.timeout(500)  # Ray's own processes take half a minute to start on a busy machine
def test_ray_gives_the_bytes_of_worker_processes_and_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = package("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    results, reasons = [], []
    for backend in ("processes", "ray"):
        tried = tmp_path / backend
        tried.mkdir()
        job = simulated(
            tmp_path,
            nodes=simulate(4, split=Dirichlet(1.0), workers=2, backend=backend),
            training_plan=EndsItsProcess,
            training_args={**ARGS, "folder": str(tried)},
            quorum=Quorum(min_nodes=3),
            rounds=1,
        )
        results.append(end_of(job))
        reasons.append(
            [(event.node, event.body["reason"]) for event in job.events() if event.type == "error"]
        )
    assert results[0] == results[1]
    assert reasons[0] == reasons[1]
    assert [node for node, _ in reasons[1]] == ["node-0002"]

    assert not ray.is_initialized()  # it was started for the job, and has ended with it
    assert os.environ["PYTHONBREAKPOINT"] == ""  # as the test had set it: breakpoint() is not Ray's any more
    programs = os.path.dirname(ray.__file__ or "")
    wait_until(lambda: not any(programs in " ".join(line) for line in command_lines(os.getpid())))


@pytest.mark.timeout(500)
def test_actors_read_the_models_that_a_job_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    save_file({"weight": torch.ones(1, 4), "bias": torch.zeros(1)}, tmp_path / "base.safetensors")
    given = {"training_plan": FromBase, "models": {"base": tmp_path / "base.safetensors"}, "rounds": 1}
    by_backend = [
        end_of(simulated(tmp_path, nodes=simulate(2, workers=1, backend=backend), **given))
        for backend in ("processes", "ray")
    ]
    assert by_backend[0] == by_backend[1]


def test_a_ray_cluster_that_is_away_or_does_not_start_is_named_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    away = simulated(tmp_path, nodes=simulate(8, backend="ray"))
    for do in (away.estimate, away.check, away.run):
        with pytest.raises(SpecError, match=r"the Ray cluster at 127\.0\.0\.1:1 \(RAY_ADDRESS\) is away"):
            do()
    assert away.record.participants == {}
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv(
        "RAY_gcs_server_port_wait_time_s", "0"
    )  # seconds that Ray waits for its own first process
    stuck = simulated(tmp_path, nodes=simulate(8, backend="ray"))
    with pytest.raises(JobFailed, match="no Ray cluster could be started on this machine: Timed out"):
        stuck.run(progress=False)
    assert stuck.record.participants == {}
    programs = os.path.dirname(package("ray").__file__ or "")
    wait_until(lambda: not any(programs in " ".join(line) for line in command_lines(os.getpid())))


def command_lines(pid: int) -> list[list[str]]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            found.append(process.cmdline())
    return found
