"""The thread that talks to a service that tracks experiments, so that no round waits for it and none fails with it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from fedjob.common.errors import ConfigError, MissingPackage
from fedjob.researcher.hooks.tracking.tracked_job import TrackedJob
from fedjob.researcher.storage.measurements import Measurement

OPEN_WITHIN_S = 30.0
"""Time for the service to answer before the job's first round."""

END_WITHIN_S = 60.0
"""Time that the job's end may wait for what the service has not got yet."""

PAUSE_S = 1.0
"""Time before the first repetition of what failed; it doubles up to `MAX_PAUSE_S`."""

MAX_PAUSE_S = 30.0

_log = logging.getLogger("fedjob")


class ExperimentRun(Protocol):
    """One run at a service; its methods are called from one thread and may raise anything."""

    def open(self, job: TrackedJob) -> int:
        """Begin the run, or go on with it; return the last round that it has already, 0 for none."""

    def log(self, rows: Sequence[Measurement]) -> None:
        """Keep measurements of whole rounds; may be called again with those that failed."""

    def finish(self, outcome: str, result: Path | None) -> None:
        """Keep the files of the result, and end the run."""


class TrackingThread:
    """The sender of one job's measurements to one run.

    Args:
        service: its name, for messages.
    """

    def __init__(self, service: str, run: ExperimentRun) -> None:
        self._service = service
        self._run = run
        self._rounds: queue.SimpleQueue[Sequence[Measurement] | None] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._error: Exception | None = None
        self._end: tuple[str, Path | None] = ("", None)
        self._end_by = float("inf")
        self._last = 0
        self._thread: threading.Thread | None = None

    def open(self, job: TrackedJob, rows: Sequence[Measurement]) -> None:
        """Begin the run, and send the measurements of earlier rounds that it does not have.

        Raises:
            ConfigError: the service refuses it, or does not answer.
            MissingPackage: the service's client lacks one.
        """
        work = (job, rows)
        self._thread = threading.Thread(
            target=self._work, args=work, name=f"fedjob-{self._service}", daemon=True
        )
        self._thread.start()
        if not self._opened.wait(OPEN_WITHIN_S):
            raise ConfigError(
                f"{self._service} does not answer within {OPEN_WITHIN_S:g} s: check its address, or leave the hook out"
            )
        if self._error is not None:
            if isinstance(self._error, ModuleNotFoundError):
                raise _lacks_package(self._service, self._error) from self._error
            raise ConfigError(f"{self._service} can't be used: {_in_short(self._error)}") from self._error

    def send(self, rows: Sequence[Measurement]) -> None:
        """Send the measurements of a round, in the background."""
        self._rounds.put(tuple(rows))

    def close(self, outcome: str, result: Path | None) -> None:
        """Send the rest and end the run; what can't be sent in time is told in a warning."""
        if self._thread is None or not self._opened.is_set() or self._error is not None:
            return
        self._end, self._end_by = (outcome, result), time.monotonic() + END_WITHIN_S
        self._rounds.put(None)
        self._thread.join(END_WITHIN_S + PAUSE_S)
        if self._thread.is_alive():
            _log.warning("%s has not got everything of the job: it does not answer", self._service)

    def _work(self, job: TrackedJob, rows: Sequence[Measurement]) -> None:
        try:
            self._last = self._run.open(job)
        except Exception as error:
            self._error = error
            return
        finally:
            self._opened.set()
        if rows:
            self._insist("keeping earlier rounds", partial(self._log, rows))
        while (later := self._rounds.get()) is not None:
            self._insist("keeping a round", partial(self._log, later))
        self._insist("ending the run", partial(self._run.finish, *self._end))

    def _log(self, rows: Sequence[Measurement]) -> None:
        if new := [row for row in rows if row.round > self._last]:
            self._run.log(new)

    def _insist(self, what: str, call: Callable[[], None]) -> None:
        """Call until it does not fail; after the job's end for a while only."""
        pause_s = PAUSE_S
        while True:
            try:
                call()
                return
            except Exception as error:
                if time.monotonic() + pause_s > self._end_by:
                    _log.warning("%s has not got everything of the job: %s", self._service, _in_short(error))
                    return
                if pause_s == PAUSE_S:
                    _log.warning(
                        "%s: %s failed, it is tried again: %s", self._service, what, _in_short(error)
                    )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _lacks_package(service: str, error: ModuleNotFoundError) -> MissingPackage:
    """Return what to raise where a service's client, which is installed, needs what its extra does not bring.

    Args:
        service: its name, which is that of the extra and of the client's whole package, too.
    """
    package = (error.name or "").partition(".")[0]
    return MissingPackage(
        f"{service} can't be used as it is set: that needs the package {package!r}, which the extra fedjob[{service}] does "
        f"not bring: pip install {service}, which brings all of it"
    )


def _in_short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
