"""The namespaces of workers, in two steps: one for all of a fork server's, then one for each worker.

The fork server takes a user namespace, in which it may do what closing a worker needs, and a namespace of processes,
with which all its workers end when it does. Before it forks a worker it makes a namespace of processes for that one
alone, so that the worker is its first process: whoever ends that ends all.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from fedjob.node.sandbox.syscalls import (
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PR_SET_PDEATHSIG,
    REC,
    SLAVE,
    enter,
    mount,
    prctl,
    unshare,
)

INSIDE_ID = 65534
"""The user and group that a worker is, as it sees itself."""


def enter_server_namespaces() -> None:
    """Go on in a child process with namespaces of users, mounts and processes of its own; the caller waits for it.

    In the parent this never returns: it ends as the child ends. The process must have one thread.

    Raises:
        OSError: namespaces are not allowed here.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEWUSER | NEWNS | NEWPID)
    _map_ids("/proc/self", uid, gid, uid, gid)
    child = os.fork()
    if child:
        end_as(child)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    mount(
        "", "/", "", REC | SLAVE
    )  # what the machine mounts later is seen here, and nothing of here is seen there


def fork_first_process(own: int) -> int:
    """Fork a child that is the first process of a new namespace of processes; as `os.fork`.

    Args:
        own: descriptor of this process's own namespace of processes.

    Raises:
        OSError: no more namespaces, or processes, are allowed.
    """
    unshare(NEWPID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            enter(own, NEWPID)
    return pid


def leave_all_else() -> None:
    """Leave the network, the queues, the names and the control groups of the node, and the fork server's mounts.

    Raises:
        OSError: it is not allowed.
    """
    unshare(NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP)


def become_nobody(own: int) -> None:
    """Take a user namespace that owns none of the others, as an unprivileged user; must be the last of them.

    Args:
        own: descriptor of this process's folder in /proc, which is closed.

    Raises:
        OSError: it is not allowed.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEWUSER)
    _map_ids(own, INSIDE_ID, INSIDE_ID, uid, gid)


def _map_ids(own: str | int, inside_uid: int, inside_gid: int, uid: int, gid: int) -> None:
    """Map one user and one group of the outer namespace into the new one of this process."""
    folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY) if isinstance(own, str) else own
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside_uid} {uid} 1"),
        ("gid_map", f"{inside_gid} {gid} 1"),
    ):
        descriptor = os.open(name, os.O_WRONLY, dir_fd=folder)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    os.close(folder)


def end_as(child: int) -> NoReturn:
    """Wait for the only child and end as it did."""
    os.closerange(3, 256)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
