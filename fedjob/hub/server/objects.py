"""The HTTP routes `/v1/objects` and `/v1/jobs` of the hub's repository."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedjob.common.errors import ObjectCorrupt, ObjectMissing, SpecError
from fedjob.common.types import check_party
from fedjob.hub.server.bodies import CHUNK_BYTES, BucketResponse, FileResponse, chunks, receive_by_threads
from fedjob.hub.server.connection_limits import ABORT, BODY_LINE
from fedjob.hub.storage.bucket import LINK_S, Bucket
from fedjob.hub.storage.objects import Holder, Incoming, ObjectStore
from fedjob.hub.storage.parties import Member
from fedjob.repository.base import DIGEST_BYTES, check_job
from fedjob.repository.store_links import DIRECT, LINK_TYPE

SMALL_BYTES = 1 << 18
"""Up to this size an object is received into memory and stored by one call on another thread."""

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?")

Authenticate = Callable[[Request], Member]
Handler = Callable[[Request], Awaitable[Response | ASGIApp]]


class Objects:
    """Serves an object store.

    Args:
        authenticate: returns the party that sent a request, or raises NotPermitted.
        pool: of threads for hashing and for reading and writing files.
        direct: give parties that ask for it a URL at the store where the objects lie.
    """

    def __init__(
        self,
        store: ObjectStore,
        authenticate: Authenticate,
        pool: ThreadPoolExecutor,
        *,
        direct: bool = False,
    ) -> None:
        self._store = store
        self._direct = direct
        self._limits = store.limits
        self._authenticate = authenticate
        self._pool = pool
        self._uploads = asyncio.Semaphore(self._limits.num_uploads)
        self._uploads_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def routes(self, wrap: Callable[[Handler], ASGIApp]) -> list[Route]:
        """Return the routes; `wrap` turns errors into responses."""
        return [
            Route("/v1/objects", wrap(self.unnamed), methods=["POST"]),
            Route(
                "/v1/objects/{sha256}", wrap(self.object), methods=["PUT", "POST", "GET", "HEAD", "DELETE"]
            ),
            Route("/v1/jobs/{job}", wrap(self.job), methods=["DELETE"]),
        ]

    async def object(self, request: Request) -> Response | ASGIApp:
        """Handle PUT (store or hold), GET, HEAD and DELETE (release) of one object."""
        member = self._authenticate(request)
        sha256 = request.path_params["sha256"]
        self._store.path(sha256)  # refuses a malformed name before anything else happens
        match request.method:
            case "PUT":
                return await self._put(request, sha256, _holder(request, member))
            case "POST":
                held = await asyncio.wrap_future(self._store.hold(sha256, _holder(request, member)))
                if not held:
                    raise ObjectMissing("the hub holds no such object that you may read")
                return Response(status_code=204)
            case "DELETE":
                job = check_job(request.headers.get("x-fedjob-job", ""))
                if not await asyncio.wrap_future(self._store.drop(sha256, job, member.party)):
                    raise ObjectMissing("you hold no such object for this job")
                return Response(status_code=204)
        if (bucket := self._store.bucket) is not None:
            return await self._get_from(bucket, request, sha256, member)
        return self._get(request, sha256, member)

    async def unnamed(self, request: Request) -> Response:
        """Store one object whose SHA-256 follows its bytes: whoever encrypts while it sends knows it no earlier."""
        member = self._authenticate(request)
        declared = _length(request)
        if declared is None or declared < DIGEST_BYTES:
            raise SpecError(
                f"expected a Content-Length of at least {DIGEST_BYTES}: the bytes, and their SHA-256"
            )
        return await self._put(request, "", _holder(request, member))

    async def job(self, request: Request) -> Response:
        """End a job."""
        member = self._authenticate(request)
        ended = await asyncio.wrap_future(
            self._store.end_job(check_job(request.path_params["job"]), member.party)
        )
        return Response(status_code=204, headers={"X-Fedjob-Ended": str(ended)})

    async def _put(self, request: Request, sha256: str, holder: Holder) -> Response:
        """Store the body under its hash.

        Args:
            sha256: the hash; empty where it follows the bytes.
        """
        declared = _length(request)
        if declared is None:
            raise SpecError("expected a Content-Length: the hub sets so many bytes aside before they come")
        own = self._uploads_of.get(holder.party) or asyncio.Semaphore(self._limits.party_uploads)
        self._uploads_of[holder.party] = own
        async with own, self._uploads:
            incoming = self._store.begin(holder, declared - (0 if sha256 else DIGEST_BYTES))
            try:
                if declared <= SMALL_BYTES:
                    sha256 = await self._take_small(request, incoming, sha256)
                else:
                    sha256 = await self._take_large(request, incoming, sha256, declared)
                if self._store.bucket is not None:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._pool, self._store.ship, sha256, incoming)
                await asyncio.wrap_future(self._store.commit(sha256, incoming, holder))
            finally:
                incoming.close()
        return Response(status_code=201)

    async def _take_small(self, request: Request, incoming: Incoming, sha256: str) -> str:
        content = b"".join(
            [part async for part in chunks(request.receive, self._limits, limit_bytes=SMALL_BYTES)]
        )
        if not sha256:
            content, sha256 = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:].hex()

        def store() -> None:
            incoming.write(content)
            incoming.seal(sha256)

        await asyncio.get_running_loop().run_in_executor(self._pool, store)
        return sha256

    async def _take_large(self, request: Request, incoming: Incoming, sha256: str, declared: int) -> str:
        """Hash and write a body as it arrives, on other threads; return the hash that is claimed.

        Args:
            declared: size of the body in bytes, where the last of them are the hash; 0 if it is not known.
        """
        loop = asyncio.get_running_loop()
        find_line = request.scope.get(BODY_LINE)
        if find_line is not None and (line := find_line(declared)) is not None:
            body = _BodyToFile(incoming, declared - (0 if sha256 else DIGEST_BYTES))
            await receive_by_threads(line, body.take, self._pool, self._limits)
            await request.receive()  # its end
            claimed = sha256 or body.rest.hex()
        else:
            claimed = await self._take_gathered(request, incoming, sha256, declared)
        await loop.run_in_executor(self._pool, incoming.seal, claimed)
        return claimed

    async def _take_gathered(self, request: Request, incoming: Incoming, sha256: str, declared: int) -> str:
        """Hash and write one chunk on another thread while the next one arrives; return the hash that is claimed."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        gathered, digest = b"", b""
        left = declared - DIGEST_BYTES if not sha256 else self._limits.object_bytes + 1
        try:
            most = self._limits.object_bytes + (0 if sha256 else DIGEST_BYTES)
            async for part in chunks(request.receive, self._limits, limit_bytes=most):
                if len(part) > left:
                    part, digest = part[:left], digest + part[left:]
                left -= len(part)
                gathered = part if not gathered else gathered + part
                if len(gathered) >= CHUNK_BYTES // 2:
                    if writing is not None:
                        await writing
                    writing = loop.run_in_executor(self._pool, incoming.write, gathered)
                    gathered = b""
        finally:
            if writing is not None:
                await writing  # also when the body broke off: the file must not be closed during a write
        await loop.run_in_executor(self._pool, incoming.write, gathered)
        return sha256 or digest.hex()

    def _get(self, request: Request, sha256: str, member: Member) -> Response | ASGIApp:
        path = self._store.find(sha256, member.party)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise ObjectMissing("the hub has lost this object: put it again") from None
        size = os.fstat(descriptor).st_size
        asked = _asked(request, size)
        if request.method == "HEAD" or asked.start >= asked.end:
            os.close(descriptor)
            return asked.without_body(size)
        return FileResponse(
            asked.status,
            asked.raw_headers,
            descriptor,
            asked.start,
            asked.end,
            pool=self._pool,
            limits=self._limits,
            abort=request.scope.get(ABORT),
        )

    async def _get_from(
        self, bucket: Bucket, request: Request, sha256: str, member: Member
    ) -> Response | ASGIApp:
        """Return a response with an object that lies in a bucket, or with a URL to it at the store."""
        self._store.find(sha256, member.party)  # refuses whoever may not read it
        if self._direct and request.method == "GET" and DIRECT.lower() in request.headers:
            link = {"url": bucket.link(sha256), "expires_s": LINK_S}
            return JSONResponse(link, media_type=LINK_TYPE, headers={"Cache-Control": "no-store"})
        loop = asyncio.get_running_loop()
        size = await loop.run_in_executor(self._pool, bucket.size, sha256)
        if size is None:
            raise ObjectMissing("the hub has lost this object: put it again")
        asked = _asked(request, size)
        if request.method == "HEAD" or asked.start >= asked.end:
            return asked.without_body(size)
        until = min(asked.end, asked.start + CHUNK_BYTES)
        first = await loop.run_in_executor(self._pool, bucket.read, sha256, asked.start, until)
        return BucketResponse(
            asked.status,
            asked.raw_headers,
            first,
            partial(bucket.read, sha256),
            asked.start,
            asked.end,
            pool=self._pool,
            limits=self._limits,
            abort=request.scope.get(ABORT),
        )


