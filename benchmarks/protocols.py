"""A round of every protocol against FedAvg's, through a real hub and real nodes, in one run.

python benchmarks/protocols.py                       the 100 MB model at 4 nodes
python benchmarks/protocols.py --params 100000 --rounds 5 --turns 2 --nodes 2 --only scaffold,fedprox

The jobs take turns, a few rounds each, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from _federation import BenchFederation, federation, spread

from fedjob import FedAdam, FedAvg, FedBuff, FedNova, FedOpt, FedProx, Job, Scaffold
from fedjob.protocols.training.base import TrainingProtocol

HERE = Path(__file__).parent
LIMITS = {"fedprox": 1.1, "fedopt": 1.1, "scaffold": 2.2}
"""At most so many times FedAvg's round."""

NUM_FIRST = 2
"""Rounds of a job that don't count: its workers and their files are new."""


def protocols(num_nodes: int) -> dict[str, TrainingProtocol]:
    """Return what is measured, by name."""
    return {
        "fedavg": FedAvg(),
        "fedprox": FedProx(mu=0.01),
        "fedopt": FedOpt(FedAdam(lr=0.01)),
        "scaffold": Scaffold(),
        "fednova": FedNova(),
        "fedbuff": FedBuff(k=num_nodes),
    }


def seconds_of(
    bench: BenchFederation, protocol: TrainingProtocol, num_params: int, rounds: int
) -> list[float]:
    """Run one job and return how long each of its rounds took, but for the first ones."""
    job = Job(
        protocol,
        training_plan=f"{HERE}/_plans.py:StepOnce",
        data={"tags": ["bench"]},
        model_args={"num_params": num_params, "num_tensors": 10},
        rounds=rounds + NUM_FIRST,
        breakpoint_every=rounds + NUM_FIRST,
        session=bench.session,
        seed=1,
    )
    job.run(progress=False)
    return [event.body["seconds"] for event in job.events() if event.type == "round"][NUM_FIRST:]


def main() -> None:
    """Print each protocol's round and its ratio to FedAvg's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--params", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=6, help="of each job that count")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--only", default="", help="names beside fedavg, with commas between")
    given = parser.parse_args()
    wanted = {"fedavg", *filter(None, given.only.split(","))}
    measured = {
        name: protocol
        for name, protocol in protocols(given.nodes).items()
        if not given.only or name in wanted
    }
    found: dict[str, list[float]] = {name: [] for name in measured}
    with federation(given.nodes) as bench:
        for _ in range(given.turns):
            for name, protocol in measured.items():
                found[name] += seconds_of(bench, protocol, given.params, given.rounds)
    base = statistics.median(found["fedavg"])
    for name, seconds in found.items():
        limit = f", at most {LIMITS[name]}" if name in LIMITS else ""
        ratio = statistics.median(seconds) / base
        print(
            f"{name:9} {given.nodes} nodes, {given.params:>10,} parameters: round {spread(seconds)}; "
            f"{ratio:.2f} x fedavg{limit}",
            flush=True,
        )


if __name__ == "__main__":
    main()
