"""The accuracy that differential privacy costs: epsilon 1, 4, 8 and none, with and without secure aggregation.

Four nodes train by FedAvg, on the digits of scikit-learn and on the heart disease data of four hospitals; beside them
stands Opacus, with the rows of all nodes in one place. Same seeds, epsilon, delta, sizes of samples and steps.

    make privacy-table
    python benchmarks/privacy_table.py --data DIR --seeds 2 --output privacy-output
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "flamby_heart")]

from hospitals import hospital_files  # noqa: E402
from plan import NAMES, examples, split  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from fedjob import FedAvg, Job, Protect, RecordDP, TorchPlan  # noqa: E402

EPSILONS = (None, 8.0, 4.0, 1.0)
DELTA = 1e-4
"""Well under one by the number of rows of the smallest hospital's neighbours; the digits have it too."""

NODES = 4
HEARTS = ROOT.parent / "shared" / "data" / "heart"
CENTRES = np.array([55, 0, 130, 240, 0, 140, 0, 1] + [0] * 5, np.float32)
SCALES = np.array([10, 1, 20, 50, 1, 25, 1, 1] + [1] * 5, np.float32)
"""Of age, sex, blood pressure, cholesterol, sugar, heart rate, angina, depression and five levels: round numbers of
medicine, and not means of these patients, which would need noise of their own."""

Array = np.ndarray[Any, Any]
Rows = tuple[Array, Array]


class Linear(TorchPlan):
    """A linear classifier, trained by plain gradient descent from zero."""

    def init_model(self, model_args):
        model = torch.nn.Linear(model_args["inputs"], model_args["classes"])
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(model(inputs), targets)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One dataset as it is trained on.

    Args:
        nodes: name -> the rows that this node trains on.
        test: of all nodes together.
        args: training arguments of the nodes.
        rounds: of federated training.
    """

    name: str
    nodes: Mapping[str, Rows]
    test: Rows
    classes: int
    args: Mapping[str, Any]
    rounds: int


def digits(seed: int) -> Setting:
    """Return the digits, dealt out among four nodes, a fifth of them for testing."""
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    inputs, labels = (found.data[order] / 16).astype(np.float32), found.target[order].astype(np.int64)
    tested = len(labels) // 5
    parts = zip(np.array_split(inputs[tested:], NODES), np.array_split(labels[tested:], NODES), strict=True)
    return Setting(
        name="digits",
        nodes={f"node{k}": part for k, part in enumerate(parts)},
        test=(inputs[:tested], labels[:tested]),
        classes=10,
        args={"lr": 2.0, "batch_size": 64, "num_updates": 10},
        rounds=10,
    )


def hearts(seed: int, files: Mapping[str, Path]) -> Setting:
    """Return the four hospitals' complete rows, a third of each hospital's for testing."""
    nodes, tests = {}, []
    for hospital, path in files.items():
        features, labels = examples(pd.read_csv(path, names=list(NAMES), na_values="?"))
        inputs = (features.numpy() - CENTRES) / SCALES
        targets = labels.numpy().astype(np.int64)
        train, test = split(labels)
        train = np.random.default_rng(seed).permutation(train)
        nodes[hospital] = inputs[train], targets[train]
        tests.append((inputs[test], targets[test]))
    return Setting(
        name="hearts",
        nodes=nodes,
        test=(np.concatenate([x for x, _ in tests]), np.concatenate([y for _, y in tests])),
        classes=2,
        args={"lr": 0.5, "batch_size": 15, "num_updates": 5},
        rounds=6,
    )


def accuracy(setting: Setting, params: Mapping[str, Any]) -> float:
    """Return the share of the test rows that a linear model gets right."""
    weight, bias = (np.asarray(params[name], np.float64) for name in ("weight", "bias"))
    inputs, labels = setting.test
    return float(((inputs @ weight.T + bias).argmax(1) == labels).mean())


def federated(setting: Setting, protect: Protect, seed: int, home: Path) -> float:
    """Train with fedjob, a site in this process for each node; return the accuracy on the test rows."""
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
        protect=protect,
    )
    return accuracy(setting, job.run(progress=False).params)


def pooled(setting: Setting, epsilon: float | None, seed: int) -> float:
    """Train with Opacus on the rows of all nodes in one place, with as many steps; return the accuracy."""
    from opacus import PrivacyEngine
    from opacus.accountants.utils import get_noise_multiplier

    torch.manual_seed(seed)
    inputs, labels = (np.concatenate(part) for part in zip(*setting.nodes.values(), strict=True))
    model = torch.nn.Linear(inputs.shape[1], setting.classes)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.args["lr"])
    rows = torch.utils.data.TensorDataset(torch.as_tensor(inputs), torch.as_tensor(labels))
    loader = torch.utils.data.DataLoader(rows, setting.args["batch_size"] * len(setting.nodes), shuffle=True)
    steps = setting.rounds * setting.args["num_updates"]
    params = dict(model.named_parameters())
    if epsilon is not None:
        noise = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=DELTA,
            sample_rate=1 / len(loader),
            steps=steps,
            accountant="rdp",
        )
        model, optimizer, loader = PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=noise, max_grad_norm=1.0
        )
    batches = (batch for _ in range(steps) for batch in loader)
    for features, targets in islice(batches, steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features), targets).backward()
        optimizer.step()
    return accuracy(setting, {name: param.detach() for name, param in params.items()})


COLUMNS = ("nodes", "nodes, secure aggregation", "Opacus, pooled rows")


def measure(files: Mapping[str, Path], seeds: int) -> pd.DataFrame:
    """Return a row for every training: dataset, epsilon (0 for none), how, seed, accuracy.

    Args:
        files: of the hospitals; none to leave the hearts out.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="fedjob-privacy-") as folder:
        for seed in range(1, seeds + 1):
            for setting in (digits(seed), *([hearts(seed, files)] if files else [])):
                for epsilon in EPSILONS:
                    home = Path(folder) / f"{setting.name}-{seed}-{epsilon}"
                    dp = None if epsilon is None else RecordDP(epsilon=epsilon, delta=DELTA)
                    values = (
                        federated(setting, Protect(dp=dp), seed, home / "plain"),
                        federated(setting, Protect(secagg=True, dp=dp), seed, home / "secagg"),
                        pooled(setting, epsilon, seed),
                    )
                    found += [
                        {
                            "dataset": setting.name,
                            "epsilon": epsilon or 0,
                            "how": how,
                            "seed": seed,
                            "accuracy": value,
                        }
                        for how, value in zip(COLUMNS, values, strict=True)
                    ]
                print(f"seed {seed}, {setting.name}: done", file=sys.stderr, flush=True)
    return pd.DataFrame(found)


