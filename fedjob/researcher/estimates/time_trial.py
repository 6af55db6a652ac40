"""The trial of a job whose time is wanted: some of its first rounds, run and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from fedjob.common.errors import JobFailed, NoDatasets, SpecError
from fedjob.researcher.estimates.time_estimate import TimeEstimate, begins_late, time_by_trial
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

ROUND_S = 300.0
"""Seconds that a round of a trial may take."""
LEAST_ROUNDS, MOST_ROUNDS = 2, 12
PLAIN_ROUNDS = 4
"""Rounds of a trial without protection, which are for the nodes' training alone."""
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

    A job on the private data of nodes is tried on their mocks; one on this machine or on the mocks as it is. Nodes give no
    times and counts of protected training, so that of such a job a few rounds without its protection are tried, too. Where
    nodes had to start for the trial, its first round is run again: the job will find them ready.

    Args:
        spec: of a job with a last round.
        twin: returns a clone of the job with other arguments.

    Returns:
        An unknown time that says why, where a node has no mock or its owner has not allowed that it is used, or it failed.
    """
    on_mocks = not spec.local and spec.use == "private"
    what = "on the nodes' mocks" if on_mocks else "of its first rounds"
    tried: list[Any] = []

    def run(**more: Any) -> JobFolder:
        job = twin({**_changes(spec, on_mocks=on_mocks), **more})
        tried.append(job)
        _check_may_run(spec, job)
        job.run(progress=False)
        return JobFolder(job.folder)

    try:
        trial, plain, again = run(), None, None
        if not spec.local and begins_late(trial):
            again = run(rounds=1)
        if on_mocks and spec.protect:
            plain = run(protect=None, rounds=min(spec.rounds, PLAIN_ROUNDS))
        return time_by_trial(spec, trial, on_mocks=on_mocks, plain=plain, again=again)
    except (NoDatasets, SpecError, JobFailed) as error:
        return TimeEstimate(by=f"unknown: no trial {what}: {error}")
    finally:
        for job in tried:
            job.delete()


def _changes(spec: JobSpec, *, on_mocks: bool) -> dict[str, Any]:
    """Return what differs from a job in its trial."""
    changes: dict[str, Any] = {
        "rounds": min(spec.rounds, MOST_ROUNDS),
        "hooks": (TrialEnd(),),
        "watchers": (),
        "name": "estimate",
        "validate_at_end": False,
        "every_s": None,
    }
    if not spec.local:
        changes["round_timeout_s"] = ROUND_S
    if on_mocks:
        changes["use"] = "mock"
    return changes


def _check_may_run(spec: JobSpec, job: Any) -> None:
    """See to it that the nodes would run a trial.

    Raises:
        SpecError: one would not.
    """
    refused = [] if spec.local else [f"{one.node}: {one.verdict}" for one in job.check() if not one.may_run]
    if refused:
        raise SpecError(f"it may not run on the mocks of {', '.join(refused)}")
