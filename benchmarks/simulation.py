"""The seconds and the memory of simulated rounds: a small CNN on many nodes, and a few nodes with a model of 1 MB.

python benchmarks/simulation.py                          100, 1,000 and 10,000 nodes of 50 images; cohorts of 50 and 100
python benchmarks/simulation.py --nodes 1000 --rounds 20
python benchmarks/simulation.py --nodes 1000 --vectorize
python benchmarks/simulation.py --nodes 1000 --channels-last
python benchmarks/simulation.py --large

The data are made. A CNN of two convolutions trains one local epoch in batches of 10 on each node's 50 images of 32 x 32 x
3; breakpoints are written every round. Of each run: the median of the rounds' seconds without the first, processor seconds of
the driver in a round and milliseconds of the workers for a node, the most memory that the driver had beyond what it had after a
first small job, which loads all libraries, and where the time went. The driver's memory must not depend on the
number of nodes: `own_mb` is what it has of its own at the end, beyond that first job, and `more_mb` the most with the pages of
files that it looked at, such as the contributions. `peak_mb` is of the driver; a process of its own runs each line, so that none has another's memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
IMAGES_PER_NODE = 50


def memory_mb(what: str) -> float:
    """Return this process's `VmHWM` (the most memory so far) or `VmRSS`, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def own_mb() -> float:
    """Return the memory that this process alone has, in MB: without pages of files, which others have as well."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return 0.0


def write_images(folder: Path, num_nodes: int, seed: int = 0) -> float:
    """Write made images of ten kinds for so many nodes, a byte for each number; return their MB."""
    count = num_nodes * IMAGES_PER_NODE
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, size=count)
    kinds = rng.integers(0, 96, size=(10, 3, 32, 32), dtype=np.uint8)
    inputs = np.lib.format.open_memmap(
        folder / "inputs.npy", mode="w+", dtype=np.uint8, shape=(count, 3, 32, 32)
    )
    for start in range(0, count, 10_000):
        part = slice(start, start + 10_000)
        inputs[part] = kinds[labels[part]] + rng.integers(0, 160, size=inputs[part].shape, dtype=np.uint8)
    inputs.flush()
    np.save(folder / "targets.npy", labels)
    return float(inputs.nbytes + labels.nbytes) / (1 << 20)


def job_of(
    args: argparse.Namespace,
    shape: dict[str, Any],
    data: Path,
    home: str,
    rounds: int = 1,
    hooks: Sequence[Any] = (),
) -> Any:
    """Return a job at so many nodes of a folder of images."""
    from fedjob import IID, Fraction, Job, simulate

    return Job(
        "fedavg",
        training_plan=f"{HERE}/_plans.py:{shape['plan']}",
        data={"path": data, "reader": "npy"},
        nodes=simulate(shape["nodes"], split=IID(), workers=args.workers, vectorize=args.vectorize),
        selector=Fraction(shape["cohort"] / shape["nodes"]),
        training_args={"lr": 0.05, "epochs": 1, "batch_size": 10},
        rounds=rounds,
        hooks=list(hooks),
        seed=1,
        home=home,
    )


def one(args: argparse.Namespace) -> dict[str, Any]:
    """Run one job and return its figures."""
    from fedjob.researcher.hooks.base import Hook, RoundReport

    seconds: list[float] = []
    own_cpu: list[float] = []

    class Clock(Hook):
        name = "clock"

        def round_done(self, report: RoundReport) -> None:
            seconds.append(report.seconds)
            own_cpu.append(time.process_time())

    with tempfile.TemporaryDirectory() as home:
        shape = {"plan": "Images", "cohort": args.cohort, "nodes": args.nodes}
        if args.channels_last:
            shape["plan"] = "ImagesChannelsLast"
        if args.large:
            shape = {"plan": "Megabyte", "cohort": 10, "nodes": 10}
        warm, folder = Path(home) / "warm", Path(home) / "data"
        for each in (warm, folder):
            each.mkdir()
        write_images(warm, 2)
        job_of(args, {"plan": shape["plan"], "cohort": 2, "nodes": 2}, warm, home).run(progress=False)
        data_mb = write_images(folder, shape["nodes"])
        before, own_before = (
            memory_mb("VmRSS"),
            own_mb(),
        )  # with all libraries, which the first job has loaded
        Path("/proc/self/clear_refs").write_text("5")  # the most memory so far begins anew
        began = time.perf_counter()
        job = job_of(args, shape, folder, home, args.rounds, [Clock()])
        job.run(progress=False)
        whole = time.perf_counter() - began
        profile = json.loads((job.folder / "local" / "profile.json").read_text())
        return {
            **shape,
            "median_s": round(median(seconds[1:] or seconds), 3),
            "first_s": round(seconds[0], 3),
            "driver_cpu_s": round((own_cpu[-1] - own_cpu[0]) / max(1, len(own_cpu) - 1), 3),
            "node_cpu_ms": round(profile["seconds"]["cpu"] / max(1, profile["tasks"]) * 1000, 1),
            "whole_s": round(whole, 2),
            "before_mb": round(before),
            "peak_mb": round(memory_mb("VmHWM")),
            "more_mb": round(memory_mb("VmHWM") - before),
            "own_mb": round(own_mb() - own_before, 1),
            "data_mb": round(data_mb, 1),
            "model_mb": round((job.folder / "initial.safetensors").stat().st_size / (1 << 20), 2),
            "workers": profile["workers"],
            "vectorised": args.vectorize,
            "seconds": {stage: round(took, 2) for stage, took in profile["seconds"].items()},
        }


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--cohort", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--large", action="store_true", help="ten nodes with a model of 1 MB")
    parser.add_argument(
        "--channels-last", action="store_true", help="the CNN in torch's channels_last format"
    )
    parser.add_argument(
        "--vectorize", action="store_true", help="train up to 64 nodes at once, in one process"
    )
    parser.add_argument("--here", action="store_true", help="run it in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(one(args)))
        return
    runs = [["--nodes", "100"], ["--nodes", "1000"], ["--nodes", "10000"]]
    runs = [[*run, "--cohort", cohort] for cohort in ("50", "100") for run in runs] + [["--large"]]
    if args.large:
        runs = [["--large"]]
    elif args.nodes:
        runs = [["--nodes", str(args.nodes), "--cohort", str(args.cohort)]]
    more = ["--rounds", str(args.rounds), *(["--workers", str(args.workers)] if args.workers else [])]
    more += ["--vectorize"] if args.vectorize else []
    more += ["--channels-last"] if args.channels_last else []
    for run in runs:
        command = [sys.executable, __file__, "--here", *run, *more]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
