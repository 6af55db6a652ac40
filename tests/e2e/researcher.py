"""A researcher's process: runs or resumes one job as its order says, and can be killed at an exact point.

Run as `python -m tests.e2e.researcher ORDER`, a JSON map:

    hub, home      where it works
    job            arguments of `Job`, with `plan` as "file.py:Class", `fraction` for a selector and `secagg` for the
                   settings of secure aggregation; or
    resume         the path of a breakpoint
    rounds         to go on to, with `resume`
    kill           ["fedjob.researcher.storage.replies:Journal.append", "return", 3]: end with -9 when that function
                   is called, or returns, for the third time

Nothing is patched: Python tells a profiler of every call and return.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from importlib import import_module
from types import FrameType
from typing import Any

import torch

from fedjob import FedAvg, Fraction, Job, SecAgg, connect
from fedjob.researcher.storage.breakpoints import hash_file


def code_of(name: str) -> Any:
    """Return the code object of "module:Class.method"."""
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found.__code__  # type: ignore[attr-defined]


def die_at(name: str, event: str, count: int) -> None:
    """End this process with -9 at the `count`-th call or return of a function, on whatever thread."""
    code = code_of(name)
    seen = 0

    def watch(frame: FrameType, what: str, _: Any) -> None:
        nonlocal seen
        if what == event and frame.f_code is code:
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(watch)
    sys.setprofile(watch)


def main(order: dict[str, Any]) -> None:
    """Do as the order says; the last line printed is what came of it."""
    torch.set_num_threads(1)
    with connect(hub=order["hub"], home=order["home"], id=order.get("id"), timeout_s=60) as session:
        if "resume" in order:
            job = Job.resume(order["resume"], session=session, rounds=order.get("rounds"))
        else:
            about = dict(order["job"])
            plan, fraction = about.pop("plan"), about.pop("fraction", None)
            if "secagg" in about:
                about["protect"] = SecAgg(**about.pop("secagg"))
            selector = "all" if fraction is None else Fraction(fraction)
            job = Job(FedAvg(), training_plan=plan, selector=selector, session=session, **about)
        print(f"job: {job.id}", flush=True)
        if "kill" in order:
            die_at(*order["kill"])
        job.run(progress=False)
        print(f"done: {hash_file(job.folder / 'result' / 'params.safetensors')}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
