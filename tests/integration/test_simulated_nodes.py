"""Simulated nodes in worker processes: the bytes of one process, deaths of workers, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from fedjob import Dirichlet, Fraction, Job, JobFailed, Quorum, simulate
from fedjob.researcher.hooks.base import Hook, RoundReport
from tests.plans import Linear, Tiny

ARGS = {"lr": 0.05, "num_updates": 3, "batch_size": 8}
WITHIN_S = 180.0  # importing torch takes its time on a busy machine


class FromBase(Linear):
    """Begins with a model that is in a file."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = super().init_model(model_args)
        model.load_state_dict(self.ctx.model("base"))
        return model


def pooled(num_rows: int = 160) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return inputs, (inputs.sum(axis=1) > 0).astype(np.int64)


def simulated(home: Path, **given: Any) -> Job:
    arguments = {
        "training_plan": Tiny,
        "training_args": ARGS,
        "rounds": 3,
        "seed": 7,
        "data": pooled(),
        "home": home,
    }
    return Job("fedavg", **{**arguments, **given})


def end_of(job: Job) -> bytes:
    job.run(progress=False)
    return (job.folder / "result" / "params.safetensors").read_bytes()


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the processes that compute: the last of the tree below the one that has imported torch."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            is_forked = "worker_process" in " ".join(process.parent().cmdline())
            if is_forked and process.children() == []:
                found.append(process)
    return found


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class KillsAWorker(Hook):
    """Kills a worker when each round is done, as `kill -9` does."""

    name = "kills_a_worker"

    def __init__(self) -> None:
        self.killed: list[int] = []

    def round_done(self, report: RoundReport) -> str | None:
        victim = workers_of(os.getpid())[0]
        os.kill(victim.pid, signal.SIGKILL)
        self.killed.append(victim.pid)
        return None


def test_one_worker_or_two_or_dying_ones_end_in_the_bytes_of_this_process(tmp_path: Path) -> None:
    split = Dirichlet(1.0)
    expected = end_of(simulated(tmp_path, nodes=simulate(8, split=split, drop=0.1, workers=0)))
    for workers in (1, 2):
        nodes = simulate(8, split=split, drop=0.1, workers=workers)
        assert end_of(simulated(tmp_path, nodes=nodes)) == expected
    killer = KillsAWorker()
    nodes = simulate(8, split=split, drop=0.1, workers=2)
    assert end_of(simulated(tmp_path, nodes=nodes, hooks=[killer])) == expected
    assert len(set(killer.killed)) == 3
    wait_until(lambda: workers_of(os.getpid()) == [])


class EndsItsProcess(Linear):
    """Ends its process at one node, each time; at another the first time that it is tried."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        import os
        from pathlib import Path

        tried = Path(training_args["folder"]) / f"{self.ctx.node}-{self.ctx.round}"
        first = not tried.exists()
        tried.touch()
        if self.ctx.node == "node-0002" or (self.ctx.node == "node-0003" and first):
            os.kill(os.getpid(), 9)
        return super().training_data(dataset, training_args)

    extra_args = ("folder",)


class CountsPageFaults(Linear):
    """Measures how many pages the system gave while blocks of memory were taken and given back, again and again."""

    def testing_step(self, model, batch):  # type: ignore[no-untyped-def]
        import resource

        import torch

        def passes(count):  # type: ignore[no-untyped-def]
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(count):
                blocks = [torch.ones(n << 18) for n in (1, 2, 3, 4)]  # 1 to 4 MB
                del blocks
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        passes(20)  # pages that it has in common with the process that forked it are its own then
        return {"faults": float(passes(10))}


class KillsTheirParent(Hook):
    """Kills the process that has the data, and with it the workers that it forked."""

    name = "kills_their_parent"

    def round_done(self, report: RoundReport) -> str | None:
        victim = workers_of(os.getpid())[0].parent()
        assert victim is not None
        victim.kill()
        return None


def test_a_job_whose_workers_and_their_parent_are_killed_fails_with_a_reason_and_can_be_resumed(
    tmp_path: Path,
) -> None:
    nodes = simulate(4, workers=1)
    job = simulated(tmp_path, nodes=nodes, hooks=[KillsTheirParent()])
    with pytest.raises(JobFailed, match="can't go on: the process that the workers are forked from is gone"):
        job.run(progress=False)
    again = Job.resume(job.breakpoints[-1], home=tmp_path)
    assert end_of(again) == end_of(simulated(tmp_path, nodes=nodes))


def test_workers_read_the_models_that_a_job_names(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 4), "bias": torch.zeros(1)}, tmp_path / "base.safetensors")
    given = {"training_plan": FromBase, "models": {"base": tmp_path / "base.safetensors"}, "rounds": 1}
    ends = {end_of(simulated(tmp_path, nodes=simulate(4, workers=workers), **given)) for workers in (0, 2)}
    assert len(ends) == 1


def test_a_worker_keeps_the_memory_of_a_batch_for_the_next(tmp_path: Path) -> None:
    args = {**ARGS, "test_ratio": 0.5, "batch_size": 80, "test_on_local_updates": True}
    nodes = simulate(2, workers=1)
    job = simulated(tmp_path, training_plan=CountsPageFaults, training_args=args, nodes=nodes, rounds=1)
    history = job.run(progress=False).history
    faults = history.loc[history.metric == "faults", "value"].max()
    assert faults < 10_000  # ten times 10 MB are 25,600 pages


def test_work_whose_worker_dies_is_done_again_and_given_up_after_three_times(tmp_path: Path) -> None:
    args = {**ARGS, "folder": str(tmp_path)}
    job = simulated(
        tmp_path,
        training_plan=EndsItsProcess,
        training_args=args,
        nodes=simulate(4, workers=2),
        rounds=1,
        quorum=Quorum(min_nodes=3),
    )
    job.run(progress=False)
    errors = {event.node: event.body["reason"] for event in job.events() if event.type == "error"}
    assert list(errors) == ["node-0002"]
    assert errors["node-0002"].startswith("worker_died: 3 workers died while they computed it")


DRIVER = """
import sys
from pathlib import Path
from tests.integration.test_simulated_nodes import Waits, simulated
from fedjob import simulate

