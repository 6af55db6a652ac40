"""Homes are their owners' alone: what was open is closed, and what can't be closed is named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fedjob.common.config import write_config
from fedjob.common.files import (
    by_users_umask,
    copy_file,
    link_or_copy,
    make_folder,
    new_folder,
    private_process,
    touch_private,
    write_atomic,
)
from fedjob.hub.config.home import HubHome
from fedjob.hub.storage.database import HubDatabase
from fedjob.identity.private_home import NAMES_IN_HOMES, close_home
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.database import Database
from fedjob.researcher.connection.home import take_home
from fedjob.researcher.storage.index import open_index
from tests.homes import open_to_others


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o002])
def test_what_is_made_in_a_home_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    home = tmp_path / "home"
    before = os.umask(umask)
    try:
        make_folder(home / "a" / "b")
        write_atomic(home / "a" / "file", b"x")
        with new_folder(home / "c" / "d"):
            pass
        touch_private(home / "e")
        write_config(home, {"max_jobs": 2})
        with open_index(home):  # with its -wal and -shm while it is open
            assert open_to_others(home) == []
        node = NodeHome(tmp_path / "node")
        node.create()
        database = Database(node.database)
        assert (node.root / "node.sqlite-wal").exists()
        assert open_to_others(node.root) == []
        database.close()
        hub = HubHome(tmp_path / "hub")
        ledger = HubDatabase(hub.ledger)
        assert (hub.folder / "hub.sqlite-wal").exists()
        assert open_to_others(hub.folder) == []
        ledger.close()
    finally:
        os.umask(before)
    assert open_to_others(home) == []


def test_a_file_that_others_may_read_is_copied_into_a_home_and_not_changed(tmp_path: Path) -> None:
    theirs, target = tmp_path / "theirs", tmp_path / "mine"
    theirs.write_bytes(b"x")
    theirs.chmod(0o644)
    link_or_copy(theirs, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o644
    assert not target.samefile(theirs)
    second = tmp_path / "second"
    link_or_copy(target, second)
    assert second.samefile(target)


def test_what_a_user_asks_for_elsewhere_follows_the_users_umask_in_a_process_of_fedjobs(
    tmp_path: Path,
) -> None:
    before = os.umask(0o027)
    try:
        with private_process():
            (tmp_path / "own").write_bytes(b"")
            with by_users_umask():
                copy_file(tmp_path / "own", tmp_path / "copy", mode=0o666)
                (tmp_path / "written").write_bytes(b"")
            (tmp_path / "own too").write_bytes(b"")
    finally:
        assert os.umask(before) == 0o027
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"own": 0o600, "own too": 0o600, "copy": 0o640, "written": 0o640}


def test_an_open_home_is_closed_and_said_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    (home / "jobs" / "job_1").mkdir(parents=True)
    (home / "jobs" / "job_1" / "table.csv").write_text("age\n")
    (home / "config.toml").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    elsewhere.chmod(0o644)
    (home / "link").symlink_to(elsewhere)
    for path in (home, home / "jobs", home / "jobs" / "job_1"):
        path.chmod(0o755)
    take_home(home)
    assert open_to_others(home) == []
    assert "could be read by other users" in caplog.text
    assert str(home) in caplog.text
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644, "what a link leads to is not of the home"
    caplog.clear()
    take_home(home)
    assert caplog.text == ""


def test_a_file_in_the_depth_of_a_closed_home_is_found_where_all_is_looked_at(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_folder(home / "jobs")
    (home / "jobs" / "a").write_text("")
    (home / "jobs" / "a").chmod(0o640)
    assert close_home(home).mended == ()
    assert close_home(home, whole=True).mended == (home / "jobs" / "a",)
    assert open_to_others(home) == []


def test_the_users_own_home_directory_is_named_and_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    found = close_home(tmp_path)
    assert found.left == (tmp_path,)
    assert "chmod -R go-rwx" in str(found)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_what_fedjob_did_not_make_keeps_its_mode_and_its_folder_stays_open(tmp_path: Path) -> None:
    home = tmp_path / "project"
    (home / "src" / "deep").mkdir(parents=True)
    (home / "jobs" / "job_1").mkdir(parents=True)
    for name in ("data.csv", "src/main.py", "src/deep/run.sh", "jobs/job_1/table.csv", "config.toml"):
        (home / name).write_text("x")
        (home / name).chmod(0o644)
    for path in (home, home / "src", home / "src" / "deep", home / "jobs", home / "jobs" / "job_1"):
        path.chmod(0o755)
    for whole in (False, True):
        close_home(home, whole=whole)
        modes = {
            str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")
        }
        assert modes == {
            "project": 0o755,
            "project/data.csv": 0o644,
            "project/src": 0o755,
            "project/src/main.py": 0o644,
            "project/src/deep": 0o755,
            "project/src/deep/run.sh": 0o644,
            "project/jobs": 0o700,
            "project/jobs/job_1": 0o700,
            "project/jobs/job_1/table.csv": 0o600,
            "project/config.toml": 0o600,
        }


def test_every_name_in_a_nodes_and_a_hubs_home_is_known_as_fedjobs(tmp_path: Path) -> None:
    for home, root in ((NodeHome(tmp_path / "n"), tmp_path / "n"), (HubHome(tmp_path / "h"), tmp_path / "h")):
        named = [path for path in vars(home).values() if isinstance(path, Path) and path != root]
        assert named
        assert {path.relative_to(root).parts[0] for path in named} <= NAMES_IN_HOMES
