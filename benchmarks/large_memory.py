"""The private memory that the researcher and the hub need for a large model, with few nodes and with more.

Beside each peak stands one tensor group: the largest tensor of the model, which is the least that anything works on at a
time that takes tensor by tensor. "made" is the moment at which the job is defined, when the plan's `init_model` makes
the whole model in this process; "rounds" is all that follows.

Nothing is begun where the disk or the memory is too small for it, and everything that was written is removed at the end.

python benchmarks/large_memory.py                                        0.4 GB, 2, 4 and 6 nodes
python benchmarks/large_memory.py --gigabytes 3.2 --nodes 6              about 140 GB of disk, and 60 GB of memory for the nodes
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from shutil import disk_usage

import psutil
from _federation import federation
from _memory import Peak, Watch

from fedjob import FedAvg, Job
from fedjob.researcher.jobs.session import Session

HERE = Path(__file__).parent
REACH = 1.2
"""Of a tensor group."""

NUM_TENSORS = 10
SMALL_BYTES = 4_000_000


def disk_needed(size: int, nodes: int) -> int:
    """Return the bytes of disk that a job takes: two rounds of answers at most lie at the researcher and at the hub."""
    researcher, hub, each_node = 2 * nodes + 4, nodes + 4, 3
    return size * (researcher + hub + each_node * nodes)


def memory_needed(size: int, nodes: int) -> int:
    """Return the bytes of memory that the nodes' workers take, and this process when it makes the model."""
    return size * (2 * nodes + 1)


def why_not(size: int, nodes: int, keep_free: int) -> str:
    """Return why so large a job can't be run here; empty if it can."""
    folder = tempfile.gettempdir()
    disk, memory = disk_usage(folder).free - keep_free, psutil.virtual_memory().available
    if disk_needed(size, nodes) > disk:
        return (
            f"{disk_needed(size, nodes) / 1e9:.1f} GB of disk are needed in {folder}, and {max(disk, 0) / 1e9:.1f} GB are free "
            f"besides the {keep_free / 1e9:.0f} GB of --keep-free-gb: set TMPDIR to a larger disk, or take fewer --gigabytes"
        )
    if memory_needed(size, nodes) > memory:
        return (
            f"the nodes' workers need {memory_needed(size, nodes) / 1e9:.1f} GB of memory on this machine, and "
            f"{memory / 1e9:.1f} GB are free: take fewer --gigabytes, or --nodes"
        )
    return ""


def job_of(session: Session, size: int, rounds: int) -> Job:
    """Return a job whose model has so many bytes, in `NUM_TENSORS` tensors."""
    return Job(
        FedAvg(),
        training_plan=f"{HERE}/_plans.py:AddOne",
        data={"tags": ["bench"]},
        model_args={"num_params": size // 4, "num_tensors": NUM_TENSORS},
        rounds=rounds,
        breakpoint_every=2,
        session=session,
        seed=1,
    )


def measure(size: int, num_nodes: int, rounds: int) -> None:
    """Run a small job, so that everything is imported, and then a large one; print the peaks of that."""
    group, own = size // NUM_TENSORS, psutil.Process().pid
    with federation(num_nodes) as bench:
        job_of(bench.session, SMALL_BYTES, 2).run(progress=False)
        made = Peak(own)
        with Watch(made):
            job = job_of(bench.session, size, rounds)
        began, running, hub = time.monotonic(), Peak(own), Peak(bench.hub.pid)
        with Watch(running, hub):
            job.run(progress=False)
        assert len(job.result.replies[rounds]) == num_nodes
        print(
            f"{num_nodes:3} nodes, {rounds} rounds in {time.monotonic() - began:.0f} s: "
            f"researcher {_shown(made.bytes, group)} made, {_shown(running.bytes, group)} rounds; "
            f"hub {_shown(hub.bytes, group)}",
            flush=True,
        )


def _shown(found: int, group: int) -> str:
    return f"{found / 1e6:.0f} MB ({found / group:.2f} x)"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=0.4, help="of the model")
    parser.add_argument("--nodes", default="2,4,6", help="numbers of nodes, with commas between")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep-free-gb", type=float, default=5.0, help="of the disk")
    given = parser.parse_args()
    size = int(given.gigabytes * 1e9) // (4 * NUM_TENSORS) * 4 * NUM_TENSORS
    print(
        f"{size / 1e6:.0f} MB in {NUM_TENSORS} tensors; a tensor group is {size / NUM_TENSORS / 1e6:.0f} MB; private memory "
        f"above what was there before; at most {REACH} x a group is the aim for rounds and hub",
        flush=True,
    )
    for num_nodes in map(int, given.nodes.split(",")):
        if problem := why_not(size, num_nodes, int(given.keep_free_gb * 1e9)):
            sys.exit(f"{num_nodes} nodes: {problem}")
        measure(size, num_nodes, given.rounds)


if __name__ == "__main__":
    main()
