"""The place of a researcher's home folder, which has identity, membership in a federation, and jobs."""

from __future__ import annotations

import os
from pathlib import Path


def home_path(given: str | Path | None) -> Path:
    """Return the home: what is given, else `$FEDJOB_HOME`, else `~/.fedjob/researcher`."""
    chosen = given if given is not None else os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher"
    return Path(chosen).expanduser().resolve()
