"""The filter of system calls that a worker is left with: an allow list, in the kernel's filter language.

What is not on the list fails with EPERM, as if the owner had no right to it; calls that the C library replaces by
older ones if they are missing, and calls newer than this list, fail with ENOSYS. Calls of another architecture end the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from functools import lru_cache

from fedjob.node.sandbox.syscall_numbers import AARCH64, X86_64, numbers_of
from fedjob.node.sandbox.syscalls import (
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    prctl,
)

ALLOWED = frozenset(
    [
        "accept",
        "accept4",
        "access",
        "alarm",
        "arch_prctl",
        "bind",
        "brk",
        "capget",
        "chdir",
        "chmod",
        "chown",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "close",
        "close_range",
        "connect",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "eventfd",
        "eventfd2",
        "execve",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fchown",
        "fchownat",
        "fcntl",
        "fdatasync",
        "fgetxattr",
        "flistxattr",
        "flock",
        "fork",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futex",
        "futex_requeue",
        "futex_wait",
        "futex_waitv",
        "futex_wake",
        "futimesat",
        "get_mempolicy",
        "get_robust_list",
        "getcpu",
        "getcwd",
        "getdents",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getitimer",
        "getpeername",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrandom",
        "getresgid",
        "getresuid",
        "getrlimit",
        "getrusage",
        "getsid",
        "getsockname",
        "getsockopt",
        "gettid",
        "gettimeofday",
        "getuid",
        "getxattr",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "kill",
        "lchown",
        "lgetxattr",
        "link",
        "linkat",
        "listen",
        "listxattr",
        "llistxattr",
        "lseek",
        "lstat",
        "madvise",
        "map_shadow_stack",
        "mbind",
        "membarrier",
        "mincore",
        "mkdir",
        "mkdirat",
        "mlock",
        "mlock2",
        "mprotect",
        "mremap",
        "msync",
        "munlock",
        "munmap",
        "nanosleep",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "pause",
        "pipe",
        "pipe2",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "poll",
        "ppoll",
        "pread64",
        "preadv",
        "preadv2",
        "prlimit64",
        "pselect6",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "rename",
        "renameat",
        "renameat2",
        "restart_syscall",
        "rmdir",
        "rseq",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
        "select",
        "sendfile",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "set_mempolicy",
        "set_robust_list",
        "set_tid_address",
        "setitimer",
        "setpgid",
        "setpriority",
        "setrlimit",
        "setsid",
        "setsockopt",
        "shutdown",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "splice",
        "stat",
        "statfs",
        "statx",
        "symlink",
        "symlinkat",
        "sync_file_range",
        "sysinfo",
        "tee",
        "tgkill",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "times",
        "tkill",
        "truncate",
        "umask",
        "uname",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimes",
        "vfork",
        "wait4",
        "waitid",
        "write",
        "writev",
    ]
)
"""Calls that a worker may make with any arguments."""

FORKS = frozenset(("fork", "vfork"))
SIGNALS = frozenset(("kill", "tkill", "tgkill", "rt_sigqueueinfo"))
SOCKETS = frozenset(("connect", "bind", "listen", "accept", "accept4"))
PRIORITIES = frozenset(
    ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "setpriority")
)
LIMITS = frozenset(("prlimit64",))
ATTRIBUTES = frozenset(
    [
        *("chmod", "chown", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "lchown"),
        *("futimesat", "utime", "utimensat", "utimes", "inotify_add_watch", "fcntl"),
    ]
)
"""What Landlock leaves open for every file of the node's user: its mode, owner and times, and to be told of its use."""
CUTS = frozenset(("truncate", "open", "openat", "openat2"))
"""What cuts a file to nothing without opening it to write, which Landlock knows of from Linux 6.2 on."""

_AUDIT = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
_NEWEST_KNOWN = 456
_X32 = 0x40000000

_PRCTL = (15, 16, 23, 27, 3, 38, 39, 0x53564D41, 1499557217)
"""set and get name, read a bounding capability, get securebits, get dumpable, no new privileges (set and get), names of
mappings, and an old name of the same: nothing else, above all not the signal of the parent's death."""

_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""Terminal settings and size (is this a terminal?), bytes that wait, non-blocking, close on exec and not."""
_NO_IOCTL = (0x5412, 0x541C, 0x5423, 0x8901, 0x8902)
"""Typing into a terminal, its line discipline, and the owner of a socket, whom the kernel sends signals in its name."""

_OWNERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG and F_SETOWN_EX: the kernel sends signals in the name of who sets them."""

_TRUNCATES, _NEITHER = 0o1000, 3
"""Of the flags of `open`; with the access mode 3 a file is opened neither to be read nor to be written."""
_KIND_OF_SOCKET, _STREAM, _PACKETS = 0xF, 1, 5
"""The kinds of socket that send to the one they are connected with alone; a datagram names whom it is for."""

_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_SHARED_ANONYMOUS = 0x21

