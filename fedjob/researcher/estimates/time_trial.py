"""The trial of a job whose time is wanted: some of its first rounds, run and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from fedjob.common.errors import JobFailed, NoDatasets, SpecError
from fedjob.researcher.estimates.time_estimate import TimeEstimate, time_by_trial
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

ROUND_S = 300.0
"""Seconds that a round of a trial may take."""
LEAST_ROUNDS, MOST_ROUNDS = 2, 12
ENOUGH_S = 6.0
"""Seconds after the first round, which holds the starts of workers, in which rounds are measured; then the trial ends."""


class TrialEnd(Hook):
    """End a trial when its rounds have been measured for long enough."""

    name: ClassVar[str] = "trial_end"

    def __init__(self) -> None:
        self._first = 0.0

    def round_done(self, report: RoundReport) -> str | None:
        now = time.monotonic()
        if report.round == 1:
            self._first = now
        enough = report.round >= LEAST_ROUNDS and now - self._first >= ENOUGH_S
        return "enough rounds were measured" if enough else None


def time_by_trying(spec: JobSpec, twin: Callable[[dict[str, Any]], Any]) -> TimeEstimate:
    """Run the first rounds of a job, delete them, and return the time of the job by them.

    A job on the private data of nodes is tried on their mocks; one on this machine or on the mocks as it is.

    Args:
        spec: of a job with a last round.
        twin: returns a clone of the job with other arguments.

    Returns:
        An unknown time that says why, where a node has no mock or its owner has not allowed that it is used, or it failed.
    """
    changes: dict[str, Any] = {
        "rounds": min(spec.rounds, MOST_ROUNDS),
        "hooks": (TrialEnd(),),
        "watchers": (),
        "name": "estimate",
        "validate_at_end": False,
        "every_s": None,
    }
    on_mocks = not spec.local and spec.use == "private"
    if not spec.local:
        changes["round_timeout_s"] = ROUND_S
    if on_mocks:
        changes["use"] = "mock"
    what = "on the nodes' mocks" if on_mocks else "of its first rounds"
    job = None
    try:
        job = twin(changes)
        refused = (
            [] if spec.local else [f"{one.node}: {one.verdict}" for one in job.check() if not one.may_run]
        )
        if refused:
            return TimeEstimate(by=f"unknown: it may not run on the mocks of {', '.join(refused)}")
        job.run(progress=False)
        return time_by_trial(spec, JobFolder(job.folder), on_mocks=on_mocks)
    except (NoDatasets, SpecError, JobFailed) as error:
        return TimeEstimate(by=f"unknown: no trial {what}: {error}")
    finally:
        if job is not None:
            job.delete()
