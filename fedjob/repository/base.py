"""The interface of a repository: immutable bytes under their hash, returned whole or not at all."""

from __future__ import annotations

import hashlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedjob.common.errors import (
    ChunkCorrupt,
    NotEncrypted,
    ObjectCorrupt,
    ObjectTooLarge,
    RepositoryError,
    SpecError,
)
from fedjob.common.files import Blocks, read_blocks, write_at
from fedjob.common.sealing.chunk_reader import offset_of, opened_chunks
from fedjob.common.sealing.chunks import (
    CHUNK_BYTES,
    ChunkCipher,
    SealedBlocks,
    content_key,
    sealed,
    unsealed,
)
from fedjob.common.types import Ref, check_party
from fedjob.repository.download import Landing
from fedjob.repository.growing_file import GrowingBlocks, GrowingFile
from fedjob.repository.job_secrets import JobSecrets
from fedjob.repository.line_meter import LineMeter
from fedjob.repository.parts import (
    MAX_MANIFEST_BYTES,
    MAX_SEALED_MANIFEST_BYTES,
    PART_BYTES,
    ObjectPart,
    PartManifest,
    SealedManifest,
    even_part_bytes,
)
from fedjob.repository.stored_parts import FileOfJob, StoredParts

NUM_FETCHES = 5
"""Number of times that an object is fetched before its bytes count as corrupt."""

NUM_PARALLEL = 3
"""Parts of one file that travel at the same time."""

DIGEST_BYTES = 32
"""Of a SHA-256 as it is sent behind an object's bytes."""

Pieces = Callable[[ObjectPart, int], Iterator[bytes | memoryview]]
"""Yield the content of an object from a place on, see `Repository._pieces`."""

T = TypeVar("T")
U = TypeVar("U")

_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_job(job: str) -> str:
    """Return `job` if it is a valid name of a job, which may hold objects.

    Raises:
        SpecError: the name is not valid.
    """
    if not _JOB.fullmatch(job):
        raise SpecError(f"a job is named by 1 to 128 of a-z, A-Z, 0-9, '.', '-', '_'; found {job[:80]!r}")
    return job


WATCH = ".watch"
"""The suffix of the name under which a job's published events are held."""


def watch_job(job: str) -> str:
    """Return the name that holds what a job publishes to watchers; it is kept when the job itself ends."""
    return check_job(f"{job}{WATCH}")


class _Stopped(RepositoryError):
    """The error of a part that was stopped because another one failed."""