def table(runs: pd.DataFrame) -> str:
    """Return mean and standard deviation over the seeds, as a table of Markdown."""
    lines = [f"| data | epsilon | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for name in dict.fromkeys(runs["dataset"]):
        for epsilon in EPSILONS:
            cells = []
            for how in COLUMNS:
                chosen = (
                    (runs["dataset"] == name) & (runs["epsilon"] == (epsilon or 0)) & (runs["how"] == how)
                )
                values = list(runs[chosen]["accuracy"])
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
            lines.append(
                f"| {name} | {'none' if epsilon is None else f'{epsilon:g}'} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def draw(runs: pd.DataFrame, path: Path) -> None:
    """Draw every run and the means, a panel for each dataset."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(runs["dataset"]))
    figure = Figure(figsize=(4 * len(names), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for place, (how, colour) in enumerate(
            zip(COLUMNS, ("tab:blue", "tab:green", "tab:orange"), strict=True)
        ):
            own = runs[(runs["dataset"] == name) & (runs["how"] == how)]
            x = [
                list(reversed(EPSILONS)).index(value or None) + 0.16 * (place - 1) for value in own["epsilon"]
            ]
            panel.plot(x, own["accuracy"], "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
            means = own.groupby("epsilon")["accuracy"].mean()
            x = [list(reversed(EPSILONS)).index(value or None) + 0.16 * (place - 1) for value in means.index]
            panel.plot(x, means, "_", color=colour, markersize=13, markeredgewidth=2.5, label=how)
        panel.set_xticks(range(len(EPSILONS)), [f"{e:g}" if e else "none" for e in reversed(EPSILONS)])
        panel.set_xlabel("epsilon")
        panel.set_title(name)
        panel.grid(axis="y", alpha=0.3)
    panels[0, 0].set_ylabel("accuracy on test rows")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLUMNS), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run everything, print the table, and write runs and plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data", type=Path, default=HEARTS, help="folder of the four files; what is missing is downloaded"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("privacy-output"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # Opacus, of its random numbers and of hooks
    torch.set_num_threads(1)
    try:
        files = hospital_files(given.data)
    except (OSError, ValueError) as error:  # those of requests are of OSError
        print(f"the hearts are left out, give their files with --data: {error}", file=sys.stderr)
        files = {}
    runs = measure(files, given.seeds)
    given.output.mkdir(parents=True, exist_ok=True)
    runs.to_csv(given.output / "privacy_table.csv", index=False)
    draw(runs, given.output / "privacy_table.png")
    print(f"accuracy, mean and standard deviation of {given.seeds} seeds, delta {DELTA:g}\n\n{table(runs)}")
    print(f"\n{given.output}: privacy_table.csv, privacy_table.png")


if __name__ == "__main__":
    main()
