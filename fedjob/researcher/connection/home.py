"""A researcher's settings, from `config.toml` in the home."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ResearcherConfig:
    """Settings of a researcher's home.

    Args:
        max_jobs: number of jobs of the home that run at once; the others queue.
        max_tries: number of tries to schedule a job, unless the job sets a number of its own.
        retry_min_s, retry_max_s: wait between two tries; it doubles from the one to the other.
        strict: nodes that `known_nodes` in the home does not name are refused.
        owner_name, owner_org, owner_role: how the researcher describes themselves to node owners.
    """

    max_jobs: int = field(default=4, metadata={"at_least": 1})
    max_tries: int = field(default=10, metadata={"at_least": 1})
    retry_min_s: float = field(default=10.0, metadata={"at_least": 0})
    retry_max_s: float = field(default=600.0, metadata={"at_least": 0})
    strict: bool = False
    owner_name: str = ""
    owner_org: str = ""
    owner_role: str = ""


def home_path(given: str | Path | None) -> Path:
    """Return the home: what is given, else `$FEDJOB_HOME`, else `~/.fedjob/researcher`."""
    chosen = given if given is not None else os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher"
    return Path(chosen).expanduser().resolve()
