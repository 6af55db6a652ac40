"""The launch of the process that runs a job, detached, so that it outlives the process that asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from fedjob.common.errors import SubmitError
from fedjob.common.files import private
from fedjob.researcher.storage.folder import JobFolder, sign

MODULE = "fedjob.researcher.jobs.runner_process"

_ABOVE = Path(__file__).parents[3]
"""The folder that the package lies in."""


def start_runner(folder: JobFolder, lock: int | None = None) -> int:
    """Start a detached runner for a submitted job and return its process id.

    It has a session of its own, no terminal, and writes its output into the
    job's `runner.log`. It inherits the job's lock, so that nobody mistakes the
    job for one without a runner while the process starts.

    Args:
        lock: what `folder.take` returned, closed here; None takes it.

    Raises:
        JobError: the job is being run.
        SubmitError: no process can be started.
    """
    lock = folder.take() if lock is None else lock
    paths = [str(_ABOVE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        with open(folder.log, "ab", opener=private) as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(folder.path), str(lock)],
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder.path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
                start_new_session=True,
            )
            sign(
                lock, process.pid
            )  # or this process would be taken for the job's runner until that one begins
    except OSError as error:
        raise SubmitError(
            f"the job's runner can't be started: {error.strerror or error}; job.wait() tries again"
        ) from error
    finally:
        os.close(lock)
    threading.Thread(target=process.wait, name="fedjob-reaper", daemon=True).start()  # or it stays a zombie
    return process.pid
