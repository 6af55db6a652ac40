"""HTTP bodies of requests and responses, streamed with bounds on size, memory and time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from fedjob.common.errors import FedjobError, ObjectTooLarge
from fedjob.hub.config.limits import HubLimits
from fedjob.hub.server.connection_limits import SEND_FILE, BodyLine, ClientGone

CHUNK_BYTES = 1 << 20
"""Bytes read from or written to the disk at once. With 64 KiB a download costs ten times as much."""


SLICE_BYTES = 128 << 10
"""Bytes handed to a connection at once: each slice has `idle_s`, which a line of 35 kbit/s keeps."""


class TooSlow(FedjobError):
    """The client sends, or reads, fewer bytes in the time allowed than the limits require."""

    reason = "too_slow"


async def chunks(receive: Receive, limits: HubLimits, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """Yield a request's body as it arrives.

    Raises:
        ObjectTooLarge: the body has more than `limit_bytes`.
        TooSlow: fewer than `min_body_bytes` arrived within `idle_s`.
        ClientGone: the client disconnected before the end of the body.
    """
    clock = asyncio.get_running_loop().time
    total = window_bytes = 0
    window_end = clock() + limits.idle_s
    more = True
    while more:
        try:
            async with asyncio.timeout_at(window_end):
                message: Message = await receive()
        except TimeoutError:
            raise _too_slow(limits, window_bytes) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        total += len(body)
        if total > limit_bytes:
            raise ObjectTooLarge(f"expected at most {limit_bytes} bytes")
        window_bytes += len(body)
        if window_bytes >= limits.min_body_bytes:
            window_bytes, window_end = 0, clock() + limits.idle_s
        if body:
            yield body


async def receive_by_threads(
    line: BodyLine, take: Callable[[memoryview], object], pool: Executor, limits: HubLimits
) -> None:
    """Have threads of a pool receive a request's body and hand on its blocks, which are valid until the call returns.

    The bounds on time are those of `chunks`. When `take` fails, the rest of the body is received and thrown away first:
    many clients read the response only after sending all of it.

    Raises:
        TooSlow: fewer than `min_body_bytes` arrived within `idle_s`.
        ClientGone: the client disconnected before the end of the body.
        Exception: that of `take`.
    """
    loop = asyncio.get_running_loop()
    window_bytes, window_end = 0, loop.time() + limits.idle_s
    failure: Exception | None = None
    receiving: asyncio.Future[int] | None = None

    def take_or_discard(block: memoryview) -> None:
        nonlocal failure
        if failure is None:
            try:
                take(block)
            except Exception as error:
                failure = error

    try:
        while line.left:
            receiving = loop.run_in_executor(pool, line.receive, take_or_discard)
            received = await asyncio.shield(receiving)
            line.check()
            window_bytes += received
            if window_bytes >= limits.min_body_bytes:
                window_bytes, window_end = 0, loop.time() + limits.idle_s
            elif line.left and loop.time() >= window_end:
                failure = failure or _too_slow(limits, window_bytes)
                break
            if not received:
                await line.until_readable(window_end)
    finally:
        if receiving is not None:
            await asyncio.wait({receiving})  # its thread must be done with the connection and with the file
        line.close()
    if failure is not None:
        raise failure


def _too_slow(limits: HubLimits, found_bytes: int) -> TooSlow:
    return TooSlow(
        f"expected at least {limits.min_body_bytes} bytes every {limits.idle_s:g} s, found {found_bytes}"
    )


async def drain(receive: Receive, limits: HubLimits, *, limit_bytes: int) -> None:
    """Read and discard the rest of a body: many clients read the response only after sending all of it."""
    with suppress(ClientGone, FedjobError):
        async for _ in chunks(receive, limits, limit_bytes=limit_bytes):
            pass


class FileResponse:
    """An ASGI response with a range of an open file, which it closes.

    Args:
        status: 200, or 206 with a Content-Range among the headers.
        abort: drops the connection when the client stops reading.
    """

    def __init__(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        descriptor: int,
        start: int,
        end: int,
        *,
        pool: Executor,
        limits: HubLimits,
        abort: Callable[[], Any] | None,
    ) -> None:
        self._head = {"type": "http.response.start", "status": status, "headers": headers}
        self._descriptor = descriptor
        self._start = start
        self._end = end
        self._pool = pool
        self._limits = limits
        self._abort = abort
        self._first: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading: asyncio.Future[bytes] | None = None
        loop = asyncio.get_running_loop()

        def read_ahead(at: int) -> asyncio.Future[bytes]:
            return loop.run_in_executor(self._pool, self._read, at)

        try:
            await send(self._head)
            at = self._start
            if (
                self._first is None and self._end - at <= CHUNK_BYTES // 4
            ):  # small: in the page cache more often than not
                await self._send(send, os.pread(self._descriptor, self._end - at, at), more=False)
                return
            if self._first is None and await self._sent_by_the_system(scope):
                await self._send(send, b"", more=False)
                return
            reading = read_ahead(at) if self._first is None else _done(self._first)
            while at < self._end:
                block = await reading
                if not block:
                    raise ClientGone  # the file shrank: stop here, its hash would not match anyway
                at += len(block)
                reading = read_ahead(at) if at < self._end else None
                await self._send(send, block, more=at < self._end)
                if reading is None:
                    return
        finally:
            if reading is not None:
                with suppress(Exception):
                    await reading  # the read-ahead must end before its descriptor is closed
            self._close()

    async def _sent_by_the_system(self, scope: Scope) -> bool:
        """Have the system send the file, where it can; return whether it did."""
        send_file = scope.get(SEND_FILE)
        if send_file is None:
            return False
        try:
            return bool(await send_file(self._descriptor, self._start, self._end, self._pool))
        except OSError:  # a TimeoutError is one
            if self._abort is not None:
                self._abort()
            raise ClientGone from None

    def _close(self) -> None:
        os.close(self._descriptor)

    def _read(self, at: int) -> bytes:
        return os.pread(self._descriptor, min(CHUNK_BYTES, self._end - at), at)

    async def _send(self, send: Send, block: bytes, *, more: bool) -> None:
        for at in range(0, max(1, len(block)), SLICE_BYTES):
            body = block[at : at + SLICE_BYTES]
            last = at + SLICE_BYTES >= len(block)
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    await send({"type": "http.response.body", "body": body, "more_body": more or not last})
            except TimeoutError:
                if self._abort is not None:
                    self._abort()
                raise ClientGone from None


class BucketResponse(FileResponse):
    """An ASGI response with a range of an object that lies in a bucket.

    Args:
        first: the first block: that the store is away has to become a status before the head is sent.
        read: returns the bytes from one place to another, on a thread of the pool.
    """

    def __init__(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        first: bytes,
        read: Callable[[int, int], bytes],
        start: int,
        end: int,
        *,
        pool: Executor,
        limits: HubLimits,
        abort: Callable[[], Any] | None,
    ) -> None:
        super().__init__(status, headers, -1, start, end, pool=pool, limits=limits, abort=abort)
        self._first = first
        self._read_range = read

    def _close(self) -> None:
        return

    def _read(self, at: int) -> bytes:
        try:
            return self._read_range(at, min(at + CHUNK_BYTES, self._end))
        except FedjobError:
            return b""  # the connection is dropped in the middle, and the client goes on from there


def _done(block: bytes) -> asyncio.Future[bytes]:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    future.set_result(block)
    return future
