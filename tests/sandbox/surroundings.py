"""The surroundings of a node that probes try to reach: files, listeners, a neighbouring process, what programs share."""

from __future__ import annotations

import ctypes
import os
import secrets
import selectors
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)

_NEIGHBOUR = """\
import ctypes, os, sys
held = ctypes.create_string_buffer(sys.stdin.readline().strip().encode(), 256)
file = os.open(sys.argv[1], os.O_RDONLY)
print(ctypes.addressof(held), file, flush=True)
for line in sys.stdin:
    print(held[64:128].hex(), flush=True)
"""

OUTSIDE = (
    "/tmp/probe_left_in_tmp",
    "/dev/shm/probe_left_in_shm",
    "/var/tmp/probe_left_in_var_tmp",
    "/etc/probe.ld.so.preload",
)
"""Files that probes would leave in folders of the machine."""


def secret() -> str:
    """Return a fresh secret that probes recognise."""
    return f"canary-{secrets.token_hex(16)}"


class Listeners:
    """Sockets of every usual family; what arrives at any of them is kept."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.heard: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        token = secrets.token_hex(8)
        self.abstract, self.abstract_dgram = f"probes-{token}", f"probes-{token}-packets"
        self.unix, self.unix_tmp, self.unix_dgram = folder / "s", temporary / "s", temporary / "d"
        inet, inet6, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
        stream, packet = socket.SOCK_STREAM, socket.SOCK_DGRAM
        self.tcp = self._listen(inet, stream, ("127.0.0.1", 0))
        self.udp = self._listen(inet6, packet, ("::ffff:127.0.0.1", 0))
        self.tcp6 = self._listen(inet6, stream, ("::1", 0))
        self.udp6 = self._listen(inet6, packet, ("::1", 0))
        self._listen(unix, stream, str(self.unix))
        self._listen(unix, stream, str(self.unix_tmp))
        self._listen(unix, packet, str(self.unix_dgram))
        self._listen(unix, stream, "\0" + self.abstract)
        self._listen(unix, packet, "\0" + self.abstract_dgram)
        self._ends, self._end = socket.socketpair()
        self._selector.register(self._ends, selectors.EVENT_READ, "end")
        self._thread = threading.Thread(target=self._serve, name="listeners")
        self._thread.start()

    def _listen(self, family: int, kind: int, address: Any) -> int:
        end = socket.socket(family, kind)
        if family == socket.AF_INET6:
            end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        end.bind(address)
        if kind == socket.SOCK_STREAM:
            end.listen(64)
        self._selector.register(
            end, selectors.EVENT_READ, "stream" if kind == socket.SOCK_STREAM else "packet"
        )
        name = end.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if key.data == "end":
                    return
                with suppress(OSError):
                    if key.data == "packet":
                        self.heard.append(end.recv(4096))
                        continue
                    came, _ = end.accept()
                    with came:
                        came.settimeout(0.5)
                        self.heard.append(came.recv(4096))

    def close(self) -> None:
        self._end.close()
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


class Neighbour:
    """A process of the same user, with a secret in its memory, in its command line and in a file that it holds open."""

    def __init__(self, folder: Path) -> None:
        held = folder / "held.txt"
        held.write_text(secret())
        self.secrets = [held.read_text(), secret(), secret()]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _NEIGHBOUR, str(held), self.secrets[1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        held_by = self._ask(self.secrets[2]).split()
        self.pid, self.address, self.descriptor = self._process.pid, int(held_by[0]), int(held_by[1])

    def written(self) -> bytes:
        """Return what stands in its memory where nothing should."""
        return bytes.fromhex(self._ask("?"))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)


class Shared:
    """What programs of a machine share by numbers and names: segments, queues, semaphores, a file in /dev/shm."""

    def __init__(self) -> None:
        self.key = secrets.randbits(30)
        self.secret = secret()
        _LIBC.shmat.restype = ctypes.c_void_p
        self._segment = _LIBC.shmget(self.key, 4096, 0o1600)
        ctypes.memmove(_LIBC.shmat(self._segment, None, 0), self.secret.encode(), len(self.secret))
        self._queue = _LIBC.msgget(self.key, 0o1600)
        self._semaphores = _LIBC.semget(self.key, 1, 0o1600)
        self.name = f"probes-{secrets.token_hex(8)}"
        self._posix = _LIBC.mq_open(f"/{self.name}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        self.file = Path("/dev/shm") / self.name
        self.file.write_text(self.secret)

    def close(self) -> None:
        _LIBC.shmctl(self._segment, 0, None)
        _LIBC.msgctl(self._queue, 0, None)
        _LIBC.semctl(self._semaphores, 0, 0)
        if self._posix >= 0:
            os.close(self._posix)
            _LIBC.mq_unlink(f"/{self.name}".encode())
        self.file.unlink(missing_ok=True)


class UserFiles:
    """The files of the node's user that no plan is to read or write."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "user"
        self.other = folder / "other-data"
        self.watched = folder / "watched"
        for made in (self.home / ".ssh", self.other, self.watched):
            made.mkdir(parents=True, mode=0o700)
        self.secrets: list[str] = []
        self.ssh_key = self._file(self.home / ".ssh" / "id_ed25519")
        self.authorized = self._file(self.home / ".ssh" / "authorized_keys")
        self.profile = self._file(self.home / ".bashrc")
        self.table = self._file(self.other / "patients.csv")
        self.spare = self._file(self.other / "spare.csv")
        self.listed = self._file(self.other / f"{secret()}.txt")
        self.secrets.append(self.listed.stem)
        self.temporary = self._file(self.watched / "of-another-program.txt")

    def _file(self, path: Path) -> Path:
        self.secrets.append(secret())
        path.write_text(f"# {self.secrets[-1]}\n")
        path.chmod(0o600)
        return path


def site_packages() -> str:
    """Return the folder of installed packages."""
    return sysconfig.get_paths()["purelib"]


def processes_with(tokens: Iterable[str]) -> set[str]:
    """Return those of the tokens that a process of this machine bears in its name or command line."""
    wanted, found = set(tokens), set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            comm = Path(f"/proc/{name}/comm").read_text(errors="replace").strip()
            state = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            command = Path(f"/proc/{name}/cmdline").read_text(errors="replace")
            if state not in "ZX":
                found |= {token for token in wanted if token == comm or f": {token}" in command}
    return found
