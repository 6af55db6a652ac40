"""The daemon's side of its fork server: starts it, asks it for workers, and hears of their ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.node.config.home import NodeHome
from fedjob.node.execution.fork_server import MAX_PACKET_BYTES, ForkRequest
from fedjob.node.sandbox.enclosure import NONE
from fedjob.node.sandbox.limits import server_environment

DEATH_GRACE_S = 5.0
"""For a fork server to end in, and for an end to be reported that a closed socket has announced."""


class ForkServer:
    """The fork server's process, and the thread that receives its messages.

    Args:
        kind: of the sandbox that it closes around the workers that it forks itself.
        bare: it forks none itself but runs launchers' commands, and preloads nothing.
        on_exited: takes a worker's name and its status.
        on_gone: takes this server once it is gone, with all that it has forked.
    """

    def __init__(
        self,
        home: NodeHome,
        kind: str,
        *,
        bare: bool,
        on_exited: Callable[[str, int], None],
        on_gone: Callable[[ForkServer], None],
    ) -> None:
        self._on_exited, self._on_gone = on_exited, on_gone
        self.alive = True
        self._is_ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        is_open = bare or kind == NONE
        environment = dict(os.environ) if is_open else server_environment(os.environ)
        with theirs, (home.logs / "forkserver.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "fedjob.node.execution.fork_server", str(theirs.fileno())),
                    *(kind, str(home.root), "bare" if bare else "preloaded"),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**environment, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
            )
        threading.Thread(target=self._listen, name="fork server", daemon=True).start()

    def request(self, request: ForkRequest, descriptors: Sequence[int]) -> None:
        """Ask for a worker.

        Args:
            descriptors: its end of the link, and what its two streams lead to.
        """
        with suppress(OSError):  # it is gone: its listener says so
            socket.send_fds(self._control, [pack(to_plain(request))], descriptors)

    def kill(self, worker: str) -> None:
        """End a worker that was asked for, with everything that it started."""
        with suppress(OSError):
            self._control.send(pack(["kill", worker]))

    def stop(self) -> None:
        """Close our end, at which it ends, and wait for that."""
        self.alive = False
        if not self._is_ready:
            self._process.kill()  # still importing: it has no children, and would not hear us for seconds
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout=DEATH_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=DEATH_GRACE_S)

    def _listen(self) -> None:
        while True:
            try:
                packet = self._control.recv(MAX_PACKET_BYTES)
            except OSError:
                break
            if not packet:
                break
            match unpack(packet):
                case ["ready"]:
                    self._is_ready = True
                case ["exited", str(name), int(status)]:
                    self._on_exited(name, status)
        self.alive = False
        self._on_gone(self)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=DEATH_GRACE_S)
        self._control.close()
