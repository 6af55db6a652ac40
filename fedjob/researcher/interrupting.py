"""What Ctrl+C means while somebody waits for a job that needs nobody to wait."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from fedjob.common.errors import SpecError
from fedjob.researcher.event import JobEvent
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.record import JobRecord
from fedjob.researcher.stopping import kill
from fedjob.researcher.waiting import wait_for

INTERRUPTS = ("ask", "leave", "kill")


Attend = Callable[[], AbstractContextManager[Callable[[JobEvent], None] | None]]
"""Begins to tell events to whoever waits; gives what is to be called with each."""


def wait_through(
    folder: JobFolder,
    attend: Attend,
    *,
    timeout_s: float | None = None,
    for_grants: bool = True,
    on_interrupt: str = "ask",
) -> JobRecord:
    """Wait as `waiting.wait_for` does; do with an interrupt what was asked for.

    Args:
        on_interrupt: `ask` in a terminal, and leave the job running anywhere else; `leave`; or `kill`.

    Raises:
        KeyboardInterrupt: interrupted, and the job left running.
    """
    if on_interrupt not in INTERRUPTS:
        raise SpecError(f"on_interrupt is one of {', '.join(INTERRUPTS)}, not {on_interrupt!r}")
    while True:
        try:
            with attend() as tell:
                return wait_for(folder, timeout_s=timeout_s, for_grants=for_grants, tell=tell)
        except KeyboardInterrupt:
            if on_interrupt == "leave" or (on_interrupt == "ask" and not _wants_it_stopped(folder.path.name)):
                raise
            kill(folder)  # the next look raises JobFailed, or finds the job completed in the last moment


def _wants_it_stopped(id_: str) -> bool:
    """Ask in a terminal; anywhere else, and at a second Ctrl+C, the job is left running."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        while True:
            sys.stderr.write(
                f"\n{id_} needs no terminal to go on. Leave it running, or stop it? [leave/stop] "
            )
            sys.stderr.flush()
            answer = sys.stdin.readline()
            word = answer.strip().lower()
            if word in ("stop", "s", "kill"):
                return True
            if not answer or word in ("leave", "l", ""):
                return False
    except KeyboardInterrupt:
        return False
