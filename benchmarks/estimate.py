"""The time that `job.estimate()` predicts beside the time that the job then takes, at real nodes.

    .venv/bin/python benchmarks/estimate.py [--nodes 2,4] [--sizes 10000,1000000,25000000] [--epochs 1,2,4] [--mbit 0,20]

For every number of nodes, size of model and line a first job with one epoch runs, of which nothing was known; then jobs with
2 and 4 epochs, which are estimated from it, and one with the same arguments and more rounds. With `--mbit 20` each party
has a line of 20 Mbit/s in both directions to the hub (`tests/faults`). A job of another kind runs before all others, so that
no row has the first start of a process in it.

Each job is estimated twice: `plain` from what is known, and `probed`, `estimate(probe=True)`, which times the lines as they
are now, and tries a job of which no like has run on the nodes' mocks. Behind a line that has just become another one only
the second can know. `off` is how far each was from what was then measured. At the end stands the largest of these.

Bytes are compared too: those of the estimate with those that the researcher's own traffic shows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob import FedAvg, Job, TorchPlan
from tests.data import make_points
from tests.faults.federation import FederationBehindLines, Ways
from tests.faults.line import LineProperties

NODES = ("clinic-1", "clinic-2", "clinic-3", "clinic-4")


class Wide(TorchPlan):
    """A network of a hidden layer; the width decides how many parameters travel."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        width = model_args["width"]
        return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=1e-8)  # nothing is to be learnt, however wide it is

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        repeats = 4  # about 200 examples a node
        return torch.tensor(inputs).float().repeat(repeats, 1), torch.tensor(targets).reshape(
            -1, 1
        ).float().repeat(repeats, 1)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


def took(job: Job) -> float:
    """Return the seconds from the first ask to the last round."""
    events = list(job.events())
    begun = next(event.time for event in events if event.type == "ask")
    return max(event.time for event in events if event.type == "round") - begun


def job_of(session: Any, size: int, epochs: int, rounds: int) -> Job:
    """Return a job that is not estimated yet."""
    return Job(
        FedAvg(),
        training_plan=Wide,
        model_args={"width": max(1, size // 6)},
        training_args={"epochs": epochs, "batch_size": 16},
        data="rows",
        rounds=rounds,
        seed=1,
        session=session,
    )


def compare(session: Any, size: int, epochs: int, rounds: int) -> tuple[str, dict[str, float]]:
    """Estimate a job, run it, and return both in a line, and how far each estimate was off."""
    job = job_of(session, size, epochs, rounds)
    estimate = job.estimate()
    predicted = {"plain": estimate.time_s, "probed": job.estimate(probe=True).time_s}
    job.run(progress=False)
    seconds = took(job)
    moved = {tally.direction: tally.bytes for tally in job.traffic if tally.kind == "object"}
    up = sum(one.up or 0 for one in estimate)
    exact = "exact" if moved.get("in", 0) == up else f"{up:,} for {moved.get('in', 0):,}"
    off = {kind: one / seconds - 1 for kind, one in predicted.items() if one is not None}
    cells = [
        f"{one:9.2f} {off[kind]:+6.0%}" if one is not None else f"{'not known':>9} {'':>6}"
        for kind, one in predicted.items()
    ]
    return f"{' '.join(cells)} {seconds:9.2f}  {exact}", off


def offer_rows(federation: FederationBehindLines) -> None:
    """Offer a dataset with a mock of half its rows at each node."""
    for index, (name, node) in enumerate(federation.nodes.items()):
        path, mock = federation.folder / f"{name}.npz", federation.folder / f"{name}_mock.npz"
        make_points(mock, 25 + 5 * index, index)
        node.add("rows", path, "rows", mock=mock)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, usual in (
        ("nodes", "2,4"),
        ("sizes", "10000,1000000,25000000"),
        ("epochs", "1,2,4"),
        ("mbit", "0,20"),
    ):
        parser.add_argument(f"--{name}", default=usual, help=f"numbers with commas between them; {usual}")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    numbers = {
        name: [int(one) for one in getattr(asked, name).split(",")]
        for name in ("nodes", "sizes", "epochs", "mbit")
    }
    print(
        f"{'nodes':>5} {'Mbit/s':>6} {'parameters':>10} {'epochs':>6} {'rounds':>6} {'plain':>9} {'off':>6} {'probed':>9} "
        f"{'off':>6} {'measured':>9}  bytes"
    )
    worst = {"plain": 0.0, "probed": 0.0}
    for num_nodes in numbers["nodes"]:
        with (
            tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder,
            FederationBehindLines(Path(folder), nodes=NODES[:num_nodes]) as federation,
        ):
            offer_rows(federation)
            job_of(federation.session(), 100, 1, 3).run(progress=False)
            for mbit in numbers["mbit"]:
                federation.set_ways(Ways(line=LineProperties(bits_per_s=mbit * 1e6)))
                for size in numbers["sizes"]:
                    works = [(epochs, asked.rounds) for epochs in numbers["epochs"]]
                    for epochs, rounds in (*works, (numbers["epochs"][0], 2 * asked.rounds)):
                        line, off = compare(federation.session(), size, epochs, rounds)
                        worst = {kind: max(most, abs(off.get(kind, 0.0))) for kind, most in worst.items()}
                        print(f"{num_nodes:5} {mbit:6} {size:10,} {epochs:6} {rounds:6} {line}", flush=True)
    print(f"at most {worst['plain']:.0%} off plain, {worst['probed']:.0%} probed")


if __name__ == "__main__":
    main()
