"""The paper's table: every method over five seeds, through a hub and four hospitals' nodes, beside what was published.

Ogier du Terrail et al. 2022, "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings", NeurIPS, Fed-Heart-Disease, https://arxiv.org/abs/2210.04620

    make table
    python examples/flamby_heart/table.py --methods FedAvg,FedAdam --seeds 2
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from hospitals import hospital_files, pool
from methods import BATCH_SIZE, METHODS, NUM_UPDATES, POOLED_EPOCHS, SEEDS, Method
from plan import NAMES, NUM_FEATURES
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fedjob import Evaluation, Explicit, Job, Quorum, Session, connect
from fedjob.one_machine.commands import Commands

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "data" / "heart"
PLAN, SUMS = f"{HERE / 'plan.py'}:Heart", f"{HERE / 'plan.py'}:training_sums"
HEART = {"tags": ["heart"]}


@dataclass(frozen=True)
class Score:
    """One run's accuracies.

    Args:
        hospitals: of hospitals 0 to 3, each on its own test rows, normalised by its own training rows.
        union: of these rows all together.
        pooled: of all test rows, normalised by the training rows of all hospitals, which is the paper's pooled test.
    """

    hospitals: tuple[float, ...]
    union: float
    pooled: float


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Folder of the four files; what is missing is downloaded into it.")  # fmt: skip
@click.option("--methods", default="", help="Names, comma separated; all without it.")
@click.option("--seeds", type=click.IntRange(1, len(SEEDS)), default=len(SEEDS), show_default=True)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("table-output"),
              show_default=True, help="Folder for table.csv and table.png.")  # fmt: skip
def main(data: Path | None, methods: str, seeds: int, output: Path) -> None:
    """Run the paper's methods and print the published mean beside ours."""
    console = Console(highlight=False)
    wanted = [name.strip().lower() for name in methods.split(",") if name.strip()]
    unknown = set(wanted) - {method.name.lower() for method in METHODS}
    if unknown:
        raise click.UsageError(
            f"no method {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in METHODS)}"
        )
    chosen = [method for method in METHODS if not wanted or method.name.lower() in wanted]
    files = hospital_files(data or (SHARED if SHARED.is_dir() else output / "data"))
    scores: dict[str, list[Score]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fedjob-table-") as folder,
        hospitals(Path(folder), files) as session,
    ):
        mean, std = pooled_moments(session)
        pooled_file = pool(files, Path(folder) / "pooled.csv", NAMES)
        for method in chosen:
            with console.status(method.name):
                scores[method.name] = [
                    score(session, method, seed, {"mean": mean, "std": std}, pooled_file)
                    for seed in SEEDS[:seeds]
                ]
            console.print(f"[dim]{method.name}: {len(scores[method.name])} runs[/]")
    output.mkdir(parents=True, exist_ok=True)
    console.print(shown(chosen, scores))
    to_frame(chosen, scores).to_csv(output / "table.csv", index=False)
    draw(chosen, scores, output / "table.png")
    console.print(f"{output / 'table.csv'} holds every run, {output / 'table.png'} the picture")


# -- a hub and four hospitals -----------------------------------------------------------------


@contextmanager
def hospitals(folder: Path, files: dict[str, Path]) -> Iterator[Session]:
    """Start a hub and a node for each hospital; end them all at the end."""
    with Commands(folder / "logs", lambda line: None) as commands:
        commands.start(
            "hub", "start", "--home", str(folder / "hub"), "--port", "0", "--mqtt-port", "0", log="hub"
        )
        url = commands.wait_for("hub", r"hub ready: (\S+) .*")[1]
        nodes = [f"hospital-{number}" for number in range(len(files))]
        for node, file in zip(nodes, files.values(), strict=True):
            for words in (
                ("init", "--id", node, "--hub", url),
                ("data", "add", "heart", str(file), "--tags", "heart", "--reader", "csv",
                 "--option", f"names={','.join(NAMES)}", "--option", "na=?"),
                ("config", "set", "approval", "off"),  # no owner sits here
                ("config", "set", "threads", "1"),  # the hospitals share this machine
            ):  # fmt: skip
                commands.run("node", *words, "--home", str(folder / node), log=node)
            commands.start("node", "start", "--home", str(folder / node), log=node)
        for node in nodes:
            commands.wait_for(node, r"node ready: .*")
        with connect(hub=url, home=folder / "researcher", id="researcher") as session:
            yield session


# -- one run -----------------------------------------------------------------------------------


