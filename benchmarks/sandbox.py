"""The start of a worker in a sandbox beside one without, in the same run, in pairs.

python benchmarks/sandbox.py [--pairs 40]      milliseconds from the request to the greeting, and their difference
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _federation import spread

from fedjob.common.types import new_job_id
from fedjob.execution.orders import WorkOrder
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.execution.pool import Workers
from fedjob.node.execution.worker_events import WorkerBegan, WorkerEvent
from fedjob.node.execution.worker_place import WorkerIdentity
from fedjob.node.sandbox.support import find_support


class Starts:
    """One pool of workers, and the time that each start of one takes."""

    def __init__(self, folder: Path, sandbox: str) -> None:
        self._home = NodeHome(folder)
        self._home.create()
        self._began = threading.Event()
        config = NodeConfig(sandbox=sandbox, threads=1, warm_workers=0)
        self.workers = Workers(self._home, config, find_support(), self._take)
        self.workers.warm_up()

    def _take(self, event: WorkerEvent) -> None:
        if isinstance(event, WorkerBegan):
            self._began.set()

    def one(self) -> float:
        """Start a worker for a job of its own, end it, and return how long it took to be there."""
        job, key = new_job_id(), os.urandom(32).hex()
        folder = self._home.tasks / f"{key}.00000000"
        folder.mkdir()
        order = WorkOrder(
            key=key, job=job, round=1, step="none", node="node", protocol="none", output_path=str(folder)
        )
        self._began.clear()
        started = time.perf_counter()
        self.workers.run(order, 1, WorkerIdentity(job=job))
        if not self._began.wait(60):
            raise SystemExit("a worker did not start: see the log of the fork server")
        took = time.perf_counter() - started
        self.workers.kill(key)
        self.workers.end_job(job)
        time.sleep(0.1)  # what has ended is tidied up before the next one is measured
        return took


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedjob-bench-") as folder:
        closed, open_ = Starts(Path(folder, "closed"), "on"), Starts(Path(folder, "open"), "none")
        try:
            for starts in (closed, open_):
                starts.one()  # the fork server imports torch
            pairs = [(closed.one(), open_.one()) for _ in range(given.pairs)]
        finally:
            for starts in (closed, open_):
                starts.workers.stop()
    print(f"sandbox: {closed.workers.kind}")
    print(f"start of a worker with it:    {spread([one for one, _ in pairs])}")
    print(f"start of a worker without:    {spread([other for _, other in pairs])}")
    print(f"difference within a pair:     {spread([one - other for one, other in pairs])}")


if __name__ == "__main__":
    main()
