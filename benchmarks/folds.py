"""Seconds and private memory of each fold over contributions that lie in files, beside the weighted mean's.

python benchmarks/folds.py                                  16 contributions of 100 MB
python benchmarks/folds.py --nodes 16 --mb 10 --rounds 5 --folds median,krum
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import torch
from _federation import spread
from _memory import Peak, Watch

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.files import FileParams, save_params

NUM_TENSORS = 10
WEIGHTED_MEAN = "weighted_mean"
ROBUST = ("median", "trimmed_mean")


def write(folder: Path, num_nodes: int, megabytes: float) -> list[Path]:
    """Write one file of float32 tensors for each node."""
    size = int(megabytes * 1e6 / 4 / NUM_TENSORS)
    origin = torch.randn(size)
    paths = [folder / f"{k:02d}.safetensors" for k in range(num_nodes)]
    for path in paths:
        save_params({f"w{i}": origin + 0.1 * torch.randn(size) for i in range(NUM_TENSORS)}, path)
    return paths


def aggregate_once(name: str, paths: list[Path]) -> tuple[float, int]:
    """Fold from files that nothing maps yet; return seconds, and how much private memory it took at most."""
    given = [Contribution(FileParams(path), 100.0 + k) for k, path in enumerate(paths)]
    peak = Peak(os.getpid())
    with Watch(peak):
        started = time.perf_counter()
        total = AGGREGATORS.build(name, {}).aggregate(given)
        seconds = time.perf_counter() - started
    del total
    return seconds, peak.bytes


def memory_of(name: str, paths: list[Path], threads: int) -> int:
    """Return what a fold takes in a process of its own: memory that was freed before would hide it."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(aggregate_once, (name, paths))[1]


def main() -> None:
    """Fold in turns, so that what slows the machine slows all alike; print each fold beside the mean."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--aggregators", default=",".join(ROBUST))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = [WEIGHTED_MEAN, *(name for name in given.aggregators.split(",") if name != WEIGHTED_MEAN)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        paths = write(Path(folder), given.nodes, given.mb)
        memory = {name: memory_of(name, paths, given.threads) / (given.mb * 1e6) for name in names}
        for _ in range(given.rounds):
            for name in names:
                seconds[name].append(aggregate_once(name, paths)[0])
    print(f"{given.nodes} contributions of {given.mb:g} MB, {given.threads} threads")
    middle = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    for name in names:
        ratio = middle[name] / middle[WEIGHTED_MEAN]
        print(
            f"{name:17} {ratio:6.2f} x mean; private memory {memory[name]:.2f} x model; {spread(seconds[name])}"
        )


if __name__ == "__main__":
    main()
