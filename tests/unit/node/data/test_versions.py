from __future__ import annotations

import os
from pathlib import Path

from fedjob.node.data.versions import END_BYTES, WHOLE_BYTES, Versions


def version(path: Path) -> str:
    return Versions().of(str(path))


def test_the_same_content_has_the_same_version_wherever_and_whenever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1,2\n")
    os.utime(tmp_path / "b", (1, 1))
    assert len(version(tmp_path / "a")) == 64
    assert version(tmp_path / "a") == version(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"1,3\n")
    assert version(tmp_path / "a") != version(tmp_path / "b")
    assert version(tmp_path / "none") == ""


def test_a_folder_changes_with_any_file_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "ward").mkdir(parents=True)
    seen = {version(folder)}
    for change in (
        lambda: (folder / "1.png").write_bytes(b"1"),
        lambda: (folder / "ward" / "2.png").write_bytes(b"2"),
        lambda: (folder / "ward" / "2.png").rename(folder / "2.png"),
        lambda: (folder / "1.png").write_bytes(b"3"),
        lambda: (folder / "1.png").unlink(),
    ):
        change()
        seen.add(version(folder))
    assert len(seen) == 6


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "1.png").write_bytes(b"1")
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to(tmp_path / "none")
    (folder / "again").symlink_to(folder)
    first = version(folder)
    assert len(first) == 64
    (folder / "1.png").write_bytes(b"2")
    assert version(folder) != first


def test_of_a_large_file_ends_size_and_time_count(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(WHOLE_BYTES + 3 * END_BYTES)
    os.utime(path, (1, 1))
    first = version(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, (1, 1))
    second = version(path)
    os.utime(path, (2, 2))
    assert len({first, second, version(path)}) == 3


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    versions = Versions()
    first = versions.of(str(path))
    path.write_bytes(b"2")
    assert versions.of(str(path)) == first  # looked at a moment ago
