"""Rounds by fedjob: a hub, a broker and nodes as processes of their own, also behind slow lines, or a simulation."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from images import BATCH_SIZE, LEARNING_RATE, Images, loss_of, model_of

PLANS = {"cnn": "Images", "linear": "Megabyte"}
BENCHMARKS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent)]


def main() -> None:
    """Run the work that the first argument has as JSON, and print what it found as JSON."""
    work = json.loads(sys.argv[1])
    print(json.dumps((over_lines if work["mbit"] else simulated if work["data"] else federated)(work)))


def federated(work: dict[str, Any]) -> dict[str, Any]:
    """Run a job at real nodes; return when each round ended and the parameters' value."""
    from _federation import federation

    from fedjob import FedAvg, Job

    with federation(work["nodes"]) as bench:
        job = Job(
            FedAvg(),
            training_plan=f"{BENCHMARKS}/_plans.py:AddOne",
            data={"tags": ["bench"]},
            model_args={"num_params": work["params"], "num_tensors": work["tensors"]},
            rounds=work["rounds"],
            breakpoint_every=1 if work["params"] < 1_000_000 else 5,
            session=bench.session,
            seed=1,
        )
        result = job.run(progress=False)
        value = torch.as_tensor(next(iter(result.state_dict().values()))).mean()
        return {"ends": ends_of(job), "outcome": float(value)}


def simulated(work: dict[str, Any]) -> dict[str, Any]:
    """Run a job at simulated nodes; return when each round ended and the loss at the end."""
    from fedjob import IID, Fraction, Job, simulate

    with tempfile.TemporaryDirectory(prefix="compare-fedjob-") as home:
        job = Job(
            "fedavg",
            training_plan=f"{BENCHMARKS}/_plans.py:{PLANS[work['model']]}",
            data={"path": work["data"], "reader": "npy"},
            nodes=simulate(work["nodes"], split=IID(), workers=work["workers"]),
            selector=Fraction(work["cohort"] / work["nodes"]),
            training_args={"lr": LEARNING_RATE, "epochs": 1, "batch_size": BATCH_SIZE},
            rounds=work["rounds"],
            seed=1,
            home=home,
        )
        result = job.run(progress=False)
        model = model_of(work["model"])
        model.load_state_dict({name: torch.as_tensor(value) for name, value in result.state_dict().items()})
        return {"ends": ends_of(job), "outcome": loss_of(model, Images(work["data"]), work["nodes"])}


def over_lines(work: dict[str, Any]) -> dict[str, Any]:
    """Run a job at nodes behind lines; return when each round ended, the accuracy and the bytes of a round."""
    import numpy as np
    from digits import BATCH_SIZE, LEARNING_RATE, Digits, DigitsNet
    from lines import Carried

    from fedjob import FedAvg, Int8, Job, connect
    from tests.faults.federation import FederationBehindLines, Ways
    from tests.faults.line import LineProperties

    forms: dict[str, Any] = {"": None, "bf16": "bf16", "Int8()": Int8()}
    digits = Digits(work["data"])
    names = tuple(f"node-{number:02d}" for number in range(work["nodes"]))
    with (
        tempfile.TemporaryDirectory(prefix="compare-fedjob-") as folder,
        FederationBehindLines(Path(folder), nodes=names) as federation,
        connect(hub=federation.url, home=Path(folder) / "researcher", id="bench") as session,
    ):
        for number, name in enumerate(names):
            inputs, labels = digits.of_node(number, len(names))
            path = Path(folder) / f"{name}-digits.npz"
            np.savez(path, x=inputs, y=labels)
            federation.nodes[name].add("digits", path, "digits")
        federation.set_ways(Ways(line=LineProperties(bits_per_s=work["mbit"] * 1e6), parties=names))
        job = Job(
            FedAvg(),
            training_plan=f"{BENCHMARKS}/_plans.py:Digits",
            data={"tags": ["digits"]},
            training_args={"lr": LEARNING_RATE, "epochs": 1, "batch_size": BATCH_SIZE},
            rounds=work["rounds"],
            breakpoint_every=1,
            compress=forms[work["form"]],
            session=session,
            seed=1,
        )
        with Carried(federation.lines[name] for name in names) as carried:
            result = job.run(progress=False)
        model = DigitsNet()
        model.load_state_dict({name: torch.as_tensor(value) for name, value in result.state_dict().items()})
        ends = ends_of(job)
        return {"ends": ends, "outcome": digits.accuracy(model), "moved": dict(carried.of_a_round(ends))}


def ends_of(job: Any) -> list[float]:
    """Return when each round ended, in seconds since 1970."""
    return [event.time for event in job.events() if event.type == "round"]


if __name__ == "__main__":
    main()
