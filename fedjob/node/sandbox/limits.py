"""The limits, the environment and the descriptors that a worker is left with."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Collection

from fedjob.node.sandbox.enclosure import NAMESPACES, TEMPORARY_NAME, Enclosure

MAX_FILES = 1024
MAX_QUEUED_BYTES = 1 << 20
MAX_LOCKED_BYTES = 64 << 20

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK")
"""Variables that say nothing of the node's owner and change what is computed, or how it is written."""

_PREFIXES = ("OMP_", "MKL_", "OPENBLAS_", "CUBLAS_")

_KEPT_TO_START = (
    "PATH",
    "HOME",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
)
"""Variables that an interpreter and its libraries may need to be found by."""


def set_limits(enclosure: Enclosure) -> None:
    """Limit what one process may take: files, descriptors, processes, queues, locked memory, no core files."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: enclosure.file_bytes,
        resource.RLIMIT_NOFILE: MAX_FILES,
        resource.RLIMIT_MSGQUEUE: MAX_QUEUED_BYTES,
        resource.RLIMIT_MEMLOCK: MAX_LOCKED_BYTES,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    if enclosure.kind == NAMESPACES:  # elsewhere all that the node's user runs would be counted
        limits[resource.RLIMIT_NPROC] = enclosure.processes
    for name, number in limits.items():
        _, hard = resource.getrlimit(name)
        allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(name, (allowed, allowed))


def environment_to_start() -> dict[str, str]:
    """Return what of this process's environment a process that will be closed may be started with.

    What a process was started with stays in its memory for all that it forks, whatever it clears.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name in _KEPT_TO_START or name.startswith(_PREFIXES)
    }


def clear_environment(enclosure: Enclosure) -> None:
    """Leave nothing of the owner's environment, and let temporary files go where the worker may write."""
    temporary = f"{enclosure.work}/{TEMPORARY_NAME}"
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_PREFIXES)}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(
        PATH="/usr/bin:/bin",
        HOME=temporary,
        TMPDIR=temporary,
        USER="worker",
        LOGNAME="worker",
        XDG_CACHE_HOME=temporary,
        MPLCONFIGDIR=temporary,
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONSAFEPATH="1",
    )
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    os.umask(0o077)


def close_descriptors(kept: Collection[int]) -> None:
    """Close every open file but the standard ones and these."""
    low = 3
    for number in sorted({one for one in kept if one >= low}):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
