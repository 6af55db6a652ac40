"""The profile of a simulation: where its time went, by stage, kept beside what the nodes would keep."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fedjob.common.errors import DecodeError
from fedjob.common.files import write_atomic

STAGES = {
    "start": "the driver: starting the workers",
    "data": "the workers: opening rows, setting up the plan",
    "compute": "the workers: training and validating",
    "transfer": "the workers: parameters in, contributions out",
    "cpu": "the workers: processor time of these three",
    "wait": "the driver: giving orders, waiting, checking",
    "aggregate": "the driver: aggregating, committing the round",
}
"""Each stage in words that pandas shows whole."""

NAME = "profile.json"


class Profile:
    """The seconds of each stage; those of workers are added up over all of them."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.num_workers = 0
        self._num_tasks = 0
        self._failures: list[str] = []
        self._ask_began = 0.0
        self._ask_ended: float | None = None

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[stage] += seconds

    def add_node(self, seconds: dict[str, float]) -> None:
        """Add what one node's work took."""
        for stage, took in seconds.items():
            if stage in self.seconds:
                self.seconds[stage] += took

    def begin_ask(self) -> None:
        """Note that the nodes are asked; what lies before belongs to the round before."""
        self._ask_began = time.perf_counter()
        if self._ask_ended is not None:
            self.add("aggregate", self._ask_began - self._ask_ended)

    def end_ask(self, num_tasks: int) -> None:
        """Note that all answers are there."""
        self._ask_ended = time.perf_counter()
        self.add("wait", self._ask_ended - self._ask_began)
        self._num_tasks += num_tasks

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        if self._ask_ended is not None:
            self.add("aggregate", time.perf_counter() - self._ask_ended)
            self._ask_ended = None
        plain = {"workers": self.num_workers, "tasks": self._num_tasks, "seconds": self.seconds}
        write_atomic(folder / NAME, json.dumps(plain).encode())


def load_profile(folder: Path) -> dict[str, Any] | None:
    """Return what `save` wrote; None where nothing was.

    Raises:
        DecodeError: it is no profile.
    """
    try:
        plain = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DecodeError(f"{folder / NAME} is no profile: {error}") from error
    return dict(plain)
