"""The plan texts that probes run in."""

from __future__ import annotations

from collections.abc import Sequence

PRELUDE = '''\
import ctypes
import errno
import fcntl
import gc
import mmap
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

import fedjob

LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
# name: x86-64, aarch64
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsopen": (430, 430), "init_module": (175, 105),
    "ioperm": (173, 9999), "iopl": (172, 9999), "io_uring_setup": (425, 425), "kcmp": (312, 272),
    "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18), "memfd_create": (319, 279),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "msgget": (68, 186), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "semget": (64, 190),
    "sethostname": (170, 161), "setdomainname": (171, 162), "setns": (308, 268), "settimeofday": (164, 170),
    "shmat": (30, 196), "shmget": (29, 194), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "tgkill": (234, 131), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "ioprio_set": (251, 30), "get_robust_list": (274, 100), "mq_open": (240, 180), "capset": (126, 91),
    "modify_ldt": (154, 9999), "vmsplice": (278, 75), "kexec_file_load": (320, 294), "getpid": (39, 172),
}
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


def call(name, *args):
    """Make a system call; what fails raises."""
    found = LIBC.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in (NUMBERS[name][ARM], *args)))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def passes(name, *args):
    """Make a system call that cannot succeed; tell whether it was looked at rather than refused."""
    try:
        return f"{name} gave {call(name, *args)}"
    except OSError as error:
        return None if error.errno in REFUSED else f"{name} was looked at: {error}"


def secrets_in(data):
    """Return the planted secrets in bytes or text."""
    data = data if isinstance(data, bytes) else str(data).encode()
    return sorted({found.decode() for found in re.findall(rb"canary-[0-9a-f]{32}", data)})


def file_of(path, size=1 << 22):
    with open(path, "rb") as file:
        return file.read(size)


def text_of(found):
    if isinstance(found, bytes):
        return found.decode("latin-1")[:20000]
    return str(found)[:20000]



def here():
    """Return the worker's order and its link to the daemon, found where any code of the process finds them."""
    frame = sys._getframe()
    order = link = None
    while frame is not None:
        order = frame.f_locals.get("order", order)
        link = frame.f_locals.get("link", link)
        frame = frame.f_back
    return order, link


def scratch():
    order, _ = here()
    return getattr(order, "scratch_path", "") or tempfile.gettempdir()


def output():
    order, _ = here()
    return order.output_path


def run_away(me, seconds=60, first=lambda: None):
    """Leave a process behind that has left its session and its parents, and bears the probe's token."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            LIBC.prctl(15, me.encode())
            first()
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                time.sleep(0.2)
        os._exit(0)
    time.sleep(0.1)


def attempt(body, at, me):
    """Run one probe in a child of this worker, within a few seconds."""
    reading, writing = os.pipe()
    try:
        pid = forked()
    except PermissionError:
        os.close(reading)
        os.close(writing)
        return attempt_here(body, at, me)
    if pid == 0:
        try:
            signal.alarm(6)
            LIBC.prctl(15, me.encode())
            try:
                found = body(at, me)
                said = ("got:" if found else "nothing:") + text_of(found)
            except BaseException as error:
                said = f"failed:{type(error).__name__}: {error}"
            os.write(writing, said.encode("utf-8", "replace")[:60000])
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    ends = time.monotonic() + 8
    while select.select([reading], [], [], max(0.0, ends - time.monotonic()))[0]:
        data = os.read(reading, 65536)
        if not data:
            break
        said += data
    os.close(reading)
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    return said.decode("utf-8", "replace") or f"failed:its process ended with {os.waitstatus_to_exitcode(status)}"


def forked():
    """Fork, once what the probe before has left no longer fills the number of processes."""
    ends = time.monotonic() + 15
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def too_long(number, frame):
    raise TimeoutError("it took too long")


def attempt_here(body, at, me):
    """Run one probe in this worker, where it may have no children."""
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(6)
    try:
        found = body(at, me)
        return ("got:" if found else "nothing:") + text_of(found)
    except BaseException as error:
        return f"failed:{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)

'''

SHARED_ENTRY = """
def probes(dataset, at):
    found = {}
    for me, body in BODIES.items():
        try:
            found[me] = attempt(body, {**at, "path": str(dataset.path)}, me)
        except BaseException as error:
            found[me] = f"failed:no child for it: {type(error).__name__}: {error}"
    return found
"""

SAME_ENTRY = """
def probes(dataset, at):
    found = {}
    for me, body in BODIES.items():
        try:
            said = body({**at, "path": str(dataset.path)}, me)
            found[me] = ("got:" if said else "nothing:") + text_of(said)
        except BaseException as error:
            found[me] = f"failed:{type(error).__name__}: {error}"
    return found
"""

HONEST = """\
def honest(dataset, number):
    return {"rows": len(dataset.arrays()[0]), "twice": 2 * number}
"""

VICTIM = """\
import time


def victim(dataset, seconds, secret):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(0.05)
    return "untouched"
"""


def plan_text(bodies: Sequence[tuple[str, str]], entry: str) -> str:
    """Return a plan that runs these probes.

    Args:
        bodies: (token, code).
        entry: `SHARED_ENTRY` or `SAME_ENTRY`.
    """
    parts = [PRELUDE]
    for number, (_, code) in enumerate(bodies):
        lines = "\n".join(f"    {line}" if line else "" for line in code.splitlines())
        parts.append(f"\ndef probe_{number}(at, me):\n{lines}\n")
    table = "\n".join(f"    {token!r}: probe_{number}," for number, (token, _) in enumerate(bodies))
    parts.append(f"\nBODIES = {{\n{table}\n}}\n")
    parts.append(entry)
    return "\n".join(parts)