class Repository(ABC):
    """Stores objects; may be used from several threads at once.

    A backend writes the six abstract methods, about single objects; this class
    adds files of any size, hashes, resuming and fetching again.

    Args:
        part_bytes: the largest size of an object; smaller in tests.
    """

    def __init__(self, *, part_bytes: int = PART_BYTES) -> None:
        self._part_bytes = part_bytes
        self.meter = LineMeter()
        """How fast objects went and came."""
        self._stored = StoredParts()
        self.secrets: JobSecrets | None = None
        self.encrypted = False
        """True if what is put is encrypted by `secrets`, and nothing plain is accepted; see `encrypt`."""

    # -- what a backend writes ------------------------------------------------

    @abstractmethod
    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        """Store one object durably, unless it is stored already; hold it for `job` and let `readers` read it."""

    def store_unnamed(
        self, blocks: Blocks, *, job: str, readers: tuple[str, ...], named: Callable[[str], object]
    ) -> str:
        """Store one object as `store_object` does, and return its hash.

        A backend that can take the hash after the bytes reads them once.

        Args:
            named: is given the hash before the object is stored under it.
        """
        sha256 = blocks.sha256()
        named(sha256)
        self.store_object(sha256, blocks, job=job, readers=readers)
        return sha256

    @abstractmethod
    def hold_object(self, sha256: str, *, job: str, readers: tuple[str, ...]) -> bool:
        """Hold an object for one more job, if it is stored and this side may read it; return whether it was."""

    @abstractmethod
    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        """Yield one object's bytes from `offset` on; the backend itself retries after passing failures."""

    @abstractmethod
    def has_object(self, sha256: str) -> bool:
        """Return whether the object is stored and this side may read it."""

    @abstractmethod
    def delete_object(self, sha256: str, *, job: str) -> None:
        """Release what this side holds of an object for a job; it is removed if nobody holds it. A missing one is no error."""

    @abstractmethod
    def end_job(self, job: str) -> None:
        """Remove every object that only this job holds."""

    def put_watch(self, job: str, frame: bytes, *, readers: tuple[str, ...]) -> None:
        """Publish a signed frame about a job to `readers`; it replaces the frame before.

        Raises:
            RepositoryError: this kind of repository does not publish frames.
        """
        raise RepositoryError(f"{self!r} can't show a job to watchers: use a hub")

    def get_watch(self, job: str) -> bytes:
        """Return the frame that a job's owner published, in a single try.

        Raises:
            ObjectMissing: there is no frame.
            NotPermitted: this side is not one of its readers.
            RepositoryUnreachable: the repository does not answer.
        """
        raise RepositoryError(f"{self!r} can't show a job to watchers: use a hub")

    def close(self) -> None:
        """Close connections. The repository can't be used afterwards."""
        return

    # -- what everybody uses --------------------------------------------------

    def put(self, source: Path | bytes | GrowingFile, *, job: str, readers: Iterable[str] = ()) -> Ref:
        """Store a file or bytes; return the ref that names them.

        Parts of a large file that the repository has are not sent again, so that
        a repeated call resumes an interrupted one. A file that is still being written is sent as it grows; where it is
        given up, nothing of it stays, whatever else has gone wrong.

        Args:
            job: the job that holds the object until `end_job`.
            readers: the parties that may read it, besides the one that puts it.

        Raises:
            SpecError: there is no such file, or the job's name is not valid.
            ConfigError: the job's secret in this home can't be read.
            NeverFinished: the writer of a growing file has given it up.
            NoSpace: the repository is full.
            RepositoryUnreachable: it does not answer.
        """
        check_job(job)
        allowed = tuple(sorted({check_party(reader) for reader in readers}))
        size_bytes = _size_of(source)
        file: FileOfJob = job, object()
        try:
            if size_bytes <= self._part_bytes:
                looked_for = file if isinstance(source, GrowingFile) else None
                part = self._put_part(_blocks(source, 0, size_bytes), job, allowed, looked_for)
                return Ref(part.sha256, size_bytes, cipher=part.cipher, key=part.key)
            ref = self._put_parts(source, size_bytes, job, allowed, file)
            self._stored.name(file, ref.stored_as)
            return ref
        except BaseException:
            if isinstance(source, GrowingFile) and not source.becomes_whole():
                with suppress(RepositoryError):  # the job's end removes them too
                    self._stored.forget(file, (), partial(self.delete_object, job=job))
            raise
        finally:
            self._stored.let_go(file)

    def get(self, ref: Ref, path: Path) -> Path:
        """Fetch the content of `ref` into a file; return its path.

        `path` appears whole and with the right hash, or not at all. A file that
        is already there with the right content is kept, and the bytes that an
        interrupted call fetched are used. Because every call checks hashes, the
        file is not fsynced: after a power cut a second call fetches what was lost.

        Raises:
            ObjectMissing, NotPermitted: the repository does not have it, or this side may not read it.
            ObjectCorrupt: its bytes do not have the hash, after several fetches, or can't be decrypted.
            NotEncrypted: it is stored as it is, and this side accepts encrypted objects only.
            NoSpace: the disk is full; no partial file is left.
            RepositoryUnreachable: the repository does not answer.
        """
        parts = self._parts(ref)
        with Landing(path, ref) as landing:
            if landing.from_existing(lambda descriptor: all(_matches(descriptor, part) for part in parts)):
                return path
            if len(parts) == 1:
                self._fetch(ref, parts[0], landing.descriptor, have=landing.num_bytes)
            else:
                missing = [part for part in parts if not _matches(landing.descriptor, part)]
                stop = threading.Event()

                def fetch(part: ObjectPart) -> None:
                    try:
                        self._fetch(ref, part, landing.descriptor, have=0, stop=stop)
                    except BaseException:
                        stop.set()
                        raise

                _in_parallel(fetch, missing)
            landing.finish()
        return path

    def get_bytes(self, ref: Ref, *, limit_bytes: int) -> bytes:
        """Return the content of `ref`, checked by its hash.

        Raises:
            ObjectTooLarge: the ref has more than `limit_bytes` bytes; nothing is fetched.
            ObjectMissing, NotPermitted, ObjectCorrupt, RepositoryUnreachable: as for `get`.
        """
        if ref.size_bytes > limit_bytes:
            raise ObjectTooLarge(
                f"object {ref.sha256}: expected at most {limit_bytes} bytes, found {ref.size_bytes}"
            )
        parts = self._parts(ref)
        if len(parts) == 1:
            return _load(self._pieces, ref, parts[0])
        return b"".join(_load(self._pieces, ref, part) for part in parts)

    def exists(self, ref: Ref) -> bool:
        """Return whether the object is stored and this side may read it. Its parts are not checked."""
        return self.has_object(ref.stored_as)

    def delete(self, ref: Ref, *, job: str) -> None:
        """Release what this side holds of an object for a job, and its parts that no other file of the job has.

        What no job holds any more is removed.
        """
        delete = partial(self.delete_object, job=job)
        if ref.parts and self.has_object(ref.stored_as):
            parts = [part.stored_as for part in self._parts(ref)]
            self._stored.forget((job, ref.stored_as), parts, delete)
        delete(ref.stored_as)

    def encrypt(self, secrets: JobSecrets, *, encrypted: bool) -> None:
        """Encrypt what is put by the secrets of its job, and accept nothing plain; or do without from now on."""
        self.secrets, self.encrypted = secrets, encrypted

    def forget_keys(self, job: str) -> None:
        """Destroy this side's secret of a job: what was encrypted by it can't be read with this home any more."""
        if self.secrets is not None:
            self.secrets.destroy(job)

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------

    def _secret_of(self, job: str) -> bytes:
        """Return the secret by which a job's objects are encrypted; empty where they are stored as they are."""
        if not self.encrypted:
            return b""
        if self.secrets is None:
            raise NotEncrypted(f"{self!r} has to encrypt and has no secrets: see `encrypt`")
        return self.secrets.of(job)

    def _put_parts(
        self,
        source: Path | bytes | GrowingFile,
        size_bytes: int,
        job: str,
        readers: tuple[str, ...],
        file: FileOfJob,
    ) -> Ref:
        """Store the parts of a file, and what names them."""
        even, secret = even_part_bytes(size_bytes, self._part_bytes), self._secret_of(job)

        def put_part(start: int) -> ObjectPart:
            return self._put_part(_blocks(source, start, min(even, size_bytes - start)), job, readers, file)

        parts = _in_parallel(put_part, range(0, size_bytes, even))
        ref, content = _manifest_of(parts, size_bytes, even, secret)
        self._stored.note(file, ref.stored_as)
        self.store_object(ref.stored_as, Blocks(content, 0, len(content)), job=job, readers=readers)
        return ref

    def _put_part(
        self, plain: Blocks, job: str, readers: tuple[str, ...], file: FileOfJob | None = None
    ) -> ObjectPart:
        """Store a range of a file or of bytes as one object; return what names and opens it.

        What is encrypted has its name only once it is: it is encrypted and sent in one pass, unless its name is known,
        or has to be, because an earlier process may have stored it already.

        Args:
            file: stands for the file that it is a part of: looks first whether the part is stored already.
        """
        secret, before = self._secret_of(job), _signs_of_change(plain)
        if not secret and isinstance(plain, GrowingBlocks):
            plain.wait_for_first()  # no request is begun before there is something to send
            name = self._store_unnamed(plain, job, readers, file)
            return ObjectPart(name, plain.start, plain.size_bytes)
        sha256 = plain.sha256()
        if not secret or self.secrets is None:
            if not self._has_part(file, sha256, job, readers):
                with self.meter.moving("up", plain.size_bytes):
                    self.store_object(sha256, plain, job=job, readers=readers)
            return ObjectPart(sha256, plain.start, plain.size_bytes)
        key = content_key(secret, sha256)
        blocks = SealedBlocks(plain.source, plain.start, plain.size_bytes, key)
        name = self.secrets.name_of(job, sha256)
        if not name and not self.secrets.is_fresh(job):
            name = blocks.sha256()
        if not name:
            name = self._store_unnamed(blocks, job, readers, file)
        elif not self._has_part(file, name, job, readers):
            with self.meter.moving("up", plain.size_bytes):
                self.store_object(name, blocks, job=job, readers=readers)
        if _signs_of_change(plain) != before:
            self.delete_object(name, job=job)
            raise ObjectCorrupt(f"object {sha256}: the source changed while it was sent")
        self.secrets.note_name(job, sha256, name)
        return ObjectPart(sha256, plain.start, plain.size_bytes, name, key.hex())

    def _store_unnamed(
        self, blocks: Blocks, job: str, readers: tuple[str, ...], file: FileOfJob | None
    ) -> str:
        def named(name: str) -> None:
            if file is not None:
                self._stored.note(file, name)

        # what still grows goes as fast as it is written: that says nothing of the line
        with self.meter.moving("up", 0 if isinstance(blocks, GrowingBlocks) else blocks.size_bytes):
            return self.store_unnamed(blocks, job=job, readers=readers, named=named)

    def _has_part(self, file: FileOfJob | None, name: str, job: str, readers: tuple[str, ...]) -> bool:
        """Hold a part of a file that is stored already; return whether it is."""
        if file is None:
            return False
        self._stored.note(file, name)
        return self.hold_object(name, job=job, readers=readers)

    def _parts(self, ref: Ref) -> list[ObjectPart]:
        """Return the objects that make up a ref's content."""
        if self.encrypted and not ref.cipher:
            raise NotEncrypted(
                f"object {ref.sha256} is not encrypted, and this side requires it: set `encryption = on` at the "
                "side that stored it, or `off` at both"
            )
        if not ref.parts:
            return [ObjectPart(ref.sha256, 0, ref.size_bytes, ref.cipher, ref.key)]
        limit_bytes = MAX_SEALED_MANIFEST_BYTES if ref.cipher else MAX_MANIFEST_BYTES
        stored = self._fetch_manifest(ref, limit_bytes)
        if not ref.cipher:
            return PartManifest.decode(stored, size_bytes=ref.size_bytes).parts()
        found = SealedManifest.decode(unsealed(bytes.fromhex(ref.key), stored))
        if hashlib.sha256(found.manifest).hexdigest() != ref.sha256:
            raise _corrupt(ref, ref.sha256)
        return found.parts(size_bytes=ref.size_bytes)

    def _fetch_manifest(self, ref: Ref, limit_bytes: int) -> bytes:
        for _ in range(NUM_FETCHES):
            content = bytearray()
            for block in self.read_object(ref.stored_as, offset=0):
                content += block
                if len(content) > limit_bytes:
                    break
            if len(content) <= limit_bytes and hashlib.sha256(content).hexdigest() == ref.stored_as:
                return bytes(content)
        raise _corrupt(ref, ref.stored_as)

    def _pieces(self, part: ObjectPart, done: int) -> Iterator[bytes | memoryview]:
        """Yield the content of one object from `done` on, which is where a chunk begins if it is encrypted.

        Raises:
            ObjectCorrupt: it can't be decrypted.
        """
        if not part.cipher:
            yield from self.read_object(part.sha256, offset=done)
            return
        first = done // CHUNK_BYTES
        cipher = ChunkCipher(bytes.fromhex(part.key), part.size_bytes)
        stored = self.read_object(part.cipher, offset=offset_of(first))
        yield from opened_chunks(cipher, stored, first=first)

    def _fetch(
        self, ref: Ref, part: ObjectPart, descriptor: int, *, have: int, stop: threading.Event | None = None
    ) -> None:
        """Fetch one object to its place in an open file, which already has its first `have` bytes."""
        with self.meter.moving("down", part.size_bytes - have):
            _land(self._pieces, ref, part, descriptor, have=have, stop=stop)


