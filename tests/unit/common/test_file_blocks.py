"""Content a block at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fedjob.common.files import BLOCK_BYTES, Blocks


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 1])
def test_a_file_and_bytes_yield_the_same(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    for source in (content[:size], tmp_path / "file"):
        blocks = Blocks(source, 0, size)
        for _ in range(2):  # again and again
            assert b"".join(map(bytes, blocks)) == content[:size]
        assert len(blocks) == size
        assert blocks.sha256() == hashlib.sha256(content[:size]).hexdigest()


def test_a_range_is_a_range_of_either(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    for source in (b"0123456789", tmp_path / "file"):
        assert [bytes(block) for block in Blocks(source, 3, 4)] == [b"3456"]


def test_a_file_that_got_shorter_ends_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"012")
    assert [bytes(block) for block in Blocks(tmp_path / "file", 0, 10)] == [b"012"]
