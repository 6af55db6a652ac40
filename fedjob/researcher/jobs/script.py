"""A script that defines a job: `job = Job(...)`."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from pathlib import Path

from fedjob.common.errors import SpecError
from fedjob.researcher.definition.draft import name_origin
from fedjob.researcher.jobs.job import Job
from fedjob.researcher.storage.folder import JobFolder


def job_of_script(path: Path, home: Path) -> Job:
    """Run a researcher's own script and return the draft that it calls `job`.

    What the script prints goes to stderr. Jobs and sessions in it use this home.

    Args:
        home: the researcher's home.

    Raises:
        SpecError: it defines none, or did more than define it.
    """
    os.environ["FEDJOB_HOME"] = str(home)
    sys.path.insert(0, str(path.parent))
    with contextlib.redirect_stdout(sys.stderr):
        defined = runpy.run_path(str(path), run_name="__fedjob_submit__")
    job = defined.get("job")
    if not isinstance(job, Job):
        raise SpecError(f"{path} defines no job: expected a line such as job = Job(FedAvg(), ...)")
    if job.state != "draft":
        raise SpecError(
            f"{path} has run its job already: leave submitting to `fedjob job submit`, or put job.run() "
            'under if __name__ == "__main__"'
        )
    name_origin(JobFolder(job.folder), str(path.parent))
    return job