def _load(pieces: Pieces, ref: Ref, part: ObjectPart) -> bytes:
    """Return one object's content, from its pieces, once they have its hash."""
    for _ in range(NUM_FETCHES):
        content = bytearray()
        try:
            for block in pieces(part, 0):
                content += block
                if len(content) > part.size_bytes:
                    break
        except ChunkCorrupt:
            continue
        if len(content) == part.size_bytes and hashlib.sha256(content).hexdigest() == part.sha256:
            return bytes(content)
    raise _corrupt(ref, part.sha256)


def _land(
    pieces: Pieces,
    ref: Ref,
    part: ObjectPart,
    descriptor: int,
    *,
    have: int,
    stop: threading.Event | None,
) -> None:
    """Write one object's pieces to its place in an open file until they have its hash."""
    for _ in range(NUM_FETCHES):
        hasher = hashlib.sha256()
        done = min(have, part.size_bytes)
        if part.cipher and done < part.size_bytes:
            done -= done % CHUNK_BYTES
        for block in read_blocks(descriptor, part.start, done):
            hasher.update(block)
        try:
            for fetched in pieces(part, done) if done < part.size_bytes else ():
                if stop is not None and stop.is_set():
                    raise _Stopped(f"object {part.sha256}: stopped, because another part failed")
                if done + len(fetched) > part.size_bytes:
                    done += len(fetched)
                    break
                hasher.update(fetched)
                write_at(descriptor, fetched, part.start + done)
                done += len(fetched)
        except ChunkCorrupt:
            done = -1
        if done == part.size_bytes and hasher.hexdigest() == part.sha256:
            return
        have = 0  # the wrong bytes may be among those of an earlier call
    raise _corrupt(ref, part.sha256)


