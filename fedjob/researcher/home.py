"""A researcher's home folder: identity, membership in a federation, and jobs."""

from __future__ import annotations

import os
from pathlib import Path

from fedjob.common.types import check_job_id
from fedjob.researcher.folder import JobFolder


def home_path(given: str | Path | None) -> Path:
    """Return the home: what is given, else `$FEDJOB_HOME`, else `~/.fedjob/researcher`."""
    chosen = given if given is not None else os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher"
    return Path(chosen).expanduser().resolve()


def job_folder(home: Path, job_id: str) -> JobFolder:
    """Return the folder of a job in a home; it need not exist."""
    return JobFolder(home / "jobs" / check_job_id(job_id))
