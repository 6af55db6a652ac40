"""What encryption costs: seconds per round with and without, in pairs of jobs over the same hub and nodes.

python benchmarks/encryption.py                                      100 MB and 40 KB a round, 4 nodes
python benchmarks/encryption.py --params 25000000 --pairs 4 --rounds 8
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from _federation import BenchFederation, federation, spread

from fedjob import FedAvg, Job
from fedjob.common.config import set_config
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.jobs.session import connect

HERE = Path(__file__).parent
FOLLOWED_S = 2.0
"""Time in which a running node follows a changed setting."""


def seconds_of_rounds(bench: BenchFederation, encryption: str, num_params: int, rounds: int) -> list[float]:
    """Run one job and return the seconds of its rounds, without the first ones."""
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
        job.run(progress=False)
        return [event.body["seconds"] for event in job.events() if event.type == "round"][2:]


def compare(bench: BenchFederation, num_params: int, rounds: int, pairs: int) -> float:
    """Print both, and return the median ratio of the pairs."""
    found: dict[str, list[float]] = {"off": [], "on": []}
    ratios = []
    for pair in range(pairs):
        order = ("off", "on") if pair % 2 == 0 else ("on", "off")
        both = {mode: seconds_of_rounds(bench, mode, num_params, rounds) for mode in order}
        ratios.append(statistics.median(both["on"]) / statistics.median(both["off"]))
        for mode, seconds in both.items():
            found[mode] += seconds
    ratio = statistics.median(ratios)
    print(f"{len(bench.nodes)} nodes, {num_params:>10,} parameters:")
    for mode, seconds in found.items():
        print(f"  encryption {mode:<3} round {spread(seconds)}")
    print(
        f"  median ratio of {pairs} pairs {ratio:.3f} ({', '.join(f'{each:.3f}' for each in ratios)})",
        flush=True,
    )
    return ratio


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
