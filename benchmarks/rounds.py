"""Seconds per round through a real hub and real nodes, processor time and bytes written by kind, the researcher's memory.

For large models the floor of the machine stands beside it, measured before and after in the same run: the transfers
that a round needs, hashed at both ends.

python benchmarks/rounds.py                 every figure, with Mosquitto where it is installed
python benchmarks/rounds.py --nodes 4 --params 10000 --rounds 30 --every 1 [--broker amqtt] [--sandbox both]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from _costs import Costs, floor_s
from _federation import BenchFederation, federation, spread
from _memory import Peak, Watch

from fedjob import FedAvg, Job

HERE = Path(__file__).parent
LARGE_BYTES = 50_000_000


def run(bench: BenchFederation, num_params: int, rounds: int, every: int) -> None:
    """Run one job and print its figures."""
    peak, size, nodes = Peak(os.getpid()), num_params * 4, len(bench.nodes)
    transfers = 1 + 3 * nodes
    floors = [floor_s(bench.root, size, transfers)] if size >= LARGE_BYTES else []
    job = Job(
        FedAvg(),
        training_plan=f"{HERE}/_plans.py:AddOne",
        data={"tags": ["bench"]},
        model_args={"num_params": num_params, "num_tensors": 10},
        rounds=rounds,
        breakpoint_every=every,
        session=bench.session,
        seed=1,
    )
    started = time.time()
    with Watch(peak) as watch, Costs(bench, lambda: watch.watching_s) as costs:
        job.run(progress=False)
    seconds = [event.body["seconds"] for event in job.events() if event.type == "round"]
    asked = next(event.time for event in job.events() if event.type == "ask")
    print(
        f"{nodes:3} nodes, {num_params:>10,} parameters, breakpoint every {every}, {bench.broker}: "
        f"round {spread(seconds[2:])}; first {seconds[0]:.2f} s; start to first ask {asked - started:.3f} s; "
        f"researcher's private memory +{peak.bytes / 1e6:.0f} MB = {peak.bytes / size:.2f} x model",
        flush=True,
    )
    warm = next(event.time for event in job.events() if event.type == "round" and event.round == 2)
    for kind, cost in costs.by_kind(warm).items():
        print(
            f"      {kind:<10} {cost.seconds / (rounds - 2) * 1000:7.1f} ms computed and "
            f"{cost.written_bytes / (rounds - 2) / 1e6:7.1f} MB written per round"
        )
    if floors:
        floors.append(floor_s(bench.root, size, transfers))
        middle = sorted(seconds[2:])[len(seconds[2:]) // 2]
        print(
            f"      floor of the machine, {transfers} transfers of {size / 1e6:.0f} MB: "
            f"{' and '.join(f'{each:.2f}' for each in floors)} s; round / floor {middle / max(floors):.2f} to "
            f"{middle / min(floors):.2f}"
        )


def main() -> None:
    """Print the figures that were asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--params", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--broker", default="auto")
    parser.add_argument("--sandbox", choices=("on", "none", "both"), default="on")
    given = parser.parse_args()
    if given.nodes:
        for sandbox in ("on", "none") if given.sandbox == "both" else (given.sandbox,):
            with federation(given.nodes, broker_kind=given.broker, sandbox=sandbox) as bench:
                print(f"sandbox {sandbox}: ", end="")
                run(bench, given.params, given.rounds, given.every)
        return
    for nodes in (4, 16):
        with federation(nodes) as bench:
            run(bench, 10_000, 40, 1)
    with federation(4, broker_kind="amqtt") as bench:
        run(bench, 10_000, 40, 1)
    for nodes in (4, 12):
        with federation(nodes) as bench:
            run(bench, 25_000_000, 10, 5)


if __name__ == "__main__":
    main()
