"""The closing of a sandbox around this process: everything that is done before a worker reads an order."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable

from fedjob.node.sandbox.enclosure import (
    CONTAINER,
    LANDLOCK,
    NAMESPACES,
    OUTPUT_NAME,
    SCRATCH_NAME,
    SHARED_NAME,
    TEMPORARY_NAME,
    Enclosure,
)
from fedjob.node.sandbox.landlock import restrict_files
from fedjob.node.sandbox.limits import clear_environment, close_descriptors, set_limits
from fedjob.node.sandbox.mounts import build_root, enter_root
from fedjob.node.sandbox.namespaces import become_nobody, leave_all_else
from fedjob.node.sandbox.seccomp import filter_calls
from fedjob.node.sandbox.syscalls import drop_capabilities, leave_keyrings

HOST_NAME = "worker"


def close_sandbox(enclosure: Enclosure, system: Iterable[str], kept: Collection[int]) -> int:
    """Close the sandbox around this process, which has one thread; there is no way back.

    Args:
        system: files and folders of the machine that it may read.
        kept: descriptors that stay open beside the standard ones.

    Returns:
        A descriptor of the folder that holds what the worker gives, for the daemon to read from.

    Raises:
        OSError: the machine does not let it be closed; nothing may run then.
    """
    if enclosure.kind == NAMESPACES:
        own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        leave_all_else()
        socket.sethostname(HOST_NAME)
        build_root(enclosure, system)
        enter_root(enclosure)
        become_nobody(own)
    else:
        for name in (OUTPUT_NAME, SCRATCH_NAME, TEMPORARY_NAME, SHARED_NAME):
            os.makedirs(f"{enclosure.work}/{name}", mode=0o700, exist_ok=True)
    output = os.open(f"{enclosure.work}/{OUTPUT_NAME}", os.O_RDONLY | os.O_DIRECTORY)
    if enclosure.kind in (NAMESPACES, LANDLOCK, CONTAINER):
        close_descriptors((*kept, output))
        set_limits(enclosure)
        clear_environment(enclosure)
        leave_keyrings()
        os.chdir("/")
        if enclosure.kind == LANDLOCK:
            restrict_files(enclosure, system)
        drop_capabilities()
        filter_calls(alone=enclosure.kind == LANDLOCK, devices=bool(enclosure.gpus))
    return output