def _blocks(source: Path | bytes | GrowingFile, start: int, size_bytes: int) -> Blocks:
    if isinstance(source, GrowingFile):
        return GrowingBlocks(source.path, start, size_bytes, source)
    return Blocks(source, start, size_bytes)


def _signs_of_change(plain: Blocks) -> tuple[int, ...]:
    """Return what of a file changes with its bytes: its number, size, and time of change.

    Empty for bytes. What is there of a file that grows stays, until it is given up: then another one may have its path.
    """
    if isinstance(plain, GrowingBlocks):
        return (int(plain.file.is_given_up),)
    if isinstance(plain.source, bytes):
        return ()
    found = plain.source.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _manifest_of(
    parts: Sequence[ObjectPart], size_bytes: int, part_bytes: int, secret: bytes
) -> tuple[Ref, bytes]:
    """Return the ref of a file in parts, and its manifest as it is stored: encrypted where there is a secret."""
    manifest = PartManifest(size_bytes, part_bytes, tuple(part.sha256 for part in parts)).encode()
    ref = Ref(hashlib.sha256(manifest).hexdigest(), size_bytes, parts=True)
    if not secret:
        return ref, manifest
    key = content_key(secret, ref.sha256, "parts")
    named = SealedManifest(manifest, tuple(p.cipher for p in parts), tuple(p.key for p in parts))
    stored = sealed(key, named.encode())
    return replace(ref, cipher=hashlib.sha256(stored).hexdigest(), key=key.hex()), stored


