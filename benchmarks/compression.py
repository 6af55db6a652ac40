"""Compressed parameters beside plain ones: accuracy, bytes a round and node, and their time over a slow line.

    .venv/bin/python benchmarks/compression.py [--rounds N] [--hearts DIR] [--only WORD]
    .venv/bin/python benchmarks/compression.py --line 20 [--rounds N] [--only WORD] [--settings WORD,WORD]

Trained are, at four simulated nodes with FedAvg: a small network on the UCI Heart Disease files, without the three columns
that are mostly missing (where `--hearts` has them, else on made data of the same form), one of two layers on scikit-learn's
digits, and a CNN on the same images. Every setting starts from the same parameters and takes the same batches.

Under secure aggregation parameters come plain and leave as masked vectors, of 32, 16 or 10 bits a number; with 10 bits each of four
nodes has 8.

Bytes are those of the files that travel, in the second round and after it, when nodes have what changes count from. `here`
is the median time of a round, in which nothing travels; `line` is the time that the bytes of one node take both ways at 20
Mbit/s, computed: each node has a line of its own. A round over such lines takes the sum of the two.

With `--line 20` real nodes train: hub, broker, four daemons and their workers, each daemon behind a line of 20 Mbit/s in both
directions (`tests/faults`), the researcher beside the hub. Printed are the median seconds of a round from the second on, their
range, what the researcher's own count of the answers' bytes is for a node and round, and seconds as a share of plain.

NVFlare's quantisation is measured beside it by `python -m benchmarks.compare --only quantization`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedjob import Int8, Job, SecAgg, TopK, TorchPlan, simulate
from fedjob.researcher.storage.folder import JobFolder
from tests.faults.federation import FederationBehindLines, Ways
from tests.faults.line import LineProperties

NUM_NODES = 4
LINE_BYTES_S = 20e6 / 8
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"compress": "bf16"},
    "fp16": {"compress": "fp16"},
    "Int8()": {"compress": Int8()},
    "TopK(0.1)": {"compress": TopK(0.1)},
    "TopK(0.01)": {"compress": TopK(0.01)},
    "secagg 32": {"protect": SecAgg()},
    "secagg 16": {"protect": SecAgg(bits=16, clip=0.5)},
    "secagg 10": {"protect": SecAgg(bits=10, clip=0.2)},
}


class Layers(TorchPlan):
    """A network of two layers: of hearts 834 parameters, of digits 51,160."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        inputs, width, outputs = (model_args[name] for name in ("inputs", "width", "outputs"))
        return torch.nn.Sequential(
            torch.nn.Linear(inputs, width), torch.nn.ReLU(), torch.nn.Linear(width, outputs)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


class Convolutions(TorchPlan):
    """A CNN of two convolutions with batch normalisation."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, 32, 3, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(1024, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def digits() -> tuple[Any, Any]:
    """Return 64 inputs from 0 to 1 and the digit, of 1,797 images, in one fixed order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = numpy.random.default_rng(0).permutation(len(found.target))
    return (found.data[order] / 16).astype(numpy.float32), found.target[order].astype(numpy.int64)


def hearts(folder: Path) -> tuple[Any, Any, str]:
    """Return 10 standardised inputs, whether there is a disease, and where they are from."""
    files = sorted(folder.glob("processed.*.data"))
    rng = numpy.random.default_rng(0)
    if files:
        lines = [line.split(",") for path in files for line in path.read_text().split()]
        rows = [[*line[:10], line[13]] for line in lines if "?" not in (*line[:10], line[13])]
        table = rng.permutation(numpy.array(rows, dtype=numpy.float32))
        inputs, targets, origin = table[:, :10], (table[:, 10] > 0).astype(numpy.int64), "hearts"
    else:
        inputs = rng.normal(size=(740, 10)).astype(numpy.float32)
        chance = 1 / (1 + numpy.exp(-inputs @ rng.normal(size=10)))
        targets, origin = (rng.random(740) < chance).astype(numpy.int64), "made hearts"
    return (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6), targets, origin


def accuracy(plan: type[TorchPlan], shape: dict[str, int], params: Any, inputs: Any, targets: Any) -> float:
    """Return how often the model is right."""
    model = plan().init_model(shape)
    model.load_state_dict(dict(params))
    model.eval()
    with torch.no_grad():
        return float((model(torch.tensor(inputs)).argmax(1) == torch.tensor(targets)).float().mean())


def run(
    plan: type[TorchPlan],
    shape: dict[str, int],
    data: tuple[Any, Any],
    setting: dict[str, Any],
    rounds: int,
    home: Path,
) -> dict[str, float]:
    """Train with one setting and return its figures."""
    inputs, targets = data
    held_out = len(targets) // 3
    job = Job(
        "fedavg",
        training_plan=plan,
        model_args=shape,
        training_args={"lr": 0.1, "epochs": 1, "batch_size": 32},
        data=(inputs[held_out:], targets[held_out:]),
        nodes=simulate(NUM_NODES, workers=0),
        rounds=rounds,
        seed=1,
        keep=True,
        **setting,
        home=home,
    )
    result = job.run(progress=False)
    whole = (job.folder / "initial.safetensors").stat().st_size
    down, up = [], []
    for round_ in range(2, rounds + 1):
        spool = JobFolder(job.folder).spool(round_)
        sent = [path.stat().st_size for path in spool.glob("sent_*.safetensors")]
        down.append(max(sent, default=whole))
        masked = [path.stat().st_size for path in spool.rglob("masked_*.safetensors")]
        up += masked or [path.stat().st_size for path in spool.glob("local_*/params.safetensors")]
    times = [event.time for event in job.events() if event.type == "round"]
    here = statistics.median(later - earlier for earlier, later in pairwise(times))
    moved = statistics.mean(down) + statistics.mean(up)
    return {
        "accuracy": accuracy(plan, shape, result.params, inputs[:held_out], targets[:held_out]),
        "down": statistics.mean(down),
        "up": statistics.mean(up),
        "here": here,
        "line": moved / LINE_BYTES_S,
    }


def over_lines(works: dict[str, Any], settings: dict[str, Any], rounds: int, mbit: float) -> None:
    """Print a table of jobs at real nodes that each have a line of so many Mbit/s."""
    print(
        f"{rounds} rounds, {NUM_NODES} nodes with {mbit:g} Mbit/s each; the machine's load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'work':24} {'setting':12} {'answer':>10} {'round s':>8} {'least':>6} {'most':>6} {'of plain':>8}"
    )
    names = tuple(f"clinic-{number}" for number in range(1, NUM_NODES + 1))
    with (
        tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder,
        FederationBehindLines(Path(folder), nodes=names) as federation,
    ):
        for number, (plan, _, (inputs, targets)) in enumerate(works.values()):
            held_out = len(targets) // 3
            for index, name in enumerate(names):
                rows = slice(held_out + index, None, NUM_NODES)
                path = Path(folder) / f"{plan.__name__}-{index}.npz"
                numpy.savez(path, x=inputs[rows], y=targets[rows])
                federation.nodes[name].add(f"work-{number}", path, f"work-{number}")
        line = LineProperties(bits_per_s=mbit * 1e6)
        federation.set_ways(Ways(line=line, parties=names))
        for number, (work, (plan, shape, _)) in enumerate(works.items()):
            plain = 0.0
            for setting, arguments in settings.items():
                job = Job(
                    "fedavg",
                    training_plan=plan,
                    model_args=shape,
                    training_args={"lr": 0.1, "epochs": 1, "batch_size": 32},
                    data=f"work-{number}",
                    rounds=rounds,
                    seed=1,
                    session=federation.session(),
                    **arguments,
                )
                job.run(progress=False)
                times = [event.time for event in job.events() if event.type == "round"]
                took = [later - earlier for earlier, later in pairwise(times)]
                came = sum(one.bytes for one in job.traffic if (one.kind, one.direction) == ("object", "in"))
                plain = plain or statistics.median(took)
                print(
                    f"{work:24} {setting:12} {came / rounds / NUM_NODES:10,.0f} {statistics.median(took):8.3f} "
                    f"{min(took):6.3f} {max(took):6.3f} {statistics.median(took) / plain:8.0%}",
                    flush=True,
                )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--hearts", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "heart"
    )
    parser.add_argument("--only", default="", help="of the works, those whose name holds this")
    parser.add_argument(
        "--settings",
        default="",
        help="of the settings, plain and those whose name holds one of these, with commas between",
    )
    parser.add_argument("--line", type=float, metavar="MBIT", help="real nodes with a line of so many Mbit/s")
    asked = parser.parse_args()
    inputs, targets, origin = hearts(asked.hearts)
    works = {
        f"{origin}, two layers": (Layers, {"inputs": 10, "width": 64, "outputs": 2}, (inputs, targets)),
        "digits, two layers": (Layers, {"inputs": 64, "width": 682, "outputs": 10}, digits()),
        "digits, CNN": (Convolutions, {}, digits()),
    }
    words = asked.settings.split(",")
    settings = {
        name: setting
        for name, setting in SETTINGS.items()
        if name == "plain" or any(word in name for word in words)
    }
    works = {work: about for work, about in works.items() if asked.only in work}
    if asked.line:
        over_lines(works, settings, asked.rounds, asked.line)
        return
    print(f"{asked.rounds} rounds, {NUM_NODES} nodes; bytes of one node in a round")
    print(
        f"{'work':24} {'setting':12} {'accuracy':>8} {'down':>10} {'up':>10} {'share':>6} {'here s':>7} {'line s':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for work, (plan, shape, data) in works.items():
            plain = 0.0
            for name, setting in settings.items():
                found = run(plan, shape, data, setting, asked.rounds, Path(folder))
                moved = found["down"] + found["up"]
                plain = plain or moved
                print(
                    f"{work:24} {name:12} {found['accuracy']:8.3f} {found['down']:10,.0f} {found['up']:10,.0f} "
                    f"{moved / plain:6.1%} {found['here']:7.3f} {found['line']:9.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
