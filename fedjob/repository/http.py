"""The client of the hub's repository, over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedjob.common.errors import ObjectCorrupt, RepositoryError
from fedjob.common.files import Blocks
from fedjob.common.http_client import Passing, Patience, Tries, Web
from fedjob.common.network.credentials import Credentials
from fedjob.common.types import MAX_FRAME_BYTES
from fedjob.repository.base import DIGEST_BYTES, NUM_FETCHES, Repository, check_job
from fedjob.repository.parts import PART_BYTES
from fedjob.repository.store_links import DIRECT, LINK_TYPE, MAX_LINK_BYTES, StoreLinks


class HttpRepository(Repository):
    """The repository of a hub, at `/v1/objects`.

    Args:
        url: of the hub.
        token: of the party.
        verify: whether to check the hub's certificate, or the path of its authority's certificate.
        proxy: through which it is reached: its URL, `none`, or empty for what the environment says.
        credentials: that the party shows besides its token.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        verify: bool | str | Path = True,
        proxy: str = "",
        credentials: Credentials | None = None,
        patience: Patience | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        super().__init__(part_bytes=part_bytes)
        self._web = Web(
            url, token=token, verify=verify, proxy=proxy, credentials=credentials, patience=patience
        )
        self._store = StoreLinks(self._web.url, verify=verify, proxy=proxy)

    def __repr__(self) -> str:
        return f"HttpRepository({self._web.url!r})"

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        for _ in range(NUM_FETCHES):
            reply = self._web.call(
                "PUT",
                _path(sha256),
                headers=_holder(job, readers),
                body=blocks,
                what=f"object {sha256}",
                accept=(422,),
            )
            if reply.status == 201:
                return
            if reply.status != 422:
                raise _strange(f"object {sha256}", reply.status)
            if blocks.sha256() != sha256:
                raise ObjectCorrupt(f"object {sha256}: the source changed while it was sent")
        raise ObjectCorrupt(
            f"object {sha256}: sent {NUM_FETCHES} times, and the hub never received that hash"
        )

    def store_unnamed(
        self, blocks: Blocks, *, job: str, readers: tuple[str, ...], named: Callable[[str], object]
    ) -> str:
        body = BlocksWithHash(blocks, named)
        for _ in range(NUM_FETCHES):
            reply = self._web.call(
                "POST", _OBJECTS, headers=_holder(job, readers), body=body, what="an object", accept=(422,)
            )
            if reply.status == 201:
                return body.sha256
            if reply.status != 422:
                raise _strange("an object", reply.status)
        raise ObjectCorrupt(
            f"an object: sent {NUM_FETCHES} times, and the hub never received what its hash says"
        )

    def hold_object(self, sha256: str, *, job: str, readers: tuple[str, ...]) -> bool:
        headers = _holder(job, readers)
        return self._web.call("POST", _path(sha256), headers=headers, accept=(404,)).status != 404

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        tries = Tries(self._web)
        while True:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            headers |= {DIRECT: "1"} if self._store.is_open else {}
            link = b""
            try:
                with self._web.stream(
                    "GET", _path(sha256), headers=headers, what=f"object {sha256}", accept=(416,)
                ) as stream:
                    if stream.status == 416:
                        return  # the object is shorter than the bytes fetched before: the check of its hash will fail
                    if stream.headers.get("Content-Type", "") == LINK_TYPE:
                        link = stream.read(MAX_LINK_BYTES)
                    else:
                        _check_start(stream.headers, offset, stream.status, sha256)
                        for block in stream.blocks():
                            yield block
                            offset += len(block)
                            tries.progress()
                        return
            except Passing as passing:
                tries.wait(passing)
                continue
            for block in self._store.fetch(link, sha256, offset):
                yield block
                offset += len(block)
            if self._store.is_open:
                return

    def has_object(self, sha256: str) -> bool:
        reply = self._web.call("HEAD", _path(sha256), accept=(403, 404))
        return reply.status == 200 and reply.headers.get("Content-Type", "") == "application/octet-stream"

    def delete_object(self, sha256: str, *, job: str) -> None:
        headers = {_JOB: check_job(job)}
        self._web.call("DELETE", _path(sha256), headers=headers, what=f"object {sha256}", accept=(404,))

    def end_job(self, job: str) -> None:
        self._web.call("DELETE", f"/v1/jobs/{check_job(job)}", what=job, accept=(404,))

    def put_watch(self, job: str, frame: bytes, *, readers: tuple[str, ...]) -> None:
        headers = {"X-Fedjob-Readers": ",".join(readers)}
        self._web.call("PUT", _watch(job), headers=headers, body=frame, what=f"watching {job}")

    def get_watch(self, job: str) -> bytes:
        try:
            with self._web.stream("GET", _watch(job), what=f"watching {job}") as stream:
                return stream.read(MAX_FRAME_BYTES)
        except Passing as passing:  # no retry here: the caller polls by a schedule of its own
            error = passing.error
            raise error from passing

    def close(self) -> None:
        self._web.close()
        self._store.close()


class BlocksWithHash:
    """The body of an upload whose hash is known at its end: the bytes, and then the 32 bytes of their SHA-256.

    Args:
        named: is given the hash in hex before it is sent.
    """

    def __init__(self, blocks: Blocks, named: Callable[[str], object]) -> None:
        self._blocks, self._named = blocks, named
        self.sha256 = ""
        """Of the bytes that were sent last, in hex; empty before they were."""

    def __len__(self) -> int:
        return len(self._blocks) + DIGEST_BYTES

    def __iter__(self) -> Iterator[bytes | memoryview]:
        hasher = hashlib.sha256()
        for block in self._blocks:
            hasher.update(block)
            yield block
        self.sha256 = hasher.hexdigest()
        self._named(self.sha256)
        yield hasher.digest()


_OBJECTS = "/v1/objects"
_JOB = "X-Fedjob-Job"


def _path(sha256: str) -> str:
    return f"{_OBJECTS}/{sha256}"


def _strange(what: str, status: int) -> RepositoryError:
    return RepositoryError(
        f"{what}: sent, and answered with status {status}, which a hub does not: what answers in its place?"
    )


def _watch(job: str) -> str:
    return f"/v1/jobs/{check_job(job)}/watch"


def _holder(job: str, readers: tuple[str, ...]) -> dict[str, str]:
    return {_JOB: job, "X-Fedjob-Readers": ",".join(readers)}


def _check_start(headers: Mapping[str, str], offset: int, status: int, sha256: str) -> None:
    found = headers.get("Content-Range", "")
    if offset and (status != 206 or not found.startswith(f"bytes {offset}-")):
        raise RepositoryError(
            f"object {sha256}: asked for bytes from {offset} on, the server answers with status {status} and "
            f"range {found[:60]!r}: does a proxy before the hub drop ranges?"
        )
