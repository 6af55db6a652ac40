"""The noise of tree noise beside noise that each step draws anew, with and without what chance in the choice of records saves.

Printed is the standard deviation of the noise on the sum of all steps, by the bound of one record's gradient: it is
what moves the parameters under plain gradient descent. With `--accuracy` four nodes train the digits of
`privacy_table.py` by FedAvg, with the same epsilon, delta, sizes of samples and steps. Without that saving DP-SGD pays
for each pass as if everybody knew which records a step has.

    python benchmarks/tree_table.py
    python benchmarks/tree_table.py --accuracy --seeds 3
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from privacy_table import DELTA, Linear, Setting, accuracy, digits

from fedjob import FedAvg, Job, RecordDP
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of
from fedjob.privacy.dp.tree_terms import end_variance

EPSILONS = (8.0, 4.0, 2.0)
HOW = ("drawn by chance", "the same, without the saving", "tree")
SETTINGS = [
    (epsilon, blocks, passes)
    for epsilon, blocks in ((2.0, 64), (2.0, 256), (8.0, 64))
    for passes in (1, 4, 16)
]
"""Epsilon, steps of a pass, and passes."""


def noise_on_sum(epsilon: float, blocks: int, passes: int) -> tuple[float, float, float]:
    """Return the standard deviation of the noise on the sum of all steps in the three ways, with a delta of 1e-5."""
    steps, delta = blocks * passes, 1e-5
    sampled = noise_for(epsilon, delta, rate=1 / blocks, number=steps) * math.sqrt(steps)
    alone = noise_for(epsilon, delta, number=passes)
    tree = alone * math.sqrt(blocks.bit_length() * passes * end_variance(blocks))
    return sampled, alone * math.sqrt(steps), tree


def spent_alike(epsilon: float, passes: int, steps: int, rate: float) -> float:
    """Return the epsilon for sampled steps that have the noise of steps over fixed blocks with another epsilon.

    Fixed blocks with noise that each step draws anew cost one Gaussian mechanism a pass.
    """
    noise = noise_for(epsilon, DELTA, number=passes)
    return cost_of([Gaussian(noise=noise, rate=rate, number=steps)], DELTA)


def trained(setting: Setting, dp: RecordDP, seed: int, home: Path) -> float:
    """Train with a site in this process for each node; return the accuracy."""
    home.mkdir(parents=True)
    for node, (inputs, labels) in setting.nodes.items():
        np.savez(home / f"{node}.npz", x=inputs, y=labels)
    job = Job(
        FedAvg(),
        training_plan=Linear,
        data={node: str(home / f"{node}.npz") for node in setting.nodes},
        nodes="local",
        model_args={"inputs": setting.test[0].shape[1], "classes": setting.classes},
        training_args=dict(setting.args),
        rounds=setting.rounds,
        breakpoint_every=setting.rounds,
        home=home / "researcher",
        seed=seed,
        protect=dp,
    )
    return accuracy(setting, job.run(progress=False).params)


def measure(setting: Setting, epsilon: float, seed: int, home: Path) -> list[float]:
    """Return the accuracies of the three ways, in their order."""
    rows = min(len(labels) for _, labels in setting.nodes.values())
    steps, batch = setting.rounds * setting.args["num_updates"], setting.args["batch_size"]
    blocks = math.ceil(rows / batch)
    alike = spent_alike(epsilon, math.ceil(steps / blocks), steps, batch / rows)
    sampled = RecordDP(epsilon=epsilon, delta=DELTA)
    ways = (sampled, replace(sampled, epsilon=alike), replace(sampled, mechanism="tree"))
    return [trained(setting, dp, seed, home / str(number)) for number, dp in enumerate(ways)]


def rounds_of(seed: int, passes: int) -> Setting:
    """Return the digits with so many passes over a node's records: 32 of them in a step, 12 steps in a pass."""
    found = digits(seed)
    return replace(found, args={"lr": 1.0, "batch_size": 32, "num_updates": 4}, rounds=3 * passes)


def print_noise() -> None:
    """Print the table of noise."""
    print("| epsilon | steps of a pass | passes | " + " | ".join(HOW) + " |")
    print("|---" * (len(HOW) + 3) + "|")
    for epsilon, blocks, passes in SETTINGS:
        cells = [f"{one:.1f}" for one in noise_on_sum(epsilon, blocks, passes)]
        print(f"| {epsilon:g} | {blocks} | {passes} | " + " | ".join(cells) + " |")


def print_accuracy(seeds: int) -> None:
    """Train, and print the table of accuracies."""
    print("| passes | epsilon | " + " | ".join(HOW) + " |")
    print("|---" * (len(HOW) + 2) + "|")
    for passes in (1, 2, 8):
        for epsilon in EPSILONS:
            with tempfile.TemporaryDirectory() as folder:
                found = [
                    measure(rounds_of(seed, passes), epsilon, seed, Path(folder) / str(seed))
                    for seed in range(seeds)
                ]
            cells = [
                f"{statistics.mean(one):.3f} ± {statistics.pstdev(one):.3f}"
                for one in zip(*found, strict=True)
            ]
            print(f"| {passes} | {epsilon:g} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.accuracy:
        print_accuracy(given.seeds)
    else:
        print_noise()


if __name__ == "__main__":
    main()
