"""A job cut anywhere, by any death, goes on in a new process to the bytes of the uninterrupted run."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Fraction, Job
from fedjob.researcher.storage.breakpoints import newest_valid
from tests.data import TRAINING
from tests.e2e.conftest import SITES
from tests.e2e.federation import PATIENCE_S, ROOT, Federation, digest
from tests.foreign import accept
from tests.processes import Running

pytestmark = [pytest.mark.timeout(500), pytest.mark.usefixtures("healed")]

ROUNDS = 14
SEED = 20


@pytest.fixture(scope="module")
def golden(rough: Federation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash of the uninterrupted run; it needs no network, see test_same_bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    job = Job(
        FedAvg(),
        training_plan=f"{ROOT}/tests/plans.py:Tiny",
        data={name: str(rough.folder / f"points-{index}.npz") for index, name in enumerate(SITES)},
        training_args=TRAINING,
        selector=Fraction(0.67),
        rounds=ROUNDS,
        seed=SEED,
        nodes="local",
        home=tmp_path_factory.mktemp("golden"),
    )
    job.run(progress=False)
    torch.set_num_threads(before)
    return digest(job)


def first_order() -> dict[str, Any]:
    """Return what a researcher is to do at first."""
    return {
        "job": {
            "plan": f"{ROOT}/tests/plans.py:Tiny",
            "data": {"tags": ["points"]},
            "training_args": TRAINING,
            "fraction": 0.67,
            "rounds": ROUNDS,
            "seed": SEED,
        }
    }


def folder_of(rough: Federation, researcher: Running) -> Path:
    """Return the folder of the job that a researcher runs."""
    return rough.folder / "lab" / "jobs" / researcher.wait_for(r"^job: (\S+)")[1]


def ended(researcher: Running) -> str:
    """Return the hash that a researcher ended with; nothing if it was killed."""
    status = researcher.wait(timeout_s=PATIENCE_S)
    assert status in (0, -signal.SIGKILL), researcher.log()
    return researcher.wait_for(r"^done: (\S+)")[1] if status == 0 else ""


CUTS = [
    # the first in round 2, so that there is a breakpoint; each goes on from where the one before was cut
    [
        "fedjob.researcher.federation.remote:RemoteFederation.collect",
        "call",
        2,
    ],  # nothing of the round is sent
    ["fedjob.researcher.federation.collector:Collector._send", "return", 3],  # one of two tasks is sent
    [
        "fedjob.researcher.storage.replies:Journal.append",
        "call",
        3,
    ],  # a contribution is here, not in the journal
    [
        "fedjob.researcher.storage.replies:Journal.append",
        "return",
        4,
    ],  # it is in the journal, and has no receipt
    [
        "fedjob.researcher.rounds.gatherer:Gatherer._spool_total",
        "return",
        2,
    ],  # the total is there, the round not committed
    ["fedjob.common.files:replace_durably", "call", 2],  # in the middle of a breakpoint
    ["fedjob.researcher.storage.breakpoints:save_breakpoint", "return", 2],  # after it
    ["fedjob.researcher.runner.persistence:Persistence.tidy", "call", 2],  # before the hub is told to forget
    ["fedjob.researcher.federation.remote:RemoteFederation.end", "call", 1],  # after the last round
]


@pytest.mark.feature("FB-43")
def test_cut_at_every_step_of_a_round_and_resumed_again_and_again(rough: Federation, golden: str) -> None:
    researcher = rough.research({**first_order(), "kill": CUTS[0]})
    folder = folder_of(rough, researcher)
    assert not ended(researcher)
    rounds_at_cuts = []
    for cut in CUTS[1:]:
        last = newest_valid(folder / "breakpoints")
        assert last is not None
        rounds_at_cuts.append(last.name)
        if len(rounds_at_cuts) % 3 == 0:  # nodes are restarted in between, one of them by its death
            rough.nodes[SITES[0]].kill()
            rough.nodes[SITES[1]].stop()
            rough.start_nodes()
        researcher = rough.research({"resume": str(last), "kill": cut})
        assert not ended(researcher), f"{cut} was never reached"
    last = newest_valid(folder / "breakpoints")
    assert ended(rough.research({"resume": str(last)})) == golden
    assert len(set(rounds_at_cuts)) >= 6


CUTS_OF_A_TOTAL = [
    ["fedjob.parameters.params_writer:ParamsWriter.write", "return", 2],  # a stretch of it is on its way
    ["fedjob.researcher.federation.remote:RemoteFederation.attach_growing", "return", 1],  # it is at the hub
]


def test_cut_while_a_large_total_is_added_and_sent_it_goes_on_to_the_same_bytes(rough: Federation) -> None:
    order = first_order()
    order["job"] |= {"rounds": 4, "model_args": {"width": 60_000}}
    whole = ended(rough.research(order))
    researcher = rough.research(
        {**order, "kill": ["fedjob.researcher.storage.breakpoints:save_breakpoint", "return", 1]}
    )
    folder = folder_of(rough, researcher)
    assert not ended(researcher)
    for cut in CUTS_OF_A_TOTAL:
        last = newest_valid(folder / "breakpoints")
        assert last is not None
        assert not ended(rough.research({"resume": str(last), "kill": cut})), f"{cut} was never reached"
    last = newest_valid(folder / "breakpoints")
    assert last is not None
    assert last.name == "round_0001"
    assert ended(rough.research({"resume": str(last)})) == whole


def test_killed_at_random_while_workers_die_at_random_too(rough: Federation, golden: str) -> None:
    rng = random.Random(4)
    order = first_order()
    folder: Path | None = None
    kills = 0
    with dying_workers(rough, rng):
        for attempt in range(12):
            researcher = rough.research(order)
            folder = folder or folder_of(rough, researcher)
            researcher.wait_for(r"^job: ")
            if attempt < 7:
                try:
                    researcher.wait(timeout_s=rng.uniform(0.2, 1.2))
                except AssertionError:
                    researcher.kill()
                    kills += 1
            else:
                researcher.wait(timeout_s=PATIENCE_S)
            if found := ended(researcher):
                break
            last = newest_valid(folder / "breakpoints")
            order = first_order() if last is None else {"resume": str(last)}
            folder = folder if last is not None else None
    assert found == golden
    assert kills >= 2


@contextmanager
def dying_workers(rough: Federation, rng: random.Random) -> Iterator[None]:
    """Kill the workers of one node after the other now and then: each has time to finish a task in between."""
    over = threading.Event()

    def work() -> None:
        for site in itertools.cycle(SITES):
            if over.wait(rng.uniform(1.0, 3.0)):
                return
            rough.nodes[site].kill_workers()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.feature("FB-42")
def test_a_moved_breakpoint_alone_is_enough_even_if_the_repository_lost_everything(
    rough: Federation, golden: str, tmp_path: Path
) -> None:
    researcher = rough.research({**first_order(), "kill": CUTS[0]})
    folder = folder_of(rough, researcher)
    assert not ended(researcher)
    moved = tmp_path / "elsewhere"
    shutil.move(newest_valid(folder / "breakpoints"), moved)
    shutil.rmtree(folder)
    storage = rough.folder / "hub" / "storage"
    objects = [path for path in storage.rglob("*") if path.is_file()]
    assert objects
    for path in objects:
        path.unlink(missing_ok=True)  # the hub may be tidying up
    researcher = rough.research({"resume": str(moved)})
    assert ended(researcher) == golden
    assert folder_of(rough, researcher).name == folder.name  # the same job
    for path in moved.rglob("*"):
        data = path.read_bytes()
        assert str(rough.folder).encode() not in data
        assert b"/home" not in data


def test_under_another_researchers_key_it_becomes_a_clone(rough: Federation, tmp_path: Path) -> None:
    researcher = rough.research({**first_order(), "kill": CUTS[0]})
    folder = folder_of(rough, researcher)
    assert not ended(researcher)
    last = newest_valid(folder / "breakpoints")
    assert last is not None
    clone = accept(last, session=rough.session("other-lab"))
    assert clone.id != folder.name
    clone.run(progress=False)
    assert clone.success
    assert clone.folder.is_relative_to(rough.folder / "other-lab")
    assert {
        task["researcher"] for task in rough.nodes[SITES[0]].json("tasks") if task["job"] == clone.id
    } <= {"other-lab"}


@pytest.mark.feature("FB-93")
def test_more_rounds_are_added_to_a_job_that_is_complete(rough: Federation, golden: str) -> None:
    order = first_order()
    order["job"]["rounds"] = 4
    researcher = rough.research(order)
    folder = folder_of(rough, researcher)
    assert ended(researcher) != golden
    last = folder / "breakpoints" / "round_0004"
    assert ended(rough.research({"resume": str(last), "rounds": ROUNDS})) == golden
