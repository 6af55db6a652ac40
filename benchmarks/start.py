"""Seconds from `Job.run()` to the first node training: warm nodes, a small plan."""

from __future__ import annotations

import time
from pathlib import Path

from _federation import federation, spread

from fedjob import FedAvg, Job

HERE = Path(__file__).parent


def main() -> None:
    """Print the first, cold start and the spread of the warm ones."""
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
