"""Objects that a repository holds encrypted: what it sees, what is refused, and what goes on after an interruption."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import (
    ConfigError,
    FedjobError,
    NotEncrypted,
    ObjectCorrupt,
    ObjectMissing,
    RepositoryUnreachable,
    SpecError,
)
from fedjob.common.files import Blocks
from fedjob.common.sealing.chunks import CHUNK_BYTES, TAG_BYTES, sealed_size
from fedjob.common.types import Ref
from fedjob.repository.growing_file import GrowingFile
from fedjob.repository.job_secrets import MAX_NAMES, JobSecrets
from fedjob.repository.memory import MemoryRepository
from fedjob.repository.parts import MAX_OBJECT_BYTES, PART_BYTES, SealedManifest, ref_of

JOB = "job_0b6e1f0a-0000-4000-8000-000000000001"
OTHER = "job_0b6e1f0a-0000-4000-8000-000000000002"
PART = 2 * CHUNK_BYTES
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
CONTENT = os.urandom(2 * PART + CHUNK_BYTES + 5)


class Counting(MemoryRepository):
    """A repository that counts what it is sent and asked for, and may break off."""

    def __init__(self) -> None:
        super().__init__(part_bytes=PART)
        self.stored = 0
        self.unnamed = 0
        self.asked: list[tuple[str, int]] = []
        self.breaks_after: int | None = None

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        self.stored += 1
        super().store_object(sha256, blocks, job=job, readers=readers)

    def store_unnamed(self, blocks: Blocks, **about: Any) -> str:
        self.unnamed += 1
        return super().store_unnamed(blocks, **about)

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        self.asked.append((sha256, offset))
        sent = 0
        for block in super().read_object(sha256, offset=offset):
            if self.breaks_after is not None and sent + len(block) > self.breaks_after:
                yield bytes(block)[: self.breaks_after - sent]
                raise RepositoryUnreachable("the line is cut")
            sent += len(block)
            yield block


@pytest.fixture
def repository(tmp_path: Path) -> Counting:
    return encrypting(tmp_path / "keys")


def encrypting(folder: Path) -> Counting:
    made = Counting()
    made.encrypt(JobSecrets(folder), encrypted=True)
    return made


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, PART, PART + 1, len(CONTENT)])
def test_a_file_comes_back_under_its_own_hash_and_the_repository_holds_none_of_it(
    size: int, repository: Counting, tmp_path: Path
) -> None:
    content = CONTENT[:size]
    ref = repository.put(content, job=JOB)
    assert ref == ref_of(content, PART), "the name of the content is another than where nobody encrypts"
    assert repository.get(ref, tmp_path / "copy").read_bytes() == content
    assert repository.get_bytes(ref, limit_bytes=size) == content
    assert repository.exists(ref)
    assert not repository.exists(ref.keyless)
    for name, stored in repository._objects.items():
        assert hashlib.sha256(stored).hexdigest() == name
        assert size < 32 or not any(
            content[at : at + 32] in stored for at in range(0, size - 31, CHUNK_BYTES)
        )
    repository.delete(ref, job=JOB)
    assert repository._objects == {}


def test_the_key_is_in_no_word_that_is_logged(repository: Counting) -> None:
    ref = repository.put(b"secret", job=JOB)
    assert ref.key not in repr(ref)
    assert ref.key not in repr(ref.keyless)
    assert ref.keyless.key == ref.keyless.cipher == ""
    parts = repository._parts(repository.put(CONTENT, job=JOB))
    assert not any(part.key in repr(part) for part in parts)
    assert parts[0].key not in repr(SealedManifest(b"", ("a",), (parts[0].key,)))
    assert repr(repository.secrets).startswith("JobSecrets(")


def test_the_same_content_is_stored_once_in_a_job_and_under_another_name_in_another(
    repository: Counting,
) -> None:
    first, again, other = (repository.put(b"same", job=job) for job in (JOB, JOB, OTHER))
    assert (first.cipher, first.key) == (again.cipher, again.key)
    assert first == other
    assert first.cipher != other.cipher
    assert len(repository._objects) == 2


def test_an_upload_that_was_interrupted_goes_on_in_another_process(tmp_path: Path) -> None:
    """The job's secret is in the home, so that the parts have the names by which the repository has them."""
    repository = encrypting(tmp_path / "keys")
    ref = repository.put(CONTENT, job=JOB)
    sent = repository.stored
    repository.encrypt(JobSecrets(tmp_path / "keys"), encrypted=True)  # as a new process does
    again = repository.put(CONTENT, job=JOB)
    assert (again.cipher, again.key) == (ref.cipher, ref.key)
    assert repository.stored == sent + 1, "parts were sent again, not the manifest alone"


