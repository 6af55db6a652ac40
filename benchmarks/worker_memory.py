"""The memory of a node's worker beside what `job.estimate()` says of it, for each kind of training.

python benchmarks/worker_memory.py                   all kinds, a model of 60 MB at three nodes
python benchmarks/worker_memory.py FedAvg Ditto      some
python benchmarks/worker_memory.py --width 1000      a smaller model

A worker's memory is what it has of its own and shares with no file, at the most while the job runs; what it has with a model of
some kB, the libraries above all, is taken off. Everything is in models: 3.0 are three times the bytes of the parameters.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent
ROWS = 120
LOOK_S = 0.01
WORKERS = "fork_server"


def kinds() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the kinds of training by name, each as a protocol and further arguments of `Job`."""
    from fedjob import Ditto, FedBuff, FedNova, FedProx, Int8, Protect, QFedAvg, Scaffold, SecAgg, TopK

    return {
        "FedAvg": ("fedavg", {}),
        "FedProx": (FedProx(mu=0.1), {}),
        "FedNova": (FedNova(), {}),
        "FedBuff": (FedBuff(2), {}),
        "QFedAvg": (QFedAvg(), {}),
        "Ditto": (Ditto(lam=0.1), {}),
        "Scaffold": (Scaffold(), {}),
        "Int8": ("fedavg", {"compress": Int8()}),
        "TopK": ("fedavg", {"compress": TopK(0.01)}),
        "bf16": ("fedavg", {"compress": "bf16"}),
        "SecAgg": ("fedavg", {"protect": Protect(secagg=SecAgg(min_nodes=3))}),
        "momentum": ("fedavg", {"training_args": {"momentum": 0.9}}),
        "Adagrad": ("fedavg", {"training_args": {"optimizer": "Adagrad"}}),
        "Adam": ("fedavg", {"training_args": {"optimizer": "Adam"}}),
        "ASGD": ("fedavg", {"training_args": {"optimizer": "ASGD"}}),
        "Adafactor": ("fedavg", {"training_args": {"optimizer": "Adafactor"}}),
        "Scaffold, momentum": (Scaffold(), {"training_args": {"momentum": 0.9}}),
        "Ditto, momentum": (Ditto(lam=0.1), {"training_args": {"momentum": 0.9}}),
        "Int8, Adam": ("fedavg", {"compress": Int8(), "training_args": {"optimizer": "Adam"}}),
    }


@contextmanager
def most_of_a_worker() -> Iterator[list[int]]:
    """Yield a list that holds, in the end, the most bytes that a worker below this process had of its own."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    if any(WORKERS in word for word in process.cmdline()):
                        most[0] = max(most[0], own_bytes(process.pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def own_bytes(pid: int) -> int:
    """Return the bytes that a process has in memory and that are of no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024


def measured(protocol: Any, arguments: dict[str, Any], width: int) -> tuple[int, int]:
    """Return what the estimate says of a job, and what its workers had at most, in bytes."""
    from fedjob import Job

    arguments = dict(arguments)
    args = {"lr": 0.001, "epochs": 1, "batch_size": 20, **arguments.pop("training_args", {})}
    job = Job(
        protocol,
        training_plan=f"{HERE}/_plans.py:Wide",
        data="data",
        training_args=args,
        model_args={"width": width},
        rounds=3,
        seed=1,
        **arguments,
    )
    estimated = job.estimate().memory_bytes
    assert estimated is not None
    with most_of_a_worker() as most:
        job.run(progress=False)
    return estimated, most[0]


def main() -> None:
    """Print a line for each kind."""
    from fedjob import sandbox_federation

    known = kinds()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one or several of {', '.join(known)}")
    parser.add_argument("--width", type=int, default=2700, help="of the layers of the model (2700: 59 MB)")
    arguments = parser.parse_args()
    if unknown := [kind for kind in arguments.kinds if kind not in known]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
    rng = np.random.default_rng(0)
    nodes = {
        name: (rng.normal(size=(ROWS, 64)).astype(np.float32), rng.integers(0, 10, ROWS)) for name in "abc"
    }
    width = arguments.width
    model = 4 * (width * (64 + 1) + 2 * width * (width + 1) + 10 * (width + 1))
    print(f"a model of {model / 1e6:.0f} MB; in models:\n{'kind':18} estimate  measured  ratio")
    with sandbox_federation(nodes):
        for kind in arguments.kinds or known:
            (_, small), (estimated, large) = (measured(*known[kind], each) for each in (32, width))
            more = large - small
            print(
                f"{kind:18} {estimated / model:8.2f}  {more / model:8.2f}  {estimated / more:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
