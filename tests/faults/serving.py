"""Servers of the tests on one event loop in a thread of its own, and the streams of a connection."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

BLOCK_BYTES = 16 << 10
BUFFER_BYTES = 64 << 10
CONNECT_S = 10.0


class LoopThread:
    """An event loop in a thread, as a context manager; what still runs at its end is cancelled."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _end(self) -> None:
        for server in self.servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the closed transports let go of their sockets


class Server:
    """A TCP server whose connections are served by `serve`.

    Args:
        thread: whose loop it runs on.
    """

    def __init__(self, thread: LoopThread, host: str = "127.0.0.1") -> None:
        self.num_connections = 0
        self._serving: set[asyncio.Task[None] | None] = set()  # the loop alone would let go of them
        self.port: int = thread.run(self._listen(thread, host))

    @property
    def url(self) -> str:
        """As a forward proxy is named."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: Stream) -> None:
        """Serve one connection; whatever it raises ends that connection alone."""
        raise NotImplementedError

    async def _listen(self, thread: LoopThread, host: str) -> int:
        listener = socket.create_server((host, 0))
        # what a client has sent shall not wait unseen in this machine's memory, of which there are megabytes
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        server = await asyncio.start_server(self._accepted, sock=listener, limit=BUFFER_BYTES)
        thread.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        this = asyncio.current_task()
        self._serving.add(this)
        client = Stream(reader, writer)
        try:
            with suppress(OSError, EOFError, ValueError, asyncio.CancelledError):
                await self.serve(client)
        finally:
            self._serving.discard(this)
            client.close()


class Stream:
    """One side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        without_delay(writer)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def finish(self) -> None:
        """Send no more, but go on receiving; over TLS, which has no such state, end the connection."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        else:
            self.writer.close()

    def reset(self) -> None:
        """End the connection with a reset in place of a farewell."""
        with suppress(OSError):
            taken = self.writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """End the connection once what was sent is on its way."""
        self.writer.close()


def without_delay(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def connect(host: str, port: int, **how: Any) -> Stream:
    """Return a connection to a server."""
    return Stream(
        *await asyncio.wait_for(asyncio.open_connection(host, port, limit=BUFFER_BYTES, **how), CONNECT_S)
    )


async def pump(source: Stream, sink: Stream) -> None:
    """Carry bytes as they are until their end."""
    while block := await source.reader.read(BLOCK_BYTES):
        await sink.send(block)
    sink.finish()


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Carry both directions of a connection until both have ended, or one fails."""
    directions = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        await asyncio.gather(*directions)
    finally:
        for direction in directions:
            direction.cancel()
