"""Seconds and private memory of each fold over contributions that lie in files, beside the weighted mean's.

python benchmarks/folds.py                                  16 contributions of 100 MB: the figures of the issue
python benchmarks/folds.py --nodes 16 --mb 10 --rounds 5 --folds median,krum
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _federation import spread
from rounds import Peak, anonymous_bytes

from fedjob.common.contribution import Contribution
from fedjob.common.folds import FOLDS
from fedjob.common.folds.base import Fold
from fedjob.common.params import FileParams, save_params

NUM_TENSORS = 10
WEIGHTED_MEAN = "weighted_mean"
ROBUST = ("median", "trimmed_mean")


def contributions(folder: Path, num_nodes: int, megabytes: float) -> list[Contribution]:
    """Write one file of float32 tensors for each node and return the contributions that map them."""
    size = int(megabytes * 1e6 / 4 / NUM_TENSORS)
    origin = torch.randn(size)
    found = []
    for k in range(num_nodes):
        path = folder / f"{k:02d}.safetensors"
        if not path.exists():
            noise = torch.Generator().manual_seed(k)
            params = {f"w{i}": origin + 0.1 * torch.randn(size, generator=noise) for i in range(NUM_TENSORS)}
            save_params(params, path)
        found.append(Contribution(FileParams(path), 100.0 + k))
    return found


def measure(rule: Fold, folder: Path, num_nodes: int, megabytes: float) -> tuple[float, float]:
    """Fold once, from files that nothing maps yet; return seconds, and peak private memory in models."""
    given = contributions(folder, num_nodes, megabytes)
    base = anonymous_bytes()
    with Peak() as peak:
        started = time.perf_counter()
        total = rule.fold(given)
        seconds = time.perf_counter() - started
    del total
    return seconds, max(0, peak.bytes - base) / (megabytes * 1e6)


def main() -> None:
    """Fold in turns, so that what slows the machine slows all alike; print each fold beside the mean."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folds", default=",".join(ROBUST))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = [WEIGHTED_MEAN, *(name for name in given.folds.split(",") if name != WEIGHTED_MEAN)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, float] = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        contributions(Path(folder), given.nodes, given.mb)
        for _ in range(given.rounds):
            for name in names:
                took, models = measure(FOLDS.build(name, {}), Path(folder), given.nodes, given.mb)
                seconds[name].append(took)
                memory[name] = max(memory[name], models)
    print(f"{given.nodes} contributions of {given.mb:g} MB, {given.threads} threads")
    middle = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    for name in names:
        ratio = middle[name] / middle[WEIGHTED_MEAN]
        print(
            f"{name:17} {ratio:6.2f} x mean; private memory {memory[name]:.2f} x model; {spread(seconds[name])}"
        )


if __name__ == "__main__":
    main()