def test_what_this_process_stored_is_sent_once_and_encrypted_in_the_pass_that_sends_it(
    repository: Counting,
) -> None:
    ref = repository.put(CONTENT, job=JOB)
    assert repository.unnamed == 3, "a part was gone through for its name before it was sent"
    again = repository.put(CONTENT, job=JOB)
    assert (again.cipher, again.key) == (ref.cipher, ref.key)
    assert (repository.unnamed, repository.stored) == (3, 3 + 2), (
        "parts were sent again, not the manifest alone"
    )


def test_a_part_that_the_repository_has_lost_is_sent_again(repository: Counting, tmp_path: Path) -> None:
    ref = repository.put(CONTENT, job=JOB)
    repository._objects.pop(repository._parts(ref)[1].stored_as)
    assert repository.put(CONTENT, job=JOB).cipher == ref.cipher
    assert repository.get(ref, tmp_path / "copy").read_bytes() == CONTENT


def test_a_source_that_changes_while_it_is_sent_is_refused_and_leaves_nothing(
    repository: Counting, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT[:1000])
    store = repository.store_unnamed

    def change_meanwhile(blocks: Blocks, **about: Any) -> str:
        source.write_bytes(CONTENT[1000:2001])
        return store(blocks, **about)

    repository.store_unnamed = change_meanwhile  # type: ignore[method-assign]
    with pytest.raises(ObjectCorrupt, match="changed while"):
        repository.put(source, job=JOB)
    assert repository._objects == {}


def test_a_download_that_was_cut_goes_on_at_the_last_whole_chunk(
    repository: Counting, tmp_path: Path
) -> None:
    content = CONTENT[:PART]
    ref = repository.put(content, job=JOB)
    repository.breaks_after = SEALED_CHUNK + 1000
    with pytest.raises(RepositoryUnreachable):
        repository.get(ref, tmp_path / "copy")
    repository.breaks_after = None
    (half,) = tmp_path.glob(".copy.*")
    assert half.stat().st_size == CHUNK_BYTES
    with half.open("ab") as file:
        file.write(b"half of a chunk that was never whole")
    repository.asked.clear()
    assert repository.get(ref, tmp_path / "copy").read_bytes() == content
    assert repository.asked == [(ref.cipher, SEALED_CHUNK)]


def swapped(objects: dict[str, bytes], one: str, two: str) -> None:
    objects[one], objects[two] = objects[two], objects[one]


