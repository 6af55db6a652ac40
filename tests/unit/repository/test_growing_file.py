"""Files that grow while they are stored, and what becomes of parts whose file was not stored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedjob.common.errors import RepositoryUnreachable
from fedjob.common.files import BLOCK_BYTES, Blocks
from fedjob.repository.growing_file import GrowingBlocks, GrowingFile, NeverFinished
from fedjob.repository.memory import MemoryRepository

PART = 1000
CONTENT = os.urandom(5 * PART)


class Breaking(MemoryRepository):
    """A repository that stores so many objects, and then is away."""

    num_left = 99

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        self.num_left -= 1
        if self.num_left < 0:
            raise RepositoryUnreachable("the hub can't be reached")
        super().store_object(sha256, blocks, job=job, readers=readers)


class LosingAnswers(MemoryRepository):
    """A repository that stores objects, and whose answers get lost."""

    num_stored = 0

    def store_object(self, sha256: str, blocks: Blocks, *, job: str, readers: tuple[str, ...]) -> None:
        super().store_object(sha256, blocks, job=job, readers=readers)
        self.num_stored += 1
        raise RepositoryUnreachable("the hub can't be reached")


def test_a_file_that_was_cut_short_is_no_endless_wait(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "growing", 2 * BLOCK_BYTES, stalled_s=5)
    file.path.write_bytes(bytes(BLOCK_BYTES))
    file.grew(2 * BLOCK_BYTES)
    with pytest.raises(NeverFinished, match="did somebody cut it short"):
        list(GrowingBlocks(file.path, 0, 2 * BLOCK_BYTES, file))


def test_a_growing_file_becomes_whole_or_is_given_up(tmp_path: Path) -> None:
    whole, stalled = (GrowingFile(tmp_path / name, 10, stalled_s=0.01) for name in ("a", "b"))
    whole.grew(10)
    assert whole.becomes_whole()
    stalled.grew(9)
    assert not stalled.becomes_whole()
    assert stalled.is_given_up
    whole.give_up()
    assert not whole.becomes_whole()


def test_parts_of_a_file_that_was_not_stored_go_with_the_same_file_stored_later() -> None:
    repository = Breaking(part_bytes=PART)
    repository.num_left = 3
    with pytest.raises(RepositoryUnreachable):
        repository.put(CONTENT, job="job_1")
    assert len(repository._objects) == 3, "the next try need not send them again"
    repository.num_left = 99
    ref = repository.put(CONTENT, job="job_1")
    repository.delete(ref, job="job_1")
    assert repository._objects == {}


def test_of_a_growing_file_that_is_given_up_nothing_stays_though_its_storing_had_failed(
    tmp_path: Path,
) -> None:
    """What was stored and never answered is removed as well."""
    repository = LosingAnswers(part_bytes=PART)
    file = GrowingFile(tmp_path / "growing", len(CONTENT), stalled_s=0.5)
    file.path.write_bytes(CONTENT)
    file.grew(len(CONTENT) - 1)
    with pytest.raises(RepositoryUnreachable):
        repository.put(file, job="job_1")
    assert repository.num_stored >= 1
    assert repository._objects == {}
