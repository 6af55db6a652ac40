"""The seconds, the memory and the disk that 100 nodes on one machine take, made of one dataset and of 100 files.

python benchmarks/hundred_sites.py [--nodes 100] [--rounds 2]

The CNN of `benchmarks/simulation.py` trains one epoch on each node's 50 images, in batches of 10, with `nodes=simulate(100)` on
one folder of arrays, with `nodes=simulate()` on a map of 100 files, and with `nodes="local"` on the same map, which computes node
after node in one process. Each runs in a process of its own. `seconds` and `cpu` are of the whole job, without the writing of the
data; `memory` is the most that all its processes held together, where pages that they share count once (PSS), looked at twice
a second; `disk` is what the job's folder has at its end, and `data` what it was given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import psutil
from simulation import IMAGES_PER_NODE, write_images

HERE = Path(__file__).parent
LOOK_S = 0.5
WAYS = ("simulate(N)", "simulate(), files", "local, files")


def used_bytes() -> int:
    """Return the memory of this process and of all below it; pages that several share count once."""
    me = psutil.Process()
    found = 0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            found += process.memory_full_info().pss
    return found


class Peak(threading.Thread):
    """Looks at the memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._over = 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.bytes = max(self.bytes, used_bytes())

    def end(self) -> int:
        """Stop, and return the most bytes so far."""
        self._over.set()
        self.join()
        return self.bytes


def disk_bytes(folder: Path) -> int:
    """Return the bytes of disk that a folder takes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def write_files(folder: Path, num_nodes: int) -> dict[str, str]:
    """Write a file for each node; return node -> its path."""
    write_images(folder, num_nodes)
    inputs, targets = (numpy.load(folder / f"{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
    found = {}
    for number in range(num_nodes):
        rows = slice(number * IMAGES_PER_NODE, (number + 1) * IMAGES_PER_NODE)
        path = folder / f"site-{number}.npz"
        numpy.savez(path, x=inputs[rows], y=targets[rows])
        found[f"site-{number}"] = str(path)
    for name in ("inputs", "targets"):
        (folder / f"{name}.npy").unlink()
    return found


def one(way: str, num_nodes: int, rounds: int) -> dict[str, Any]:
    """Run a job and return its figures."""
    from fedjob import Job, simulate

    with tempfile.TemporaryDirectory() as name:
        data, home = Path(name) / "data", Path(name) / "home"
        data.mkdir()
        given: Any = {"path": data, "reader": "npy"}
        if way == WAYS[0]:
            write_images(data, num_nodes)
        else:
            given = write_files(data, num_nodes)
        nodes: Mapping[str, Any] = {
            WAYS[0]: simulate(num_nodes),
            WAYS[1]: simulate(),
            WAYS[2]: "local",
        }
        peak, began, before = Peak(), time.perf_counter(), _cpu_s()
        peak.start()
        job = Job(
            "fedavg",
            training_plan=f"{HERE}/_plans.py:Images",
            data=given,
            nodes=nodes[way],
            training_args={"lr": 0.05, "epochs": 1, "batch_size": 10},
            rounds=rounds,
            seed=1,
            home=home,
        )
        job.run(progress=False)
        return {
            "nodes": way,
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_s": round(_cpu_s() - before, 1),
            "memory_mb": round(peak.end() / (1 << 20)),
            "disk_mb": round(disk_bytes(job.folder) / (1 << 20), 1),
            "data_mb": round(disk_bytes(data) / (1 << 20), 1),
            "model_mb": round((job.folder / "initial.safetensors").stat().st_size / (1 << 20), 2),
        }


def _cpu_s() -> float:
    """Return the processor seconds of this process, of those that have ended below it and of those that go on."""
    times = psutil.Process().cpu_times()
    found = times.user + times.system + times.children_user + times.children_system
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            each = process.cpu_times()
            found += each.user + each.system + each.children_user + each.children_system
    return found


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="run this one, in this process")
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(one(asked.way, asked.nodes, asked.rounds)))
        return
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way]
        command += ["--nodes", str(asked.nodes), "--rounds", str(asked.rounds)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
