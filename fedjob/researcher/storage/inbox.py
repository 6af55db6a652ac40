"""Verbs for a job that another process runs: files that it finds within a second."""

from __future__ import annotations

import os
from contextlib import suppress

from fedjob.common.errors import ConfigError
from fedjob.common.files import make_folder, touch_private
from fedjob.researcher.storage.folder import JobFolder

CANCEL = "cancel"
STOP = "stop"
"""End between two rounds, with what there is as the result."""

KILL = "kill"


def leave(folder: JobFolder, verb: str) -> None:
    """Ask the process that runs the job for something.

    Raises:
        ConfigError: the folder can't be written.
    """
    try:
        make_folder(folder.inbox)
        touch_private(folder.inbox / verb)
    except OSError as error:
        raise ConfigError(f"can't leave {verb!r} in {folder.inbox}: {error.strerror or error}") from error


def asked(folder: JobFolder) -> str:
    """Return the strongest verb that waits, empty for none."""
    try:
        found = os.listdir(folder.inbox)
    except OSError:
        return ""
    return KILL if KILL in found else CANCEL if CANCEL in found else ""


def stop_asked(folder: JobFolder) -> bool:
    """True if the job is to end between two rounds."""
    return (folder.inbox / STOP).exists()


def clear(folder: JobFolder, *verbs: str) -> None:
    """Forget verbs that were obeyed, or that came too late; all of them by default."""
    for verb in verbs or (CANCEL, STOP, KILL):
        with suppress(OSError):
            (folder.inbox / verb).unlink(missing_ok=True)
