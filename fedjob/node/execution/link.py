"""A socket between a daemon and its worker: length-prefixed msgpack, and the limits of both sides."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError

MAX_BYTES = 256 * 1024 * 1024
SEND_TIMEOUT_S = 30
MEETING_EVERY_S = 0.2
_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("i")


class Link:
    """One end; one thread receives, any thread sends.

    Args:
        max_elements: that one value of the other end may hold, nested ones included; None for any number.
    """

    def __init__(self, end: socket.socket, *, max_elements: int | None = None) -> None:
        self._socket = end
        self._max_elements = max_elements
        self._lock = threading.Lock()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))

    def send(self, value: Any) -> None:
        """Send plain data.

        Raises:
            EncodeError: it is none.
            OSError: the other end is gone, or has not read for 30 s.
        """
        data = pack(value)
        with self._lock:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def greet(self, value: Any, descriptor: int) -> None:
        """Send the first value, with an open file beside it.

        Raises:
            OSError: the other end is gone.
        """
        data = pack(value)
        with self._lock:
            socket.send_fds(self._socket, [_LENGTH.pack(len(data)) + data], [descriptor])

    def expect_greeting(self) -> None:
        """Ask the kernel who sends; before the other end can send anything."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def receive_greeting(self) -> tuple[Any, int, int | None]:
        """Wait for the first value of the other end, which no user code can have sent.

        Returns:
            It, the number of the process that sent it, as it is known here, and the file that came with it.

        Raises:
            EOFError: the other end is gone.
            DecodeError: it sent something else.
        """
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_DESCRIPTOR.size)
        try:
            head, ancillary, _, _ = self._socket.recvmsg(_LENGTH.size, space, socket.MSG_CMSG_CLOEXEC)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        except OSError as error:
            raise EOFError from error
        pid, descriptor = 0, None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (descriptor,) = _DESCRIPTOR.unpack(data[: _DESCRIPTOR.size])
        if len(head) < _LENGTH.size:
            raise EOFError
        return self._value_of(head), pid, descriptor

    def receive(self) -> Any:
        """Wait for the next value.

        Raises:
            EOFError: the other end is gone.
            DecodeError: it sent something else.
        """
        return self._value_of(self._read(_LENGTH.size))

    def _value_of(self, head: bytes) -> Any:
        (length,) = _LENGTH.unpack(head)
        if length > MAX_BYTES:
            raise DecodeError(f"expected at most {MAX_BYTES} bytes between daemon and worker, found {length}")
        return unpack(self._read(length), max_elements=self._max_elements)

    def _read(self, length: int) -> bytes:
        buffer = bytearray()
        while len(buffer) < length:
            try:
                chunk = self._socket.recv(min(length - len(buffer), 1 << 20))
            except OSError as error:
                raise EOFError from error
            if not chunk:
                raise EOFError
            buffer += chunk
        return bytes(buffer)

    def shut(self) -> None:
        """End both directions; a receiver gets what is there already, then EOFError."""
        with suppress(OSError):  # the other end may have been faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket; nobody may be receiving any more."""
        self._socket.close()


def hand_link(place: str, link: int, is_wanted: Callable[[], bool]) -> bool:
    """Listen at a path and give whoever comes first the descriptor of a link, for as long as that is wanted.

    Returns:
        Whether somebody came.
    """
    folder, name = os.path.split(place)
    with socket.socket(socket.AF_UNIX) as listening:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        listening.bind(f"/proc/self/fd/{inside}/{name}")  # the path itself may be too long for an address
        os.close(inside)
        listening.listen(1)
        listening.settimeout(MEETING_EVERY_S)
        while is_wanted():
            with suppress(TimeoutError):
                came, _ = listening.accept()
                with came:
                    socket.send_fds(came, [b"link"], [link])
                return True
    return False


def received_link(place: str) -> int:
    """Return the descriptor of the link that `hand_link` gives at a path.

    Raises:
        OSError: nobody is there.
        DecodeError: who is there gives none.
    """
    inside = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.settimeout(SEND_TIMEOUT_S)
        meeting.connect(f"/proc/self/fd/{inside}/{os.path.basename(place)}")
        os.close(inside)
        _, descriptors, _, _ = socket.recv_fds(meeting, 16, 1)
    if not descriptors:
        raise DecodeError(f"no link was given at {place}")
    return descriptors[0]