class _BodyToFile:
    """An upload's bytes on their way to the file; what comes behind them is kept."""

    def __init__(self, incoming: Incoming, size_bytes: int) -> None:
        self._incoming = incoming
        self._left = size_bytes
        self.rest = b""

    def take(self, block: memoryview) -> None:
        """Hash and write what belongs to the object."""
        own, behind = block[: self._left], block[self._left :]
        if own:
            self._incoming.write(own)
            self._left -= len(own)
        self.rest += bytes(behind)


@dataclass(frozen=True, slots=True)
class _AskedBytes:
    """The bytes of an object that a request asks for, and the head of the response."""

    status: int
    start: int
    end: int
    headers: dict[str, str]

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]

    def without_body(self, size: int) -> Response:
        """Return the response to HEAD, or to a range that begins behind the end."""
        if self.status == 206 and self.start >= self.end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        return Response(status_code=self.status, headers=self.headers)


def _asked(request: Request, size: int) -> _AskedBytes:
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    start, end, status = 0, size, 200
    if (asked := request.headers.get("range")) is not None and (found := _RANGE.fullmatch(asked)):
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(max(0, end - start))
    return _AskedBytes(status, start, end, headers)


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise SpecError("expected Content-Length to be a number of bytes")
    return int(text)


def _holder(request: Request, member: Member) -> Holder:
    if "content-encoding" in request.headers:
        raise SpecError("expected plain bytes, found a Content-Encoding")
    job = check_job(request.headers.get("x-fedjob-job", ""))
    named = request.headers.get("x-fedjob-readers", "")
    readers = tuple(check_party(reader.strip()) for reader in named.split(",")) if named else ()
    return Holder(member.party, member.role, job, readers)


__all__ = ["ObjectCorrupt", "Objects"]
