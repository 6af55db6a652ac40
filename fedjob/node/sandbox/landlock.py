"""Landlock, the sandbox of those whose machine forbids namespaces: which files may be read, and which written."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from fedjob.common.errors import KernelRefused
from fedjob.node.sandbox.enclosure import Enclosure
from fedjob.node.sandbox.gpu_devices import gpu_paths
from fedjob.node.sandbox.syscalls import PR_SET_NO_NEW_PRIVS, call, prctl
from fedjob.node.sandbox.system_files import is_within

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE = 1 << 14
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of the interface -> how many rights over files it knows from there on."""
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_VERSION = 1
_PATH_BENEATH = 1
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random")


def landlock_version() -> int:
    """Return the version of Landlock's interface that this kernel has; 0 for none."""
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION)
    except (OSError, KeyError):
        return 0


def restrict_files(enclosure: Enclosure, system: Iterable[str]) -> None:
    """Leave this process with the files of its worker: the machine's and the dataset's to read, its own to write.

    Args:
        system: files and folders of the machine that it may read.

    Raises:
        OSError: there is no Landlock here, or a path can't be opened.
    """
    system = tuple(system)
    for path in (*system, *enclosure.data):
        if is_within(enclosure.hidden, path):  # what Landlock allows, it allows as a whole
            raise KernelRefused(errno.EPERM, f"the node's home lies in {path}, which a worker has to read")
    version = landlock_version()
    handled = (1 << max((number for since, number in _RIGHTS.items() if version >= since), default=0)) - 1
    rules = [handled]
    if version >= _TCP_SINCE:
        rules.append(3)  # no TCP: neither to bind nor to connect
    if version >= _SCOPES_SINCE:
        rules.append(3)  # no abstract sockets and no signals to processes outside
    packed = struct.pack(f"{len(rules)}Q", *rules)
    ruleset = call("landlock_create_ruleset", packed, len(packed), 0)
    try:
        for path in system:
            _allow(ruleset, path, handled & (EXECUTE | READ_FILE | READ_DIR))
        for path in (*enclosure.data, enclosure.inbox):
            _allow(ruleset, path, handled & (READ_FILE | READ_DIR))
        _allow(ruleset, enclosure.work, handled)
        for path in (*_DEVICES, *gpu_paths(enclosure.gpus)):
            if os.path.exists(path):
                _allow(ruleset, path, handled & (READ_FILE | WRITE_FILE | 1 << 15))
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