simulated(Path(sys.argv[1]), training_plan=Waits, nodes=simulate(4, workers=2)).run(progress=False)
"""


class Waits(Linear):
    """Trains for longer than any test waits."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        import time

        time.sleep(600)
        return super().training_step(model, batch)


class PressesCtrlC(Hook):
    """Interrupts the driver when a round is done."""

    name = "presses_ctrl_c"

    def round_done(self, report: RoundReport) -> str | None:
        signal.raise_signal(signal.SIGINT)
        return None


def test_workers_end_when_the_job_is_interrupted(tmp_path: Path) -> None:
    job = simulated(tmp_path, nodes=simulate(4, workers=2), hooks=[PressesCtrlC()])
    with pytest.raises(KeyboardInterrupt):
        job.run(progress=False)
    wait_until(lambda: workers_of(os.getpid()) == [])


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(workers_of(driver.pid)) == 2 and all(map(_sleeps, workers_of(driver.pid))))
        tree = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait(WITHIN_S)
        wait_until(lambda: not any(map(_runs, tree)))
    finally:
        driver.kill()
        driver.wait()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sleeps(process: psutil.Process) -> bool:
    """Return whether a worker is within its step, which sleeps."""
    return process.status() == psutil.STATUS_SLEEPING


def test_resources_and_a_gpu_that_is_not_there_are_said_above_the_bar_and_in_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = simulate(3, workers=0)
    job = simulated(tmp_path, nodes=nodes, training_args={**ARGS, "use_gpu": True}, resources={"gpus": 1})
    result = job.run(progress=True)
    remarks = ["resources={'gpus': 1} are asked of nodes alone, and left aside on this machine"]
    if not torch.cuda.is_available():
        remarks.append("use_gpu=True, but torch finds no GPU here: training on the CPU")
    assert list(result.remarks) == remarks
    assert result.about.endswith("; ".join(remarks))
    shown = " ".join(capsys.readouterr().err.split())
    for remark in remarks:
        assert shown.count(remark) == 2, "once when it happens, and once with the result"
    plain = simulated(tmp_path, nodes=nodes, resources={"gpus": 1})
    assert plain.run(progress=False).remarks == (
        f"{remarks[0]}: to compute on a GPU, set training_args={{'use_gpu': True}}",
    )


SHOWS = """
import sys
from click.testing import CliRunner
from fedjob.cli import cli

print(CliRunner().invoke(cli, ["job", "show", sys.argv[1], "--home", sys.argv[2]], catch_exceptions=False).output)
assert "torch" not in sys.modules, "seconds for a look"
"""


def test_a_job_of_very_many_nodes_is_shown_in_a_few_lines_without_torch(tmp_path: Path) -> None:
    nodes, few = simulate(300, workers=0), Fraction(0.02)
    job = simulated(tmp_path, nodes=nodes, data=pooled(600), selector=few, rounds=2)
    job.run(progress=False)
    done = subprocess.run(
        [sys.executable, "-c", SHOWS, job.id, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "node-0001, node-0002, " in done.stdout
    assert " and 280 more\n" in done.stdout
    assert "more (it was not chosen for any round)" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 600
    assert len(repr(job)) < 1000
