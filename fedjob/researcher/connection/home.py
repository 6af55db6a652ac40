"""A researcher's settings, from `config.toml` in the home."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from fedjob.common.checks import check_path
from fedjob.common.errors import ConfigError, NoSpace
from fedjob.common.network.proxy import check_proxy_setting
from fedjob.common.telemetry.logs import LOG_FORMATS
from fedjob.identity.encryption import CHOICES
from fedjob.identity.enrolment import check_role_of_home
from fedjob.identity.private_home import close_home

_log = logging.getLogger("fedjob")

FREE_BYTES = 16 << 20
"""Free space below which no job is begun: its record would soon fail to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResearcherConfig:
    """Settings of a researcher's home.

    Args:
        max_jobs: number of jobs of the home that run at once; the others queue.
        max_tries: number of tries to schedule a job, unless the job sets a number of its own.
        retry_min_s, retry_max_s: wait between two tries; it doubles from the one to the other.
        events_mb: megabytes of events of one node that are recorded in a try at a job; more are counted and dropped.
        strict: nodes that `known_nodes` in the home does not name are refused.
        encryption: `on`: messages and objects are encrypted for their readers, and plain ones refused; `off`: the hub
            can read them; `auto`: on where the roster is pinned.
        owner_name, owner_org, owner_role: how the researcher describes themselves to node owners.
        log_format: of the `runner.log` of a submitted job: `text`, or `json` for one object a line.
        proxy: on the way to the hub: its URL, with a login where it wants one; `none`; empty for what the
            environment says.
        tls_ca: file of the certificate of the hub's authority, or of a proxy's that looks inside TLS; empty for the
            one that the home joined with.
        tls_cert, tls_key: files of a certificate of this party's own and of its key, where the hub issues none.
    """

    max_jobs: int = field(default=4, metadata={"at_least": 1})
    max_tries: int = field(default=10, metadata={"at_least": 1})
    retry_min_s: float = field(default=10.0, metadata={"at_least": 0})
    retry_max_s: float = field(default=600.0, metadata={"at_least": 0})
    events_mb: float = field(default=64.0, metadata={"at_least": 1})
    strict: bool = False
    encryption: str = field(default="auto", metadata={"choices": CHOICES})
    owner_name: str = ""
    owner_org: str = ""
    owner_role: str = ""
    log_format: str = field(default="text", metadata={"choices": LOG_FORMATS})
    proxy: str = field(default="", metadata={"check": check_proxy_setting})
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


def home_path(given: str | Path | None) -> Path:
    """Return the home: what is given, else `$FEDJOB_HOME`, else `~/.fedjob/researcher`."""
    chosen = given if given is not None else os.environ.get("FEDJOB_HOME") or "~/.fedjob/researcher"
    return check_path("home", chosen).resolve()


def take_home(home: Path) -> None:
    """Check a home before it is used, and see to it that nobody else can look into it.

    Raises:
        ConfigError, NoSpace: see `check_home`.
    """
    check_home(home)
    _used.add(home)
    if opened := str(close_home(home)):
        _log.warning("%s", opened)


_used: set[Path] = set()
"""Homes that this process was told to work in."""


def used_homes() -> list[Path]:
    """Return the homes that this process was given, by name or as the default one."""
    return sorted(_used)


def check_home(home: Path) -> None:
    """Refuse a folder in which a researcher can't work, before anything else is done.

    Raises:
        ConfigError: it is a node's or a hub's home, another user's, or can't be made or written.
        NoSpace: its disk is full.
    """
    refused = f"{home} can't be used as a researcher's home"
    advice = "give another folder, connect(home=...) or FEDJOB_HOME"
    try:
        check_role_of_home(home, "researcher")
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        is_folder, may_write = there.is_dir(), os.access(there, os.R_OK | os.W_OK | os.X_OK)
        free_bytes = shutil.disk_usage(there).free
    except OSError as error:
        raise ConfigError(f"{refused}: {error.strerror or error}; {advice}") from error
    if not is_folder:
        raise ConfigError(f"{refused}: {there} is no folder; {advice}")
    if not may_write:
        raise ConfigError(f"{refused}: this user may not write in {there}; {advice}")
    if free_bytes < FREE_BYTES:
        raise NoSpace(
            f"the disk of your own home {home} is full: {free_bytes >> 20} MB are free and at least "
            f"{FREE_BYTES >> 20} are needed; free some, or give another home"
        )
