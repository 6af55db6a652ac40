"""The noise of tree noise beside noise that each step draws anew, with and without what chance in the choice of records saves.

Printed is the standard deviation of the noise on the sum of all steps, by the bound of one record's gradient: it is
what moves the parameters under plain gradient descent. With `--accuracy` four nodes train the digits of
`privacy_table.py` by FedAvg, with the same epsilon, delta, sizes of samples and steps. Without that saving DP-SGD pays
for each pass as if everybody knew which records a step has.

    python benchmarks/tree_table.py
    python benchmarks/tree_table.py --figure docs/privacy_tree.png
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
from privacy_table import DELTA, Array, Setting, digits, federated

from fedjob import Protect, RecordDP
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, cost_of
from fedjob.privacy.dp.tree_noise import TreeNoise
from fedjob.privacy.dp.tree_terms import end_variance

EPSILONS = (8.0, 4.0, 2.0)
HOW = ("independent noise, records by chance", "independent noise, no amplification", "tree noise")
SETTINGS = [
    (epsilon, blocks, passes)
    for epsilon, blocks in ((2.0, 64), (2.0, 256), (8.0, 64))
    for passes in (1, 4, 16)
]
"""Epsilon, steps of a pass, and passes."""

DRAWN = ((2.0, 256, 1), (2.0, 64, 4))
"""Those of the figure: as many steps in one pass and in four."""

STEPS_OF_ROUND, DRAWN_DELTA = 4, 1e-5


def noise_on_sum(epsilon: float, blocks: int, passes: int) -> tuple[float, float, float]:
    """Return the standard deviation of the noise on the sum of all steps in the three ways."""
    sampled, alone, tree = (float(line[-1]) for line in noise_on_prefixes(epsilon, blocks, passes).values())
    return sampled, alone, tree


def noise_on_prefixes(epsilon: float, blocks: int, passes: int) -> dict[str, Array]:
    """Return the standard deviation of the noise on the sum of all steps so far, after each step, in the three ways."""
    steps = np.arange(1, blocks * passes + 1)
    sampled = noise_for(epsilon, DRAWN_DELTA, rate=1 / blocks, number=blocks * passes)
    alone = noise_for(epsilon, DRAWN_DELTA, number=passes)
    variances = [
        step // blocks * end_variance(blocks) + end_variance(step % blocks) for step in steps.tolist()
    ]
    tree = alone * np.sqrt(blocks.bit_length() * np.array(variances))
    return dict(zip(HOW, (sampled * np.sqrt(steps), alone * np.sqrt(steps), tree), strict=True))


def drawn_noise(epsilon: float, blocks: int, passes: int, size: int) -> Array:
    """Return what the noise that a node draws comes to after each step: the root of the mean square of so many numbers."""
    noise, total, found = TreeNoise(bytes(32), blocks, 0, size), np.zeros(size), []
    for _ in range(blocks * passes):
        total += noise.step()
        found.append(math.sqrt(float(np.mean(total**2))))
    return noise_for(epsilon, DRAWN_DELTA, number=passes) * math.sqrt(blocks.bit_length()) * np.array(found)


def draw(path: Path) -> None:
    """Draw the noise on the sums of all steps so far over the rounds, a panel for each setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(DRAWN), sharey=True)
    for panel, (epsilon, blocks, passes) in zip(panels, DRAWN, strict=True):
        rounds = np.arange(1, blocks * passes + 1) / STEPS_OF_ROUND
        for (how, line), colour in zip(
            noise_on_prefixes(epsilon, blocks, passes).items(), ("#0072B2", "#D55E00", "#009E73"), strict=True
        ):
            panel.plot(rounds, line, color=colour, linewidth=1.6, label=how)
        drawn = drawn_noise(epsilon, blocks, passes, size=1000)
        at = slice(2, None, 5)
        panel.plot(rounds[at], drawn[at], "k.", markersize=2.5, label="tree noise, as a node drew it")
        panel.set_title(
            f"{passes} pass{'es' if passes > 1 else ''} of {blocks} steps, epsilon {epsilon:g}", fontsize=10
        )
        panel.set_xlabel(f"rounds of {STEPS_OF_ROUND} steps")
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("noise on the sum of all steps so far")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def spent_alike(epsilon: float, passes: int, steps: int, rate: float) -> float:
    """Return the epsilon for sampled steps that have the noise of steps over fixed blocks with another epsilon.

    Fixed blocks with noise that each step draws anew cost one Gaussian mechanism a pass.
    """
    noise = noise_for(epsilon, DELTA, number=passes)
    return cost_of([Gaussian(noise=noise, rate=rate, number=steps)], DELTA)


def measure(setting: Setting, epsilon: float, seed: int, home: Path) -> list[float]:
    """Return the accuracies of the three ways, in their order."""
    rows = min(len(labels) for _, labels in setting.nodes.values())
    steps, batch = setting.rounds * setting.args["num_updates"], setting.args["batch_size"]
    blocks = math.ceil(rows / batch)
    alike = spent_alike(epsilon, math.ceil(steps / blocks), steps, batch / rows)
    sampled = RecordDP(epsilon=epsilon, delta=DELTA)
    ways = (sampled, replace(sampled, epsilon=alike), replace(sampled, mechanism="tree"))
    return [federated(setting, Protect(dp=dp), seed, home / str(number)) for number, dp in enumerate(ways)]


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
    """Print one of the tables, or draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--figure", type=Path, help="draw the noise over the rounds into this file")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.figure:
        draw(given.figure)
        print(given.figure)
    elif given.accuracy:
        print_accuracy(given.seeds)
    else:
        print_noise()


if __name__ == "__main__":
    main()
