"""Seconds until something happens: `import fedjob`, `fedjob --help`, and from `Job.run()` to the first node training.

Processor seconds stand beside the first two, since they say the same on a busy machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from _federation import federation, spread

from fedjob import FedAvg, Job

HERE = Path(__file__).parent
NUM_STARTS = 10


def starts(what: str, command: Sequence[str | Path]) -> None:
    """Print how long a process takes from its start to its end."""
    wall, computed = [], []
    for _ in range(NUM_STARTS + 1):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - began)
        after = os.times()
        computed.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    print(f"{what}: {spread(wall[1:])}; computed {spread(computed[1:])}", flush=True)


def main() -> None:
    """Print the starts of processes, then the first, cold start of a job and the spread of the warm ones."""
    starts("python -c pass", [sys.executable, "-c", "pass"])
    starts("import fedjob", [sys.executable, "-c", "import fedjob"])
    starts("fedjob --help", [Path(sysconfig.get_path("scripts")) / "fedjob", "--help"])
    seconds = []
    with federation(4) as bench:
        for _ in range(8):
            job = Job(
                FedAvg(),
                training_plan=f"{HERE}/_plans.py:TellTheTime",
                data={"tags": ["bench"]},
                model_args={"num_params": 1000, "num_tensors": 2},
                session=bench.session,
                seed=1,
            )
            started = time.time()
            job.run(progress=False)
            first = min(
                event.body["training_since"] for event in job.events() if "training_since" in event.body
            )
            seconds.append(first - started)
        print(
            f"from Job.run() to the first node training, {bench.broker}: {spread(seconds[1:])}; cold {seconds[0]:.2f} s"
        )


if __name__ == "__main__":
    main()
