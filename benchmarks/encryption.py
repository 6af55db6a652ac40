"""The cost of encryption: seconds per round with and without, in pairs of jobs over the same hub and nodes.

Beside the seconds stand those that all processes together computed, which other work on the machine changes less.

python benchmarks/encryption.py                                      100 MB and 40 KB a round, 4 nodes
python benchmarks/encryption.py --params 25000000 --pairs 4 --rounds 8
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from _costs import Costs
from _federation import BenchFederation, federation, spread

from fedjob import FedAvg, Job
from fedjob.common.config import set_config
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.jobs.session import connect

HERE = Path(__file__).parent
FOLLOWED_S = 2.0
"""Time in which a running node follows a changed setting."""


def run(bench: BenchFederation, encryption: str, num_params: int, rounds: int) -> tuple[list[float], float]:
    """Run one job; return the seconds of its rounds, without the first ones, and those computed in each."""
    home = bench.root / "researcher"
    set_config(ResearcherConfig, home, "encryption", encryption)
    for number in range(len(bench.nodes)):
        set_config(NodeConfig, bench.root / f"node-{number:02d}", "encryption", encryption)
    time.sleep(FOLLOWED_S)
    with connect(home=home) as session:
        assert session.encrypted == (encryption == "on")
        job = Job(
            FedAvg(),
            training_plan=f"{HERE}/_plans.py:AddOne",
            data={"tags": ["bench"]},
            model_args={"num_params": num_params, "num_tensors": 10},
            rounds=rounds,
            breakpoint_every=rounds,
            session=session,
            seed=1,
        )
        with Costs(bench) as costs:
            job.run(progress=False)
        seconds = [event.body["seconds"] for event in job.events() if event.type == "round"]
        return seconds[2:], costs.seconds / rounds


def compare(bench: BenchFederation, num_params: int, rounds: int, pairs: int) -> None:
    """Print what rounds cost with and without, and the median ratio of the pairs."""
    found: dict[str, list[float]] = {"off": [], "on": []}
    computed: dict[str, list[float]] = {"off": [], "on": []}
    ratios = []
    print(f"{len(bench.nodes)} nodes, {num_params:>10,} parameters:")
    for pair in range(pairs):
        medians = {}
        for mode in ("off", "on") if pair % 2 == 0 else ("on", "off"):
            seconds, own = run(bench, mode, num_params, rounds)
            found[mode] += seconds
            computed[mode].append(own)
            medians[mode] = statistics.median(seconds)
            print(f"    pair {pair + 1}, {mode:<3} {spread(seconds)}, {own:.2f} s computed", flush=True)
        ratios.append(medians["on"] / medians["off"])
    for mode, seconds in found.items():
        own = statistics.median(computed[mode])
        print(f"  encryption {mode:<3} round {spread(seconds)}; {own:.2f} s computed")
    each = statistics.median(computed["on"]) / statistics.median(computed["off"])
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"  median ratio {statistics.median(ratios):.3f} of {pairs} pairs ({shown})")
    print(f"  ratio of what was computed {each:.3f}", flush=True)


def main() -> None:
    """Print the figures that were asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--params", type=int)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    with federation(given.nodes) as bench:
        if given.params:
            compare(bench, given.params, given.rounds, given.pairs)
            return
        compare(bench, 25_000_000, given.rounds, given.pairs)
        compare(bench, 10_000, 5 * given.rounds, given.pairs)


if __name__ == "__main__":
    main()
