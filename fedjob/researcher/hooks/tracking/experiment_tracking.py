"""The part that hooks for experiment trackers share: a run is opened, fed by a thread, and ended with the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedjob.common.errors import MissingPackage
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.hooks.tracking.tracked_job import TrackedJob
from fedjob.researcher.hooks.tracking.tracking_thread import ExperimentRun, TrackingThread
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.spec import load_spec


@dataclass
class ExperimentTracking(Hook):
    """A hook that keeps parameters, plan, measurements and result of a job at a service.

    A resumed job goes on with its run where the service knows it, and otherwise begins one with its whole history.
    A service that is away holds up no round: what it lacks is sent when it is back.

    Args:
        log_result: True to keep the files of a completed job's result as an artifact, too.
    """

    log_result: bool = field(default=True, kw_only=True)
    _thread: TrackingThread | None = field(default=None, init=False, repr=False)
    _folder: JobFolder | None = field(default=None, init=False, repr=False)

    def run(self) -> ExperimentRun:
        """Return the run of this hook's service.

        Raises:
            MissingPackage: its package is not installed.
            ConfigError: it can't be used.
        """
        raise NotImplementedError

    def start(self, folder: JobFolder, rounds: int, position: Position, extras: Mapping[str, Path]) -> None:
        self._folder = folder
        self._thread = TrackingThread(self.name, self.run())
        self._thread.open(TrackedJob.of(load_spec(folder.spec), folder), position.rows)

    def round_done(self, report: RoundReport) -> str | None:
        if self._thread is not None:
            self._thread.send(report.rows)
        return None

    def end(self, outcome: str) -> None:
        if self._thread is not None and self._folder is not None:
            result = self._folder.result
            kept = self.log_result and outcome == "completed" and result.is_dir()
            self._thread.close(outcome, result if kept else None)
            self._thread = None


def needs_extra(hook: str, extra: str) -> MissingPackage:
    """Return what to raise where a hook's package is not installed."""
    return MissingPackage(f"the {hook} hook needs the extra: pip install 'fedjob[{extra}]'")
