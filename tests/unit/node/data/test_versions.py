from __future__ import annotations

import hashlib
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedjob.identity.keys import load_or_create_secret
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.data.versions import END_BYTES, WHOLE_BYTES, Versions
from fedjob.node.storage.database import Database


def datasets_of(home: Path) -> Datasets:
    home.mkdir(exist_ok=True)
    return Datasets(Database(home / "node.sqlite"))


def test_nobody_outside_of_the_node_can_confirm_a_guess_at_the_content(tmp_path: Path) -> None:
    """Attack M6: a patient's one unknown bit was found by hashing both tables."""
    table = tmp_path / "table.csv"
    seen = set()
    for node in ("a", "b"):
        datasets = datasets_of(tmp_path / node)
        guesses = []
        for bit in (0, 1):
            table.write_text(f"age,sick\n61,{bit}\n")
            guesses.append(Versions().of(str(table)))
        datasets.add(describe_dataset("t", table))
        answered = datasets.get("t").version
        assert answered == datasets.versions().of_parts(datasets.get("t").parts()), "what a search gives"
        assert answered not in guesses
        assert hashlib.sha256(table.read_bytes()).hexdigest() != answered
        seen.add(answered)
    assert len(seen) == 2, "two nodes with the same bytes can't be seen to have them"


def test_at_one_node_the_same_bytes_have_the_same_version_in_every_process_and_after_a_move(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("age,sick\n61,1\n")
    datasets = datasets_of(tmp_path / "node")
    first = datasets.versions().of(str(table))
    assert Datasets(Database(tmp_path / "node" / "node.sqlite")).versions().of(str(table)) == first
    copy = tmp_path / "copy.csv"
    copy.write_bytes(table.read_bytes())
    assert datasets.versions().of_parts({"": str(copy)}) == first
    shutil.copytree(tmp_path / "node", tmp_path / "restored")
    assert datasets_of(tmp_path / "restored").versions().of(str(table)) == first
    table.write_text("age,sick\n61,0\n")
    assert datasets.versions().of(str(table)) != first
    assert datasets.versions().of_parts({"a": str(table), "b": str(copy)}) != Versions().of_parts(
        {"a": str(table), "b": str(copy)}
    )
    assert stat.S_IMODE((tmp_path / "node" / "keys" / "datasets").stat().st_mode) == 0o600


def test_processes_that_make_a_nodes_key_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_or_create_secret(tmp_path / "keys" / "datasets"), range(32)))
    assert len(set(keys)) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["datasets"]


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
