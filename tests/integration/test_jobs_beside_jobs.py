"""Jobs in the threads, coroutines and forked processes of one program: each as if it were alone, and the program as it was."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fedjob import FedAvg, Job, simulate
from fedjob.common.errors import JobError
from fedjob.common.files import open_locked
from fedjob.researcher.simulation.population import Simulation
from fedjob.researcher.storage.breakpoints import hash_file
from tests.data import LOSS_ALONE, TRAINING, make_points
from tests.plans import Grouped, Linear
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 90.0

NODES = pytest.mark.parametrize(
    "nodes",
    ["local", simulate(workers=0), simulate(workers=0, vectorize=True)],
    ids=["local", "in_process", "vectorised"],
)


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Collect no garbage: Python before 3.11.8 and 3.12.2 may not parse in two threads while something watches that it does."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Job]:
    data = {f"n{k}": str(make_points(tmp_path / f"{k}.npz", 60, k)) for k in range(2)}

    def make_job(nodes: object = "local", rounds: int = 8) -> Job:
        plain = isinstance(nodes, Simulation) and nodes.vectorize  # which takes no dropout
        return Job(
            FedAvg(),
            training_plan=Linear if plain else Grouped,
            data=data,
            nodes=nodes,
            training_args=LOSS_ALONE if plain else TRAINING,
            rounds=rounds,
            seed=3,
            home=tmp_path / "home",
        )

    return make_job


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def randomness() -> tuple[object, ...]:
    """Return the states of the generators that a program draws from."""
    of_numpy = np.random.get_state()[1]
    return random.getstate(), of_numpy.tobytes(), bytes(torch.get_rng_state().numpy())  # type: ignore[union-attr]


@NODES
def test_jobs_in_several_threads_end_in_the_bytes_that_each_has_alone(
    make: Callable[..., Job], nodes: object
) -> None:
    alone = make(nodes)
    alone.run(progress=False)
    jobs = [make(nodes) for _ in range(3)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(lambda job: job.run(progress=False), jobs))
    assert {digest(job) for job in jobs} == {digest(alone)}


def test_a_job_that_is_made_while_another_runs_changes_neither(make: Callable[..., Job]) -> None:
    alone = make()
    alone.run(progress=False)
    job = make()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run, progress=False)
        made = [make() for _ in range(5)]
        running.result(PATIENCE_S)
    assert digest(job) == digest(alone)
    firsts = {hash_file(each.folder / "initial.safetensors") for each in [*made, alone]}
    assert len(firsts) == 1


@NODES
def test_the_programs_own_randomness_stays_as_it_was(make: Callable[..., Job], nodes: object) -> None:
    before = randomness()
    job = make(nodes, rounds=2)
    assert randomness() == before
    job.run(progress=False)
    assert randomness() == before


def test_jobs_run_in_an_event_loop_and_beside_it(make: Callable[..., Job]) -> None:
    alone = make()
    alone.run(progress=False)

    async def program() -> list[Job]:
        beside = [make(), make(simulate(workers=0))]
        await asyncio.gather(*(asyncio.to_thread(job.run, progress=False) for job in beside))
        inside = make()
        inside.run(progress=False)
        return [*beside, inside]

    assert {digest(job) for job in asyncio.run(program())} == {digest(alone)}


def test_one_job_that_two_threads_run_is_run_once_and_the_other_is_told_who_has_it(
    make: Callable[..., Job],
) -> None:
    job, barrier = make(rounds=20), threading.Barrier(2)

    def run() -> str:
        barrier.wait(PATIENCE_S)
        try:
            job.run(progress=False)
        except JobError as error:
            return str(error)
        return "completed"

    with ThreadPoolExecutor(2) as pool:
        ends = sorted(running.result(PATIENCE_S) for running in [pool.submit(run) for _ in range(2)])
    assert ends[0] == "completed"
    assert f"is being run by process {os.getpid()}" in ends[1]
    assert (job.attempts, job.state) == (1, "completed")


def forked(work: Callable[[], object]) -> int:
    """Do something in a forked process, and return its id; it ends with 0 if that raises nothing."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    """Return with what a forked process ended; one that takes too long is killed."""
    ended: list[int] = []

    def has_ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] if found else [])
        return bool(ended)

    try:
        wait_until(has_ended, timeout_s=PATIENCE_S, what="the forked process to end")
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended[0]


def test_a_process_that_was_forked_while_a_job_ran_does_not_keep_its_lock(make: Callable[..., Job]) -> None:
    job = make(rounds=30)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run, progress=False)
        wait_until(lambda: job.state == "running", timeout_s=PATIENCE_S, what="the job to run")
        pid = forked(signal.pause)
        try:
            running.result(PATIENCE_S)
            assert not job._folder.is_held()
            Job.resume(job.folder, rounds=31).run(progress=False)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert (job.state, job.attempts) == ("completed", 2)


def test_a_process_that_was_forked_while_a_job_ran_runs_its_own(make: Callable[..., Job]) -> None:
    alone = make()
    alone.run(progress=False)
    job = make(rounds=30)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.run, progress=False)
        wait_until(lambda: job.state == "running", timeout_s=PATIENCE_S, what="the job to run")
        own = make()
        assert status_of(forked(lambda: own.run(progress=False))) == 0
        running.result(PATIENCE_S)
    assert digest(own) == digest(alone)


def test_a_forked_process_closes_locks_and_no_file_that_has_the_number_of_one_by_now(tmp_path: Path) -> None:
    descriptor = open_locked(tmp_path / "lock")
    assert descriptor is not None
    os.close(descriptor)
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == descriptor

        def write() -> None:
            other.write("written")
            other.flush()

        assert status_of(forked(write)) == 0
    assert (tmp_path / "other").read_text() == "written"
