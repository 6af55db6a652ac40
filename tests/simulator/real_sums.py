"""Secure sums of 27 real nodes with few neighbours, of which two die at each step: `python -m tests.simulator.real_sums`.

Every node is a daemon process with a worker, behind a real Mosquitto. Two jobs of three rounds lose two nodes at one step of
each round, and the researcher is killed once in each; what they end in is compared with plain jobs of the same nodes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file

from fedjob import FedAvg, Job, Quorum, SecAgg, connect
from fedjob.privacy.secagg.neighbours import LARGEST_COMPLETE, size_of_graph
from fedjob.researcher.rounds.secure_sum import _Attempt
from fedjob.researcher.storage.breakpoints import newest_valid
from tests.data import make_points
from tests.e2e.federation import ROOT, Federation

NUM_NODES = 27
SUM = SecAgg(clip=1.0, colluding=0.1, dropouts=0.15)
LOSSES = (("draw", "mask", "reveal"), ("shares", "agree", "mask"))
"""The steps, round by round, before which two nodes die: of each job."""

RESEARCHER_DIES = ((2, "agree"), (2, "reveal"))
"""Round and step before which the researcher is killed, of each job."""

PATIENCE_S = 600.0
PLAN = f"{ROOT}/tests/e2e/plans.py:Numbered"


def about(**changes: Any) -> dict[str, Any]:
    """Return the arguments of the jobs, plain and secure."""
    return {
        "training_plan": PLAN,
        "data": {"tags": ["points"]},
        "training_args": {"lr": 0.1, "num_updates": 1, "batch_size": 16},
        "aggregator": "sum",
        "rounds": len(LOSSES[0]),
        "seed": 1,
        "quorum": Quorum(min_nodes=LARGEST_COMPLETE + 1, deadline_s=120),
        **changes,
    }


# -- the researcher's process ---------------------------------------------------------------


def kill_at(cuts: list[dict[str, Any]], done: Path) -> None:
    """Kill processes right before a step of a round is asked for; Python tells a profiler of every call.

    Args:
        cuts: each with `round`, `step` and `pids`; 0 for this process itself.
        done: a line of what was killed is on the disk before anybody is.
    """
    code, left = _Attempt._step.__code__, list(cuts)

    def watch(frame: FrameType, what: str, _: Any) -> None:
        if what != "call" or frame.f_code is not code:
            return
        place, step = frame.f_locals["self"].of.place.round, frame.f_locals["name"]
        for cut in [cut for cut in left if (cut["round"], cut["step"]) == (place, step)]:
            left.remove(cut)
            with done.open("a", encoding="utf-8") as file:
                file.write(f"{cut['number']}\n")
            for pid in cut["pids"]:
                os.kill(pid or os.getpid(), signal.SIGKILL)

    threading.setprofile(watch)
    sys.setprofile(watch)


def research(order: Mapping[str, Any]) -> None:
    """Run a secure job, or resume one, with what is to be killed on the way."""
    torch.set_num_threads(1)
    with connect(hub=order["hub"], home=order["home"], id="lab", timeout_s=60) as session:
        if order["resume"]:
            job = Job.resume(order["resume"], session=session)
        else:
            job = Job(FedAvg(), session=session, **about(protect=SUM))
        print(f"job: {job.id}", flush=True)
        kill_at(order["cuts"], Path(order["done"]))
        job.run(progress=False)
        replied = {number: list(one.replied) for number, one in job.rounds.items()}
        print(f"done: {json.dumps(replied)}", flush=True)


# -- one job --------------------------------------------------------------------------------


def secure_job(federation: Federation, number: int) -> tuple[Path, dict[int, list[str]]]:
    """Run a secure job to its end through all deaths; return its folder and who is in the sum of each round."""
    names = iter(sorted(federation.nodes))
    cuts = [
        {"round": place, "step": step, "pids": [federation.nodes[next(names)].pid for _ in range(2)]}
        for place, step in enumerate(LOSSES[number], 1)
    ]
    place, step = RESEARCHER_DIES[number]
    cuts.append({"round": place, "step": step, "pids": [0]})
    numbered = [{**cut, "number": k} for k, cut in enumerate(cuts)]
    done = federation.folder / f"killed-{number}"
    done.touch()
    resume = ""
    while True:
        killed = {int(line) for line in done.read_text(encoding="utf-8").split()}
        order = {
            "hub": federation.url,
            "home": str(federation.folder / "lab"),
            "resume": resume,
            "cuts": [cut for cut in numbered if cut["number"] not in killed],
            "done": str(done),
        }
        process = federation.processes.start(
            "python", "-m", "tests.simulator.real_sums", "--order", json.dumps(order), cwd=ROOT, fork=True
        )
        folder = (
            federation.folder / "lab" / "jobs" / process.wait_for(r"^job: (\S+)", timeout_s=PATIENCE_S)[1]
        )
        if (ended := process.wait(timeout_s=PATIENCE_S)) == 0:
            break
        assert ended == -signal.SIGKILL, process.log()
        resume = str(newest_valid(folder / "breakpoints"))
    assert len(done.read_text(encoding="utf-8").split()) == len(cuts), "somebody was not killed"
    replied = json.loads(process.wait_for(r"^done: (.*)$")[1])
    return folder, {int(number): nodes for number, nodes in replied.items()}


def plain_job(federation: Federation, replied: Mapping[int, Collection[str]], number: int) -> Path:
    """Run the job in the clear with the nodes that were in each round's sum; return its folder."""
    path = federation.folder / f"chosen_{number}.py"
    path.write_text(f"def chosen(round_, nodes):\n    return {dict(replied)!r}[round_]\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    job = Job(FedAvg(), session=federation.session("lab"), **about(selector=module.chosen))
    job.run(progress=False)
    assert {number: sorted(one.replied) for number, one in job.rounds.items()} == {
        number: sorted(nodes) for number, nodes in replied.items()
    }
    return Path(job.folder)


def numbers(folder: Path) -> dict[str, torch.Tensor]:
    """Return the parameters that a job ended in."""
    return load_file(folder / "result" / "params.safetensors")


def compare(federation: Federation, number: int) -> str:
    """Run one secure job and its plain twin; return in words what came of it.

    Raises:
        AssertionError: they differ, or a round had another number of nodes than those that lived on.
    """
    began = time.monotonic()
    folder, replied = secure_job(federation, number)
    federation.start_nodes()
    plain = plain_job(federation, replied, number)
    secure, clear = numbers(folder), numbers(plain)
    assert secure.keys() == clear.keys()
    for name, tensor in clear.items():
        assert torch.equal(secure[name], tensor), f"{name} differs by {(secure[name] - tensor).abs().max()}"
    sizes = [len(replied[place]) for place in sorted(replied)]
    assert all(size > LARGEST_COMPLETE for size in sizes), sizes
    return (
        f"deaths before {', '.join(LOSSES[number])}; sums of {', '.join(map(str, sizes))} nodes, bit for bit those of the "
        f"plain job ({time.monotonic() - began:.0f} s)"
    )


def main() -> None:
    """Run both jobs, or what an order says."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--order", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.order:
        research(json.loads(chosen.order))
        return
    graph = size_of_graph(NUM_NODES, SUM.colluding, SUM.dropouts)
    assert graph is not None
    print(f"{NUM_NODES} nodes with {graph.degree} neighbours each", flush=True)
    with tempfile.TemporaryDirectory(prefix="fedjob-sums-") as folder:
        for number in range(len(LOSSES)):
            with Federation(Path(folder) / str(number), "mosquitto", forked=True) as federation:
                for k, node in enumerate(federation.add_nodes(*(f"n{k:02d}" for k in range(NUM_NODES)))):
                    node.add("points", make_points(federation.folder / f"{k}.npz", 32, k), "points")
                federation.start_nodes()
                print(compare(federation, number), flush=True)


if __name__ == "__main__":
    main()
