"""The file system of a worker: a small root with what it needs read-only, and one place to write to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from fedjob.node.sandbox.enclosure import (
    INBOX,
    OUTPUT_NAME,
    SCRATCH_NAME,
    SHARED_NAME,
    TEMPORARY_NAME,
    WORK,
    Enclosure,
)
from fedjob.node.sandbox.gpu_devices import gpu_paths
from fedjob.node.sandbox.syscalls import (
    BIND,
    NODEV,
    NOEXEC,
    NOSUID,
    PRIVATE,
    RDONLY,
    REC,
    mount,
    pivot_root,
    protect_mount,
    unmount,
)
from fedjob.node.sandbox.system_files import is_within

WORK_FILES = 1 << 18
"""Files and folders that a worker may have, which take the kernel's memory."""

_DEVICES = ("null", "zero", "urandom")
_ROOT_BYTES = 4 << 20
_OLD = "/.old"
_PER_NAMESPACE_PID_MAX = (6, 14)
"""The release of Linux from which on each namespace has a setting of its own."""
_LEAST_PID_MAX = 302
_PASSWD = "worker:x:65534:65534::/worker/tmp:/bin/false\n"
_GROUP = "worker:x:65534:\n"


def build_root(enclosure: Enclosure, system: Iterable[str]) -> None:
    """Make the file system that a worker sees, at its `root`; this process has to be root of its mount namespace.

    Args:
        system: files and folders of the machine that are there, read-only.

    Raises:
        OSError: something could not be mounted.
    """
    mount("", "/", "", REC | PRIVATE)
    root, hidden = f"{enclosure.folder}/root", enclosure.hidden
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, f"size={_ROOT_BYTES},mode=755")
    _make_work(root, enclosure)
    system = tuple(system)
    shown = dict.fromkeys(system, NOSUID | NODEV)
    for path in enclosure.data:
        for name in (os.path.realpath(path), path):
            shown.setdefault(name, NOSUID | NODEV | NOEXEC)
    inside = {path: flags for path, flags in shown.items() if is_within(path, hidden) and path != hidden}
    for path in (path for path in shown if path not in inside):
        _show(root, path, shown[path])
    covered = any(is_within(hidden, path) for path in shown) and os.path.isdir(root + hidden)
    if covered:
        mount("tmpfs", root + hidden, "tmpfs", NOSUID | NODEV | NOEXEC, "size=64k,mode=755")
    for path, flags in inside.items():
        _show(root, path, flags)
    if covered:
        protect_mount(root + hidden, RDONLY, recursive=False)
    _make_etc(root)
    _limit_processes(enclosure.processes)
    _mount_proc(root)
    _make_devices(root, enclosure)
    os.mkdir(root + INBOX)
    _bind(f"{enclosure.folder}/inbox", root + INBOX, NOSUID | NODEV | NOEXEC)
    os.mkdir(root + _OLD)


def enter_root(enclosure: Enclosure) -> None:
    """Make what was built the root of everything, and let go of the machine's own.

    Raises:
        OSError: it could not be done.
    """
    root = f"{enclosure.folder}/root"
    pivot_root(root, root + _OLD)
    os.chdir("/")
    unmount(_OLD)
    os.rmdir(_OLD)
    protect_mount("/", RDONLY | NOSUID | NODEV, recursive=False)


def _show(root: str, path: str, flags: int) -> None:
    """Show a path of the machine, read-only, under its own name."""
    target = root + path
    if os.path.lexists(target) and _is_shown(root, path):
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    real = os.path.realpath(path)
    if os.path.islink(path) and not os.path.lexists(target) and is_within(real, "/usr"):
        os.symlink(os.path.relpath(real, os.path.dirname(path)), target)  # /lib -> usr/lib
        return
    if stat.S_ISDIR(os.stat(path).st_mode):
        os.makedirs(target, mode=0o755, exist_ok=True)
    elif not os.path.lexists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
    _bind(path, target, flags)


def _is_shown(root: str, path: str) -> bool:
    """Tell whether a path is there already as part of another: then it is the very same file or folder."""
    with suppress(OSError):
        return is_within(os.path.realpath(root + path), root) and os.path.samefile(root + path, path)
    return False


def _bind(path: str, target: str, flags: int) -> None:
    mount(path, target, "", BIND | REC)
    protect_mount(target, RDONLY | flags)


def _make_work(root: str, enclosure: Enclosure) -> None:
    os.mkdir(root + WORK)
    options = f"size={enclosure.work_bytes},nr_inodes={WORK_FILES},mode=700"
    mount("tmpfs", root + WORK, "tmpfs", NOSUID | NODEV, options)
    for name in (OUTPUT_NAME, SCRATCH_NAME, TEMPORARY_NAME, SHARED_NAME):
        os.mkdir(f"{root}{WORK}/{name}", 0o700)
    os.mkdir(root + "/tmp")
    mount(f"{root}{WORK}/{TEMPORARY_NAME}", root + "/tmp", "", BIND)


def _make_etc(root: str) -> None:
    """Name the one user that there is, for those who ask."""
    os.makedirs(root + "/etc", mode=0o755, exist_ok=True)
    for name, text in (("passwd", _PASSWD), ("group", _GROUP)):
        with open(f"{root}/etc/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _mount_proc(root: str) -> None:
    """Mount a view of the worker's own processes, without the kernel's settings; do without where that is refused."""
    os.mkdir(root + "/proc")
    with suppress(OSError):
        options = "subset=pid,hidepid=invisible"
        mount("proc", root + "/proc", "proc", NOSUID | NODEV | NOEXEC | RDONLY, options)


def _limit_processes(number: int) -> None:
    """Limit the processes of this namespace, of a node that runs as root, too, whose user's are not counted."""
    if _release() >= _PER_NAMESPACE_PID_MAX:  # before, this would be the machine's own setting
        with suppress(OSError), open("/proc/sys/kernel/pid_max", "w", encoding="ascii") as file:
            file.write(str(max(_LEAST_PID_MAX, number)))


def _release() -> tuple[int, int]:
    words = os.uname().release.split(".")
    try:
        return int(words[0]), int(words[1].split("-")[0])
    except (IndexError, ValueError):
        return 0, 0


def _make_devices(root: str, enclosure: Enclosure) -> None:
    os.mkdir(root + "/dev")
    for path in [f"/dev/{name}" for name in _DEVICES] + list(gpu_paths(enclosure.gpus)):
        os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(path, root + path, "", BIND)
    os.symlink("urandom", root + "/dev/random")
    os.symlink(f"{WORK}/{SHARED_NAME}", root + "/dev/shm")
    os.symlink("/proc/self/fd", root + "/dev/fd")
