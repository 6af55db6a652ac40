"""The files of a worker, copied to the node: whole, within a limit, and on the disk where they have to be."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.errors import DecodeError
from fedjob.common.files import WRITEBACK_BYTES
from fedjob.execution.orders import WorkResult
from fedjob.messaging.messages import MAX_ATTACHED_BYTES, MAX_INLINE_BYTES, MAX_PAYLOAD_BYTES
from fedjob.node.execution.collection import copy_file, take_small
from fedjob.node.storage.spool import SMALL_NAME, SmallOutput, read_small
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


A = "a" * 64
SMALL = WorkResult(
    key=A, ok=True, params_path="anything", num_examples=3, value=7, timing={"total": math.nan}
)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Return the folder of what a worker gave: nothing yet."""
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "attempt").mkdir()
    return folder


def taken(given: Path, result: WorkResult, *, limit_bytes: int = 1 << 20) -> SmallOutput | None:
    """Take what a worker gave, as the daemon does."""
    folder = os.open(given, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return take_small(result, folder, given.parent / "attempt", limit_bytes=limit_bytes)
    finally:
        os.close(folder)


def test_a_small_output_lies_in_one_file_that_says_whether_it_is_whole(given: Path) -> None:
    (given / "params.safetensors").write_bytes(b"numbers")
    small = taken(given, SMALL)
    assert small is not None
    assert (small.params, small.result.params_path, small.result.timing) == (
        b"numbers",
        "params.safetensors",
        {},
    )
    folder = given.parent / "attempt"
    assert [path.name for path in folder.iterdir()] == [SMALL_NAME]
    assert read_small(folder) == small
    whole = (folder / SMALL_NAME).read_bytes()
    for cut in range(len(whole)):  # what a power cut leaves of it: a part, or zeros in place of the rest
        for left in (whole[:cut], whole[:cut].ljust(len(whole), b"\0")):
            (folder / SMALL_NAME).write_bytes(left)
            assert left == whole or read_small(folder) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"state_path": "state"},
        {"items_path": "items"},
        {"value": "x" * MAX_INLINE_BYTES},
        {"metrics": {"train": {"loss": "x" * MAX_INLINE_BYTES}}},
        {"optimizer_args": {"schedule": "x" * MAX_PAYLOAD_BYTES}},
    ],
    ids=str,
)
def test_what_is_large_or_leaves_something_at_the_node_is_not_taken_as_small(
    given: Path, fields: dict[str, Any]
) -> None:
    (given / "params.safetensors").write_bytes(b"numbers")
    assert taken(given, SMALL) is not None
    (given.parent / "attempt" / SMALL_NAME).unlink()
    assert taken(given, replace(SMALL, **fields)) is None
    assert [*(given.parent / "attempt").iterdir()] == [], "its files are taken one by one"


def test_the_limits_of_a_message_bound_the_parameters_that_are_taken_as_small(given: Path) -> None:
    params = given / "params.safetensors"
    params.write_bytes(bytes(MAX_ATTACHED_BYTES))
    assert taken(given, SMALL) is not None
    assert taken(given, SMALL, limit_bytes=MAX_ATTACHED_BYTES - 1) is None
    assert taken(given, replace(SMALL, optimizer_args={"note": "x" * 14_000})) is None, "both do not fit"
    params.write_bytes(bytes(MAX_ATTACHED_BYTES + 1))
    assert taken(given, SMALL) is None
    (given / "kept").symlink_to("/etc")
    params.write_bytes(b"numbers")
    assert taken(given, SMALL) is None, "files that stay here are copied one by one, or refused"


def test_only_a_regular_file_of_its_own_is_taken_as_small(given: Path, tmp_path: Path) -> None:
    params, secret = given / "params.safetensors", tmp_path / "secret"
    secret.write_bytes(b"secret")
    with pytest.raises(DecodeError, match="not there"):
        taken(given, SMALL)
    params.symlink_to(secret)
    with pytest.raises(DecodeError):
        taken(given, SMALL)
    params.unlink()
    os.link(secret, params)
    with pytest.raises(DecodeError, match="one name"):
        taken(given, SMALL)
    params.unlink()
    os.mkfifo(params)
    with pytest.raises(DecodeError, match="regular"):
        taken(given, SMALL)
    params.unlink()
    params.write_bytes(b"numbers")
    with pytest.raises(DecodeError, match="num_examples"):
        taken(given, replace(SMALL, num_examples=-1))


def test_a_failed_result_is_small_unless_its_words_are_many(given: Path) -> None:
    failed = WorkResult(key=A, ok=False, reason="exception", trace="x" * 1000)
    assert taken(given, failed) == SmallOutput(failed, None)
    assert taken(given, replace(failed, value=bytes(1 << 20))) is None