def pooled_moments(session: Session) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the 13 features over all training rows; only sums leave a hospital."""
    total = Job(SUMS, data=HEART, aggregator="sum", session=session).run(progress=False).value
    mean = total["sums"] / total["n"]
    variance = (total["squares"] - total["n"] * mean**2) / (total["n"] - 1)
    return mean.tolist(), np.sqrt(variance).tolist()


def score(
    session: Session, method: Method, seed: int, moments: dict[str, list[float]], pooled: Path
) -> Score:
    """Run a method from the paper's first parameters of that seed, and test its last shared parameters."""
    settings = {"lr": method.lr, "batch_size": BATCH_SIZE, "optimizer": method.optimizer, **moments}
    if method.protocol is None:
        trained = pooled_training(session, seed, settings, pooled)
        job = Job(
            Evaluation(),
            training_plan=PLAN,
            data=HEART,
            training_args=settings,
            init=trained,
            session=session,
        )
    else:
        job = Job(
            method.protocol,
            training_plan=PLAN,
            data=HEART,
            training_args={**settings, "num_updates": NUM_UPDATES},
            rounds=method.rounds,
            seed=seed,
            init=first_params(seed),
            quorum=Quorum(min_nodes=4 if method.takes_all else 1),
            selector="all" if method.nodes is None else Explicit(method.nodes),
            validate_at_end=True,
            breakpoint_every=method.rounds,
            name=f"{method.name} {seed}",
            session=session,
        )
    history = job.run(progress=False).history
    last = history[history.phase == "validate"].pivot(index="metric", columns="node", values="value")
    accuracy = last.loc["accuracy"]
    return Score(tuple(accuracy[sorted(job.spec.datasets)]), accuracy["all"], last.loc["pooled", "all"])


def pooled_training(
    session: Session, seed: int, settings: dict[str, object], pooled: Path
) -> dict[str, torch.Tensor]:
    """Train on the rows of all hospitals in one place, which no hospital would allow: what the others aim at."""
    job = Job(
        "fedavg",
        training_plan=PLAN,
        nodes="local",
        data=pooled,
        training_args={**settings, "epochs": 1},
        rounds=POOLED_EPOCHS,
        seed=seed,
        init=first_params(seed),
        breakpoint_every=POOLED_EPOCHS,
        home=session.home,
    )
    return job.run(progress=False).params


def first_params(seed: int) -> dict[str, torch.Tensor]:
    """Return the parameters that the benchmark starts from: torch's own for a linear layer after `manual_seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {name: tensor.detach() for name, tensor in torch.nn.Linear(NUM_FEATURES, 1).named_parameters()}


# -- what people look at -------------------------------------------------------------------------


def differs(method: Method, scores: Sequence[Score]) -> float:
    """Return how many standard errors our mean of the pooled test is off the published one.

    Where a spread is not known, the other stands for both.
    """
    ours = [score.pooled for score in scores]
    spread = statistics.stdev(ours) if len(ours) > 1 else method.published_std
    if spread is None:
        return math.nan
    published = method.published_std or spread
    error = math.sqrt(spread**2 / len(ours) + published**2 / len(SEEDS))
    return (statistics.mean(ours) - method.published[-1]) / error


def shown(methods: Sequence[Method], scores: dict[str, list[Score]]) -> Table:
    """Return the table: each method's means, and the published ones below them."""
    count = len(next(iter(scores.values())))
    table = Table(
        title=f"Fed-Heart-Disease: accuracy, mean of {count} seeds",
        caption="0 to 3: each hospital's own test rows; off by: the pooled test, in standard errors",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("")
    for column in ("0", "1", "2", "3", "pooled", "std", "off by"):
        table.add_column(column, justify="right")
    for method in methods:
        runs = scores[method.name]
        means = [statistics.mean(run.hospitals[k] for run in runs) for k in range(4)]
        pooled = [run.pooled for run in runs]
        spread = statistics.stdev(pooled) if count > 1 else None
        ours = [*means, statistics.mean(pooled), spread]
        paper = [*method.published, method.published_std]
        table.add_row(method.name, "ours", *map(rounded, ours), f"{differs(method, runs):+.1f}")
        table.add_row("", "paper", *map(rounded, paper), "", style="dim", end_section=True)
    return table


def rounded(value: float | None) -> str:
    """Return an accuracy as the paper prints it, nothing for one that is not known."""
    return "" if value is None else f"{value:.3f}"


def to_frame(methods: Sequence[Method], scores: dict[str, list[Score]]) -> pd.DataFrame:
    """Return every run, a row each."""
    return pd.DataFrame(
        [
            {
                "method": method.name,
                "seed": seed,
                **{f"hospital_{k}": value for k, value in enumerate(run.hospitals)},
                "union": run.union,
                "pooled": run.pooled,
                **{f"published_{k}": value for k, value in enumerate(method.published[:4])},
                "published_pooled": method.published[-1],
            }
            for method in methods
            for seed, run in zip(SEEDS, scores[method.name], strict=False)
        ]
    )


def draw(methods: Sequence[Method], scores: dict[str, list[Score]], path: Path) -> None:
    """Draw the pooled test: every run, our mean, and the published mean with its standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(methods) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(reversed(methods)):
        pooled = [run.pooled for run in scores[method.name]]
        axes.errorbar(method.published[-1], place + 0.15, xerr=method.published_std, fmt="D", color="tab:gray", capsize=3,
                      label="published, mean and standard deviation" if not place else None)  # fmt: skip
        axes.plot(
            pooled,
            [place - 0.15] * len(pooled),
            "o",
            color="tab:blue",
            alpha=0.35,
            label="our runs" if not place else None,
        )
        axes.plot(statistics.mean(pooled), place - 0.15, "|", markersize=16, markeredgewidth=2, color="tab:blue",
                  label="our mean" if not place else None)  # fmt: skip
    axes.set_yticks(range(len(methods)), [method.name for method in reversed(methods)])
    axes.set_ylim(-0.6, len(methods) - 0.4)
    axes.set_xlabel("accuracy on the pooled test")
    axes.set_title("Fed-Heart-Disease: four hospitals, logistic regression")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
