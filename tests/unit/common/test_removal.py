"""fedjob never deletes what it did not write: the one place that removes folders, and who may call it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from fedjob.common.files import is_own_name, new_folder, remove_folder

ROOT = Path(__file__).parents[3]
JOB = "job_00000000-0000-4000-8000-000000000000"
REMOVES_WHOLE = {"rmtree", "removedirs", "rmdirs"}


def test_whole_folders_are_removed_in_one_place_only() -> None:
    found = set()
    for path in sorted(ROOT.glob("fedjob/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node, "attr", getattr(node, "id", ""))
            if called in REMOVES_WHOLE and isinstance(node, (ast.Name, ast.Attribute)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {"fedjob/common/files.py"}, "use remove_folder or new_folder of common/files.py"


def test_a_folder_with_a_marker_is_removed_where_a_home_is_replaced_only() -> None:
    """Every caller that gives a marker is listed here, so that a new one is looked at."""
    found = set()
    for path in sorted(ROOT.glob("fedjob/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_removal = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "remove_folder"
            if is_removal and any(keyword.arg == "marker" for keyword in node.keywords):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {
        "fedjob/demo/cli.py",
        "fedjob/coordinator/new_keys.py",
        "fedjob/one_machine/janitor.py",
    }


@pytest.mark.parametrize(
    "name",
    [
        "round_0007",
        ".round_0007.4711.tmp",
        ".round_0007_2.4711.tmp",
        JOB,
        f".deleted.{JOB}",
        "ab" * 32,
        f"{'ab' * 32}.0123abcd",
        f"local_clinic-1_{'0' * 16}",
        "worker_4711-3",
        ".fedjob_scratch",
    ],
)
def test_a_folder_with_a_name_that_only_fedjob_gives_is_removed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "file").write_text("x")
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
    remove_folder(folder)


@pytest.mark.parametrize(
    "name", ["data", "results", "files", "scratch", "round_7", "job", "out", "deadbeef", "brought"]
)
def test_a_folder_with_any_other_name_stays_and_the_call_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("x")
    assert not is_own_name(name)
    with pytest.raises(ValueError, match="nothing shows that fedjob wrote it"):
        remove_folder(tmp_path / name)
    with pytest.raises(ValueError, match="nothing shows"):
        remove_folder(tmp_path / name, marker="keys/party")
    assert (tmp_path / name / "thesis.tex").read_text() == "x"


def test_a_home_is_known_by_its_marker(tmp_path: Path) -> None:
    (tmp_path / "clinic" / "keys").mkdir(parents=True)
    (tmp_path / "clinic" / "keys" / "party").write_text("clinic")
    remove_folder(tmp_path / "clinic", marker="keys/party")
    assert not (tmp_path / "clinic").exists()


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    (tmp_path / "round_0001").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="nothing shows"):
        remove_folder(tmp_path / "round_0001")
    assert (tmp_path / "mine" / "file").exists()


def test_a_new_folder_goes_with_a_failure_and_one_that_was_there_is_left_alone(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "new") as made:
            (made / "file").write_text("x")
            raise KeyError("any")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "there"):
        pass
    assert (tmp_path / "there" / "file").exists()


def nested(folder: Path, depth: int, mode: int = 0o700) -> Path:
    """Nest folders deeper than any path reaches; each holds a file."""
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d" * 50, dir_fd=at)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
        inner = os.open("d" * 50, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.fchmod(at, mode)
        os.close(at)
        at = inner
    os.close(at)
    return folder


@pytest.mark.parametrize("mode", [0o700, 0o000, 0o300])
def test_what_a_plan_nested_deeper_than_any_stack_goes_too(tmp_path: Path, mode: int) -> None:
    folder = nested(tmp_path / "round_0001", 3000, mode)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_no_link_in_a_folder_is_followed_and_every_kind_of_file_goes(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    folder = tmp_path / "round_0001"
    (folder / "a" / "b").mkdir(parents=True)
    for place in (folder, folder / "a", folder / "a" / "b"):
        (place / "to a folder").symlink_to(kept)
        (place / "to a file").symlink_to(kept / "file")
        (place / "to nothing").symlink_to(tmp_path / "nothing")
        os.mkfifo(place / "pipe")
        os.link(kept / "file", place / "second name")
    remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "x"
