"""The kernel's calls that a sandbox is made with, which Python has no function for."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress

from fedjob.common.errors import KernelRefused
from fedjob.node.sandbox.syscall_numbers import numbers_of

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET, NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE, SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 24, 22, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4

_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTRIBUTES = {RDONLY: 1, NOSUID: 2, NODEV: 4, NOEXEC: 8}  # of mount_setattr; the same bits as of mount
_CAPABILITIES_V3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Return the result of a call.

    Raises:
        KernelRefused: it failed; the message names `what`.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"{what}: {os.strerror(number)}")
    return result


def call(name: str, *arguments: object) -> int:
    """Make a system call by its name; numbers are passed as longs.

    Raises:
        KernelRefused: it failed, or this machine has none of that name.
    """
    number = numbers_of(os.uname().machine).get(name, -1)
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(int(_libc.syscall(ctypes.c_long(number), *passed)), name)


def prctl(option: int, *arguments: object) -> int:
    """Call prctl; numbers are passed as unsigned longs.

    Raises:
        KernelRefused: it failed.
    """
    passed = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    passed += [ctypes.c_ulong(0)] * (4 - len(passed))
    return checked(int(_libc.prctl(option, *passed)), f"prctl {option}")


def unshare(flags: int) -> None:
    """Leave the namespaces that are named for new ones.

    Raises:
        KernelRefused: the kernel, or a policy of this machine, does not allow it.
    """
    checked(int(_libc.unshare(flags)), "unshare")


def enter(descriptor: int, flags: int) -> None:
    """Let what is forked from here on live in the namespace of a descriptor, or move into it.

    Raises:
        KernelRefused: it is not allowed.
    """
    checked(int(_libc.setns(descriptor, flags)), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system, or bind a path.

    Raises:
        KernelRefused: it failed; the message names the target.
    """
    named = [text.encode() if text else None for text in (source, target, kind, data)]
    result = _libc.mount(named[0], named[1], named[2], ctypes.c_ulong(flags), named[3])
    checked(int(result), f"mount {target}")


def unmount(target: str) -> None:
    """Take away a mount, at once for everybody who looks.

    Raises:
        KernelRefused: it failed; the message names the target.
    """
    checked(int(_libc.umount2(target.encode(), _DETACH)), f"unmount {target}")


def protect_mount(target: str, flags: int, *, recursive: bool = True) -> None:
    """Add flags, of `RDONLY`, `NOSUID`, `NODEV` and `NOEXEC`, to a mount, and to all below it.

    Raises:
        KernelRefused: it failed.
    """
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)
    at = _AT_RECURSIVE if recursive else 0
    try:
        call("mount_setattr", _AT_FDCWD, target.encode(), at, attributes, len(attributes))
    except OSError as error:
        if error.errno not in (38, 22):  # before Linux 5.12 there is no such call
            raise
        _protect_one_by_one(target, flags, recursive=recursive)


def _protect_one_by_one(target: str, flags: int, *, recursive: bool) -> None:
    """Do as `protect_mount` on older kernels: each mount by itself, with the flags that it has already."""
    within = [target, *(_mounts_below(target) if recursive else ())]
    for place in within:
        kept = os.statvfs(place).f_flag & (
            RDONLY | NOSUID | NODEV | NOEXEC | 1024 | 2048
        )  # and noatime, nodiratime
        mount("", place, "", REMOUNT | BIND | flags | kept)


def _mounts_below(target: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return sorted({place for place in places if place.startswith(target.rstrip("/") + "/")})


def pivot_root(new: str, old: str) -> None:
    """Make a mount the root of this mount namespace, and put the old root to `old`.

    Raises:
        KernelRefused: it failed.
    """
    call("pivot_root", new.encode(), old.encode())


def drop_capabilities() -> None:
    """Give up every capability: ambient, bounding, effective, permitted and inheritable.

    Raises:
        KernelRefused: some are left.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the last one that this kernel knows was the one before
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    call("capset", header, struct.pack("6I", 0, 0, 0, 0, 0, 0))


def leave_keyrings() -> None:
    """Join a new, empty session keyring; a kernel without keyrings has none to leave."""
    with suppress(OSError):
        call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None)
