"""Files of a home: who holds a lock, how long others wait for it, and what has reached the disk."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedjob.common.errors import NoSpace, RepositoryError
from fedjob.common.files import (
    fsync_together,
    is_locked,
    lock,
    no_space_is_an_error,
    open_locked,
    take_lock,
    write_atomic,
)
from tests.on_disk import in_memory_alone, need_a_disk_that_waits


def test_a_lock_has_one_holder_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    held = open_locked(path)
    assert held is not None
    assert is_locked(path)
    assert open_locked(path, wait_s=0.05) is None
    os.close(held)
    assert not is_locked(path)
    with lock(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_shared_lock_has_several_holders_and_nobody_beside_them(tmp_path: Path) -> None:
    first, second, third = (os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(3))
    assert take_lock(first, shared=True)
    assert take_lock(second, shared=True)
    assert not take_lock(third)
    os.close(first)
    os.close(second)
    assert take_lock(third)
    os.close(third)


def test_a_lock_is_let_go_where_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path / "lock"):
        raise KeyError("inside")
    assert not is_locked(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_so(tmp_path: Path, number: int) -> None:
    with pytest.raises(NoSpace, match="free some"), no_space_is_an_error(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_trouble_with_a_file_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Permission denied"), no_space_is_an_error(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("number", [1, 2, 5, 150])
def test_files_that_are_synced_together_are_all_on_the_disk(tmp_path: Path, number: int) -> None:
    need_a_disk_that_waits(tmp_path)
    files = [tmp_path / str(k) for k in range(number)]
    for file in files:
        file.write_bytes(os.urandom(1000))
    opened = os.open(tmp_path / "open", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(opened, os.urandom(1000))
    assert all(in_memory_alone(file) for file in (*files, tmp_path / "open"))
    fsync_together([tmp_path, *files], opened)
    assert not any(in_memory_alone(file) for file in (*files, tmp_path / "open"))
    os.close(opened)
    fsync_together([])


def test_a_file_that_can_not_be_synced_is_an_error_and_no_descriptor_is_left_open(tmp_path: Path) -> None:
    files = [tmp_path / str(k) for k in range(3)]
    for file in files:
        file.touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        fsync_together([*files, tmp_path / "not-there"])
    inlet, outlet = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        fsync_together(files, outlet)
    os.close(inlet)
    os.close(outlet)
    assert os.listdir("/proc/self/fd") == before


def test_threads_that_write_one_file_leave_one_of_their_texts_whole(tmp_path: Path) -> None:
    path, texts = tmp_path / "record", [bytes([65 + k]) * 5000 for k in range(8)]
    with ThreadPoolExecutor(len(texts)) as pool:
        for _ in range(20):
            list(pool.map(lambda text: write_atomic(path, text), texts))
            assert path.read_bytes() in texts
    assert [each.name for each in tmp_path.iterdir()] == ["record"]
