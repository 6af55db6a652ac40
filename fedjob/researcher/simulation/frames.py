"""The frames between a simulation and its workers: four bytes of length, then msgpack, over a pair of sockets."""

from __future__ import annotations

import socket
import struct
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError

MAX_FRAME_BYTES = 1 << 30
_LENGTH = struct.Struct("<I")


class FrameSocket:
    """One end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.socket.fileno()

    def send(self, value: Any) -> None:
        """Send plain data.

        Raises:
            OSError: the other end is gone.
        """
        data = pack(value)
        self.socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """Return the next frame; None where the other end is closed.

        Raises:
            OSError: the connection broke.
            DecodeError: a frame is longer than any may be.
        """
        head = self._read(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME_BYTES:
            raise DecodeError(f"a frame of {length} bytes; expected {MAX_FRAME_BYTES} at most")
        body = self._read(length)
        return None if body is None else unpack(bytes(body))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _read(self, count: int) -> bytearray | None:
        found = bytearray(count)
        view, at = memoryview(found), 0
        while at < count:
            took = self.socket.recv_into(view[at:])
            if not took:
                return None
            at += took
        return found
