"""The limits, the environment and the descriptors that a worker is left with."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Collection, Mapping

from fedjob.node.sandbox.enclosure import NAMESPACES, TEMPORARY_NAME, Enclosure

MAX_FILES = 1024
MAX_QUEUED_BYTES = 1 << 20
MAX_LOCKED_BYTES = 64 << 20

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTORCH_NVML_BASED_CUDA_CHECK")
"""Variables that say nothing of the node's owner and change what is computed, or how it is written."""

_OF_SERVERS = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "VIRTUAL_ENV")
"""Variables that a fork server needs to import what workers need."""

_PREFIXES = ("OMP_", "MKL_", "OPENBLAS_", "CUBLAS_", "CUDA_VISIBLE_DEVICES")


def kept_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return the variables that a worker may know.

    Args:
        more: names of others.
    """
    names = {*_KEPT, *more}
    return {name: value for name, value in environment.items() if name in names or name.startswith(_PREFIXES)}


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a fork server is started with: its workers can read those that it was started with."""
    python = [name for name in environment if name.startswith("PYTHON")]
    return kept_environment(environment, (*_OF_SERVERS, *python))


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


def clear_environment(enclosure: Enclosure) -> None:
    """Leave nothing of the owner's environment, and let temporary files go where the worker may write."""
    temporary = f"{enclosure.work}/{TEMPORARY_NAME}"
    kept = kept_environment(os.environ)
    for name in [name for name in os.environ if name not in kept]:
        del os.environ[name]
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
