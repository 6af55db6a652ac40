"""`python -m fedjob.researcher.jobs.runner_process JOBFOLDER LOCK`: runs one submitted job, detached from everybody.

It is started by `job.submit`, `job.restart`, and by whoever waits for a job whose
runner is gone before it began. It ends with the job.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.common.config import read_settings
from fedjob.common.errors import BrokerUnreachable, FedjobError, JobFailed, JobStopped, RepositoryUnreachable
from fedjob.common.files import begin_private
from fedjob.common.lifecycle import PENDING, State
from fedjob.common.telemetry.logs import formatter_of
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.folder import JobFolder, sign
from fedjob.researcher.storage.record import load_record
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.transitions import route, walk

if TYPE_CHECKING:
    from fedjob.researcher.jobs.session import Session

log = logging.getLogger("fedjob")

CONNECT_S = 3600.0
"""Seconds that a waiting job is patient with a hub that is away."""

_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)


def main(path: str, lock: int) -> int:
    """Run the job; return the process's exit status.

    Args:
        lock: the descriptor of the job's lock, which this process inherited.
    """
    begin_private()
    os.set_inheritable(lock, False)
    sign(lock)
    folder = JobFolder(Path(path))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its terminal may go; it stays
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if load_record(folder.record).state not in PENDING:
        return 0
    session = None
    _log_to_stderr(folder)
    try:
        if not load_spec(folder.spec).local:
            session = _connect(folder)
        gc.disable()  # imports leave no garbage, and looking for it takes as long as a third of them
        from fedjob.researcher.jobs.job import Job

        gc.freeze()
        gc.enable()
        Job.open(folder.path, session=session).run_on(lock)
        return 0
    except JobFailed as error:
        log.error("%s (%s): %s", error.outcome, error.reason, error, extra={"reason": error.reason})
    except JobStopped as error:
        walk(folder, load_record(folder.record), [State.CANCELLED], error.reason)
        inbox.clear(folder)
    except KeyboardInterrupt:
        pass
    except FedjobError as error:
        log.error("%s", error, extra={"reason": error.reason})
        _end_badly(folder, error)
    except Exception as error:
        log.exception("the job's runner failed")
        _end_badly(folder, error)
    finally:
        if session is not None:
            session.close()
    return 1


def _log_to_stderr(folder: JobFolder) -> None:
    """Log to stderr, which is the job's `runner.log`, in the format that the home's settings name."""
    settings = read_settings(ResearcherConfig, folder.path.parent.parent).values
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_of(str(settings.get("log_format", "text")), {"job": folder.path.name}))
    log.addHandler(handler)


def _end_badly(folder: JobFolder, error: Exception) -> None:
    """Say how a job ended that could not even be opened."""
    record = load_record(folder.record)
    if record.state in PENDING:
        walk(folder, record, route(record.state, "failed"), getattr(error, "reason", "exception"), str(error))


def _connect(folder: JobFolder) -> Session:
    """Connect; while the hub is away, try again as long as the job is wanted.

    Raises:
        JobStopped: it is not any more.
    """
    from fedjob.researcher.jobs.session import connect

    deadline = time.monotonic() + CONNECT_S
    num_failed = 0
    while True:
        try:
            session = connect(home=folder.path.parent.parent)
            try:
                session.reach()
            except BaseException:
                session.close()
                raise
            return session
        except (BrokerUnreachable, RepositoryUnreachable) as error:
            log.warning("%s", error, extra={"reason": error.reason})
            again = time.monotonic() + _AGAIN_S[min(num_failed, len(_AGAIN_S) - 1)]
            num_failed += 1
            while time.monotonic() < again:
                if verb := inbox.asked(folder):
                    raise JobStopped(verb) from error
                time.sleep(0.5)
            if time.monotonic() > deadline:
                raise


if __name__ == "__main__":
    atexit.register(gc.freeze)  # what torch has made goes with the process: freeing it would take a second
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
