"""Screen the patients of two hospitals: filter, inference, rule, and a table of who should be looked at again.

    python examples/screening.py [--out screening.csv]

A model is trained over both hospitals first (a dozen rounds of federated averaging on the breast cancer data that
ship with scikit-learn). The screening then runs at each hospital as a pipeline, batch by batch:

    filter     `setup` keeps the patients that were measured well enough to say anything
    inference  `Predict` applies the trained model, which the job sends along
    rule       `Refer` says who is referred: above the threshold of the job
    table      `finish` makes one table of all batches, and the job's result is saved as csv

Everything happens in this process; leave out nodes="local" and give tags for `data`, and it runs at real nodes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas
import torch
from safetensors.torch import load_file

from fedjob import FedAvg, Items, Job, Plan, TorchPlan

FEATURES = ("mean radius", "mean texture", "mean smoothness", "mean concavity")
MEANS = (14.1, 19.3, 0.096, 0.089)
SPREADS = (3.5, 4.3, 0.014, 0.080)


def scaled(frame):
    """Return the features of a table, float32 `[rows, 4]`."""
    values = torch.tensor(frame[list(FEATURES)].to_numpy(), dtype=torch.float32)
    return (values - torch.tensor(MEANS)) / torch.tensor(SPREADS)


class Malignancy(TorchPlan):
    """A logistic regression on four measurements."""

    def init_model(self, model_args):
        return torch.nn.Linear(len(FEATURES), 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        frame = dataset.frame()
        return scaled(frame), torch.tensor(frame["malignant"].to_numpy(), dtype=torch.float32)

    def training_step(self, model, batch):
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets)


class Predict(Plan):
    """Inference: the risk of every patient of a batch, between 0 and 1."""

    def setup(self, ctx):
        self.params = load_file(ctx.fetch("model"))

    def step(self, ctx):
        logits = scaled(ctx.data.frame()) @ self.params["weight"].T + self.params["bias"]
        return torch.sigmoid(logits)[:, 0].tolist()


class Refer(Plan):
    """The rule: whom to look at again."""

    def step(self, ctx):
        table = ctx.data.frame()[["record"]].assign(risk=ctx.previous)
        table["refer"] = table["risk"] >= ctx.args["threshold"]
        return table


class Screening(Plan):
    """Who should be looked at again, the highest risk first."""

    steps = (Predict, Refer)

    def setup(self, ctx):
        ctx.select(ctx.data.frame()["mean radius"] >= ctx.args["least_radius"])

    def finish(self, ctx, parts):
        table = pandas.concat(list(parts), ignore_index=True)
        return table.sort_values("risk", ascending=False, ignore_index=True)


def write_hospitals(folder: Path) -> dict[str, Path]:
    """Deal the patients to two hospitals; return their tables."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    frame = found.data[list(FEATURES)].assign(malignant=1 - found.target)
    frame.insert(0, "record", [f"r{number:03d}" for number in range(len(frame))])
    north, south = folder / "north.csv", folder / "south.csv"
    frame[::2].to_csv(north, index=False)
    frame[1::2].to_csv(south, index=False)
    return {"north": north, "south": south}


def screen(folder: Path, out: Path) -> pandas.DataFrame:
    """Train, screen, and save the table.

    Args:
        folder: for the hospitals' data and the jobs.
    """
    data = write_hospitals(folder)
    model = Job(
        FedAvg(),
        training_plan=Malignancy,
        data=data,
        training_args={"lr": 0.5, "epochs": 2, "batch_size": 32},
        rounds=12,
        seed=1,
        nodes="local",
        home=folder / "home",
    ).run(progress=False)
    job = Job(
        Screening,
        data=data,
        training_args={"threshold": 0.5, "least_radius": 10.0},
        artifacts={"model": model},
        items=Items(batch=50, tolerate=2),
        nodes="local",
        home=folder / "home",
    )
    result = job.run(progress=False)
    result.save(out, force=True)
    return result.dataframe


def main() -> None:
    options = argparse.ArgumentParser(description="Screen the patients of two hospitals.")
    options.add_argument("--out", type=Path, default=Path("screening.csv"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedjob-screening-") as folder:
        table = screen(Path(folder), given.out)
    for hospital, own in table.groupby("node"):
        print(f"{hospital}: {len(own)} screened, {int(own['refer'].sum())} referred")
    print(f"the table is in {given.out}")


if __name__ == "__main__":
    main()