def _corrupt(ref: Ref, sha256: str) -> ObjectCorrupt:
    of = f" (part of {ref.sha256})" if sha256 != ref.sha256 else ""
    decrypted = ", decrypted," if ref.cipher else ""
    return ObjectCorrupt(
        f"object {sha256}{of}: fetched {NUM_FETCHES} times, and its bytes{decrypted} never had that hash: "
        "the party that stored it has to store it again"
    )


def _matches(descriptor: int, part: ObjectPart) -> bool:
    hasher = hashlib.sha256()
    for block in read_blocks(descriptor, part.start, part.size_bytes):
        hasher.update(block)
    return hasher.hexdigest() == part.sha256


def _size_of(source: Path | bytes | GrowingFile) -> int:
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, GrowingFile):
        return source.size_bytes
    try:
        if not source.is_file():
            raise SpecError(f"expected a file to put into the repository, found none at {source}")
        return source.stat().st_size
    except OSError as error:
        raise SpecError(f"can't read {source}: {error.strerror}") from error


def _in_parallel(work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Return the results in the order of the items; after the first failure no further item is begun."""
    with ThreadPoolExecutor(NUM_PARALLEL, thread_name_prefix="fedjob-parts") as pool:
        futures = [pool.submit(work, item) for item in items]
        for future in wait(futures, return_when=FIRST_EXCEPTION).not_done:
            future.cancel()
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in errors:
        if not isinstance(error, _Stopped):  # the failure itself, not the ends of the others that it caused
            raise error
    return [future.result() for future in futures]
