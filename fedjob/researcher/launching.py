"""Start the process that runs a job, so that it outlives the one that asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import fedjob
from fedjob.common.errors import SubmitError
from fedjob.researcher.folder import JobFolder

MODULE = "fedjob.researcher.runnerprocess"


def start_runner(folder: JobFolder) -> int:
    """Start a detached runner for a submitted job and return its process id.

    It has a session of its own, no terminal, and says what it says into the
    job's `runner.log`. One that finds the job being run already ends at once.

    Raises:
        SubmitError: no process can be started.
    """
    above = str(Path(fedjob.__file__).parents[1])
    paths = [above, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        with folder.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder.path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
                start_new_session=True,
            )
    except OSError as error:
        raise SubmitError(
            f"the job's runner can't be started: {error.strerror or error}; job.wait() tries again"
        ) from error
    threading.Thread(target=process.wait, name="fedjob-reaper", daemon=True).start()  # or it stays a zombie
    return process.pid
