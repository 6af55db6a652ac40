"""The files of a worker, copied to the node: whole, within a limit, and on the disk where they have to be."""

from __future__ import annotations

import os
from pathlib import Path

from fedjob.common.files import WRITEBACK_BYTES
from fedjob.node.execution.collection import copy_file
from tests.on_disk import in_memory_alone, need_a_disk_that_waits


def test_a_durable_copy_is_on_the_disk_and_has_the_same_bytes(tmp_path: Path) -> None:
    need_a_disk_that_waits(tmp_path)
    content = os.urandom(2 * WRITEBACK_BYTES + 12_345)
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "params").write_bytes(content)
    folder = os.open(tmp_path / "given", os.O_RDONLY | os.O_DIRECTORY)
    try:
        size = copy_file(folder, "params", tmp_path / "copy", limit_bytes=len(content), durable=True)
    finally:
        os.close(folder)
    assert size == len(content)
    assert (tmp_path / "copy").read_bytes() == content
    assert not in_memory_alone(tmp_path / "copy")