_LOAD, _EQUAL, _AND, _RETURN, _ANY = 0x20, 0x15, 0x54, 0x06, 0x45
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def _statement(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _jump(code: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


_GRANT = _statement(_RETURN, _ALLOW)
_DENY = _statement(_RETURN, _ERRNO | errno.EPERM)
_ABSENT = _statement(_RETURN, _ERRNO | errno.ENOSYS)


def _argument(place: int) -> bytes:
    """Load the lower half of an argument."""
    return _statement(_LOAD, 16 + 8 * place)


def _one_of(place: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow a call whose argument is one of these values."""
    tests = [step for value in values for step in (_jump(_EQUAL, value, 0, 1), _GRANT)]
    return [_argument(place), *tests, _DENY]


def _none_of(place: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow a call whose argument is none of these values."""
    tests = [step for value in values for step in (_jump(_EQUAL, value, 0, 1), _DENY)]
    return [_argument(place), *tests, _GRANT]


def _without_bits(place: int, bits: int) -> list[bytes]:
    """Allow a call whose argument has none of these bits."""
    return [_argument(place), _jump(_ANY, bits, 0, 1), _DENY, _GRANT]


def _with_bits(place: int, bits: int) -> list[bytes]:
    """Allow a call whose argument has one of these bits."""
    return [_argument(place), _jump(_ANY, bits, 0, 1), _GRANT, _DENY]


def _not_all_bits(place: int, bits: int) -> list[bytes]:
    """Allow a call whose argument has not all of these bits."""
    return [_argument(place), _statement(_AND, bits), _jump(_EQUAL, bits, 0, 1), _DENY, _GRANT]


def _no_cut(place: int) -> list[bytes]:
    """Allow to open a file, unless that empties one which is not opened to be written."""
    mask = _statement(_AND, _TRUNCATES | _NEITHER)
    cuts = [step for mode in (0, _NEITHER) for step in (_jump(_EQUAL, _TRUNCATES | mode, 0, 1), _DENY)]
    return [_argument(place), mask, *cuts, _GRANT]


def _connected_pair() -> list[bytes]:
    """Allow a pair of unix sockets, of a kind that sends to nobody but each other."""
    kinds = [step for kind in (_STREAM, _PACKETS) for step in (_jump(_EQUAL, kind, 0, 1), _GRANT)]
    is_unix = _jump(_EQUAL, socket.AF_UNIX, 1, 0)
    return [_argument(0), is_unix, _DENY, _argument(1), _statement(_AND, _KIND_OF_SOCKET), *kinds, _DENY]


@lru_cache(maxsize=4)
def program(machine: str, *, alone: bool, devices: bool = False, process: int = 0) -> bytes:
    """Return the filter's program.

    Args:
        machine: as `os.uname` names it.
        alone: the worker sees the processes and sockets of the node (there are no namespaces): it may then have no
            child processes, open no sockets, send no signals but to itself, change no attributes of files, and neither
            empty a file that it does not open to write nor send datagrams.
        devices: it may use the devices of graphics cards, each of which has control calls of its own.
        process: its number, where it is `alone`.

    Raises:
        KeyError: fedjob does not know the numbers of this machine's calls.
    """
    numbers = numbers_of(machine)
    conditions: dict[str, list[bytes]] = {
        "clone": _with_bits(0, _CLONE_THREAD) if alone else _without_bits(0, _NEW_NAMESPACES),
        "clone3": [_ABSENT],
        "prctl": _one_of(0, _PRCTL),
        "ioctl": _none_of(1, _NO_IOCTL) if devices else _one_of(1, _IOCTL),
        "socketpair": _one_of(0, (socket.AF_UNIX,)),
        "mmap": _not_all_bits(3, _SHARED_ANONYMOUS),
    }
    allowed = set(ALLOWED)
    if alone:
        allowed -= FORKS | SIGNALS | SOCKETS | PRIORITIES | LIMITS | ATTRIBUTES | CUTS
        conditions["open"], conditions["openat"] = _no_cut(1), _no_cut(2)
        conditions["socketpair"] = _connected_pair()
        conditions["fcntl"] = _none_of(1, _OWNERS)
        conditions["tgkill"] = conditions["kill"] = _one_of(0, (process,))
        conditions["prlimit64"] = _one_of(0, (0, process))
    else:
        conditions["socket"] = _one_of(0, (socket.AF_UNIX,))
    steps = [
        _statement(_LOAD, 4),
        _jump(_EQUAL, _AUDIT[machine], 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, 0),
    ]
    for name in sorted(allowed):
        if name in numbers:
            steps += [_jump(_EQUAL, numbers[name], 0, 1), _GRANT]
    for name, condition in conditions.items():
        if name in numbers:
            steps += [_jump(_EQUAL, numbers[name], 0, len(condition)), *condition]
    newer = _jump(0x35, _X32, 0, 1)  # at least: calls of x32 are denied, not unknown
    steps += [newer, _DENY, _jump(0x25, _NEWEST_KNOWN, 0, 1), _ABSENT, _DENY]
    return b"".join(steps)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def filter_calls(*, alone: bool, devices: bool = False) -> None:
    """Leave this process, and all that it starts, with the calls that a worker needs; there is no way back.

    Raises:
        OSError: the kernel has no such filters.
        KeyError: fedjob does not know the numbers of this machine's calls.
    """
    packed = program(os.uname().machine, alone=alone, devices=devices, process=os.getpid() if alone else 0)
    steps = ctypes.create_string_buffer(packed, len(packed))
    given = _Program(len(packed) // 8, ctypes.cast(steps, ctypes.c_void_p))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(given))
