"""The contract tests of repositories, which store immutable objects by their hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedjob.common.errors import DecodeError, ObjectCorrupt, ObjectMissing, ObjectTooLarge, SpecError
from fedjob.common.files import Blocks
from fedjob.common.types import Ref
from fedjob.repository.base import Repository
from fedjob.repository.growing_file import GrowingFile, NeverFinished
from fedjob.repository.parts import PartManifest

PART_BYTES = 64 << 10
"""The size of a part in the repositories of the suite."""


class RepositoryContract:
    """The tests that every repository passes, wherever it stores its objects."""

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Repository:
        """Return an empty repository with parts of `PART_BYTES`."""
        raise NotImplementedError

    def spoil(self, repository: Repository, sha256: str, change: Callable[[bytes], bytes]) -> None:
        """Change the stored bytes of an object behind the repository's back."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 5 * PART_BYTES + 7])
    def test_a_file_comes_back_as_it_was(self, repository: Repository, tmp_path: Path, size: int) -> None:
        source = _file(tmp_path / "source", size)
        ref = repository.put(source, job="job_1", readers=["node-a"])
        assert (ref.size_bytes, ref.parts) == (size, size > PART_BYTES)
        assert repository.exists(ref)
        assert repository.get(ref, tmp_path / "copy").read_bytes() == source.read_bytes()
        assert repository.get_bytes(ref, limit_bytes=size) == source.read_bytes()
        assert not list(tmp_path.glob(".*.part"))

    def test_bytes_and_a_file_of_the_same_content_have_the_same_name(
        self, repository: Repository, tmp_path: Path
    ) -> None:
        source = _file(tmp_path / "source", 2 * PART_BYTES + 1)
        ref = repository.put(source, job="job_1")
        assert repository.put(source.read_bytes(), job="job_1") == ref
        small = repository.put(b"small", job="job_1")
        assert small.sha256 == hashlib.sha256(b"small").hexdigest()

    def test_what_has_no_name_yet_is_stored_under_its_hash(self, repository: Repository) -> None:
        for size in (0, 1, PART_BYTES):
            content, names = os.urandom(size), list[str]()
            name = repository.store_unnamed(
                Blocks(content, 0, size), job="job_1", readers=(), named=names.append
            )
            assert name == hashlib.sha256(content).hexdigest()
            assert names == [name]
            assert repository.get_bytes(Ref(name, size), limit_bytes=size) == content

    def test_putting_again_succeeds(self, repository: Repository) -> None:
        assert repository.put(b"again", job="job_1") == repository.put(b"again", job="job_2")

    def test_a_right_file_is_kept_and_a_wrong_one_replaced(
        self, repository: Repository, tmp_path: Path
    ) -> None:
        for content in (os.urandom(1000), os.urandom(3 * PART_BYTES)):
            ref = repository.put(content, job="job_1")
            path = repository.get(ref, tmp_path / ref.sha256)
            number = path.stat().st_ino
            assert repository.get(ref, path).stat().st_ino == number
            path.write_bytes(bytes(len(content)))
            assert repository.get(ref, path).read_bytes() == content

    @pytest.mark.parametrize("size", [1000, 3 * PART_BYTES])
    def test_what_an_interrupted_download_left_is_taken_up_and_checked(
        self, repository: Repository, tmp_path: Path, size: int
    ) -> None:
        content = os.urandom(size)
        ref = repository.put(content, job="job_1")
        for left in (content[: size // 2], content, bytes(size // 2), bytes(size), bytes(size + 5), b""):
            path = tmp_path / "copy"
            path.with_name(f".copy.{ref.sha256[:16]}.part").write_bytes(left)
            assert repository.get(ref, path).read_bytes() == content
            path.unlink()
            assert not list(tmp_path.glob(".*.part"))

    def test_a_missing_object_is_logged_by_name(self, repository: Repository, tmp_path: Path) -> None:
        ref = Ref("ab" * 32, 10)
        assert not repository.exists(ref)
        for fetch in (
            lambda: repository.get(ref, tmp_path / "copy"),
            lambda: repository.get_bytes(ref, limit_bytes=10),
            lambda: repository.get(Ref("ab" * 32, 10, parts=True), tmp_path / "copy"),
        ):
            with pytest.raises(ObjectMissing, match="ab" * 32):
                fetch()
        assert not list(tmp_path.glob("*copy*"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: bytes([content[0] ^ 1]) + content[1:],
            lambda content: content[:-1],
            lambda content: content + b"x",
            lambda content: b"",
            lambda content: b"another object" + content[14:],
        ],
        ids=["flipped", "truncated", "longer", "empty", "swapped"],
    )
    @pytest.mark.parametrize("size", [1000, 3 * PART_BYTES])
    def test_a_spoiled_object_is_refused_by_name_until_it_is_put_again(
        self, repository: Repository, tmp_path: Path, change: Callable[[bytes], bytes], size: int
    ) -> None:
        content = os.urandom(size)
        ref = repository.put(content, job="job_1")
        spoiled = hashlib.sha256(content[:PART_BYTES]).hexdigest()
        self.spoil(repository, spoiled, change)
        with pytest.raises(ObjectCorrupt, match=spoiled):
            repository.get(ref, tmp_path / "copy")
        with pytest.raises(ObjectCorrupt, match=spoiled):
            repository.get_bytes(ref, limit_bytes=size)
        assert not list(tmp_path.glob("*copy*"))
        repository.put(content[:PART_BYTES], job="job_1")
        assert repository.get(ref, tmp_path / "copy").read_bytes() == content

    def test_a_spoiled_manifest_is_refused_by_name(self, repository: Repository, tmp_path: Path) -> None:
        ref = repository.put(os.urandom(3 * PART_BYTES), job="job_1")
        self.spoil(repository, ref.sha256, lambda content: content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ObjectCorrupt, match=ref.sha256):
            repository.get(ref, tmp_path / "copy")

    def test_a_manifest_that_lies_is_refused(self, repository: Repository, tmp_path: Path) -> None:
        for content in (PartManifest(10, 5, ("ab" * 32, "cd" * 32)).encode(), b"no manifest", b"\xc1", b""):
            ref = repository.put(content, job="job_1")
            with pytest.raises(DecodeError):
                repository.get(Ref(ref.sha256, 11, parts=True), tmp_path / "copy")
        assert not list(tmp_path.glob("*copy*"))

    def test_a_ref_with_the_wrong_size_is_refused(self, repository: Repository, tmp_path: Path) -> None:
        ref = repository.put(b"twelve bytes", job="job_1")
        for size in (0, 11, 13):
            with pytest.raises(ObjectCorrupt, match=ref.sha256):
                repository.get(Ref(ref.sha256, size), tmp_path / "copy")

    def test_too_much_for_memory_is_refused_before_it_is_fetched(self, repository: Repository) -> None:
        ref = repository.put(bytes(100), job="job_1")
        with pytest.raises(ObjectTooLarge, match="99"):
            repository.get_bytes(ref, limit_bytes=99)

    def test_the_end_of_a_job_removes_what_no_other_job_holds(self, repository: Repository) -> None:
        large = os.urandom(2 * PART_BYTES)
        shared, own = repository.put(large, job="job_1"), repository.put(b"own", job="job_1")
        assert repository.put(large, job="job_2") == shared
        repository.end_job("job_1")
        assert not repository.exists(own)
        assert repository.get_bytes(shared, limit_bytes=len(large)) == large
        repository.end_job("job_2")
        assert not repository.exists(shared)
        repository.end_job("job_2")  # again, and of a job that never was: no error
        repository.end_job("job_3")

    def test_a_deleted_object_is_gone_with_its_parts(self, repository: Repository) -> None:
        content = os.urandom(2 * PART_BYTES)
        ref = repository.put(content, job="job_1")
        part = Ref(hashlib.sha256(content[:PART_BYTES]).hexdigest(), PART_BYTES)
        assert repository.exists(part)
        repository.delete(ref, job="job_1")
        assert not repository.exists(ref)
        assert not repository.exists(part)
        repository.delete(ref, job="job_1")

    @pytest.mark.parametrize("size", [100, 2 * PART_BYTES])
    def test_what_one_job_deletes_stays_for_another_that_has_the_same_bytes(
        self, repository: Repository, size: int
    ) -> None:
        content = os.urandom(size)
        first, second = (repository.put(content, job=job) for job in ("job_1", "job_2"))
        assert first == second
        repository.delete(first, job="job_1")
        assert repository.get_bytes(second, limit_bytes=size) == content
        repository.delete(second, job="job_3")  # which never had it
        assert repository.get_bytes(second, limit_bytes=size) == content
        repository.delete(second, job="job_2")
        assert not repository.exists(second)

    def test_a_part_of_two_files_stays_until_both_are_deleted(self, repository: Repository) -> None:
        shared, one, other = (os.urandom(PART_BYTES) for _ in range(3))
        first, second = (repository.put(shared + own, job="job_1") for own in (one, other))
        repository.delete(first, job="job_1")
        assert repository.get_bytes(second, limit_bytes=second.size_bytes) == shared + other
        again = repository.put(shared + one, job="job_1")
        repository.delete(second, job="job_1")
        assert repository.get_bytes(again, limit_bytes=again.size_bytes) == shared + one
        repository.delete(again, job="job_1")
        assert not repository.has_object(hashlib.sha256(shared).hexdigest())

    @pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 7])
    def test_a_file_is_stored_while_it_is_written(
        self, repository: Repository, tmp_path: Path, size: int
    ) -> None:
        content = os.urandom(size)
        file = GrowingFile(tmp_path / "growing", size, stalled_s=60)
        with ThreadPoolExecutor(1) as pool:
            stored = pool.submit(repository.put, file, job="job_1", readers=["node-a"])
            with file.path.open("wb", buffering=0) as growing:
                for start in range(0, size, 10_000):
                    growing.write(content[start : start + 10_000])
                    file.grew(growing.tell())
            ref = stored.result(60)
        assert repository.put(content, job="job_1") == ref
        assert repository.get_bytes(ref, limit_bytes=size) == content

    @pytest.mark.parametrize("written", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7])
    def test_nothing_stays_of_a_file_that_is_given_up(
        self, repository: Repository, tmp_path: Path, written: int
    ) -> None:
        content = os.urandom(4 * PART_BYTES)
        file = GrowingFile(tmp_path / "growing", len(content), stalled_s=60)
        with ThreadPoolExecutor(1) as pool:
            stored = pool.submit(repository.put, file, job="job_1")
            file.path.write_bytes(content[:written])
            file.grew(written)
            file.give_up()
            with pytest.raises(NeverFinished, match=f"expected {len(content)} bytes"):
                stored.result(60)
        for start in range(0, len(content), PART_BYTES):
            name = hashlib.sha256(content[start : start + PART_BYTES]).hexdigest()
            assert not repository.has_object(name)
        assert repository.get_bytes(repository.put(content, job="job_1"), limit_bytes=1 << 20) == content

    def test_several_threads_get_what_they_asked_for(self, repository: Repository, tmp_path: Path) -> None:
        contents = [os.urandom(PART_BYTES // 4 * (1 + i % 9)) for i in range(12)]
        with ThreadPoolExecutor(6) as pool:
            refs = list(pool.map(lambda content: repository.put(content, job="job_1"), contents))
            paths = list(pool.map(lambda ref: repository.get(ref, tmp_path / ref.sha256), refs))
            same = list(pool.map(lambda _: repository.get(refs[8], tmp_path / "same"), range(6)))
        assert [path.read_bytes() for path in paths] == contents
        assert same[0].read_bytes() == contents[8]
        assert not list(tmp_path.glob(".*.part"))

    def test_wrong_arguments_say_what_was_expected(self, repository: Repository, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="expected a file"):
            repository.put(tmp_path / "nowhere", job="job_1")
        with pytest.raises(SpecError, match="expected a file"):
            repository.put(tmp_path, job="job_1")
        for job in ("", "../up", "a/b", "x" * 200, "a\nb", ".hidden"):
            with pytest.raises(SpecError, match="a job is named"):
                repository.put(b"", job=job)
        with pytest.raises(SpecError, match="a party is named"):
            repository.put(b"", job="job_1", readers=["Node A"])


def _file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path
