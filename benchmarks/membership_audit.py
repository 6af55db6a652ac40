"""The one-run membership audit of private training: lower bounds on epsilon, under what each training claims.

Steinke, Nasr and Jagielski 2023, https://arxiv.org/abs/2305.08846, see `tests.membership`. Half of the canaries, by
fair coins, are records of a node; the model that comes out is asked which. A bound above the claim would refute it.

    python benchmarks/membership_audit.py                                       a table, and privacy-output/audit.png
    python benchmarks/membership_audit.py --canaries 600 --runs 5 --figure audit.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fedjob import Protect, RecordDP  # noqa: E402
from tests.membership import Found, audit, ceiling  # noqa: E402

DELTA, ERROR = 1e-5, 0.05
NODES = 8
ALONE, TOGETHER = "one node's model", f"sum of {NODES} nodes"


@dataclass(frozen=True)
class Case:
    """A training to be audited.

    Args:
        epsilon: claimed for each record; None for a training without noise.
        together: whether the researcher sees the secure sum of several nodes; else one node's own update.
    """

    epsilon: float | None
    together: bool

    @property
    def protect(self) -> Protect:
        dp = None if self.epsilon is None else RecordDP(epsilon=self.epsilon, delta=DELTA)
        return Protect(secagg=True if self.together else None, dp=dp)


CASES = [Case(epsilon, together) for epsilon in (None, 8.0, 4.0, 1.0) for together in (False, True)]


def draw(found: dict[Case, list[Found]], most: float, path: Path) -> None:
    """Draw each run's bound beside what was claimed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epsilons = list(dict.fromkeys(case.epsilon for case in found))
    for case, runs in found.items():
        place = epsilons.index(case.epsilon) + (0.14 if case.together else -0.14)
        colour, name = ("tab:green", TOGETHER) if case.together else ("tab:blue", ALONE)
        axes.plot([place] * len(runs), [run.bound for run in runs], "o", color=colour, alpha=0.6, markersize=6,
                  label=f"lower bound, {name}" if case.epsilon is None else None)  # fmt: skip
    for place, epsilon in enumerate(epsilons):
        if epsilon is not None:
            axes.plot([place - 0.32, place + 0.32], [epsilon, epsilon], color="tab:red", linewidth=2,
                      label="claimed epsilon" if epsilon == 8 else None)  # fmt: skip
    axes.axhline(most, color="grey", linewidth=1, linestyle=":", label="every guess right")
    names = ["no noise" if epsilon is None else f"RecordDP, epsilon {epsilon:g}" for epsilon in epsilons]
    axes.set_xticks(range(len(epsilons)), names)
    axes.set_ylabel("epsilon")
    axes.set_ylim(-0.25, 8.6)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Audit every case, print the bounds, and draw them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--canaries", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=Path("privacy-output", "audit.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[Case, list[Found]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="fedjob-audit-") as folder:
        for number in range(given.runs):
            for case in CASES:
                home = Path(folder) / f"{number}-{case.epsilon}-{case.together}"
                found[case].append(
                    audit(
                        case.protect,
                        number=given.canaries,
                        home=home,
                        rng=np.random.default_rng(number),
                        num_nodes=NODES if case.together else 1,
                        delta=DELTA,
                        error=ERROR,
                    )
                )
            print(f"run {number + 1} of {given.runs}: done", file=sys.stderr, flush=True)
    most = ceiling(given.canaries, delta=DELTA, error=ERROR)
    print(
        f"{given.canaries} canaries, delta {DELTA:g}, bounds that hold with {1 - ERROR:.0%}; at most {most:.2f}\n"
    )
    print("| claimed epsilon | the researcher sees | right guesses | lower bound, median | highest |")
    print("|---|---|---|---|---|")
    for case, runs in found.items():
        right = ", ".join(f"{run.right} of {run.guesses}" for run in runs[:2])
        bounds = [run.bound for run in runs]
        claimed = "none" if case.epsilon is None else f"{case.epsilon:g}"
        seen = TOGETHER if case.together else ALONE
        print(f"| {claimed} | {seen} | {right} | {statistics.median(bounds):.2f} | {max(bounds):.2f} |")
        if case.epsilon is not None and max(bounds) > case.epsilon:
            print(
                f"above the claim of {claimed}: once in {1 / ERROR:.0f} runs that is chance", file=sys.stderr
            )
    given.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(found, most, given.figure)
    print(f"\n{given.figure}")


if __name__ == "__main__":
    main()
