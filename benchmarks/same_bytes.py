"""The sha256 of what three jobs with a fixed seed end in: a change that is to change nothing keeps them.

python benchmarks/same_bytes.py             nodes in this process
python benchmarks/same_bytes.py --remote    a real hub and four node daemons besides: the hashes must agree

The jobs: FedAvg with momentum, dropout and batch normalisation over four nodes; SCAFFOLD over the same; a Cox
regression. All compute with one thread, because another number of threads may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _federation import SitesOfFiles, federation_of

from fedjob import CoxRegression, FedAvg, Job, Scaffold

HERE = Path(__file__).parent
NODES = [f"node-{k:02d}" for k in range(4)]


def write_data(folder: Path) -> SitesOfFiles:
    """Write each node's points and survival table; they differ in size and mean from node to node."""
    files: SitesOfFiles = {}
    for k, node in enumerate(NODES):
        rng = np.random.default_rng(k)
        inputs = rng.normal(loc=0.2 * k, size=(40 + 8 * k, 4)).astype(np.float32)
        np.savez(folder / f"points-{k}.npz", x=inputs, y=(inputs.sum(axis=1) > 0.5).astype(np.int64))
        ages = rng.normal(60, 9, size=60 + 5 * k)
        times = np.ceil(rng.exponential(np.exp(4.0 - 0.03 * (ages - 60))))
        rows = zip(ages.tolist(), times.tolist(), rng.integers(0, 2, size=len(ages)).tolist(), strict=True)
        text = "age,time,event\n" + "".join(f"{age},{time},{event}\n" for age, time, event in rows)
        (folder / f"survival-{k}.csv").write_text(text)
        files[node] = {"points": folder / f"points-{k}.npz", "survival": folder / f"survival-{k}.csv"}
    return files


def jobs(**where: Any) -> dict[str, str]:
    """Run the three jobs and return the hash of each one's result."""
    points, survival = where.pop("points"), where.pop("survival")
    training = {
        "training_plan": f"{HERE}/_plans.py:Small",
        "training_args": {"lr": 0.1, "num_updates": 5, "batch_size": 8},
        "rounds": 4,
        "seed": 7,
    }
    found = {}
    for name, operation, arguments in (
        ("FedAvg with momentum and batch norm", FedAvg(), {**training, "data": points}),
        ("SCAFFOLD", Scaffold(), {**training, "training_plan": f"{HERE}/_plans.py:Linear", "data": points}),
        (
            "Cox regression",
            CoxRegression(duration="time", event="event", features=["age"]),
            {"data": survival, "seed": 7},
        ),
    ):
        job = Job(operation, **arguments, **where)
        job.run(progress=False)
        params = job.folder / "result" / "params.safetensors"
        found[name] = hashlib.sha256(
            params.read_bytes() if params.exists() else plain(job.result.value)
        ).hexdigest()
    return found


def plain(value: Any) -> bytes:
    """Return a result's tables and numbers as text in which every digit counts."""

    def as_data(part: Any) -> Any:
        return part.to_dict(orient="split") if isinstance(part, pd.DataFrame) else part.tolist()

    return json.dumps(value, sort_keys=True, default=as_data).encode()


def main() -> None:
    """Print the hashes; exit with 1 where nodes of their own end in others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remote", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fedjob-bytes-") as folder:
        files = write_data(Path(folder))
        by_name = {name: {node: str(files[node][name]) for node in NODES} for name in ("points", "survival")}
        local = jobs(nodes="local", home=Path(folder) / "home", **by_name)
        for name, digest in local.items():
            print(f"{digest}  {name}")
        if not asked.remote:
            return
        with federation_of(files) as bench:
            tags = {name: {"tags": [name]} for name in by_name}
            remote = jobs(session=bench.session, **tags)
    for name, digest in remote.items():
        print(f"{digest}  {name}, through a hub")
    sys.exit(remote != local)


if __name__ == "__main__":
    main()
