"""The large round in one run: plain, encrypted, as a secure sum, and the floor of the machine, in turn.

Every turn runs each kind once, in another order each time, and the floor before and after. Ratios are of medians
within a turn, so that what else the machine does in these minutes weighs on both sides; beside the seconds stand those
that the processors computed, which other work changes less.

python benchmarks/large_round.py                       100 MB, 4 nodes, 4 turns of 8 rounds: about 10 minutes on two cores
python benchmarks/large_round.py --turns 1 --rounds 5 --kinds plain encrypted
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from _costs import Cost, Costs, floor_s
from _federation import BenchFederation, federation, spread

from fedjob import FedAvg, Job, Protect
from fedjob.common.config import set_config
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.jobs.session import connect

HERE = Path(__file__).parent
FOLLOWED_S = 2.0
"""Time in which a running node follows a changed setting."""

KINDS = ("plain", "encrypted", "secure")
LIMITS = {"encrypted": 1.15, "secure": 1.5}
"""The ratios to plain that are to be reached."""

FLOOR_LIMIT, FLOOR_GOAL = 1.6, 1.2
NUM_WARM = 2
"""Rounds at the beginning that do not count."""


def run(
    bench: BenchFederation, kind: str, num_params: int, rounds: int
) -> tuple[list[float], dict[str, Cost]]:
    """Run one job; return the seconds of its warm rounds, and what each kind of process used in one of them."""
    home, encryption = bench.root / "researcher", "on" if kind == "encrypted" else "off"
    set_config(ResearcherConfig, home, "encryption", encryption)
    for number in range(len(bench.nodes)):
        set_config(NodeConfig, bench.root / f"node-{number:02d}", "encryption", encryption)
    time.sleep(FOLLOWED_S)
    with connect(home=home) as session:
        assert session.encrypted == (kind == "encrypted")
        job = Job(
            FedAvg(),
            training_plan=f"{HERE}/_plans.py:AddOne",
            data={"tags": ["bench"]},
            model_args={"num_params": num_params, "num_tensors": 10},
            rounds=rounds,
            breakpoint_every=5,
            session=session,
            seed=1,
            protect=Protect(secagg=True) if kind == "secure" else None,
        )
        with Costs(bench) as costs:
            job.run(progress=False)
        ends = [event for event in job.events() if event.type == "round"]
    used = costs.by_kind(ends[NUM_WARM - 1].time)
    num = rounds - NUM_WARM
    each = {name: Cost(cost.seconds / num, cost.written_bytes // num) for name, cost in used.items()}
    return [event.body["seconds"] for event in ends[NUM_WARM:]], each


class Turns:
    """What was measured so far, and its ratios."""

    def __init__(self, bench: BenchFederation, num_params: int, rounds: int, kinds: list[str]) -> None:
        self._bench, self._num_params, self._rounds, self._kinds = bench, num_params, rounds, kinds
        self._seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        self._computed: dict[str, list[dict[str, Cost]]] = {kind: [] for kind in kinds}
        self._ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
        self._to_floor: list[float] = []

    def take(self, number: int, of: int) -> None:
        """Measure every kind once, and the floor around them; print each when it is known."""
        transfers = 1 + 3 * len(self._bench.nodes)
        floors = [floor_s(self._bench.root, self._num_params * 4, transfers)]
        order = self._kinds[number % len(self._kinds) :] + self._kinds[: number % len(self._kinds)]
        medians = {}
        for kind in order:
            seconds, costs = run(self._bench, kind, self._num_params, self._rounds)
            self._seconds[kind] += seconds
            self._computed[kind].append(costs)
            medians[kind] = statistics.median(seconds)
            used = sum(cost.seconds for cost in costs.values())
            print(
                f"  turn {number + 1} of {of}, {kind:<9} {spread(seconds)}, {used:.2f} s computed", flush=True
            )
        floors.append(floor_s(self._bench.root, self._num_params * 4, transfers))
        print(
            f"  turn {number + 1} of {of}, floor     {' and '.join(f'{each:.2f}' for each in floors)} s",
            flush=True,
        )
        for kind in self._kinds:
            self._ratios[kind].append(medians[kind] / medians["plain"])
        self._to_floor.append(medians["plain"] / statistics.mean(floors))

    def print_all(self) -> None:
        """Print the medians over all turns, and the ratios with their spread."""
        for kind in self._kinds:
            print(f"{kind:<9} round {spread(self._seconds[kind])}")
            for name in self._computed[kind][0]:
                mine = [costs.get(name, Cost()) for costs in self._computed[kind]]
                seconds = statistics.median(cost.seconds for cost in mine)
                written = statistics.median(cost.written_bytes for cost in mine)
                print(f"    {name:<10} {seconds:6.2f} s computed, {written / 1e6:7.1f} MB written per round")
        for kind, limit in LIMITS.items():
            if kind in self._kinds:
                print(f"{kind} / plain: {_spread(self._ratios[kind])}; at most {limit} is asked")
        print(
            f"plain / floor of the machine: {_spread(self._to_floor)}; at most {FLOOR_LIMIT} is asked, {FLOOR_GOAL} the goal"
        )


def _spread(ratios: list[float]) -> str:
    shown = ", ".join(f"{each:.2f}" for each in ratios)
    return f"{statistics.median(ratios):.3f} (median of turns {shown})"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--params", type=int, default=25_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="plain is always among them"
    )
    given = parser.parse_args()
    if given.rounds <= NUM_WARM:
        parser.error(
            f"--rounds {given.rounds}: the first {NUM_WARM} do not count, so give at least {NUM_WARM + 1}"
        )
    kinds = [kind for kind in KINDS if kind == "plain" or kind in given.kinds]
    began = time.monotonic()
    with federation(given.nodes) as bench:
        print(
            f"{given.nodes} nodes, {given.params:,} parameters, {bench.broker}, breakpoint every 5:",
            flush=True,
        )
        turns = Turns(bench, given.params, given.rounds, kinds)
        for number in range(given.turns):
            turns.take(number, given.turns)
            if number + 1 < given.turns:
                left = (time.monotonic() - began) / (number + 1) * (given.turns - number - 1)
                print(f"  about {left / 60:.0f} more minutes", flush=True)
        turns.print_all()


if __name__ == "__main__":
    main()