CHANGES: dict[str, Callable[[dict[str, bytes], str, str], None]] = {
    "a flipped bit": lambda objects, name, _: objects.update(
        {name: objects[name][:-5] + bytes([objects[name][-5] ^ 1]) + objects[name][-4:]}
    ),
    "a cut end": lambda objects, name, _: objects.update({name: objects[name][:-1]}),
    "a cut chunk": lambda objects, name, _: objects.update(
        {name: objects[name][: min(SEALED_CHUNK, len(objects[name]) // 2)]}
    ),
    "nothing left": lambda objects, name, _: objects.update({name: b""}),
    "more at the end": lambda objects, name, _: objects.update({name: objects[name] + b"x"}),
    "another object of the job": swapped,
    "plain bytes": lambda objects, name, _: objects.update({name: CONTENT[: len(objects[name])]}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [40, CHUNK_BYTES + 7, PART + 7])
def test_what_the_repository_changed_is_refused_by_name_and_leaves_no_file(
    change: str, size: int, repository: Counting, tmp_path: Path
) -> None:
    ref = repository.put(CONTENT[:size], job=JOB)
    other = repository.put(os.urandom(size), job=JOB)
    name, foreign = ref.stored_as, other.stored_as
    if size > PART:
        name, foreign = repository._parts(ref)[0].stored_as, repository._parts(other)[0].stored_as
    CHANGES[change](repository._objects, name, foreign)
    with pytest.raises(ObjectCorrupt, match="decrypted"):
        repository.get_bytes(ref, limit_bytes=size)
    with pytest.raises(ObjectCorrupt, match="decrypted"):
        repository.get(ref, tmp_path / "copy")
    assert not list(tmp_path.glob("*copy*"))


def test_a_manifest_that_the_repository_changed_is_refused(repository: Counting) -> None:
    ref, other = repository.put(CONTENT, job=JOB), repository.put(CONTENT + b"x", job=JOB)
    swapped(repository._objects, ref.cipher, other.cipher)
    with pytest.raises(ObjectCorrupt):
        repository.get_bytes(ref, limit_bytes=len(CONTENT))


def test_a_ref_that_names_another_content_than_it_brings_is_refused(
    repository: Counting, tmp_path: Path
) -> None:
    """The owner who approved a plan by its hash gets that plan, whatever its researcher encrypted."""
    approved, other = repository.put(b"approved", job=JOB), repository.put(b"replaced", job=JOB)
    for wrong in (
        replace(approved, cipher=other.cipher, key=other.key),
        replace(approved, key=other.key),
        replace(approved, cipher=other.cipher),
        replace(approved, size_bytes=7),
        replace(approved, parts=True),
    ):
        with pytest.raises(FedjobError):
            repository.get_bytes(wrong, limit_bytes=100)
        with pytest.raises(FedjobError):
            repository.get(wrong, tmp_path / "copy")
    large = repository.put(CONTENT, job=JOB)
    with pytest.raises(FedjobError):
        repository.get_bytes(replace(large, sha256="ab" * 32), limit_bytes=len(CONTENT))


def test_a_plain_object_is_refused_where_encryption_is_required_and_an_encrypted_one_is_read_where_it_is_not(
    repository: Counting,
) -> None:
    secrets = repository.secrets
    assert secrets is not None
    sealed = repository.put(b"sealed", job=JOB)
    repository.encrypt(secrets, encrypted=False)
    plain = repository.put(b"plain", job=JOB)
    assert (plain.cipher, plain.key) == ("", "")
    assert repository.get_bytes(sealed, limit_bytes=10) == b"sealed"
    repository.encrypt(secrets, encrypted=True)
    with pytest.raises(NotEncrypted, match="encryption = on"):
        repository.get_bytes(plain, limit_bytes=10)
    with pytest.raises(NotEncrypted):
        repository.get_bytes(sealed.keyless, limit_bytes=10)


def test_an_encrypted_object_that_is_gone_is_missed_by_name(repository: Counting) -> None:
    ref = repository.put(b"gone", job=JOB)
    repository.end_job(JOB)
    with pytest.raises(ObjectMissing):
        repository.get_bytes(ref, limit_bytes=10)


@pytest.mark.parametrize(
    "names", [("ab" * 32, ""), ("", "ab" * 32), ("AB" * 32, "ab" * 32), ("ab" * 32, "x")]
)
def test_a_ref_with_half_a_key_is_none(names: tuple[str, str]) -> None:
    with pytest.raises(SpecError, match="its name and its key"):
        Ref("ab" * 32, 1, cipher=names[0], key=names[1])


def test_the_largest_part_has_room_at_the_hub() -> None:
    assert sealed_size(PART_BYTES) == MAX_OBJECT_BYTES


# -- the secrets of a home --------------------------------------------------------------


def test_a_secret_is_the_same_for_all_processes_of_a_home_and_its_own_for_each_job(tmp_path: Path) -> None:
    one, two = JobSecrets(tmp_path / "keys"), JobSecrets(tmp_path / "keys")
    assert one.of(JOB) == two.of(JOB) == one.of(JOB)
    assert len({one.of(JOB), one.of(OTHER), JobSecrets(tmp_path / "else").of(JOB)}) == 3
    assert stat.S_IMODE((tmp_path / "keys" / JOB).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [JOB, OTHER]


def test_what_is_no_job_has_a_secret_of_this_process_alone(tmp_path: Path) -> None:
    secrets = JobSecrets(tmp_path / "keys")
    for name in ("mock.ab", f"{JOB}.watch", "..", "a/b"):
        assert secrets.of(name) == secrets.of(name) != JobSecrets(tmp_path / "keys").of(name)
    assert not (tmp_path / "keys").exists()


def test_a_destroyed_secret_is_gone_and_the_next_is_another(tmp_path: Path) -> None:
    secrets = JobSecrets(tmp_path / "keys")
    before = secrets.of(JOB)
    for _ in range(2):
        secrets.destroy(JOB)
        assert not (tmp_path / "keys" / JOB).exists()
    assert secrets.of(JOB) != before


def test_only_secrets_of_jobs_that_are_over_are_removed(tmp_path: Path) -> None:
    secrets = JobSecrets(tmp_path / "keys")
    kept = secrets.of(JOB)
    secrets.of(OTHER)
    (tmp_path / "keys" / "notes").write_text("the owner's")
    (tmp_path / "keys" / f".{OTHER}.0123456789abcdef").write_bytes(b"left by a kill")
    secrets.keep({JOB})
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [JOB, "notes"]
    assert JobSecrets(tmp_path / "keys").of(JOB) == kept


def test_names_of_what_was_stored_are_known_to_the_process_that_made_the_secret_until_the_job_ends(
    tmp_path: Path,
) -> None:
    made, other = JobSecrets(tmp_path / "keys"), JobSecrets(tmp_path / "keys")
    for secrets, job, is_fresh in (
        (made, JOB, True), (other, JOB, False), (made, "mock.ab", True), (other, "mock.ab", True)
    ):  # fmt: skip
        assert secrets.is_fresh(job) == is_fresh
        assert secrets.name_of(job, "ab" * 32) == ""
        secrets.note_name(job, "ab" * 32, "cd" * 32)
        assert secrets.name_of(job, "ab" * 32) == "cd" * 32
        assert secrets.name_of(job, "ef" * 32) == secrets.name_of(OTHER, "ab" * 32) == ""
    made.destroy(JOB)
    made.note_name(JOB, "ab" * 32, "cd" * 32)  # an upload that ended after its job
    assert made.name_of(JOB, "ab" * 32) == ""
    other.keep(())
    assert other.name_of(JOB, "ab" * 32) == ""


def test_the_oldest_of_many_names_are_forgotten(tmp_path: Path) -> None:
    secrets = JobSecrets(tmp_path / "keys")
    secrets.of(JOB)
    for number in range(MAX_NAMES + 1):
        secrets.note_name(JOB, f"{number:064x}", "cd" * 32)
    assert secrets.name_of(JOB, f"{0:064x}") == ""
    assert secrets.name_of(JOB, f"{1:064x}") == "cd" * 32


def test_a_damaged_secret_is_named(tmp_path: Path) -> None:
    (tmp_path / JOB).write_bytes(b"short")
    with pytest.raises(ConfigError, match="32 bytes"):
        JobSecrets(tmp_path).of(JOB)
    (tmp_path / OTHER).mkdir()
    with pytest.raises(ConfigError, match="can't be used"):
        JobSecrets(tmp_path).of(OTHER)


@pytest.mark.parametrize("size", [1, PART, PART + 1, len(CONTENT)])
def test_a_file_that_is_encrypted_while_it_is_written_has_the_ref_of_a_whole_one(
    size: int, repository: Counting, tmp_path: Path
) -> None:
    file = GrowingFile(tmp_path / "growing", size, stalled_s=60)
    with ThreadPoolExecutor(1) as pool:
        stored = pool.submit(repository.put, file, job=JOB)
        with file.path.open("wb", buffering=0) as growing:
            for start in range(0, size, CHUNK_BYTES // 3):
                growing.write(CONTENT[:size][start : start + CHUNK_BYTES // 3])
                file.grew(growing.tell())
        ref = stored.result(60)
    assert ref == repository.put(CONTENT[:size], job=JOB)
    assert repository.get_bytes(ref, limit_bytes=size) == CONTENT[:size]


def test_a_part_of_two_encrypted_files_stays_until_both_are_deleted(repository: Counting) -> None:
    other = CONTENT[:PART] + os.urandom(PART)
    first, second = (repository.put(content, job=JOB) for content in (CONTENT, other))
    repository.delete(first, job=JOB)
    assert repository.get_bytes(second, limit_bytes=len(other)) == other
