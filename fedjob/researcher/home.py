"""A researcher's home folder: identity, membership in a federation, and jobs."""

from __future__ import annotations

import os
from pathlib import Path

from fedjob.common.errors import ConfigError
from fedjob.common.types import check_job_id
from fedjob.researcher.folder import JobFolder


def home_path(given: str | Path | None) -> Path:
    """Return the home: what is given, else `$FEDJOB_HOME`, else `~/.fedjob/researcher`."""
    chosen = given if given is not None else os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher"
    return Path(chosen).expanduser().resolve()


def job_folder(home: Path, job_id: str) -> JobFolder:
    """Return the folder of a job in a home; it need not exist."""
    return JobFolder(home / "jobs" / check_job_id(job_id))


def find_job(home: Path, name: str) -> JobFolder:
    """Return the one job whose id begins with `name`.

    Raises:
        ConfigError: none, or more than one; the candidates are listed.
    """
    jobs = home / "jobs"
    prefix = name if name.startswith("job_") else f"job_{name}"
    found = sorted(path for path in jobs.glob(f"{prefix}*") if path.is_dir()) if jobs.is_dir() else []
    if len(found) == 1:
        return JobFolder(found[0])
    if not found:
        raise ConfigError(f"no job in {jobs} has an id that begins with {name!r}")
    listed = ", ".join(path.name for path in found[:5])
    raise ConfigError(f"{len(found)} jobs have ids that begin with {name!r}: {listed}; give more of the id")
