"""Datasets whose data change are described anew, or named as changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob.common.errors import SpecError
from fedjob.node.cli.data import data
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.data.redescription import Redescriber, describe_changed
from fedjob.node.storage.database import Database


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("x,z,y\n1,2,0\n2,1,1\n")
    return path


@pytest.fixture
def home(tmp_path: Path, table: Path) -> NodeHome:
    made = NodeHome(tmp_path / "home")
    made.create()
    made.keys.mkdir()
    (made.keys / "party").write_text("n\n")
    database = Database(made.database)
    Datasets(database).add(describe_dataset("t", table, tags=["t"], min_rows=2, max_weight=7))
    database.close()
    return made


def look(home: NodeHome, *words: str) -> Any:
    result = CliRunner().invoke(data, [*words, "--home", str(home.root)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_a_table_that_grew_is_listed_with_its_rows_of_now(home: NodeHome, table: Path) -> None:
    assert "note" not in look(home, "list").stderr
    with table.open("a") as file:
        file.write("3,3,0\n4,4,1\n")
    listed = look(home, "list")
    assert "dataset t changed and was described anew: 4 rows, 2 before" in listed.stderr
    assert listed.stdout.splitlines()[1].split()[3:5] == ["4", "3"]
    assert listed.stderr.count("\n") == 1
    assert "note" not in look(home, "list").stderr, "once"
    shown = look(home, "show", "t").stdout
    assert "max_weight   7" in shown


def test_a_renamed_column_and_another_type_are_noticed(home: NodeHome, table: Path) -> None:
    table.write_text("x,w,y\n1,2,a\n2,1,b\n")
    noted = look(home, "show", "t").stderr
    for words in ("without column 'z'", "with the new column 'w'", "column 'y' is"):
        assert words in noted
    assert "\nw       int" in look(home, "show", "t").stdout
    table.write_text("w,x,y\n1,2,a\n2,1,b\n")
    assert "with its columns in another order" in look(home, "refresh").stdout
    assert "nothing has changed" in look(home, "refresh", "t").stdout


def test_data_that_are_gone_or_broken_are_named_and_stay_registered(home: NodeHome, table: Path) -> None:
    table.unlink()
    assert "can't be read as it is registered: there is nothing at" in look(home, "list").stderr
    with pytest.raises(SpecError, match="not every dataset"):
        look(home, "refresh")
    table.write_text("x,z,y\n1,2,0\n2,1,1\n")
    assert "note" not in look(home, "list").stderr, "as it was described"


def test_a_daemon_has_each_version_of_a_dataset_described_once(home: NodeHome, table: Path) -> None:
    database = Database(home.database)
    begun: list[Any] = []
    datasets = Datasets(database)
    versions = datasets.versions()
    redescriber = Redescriber(home.root, versions, begun.append)
    assert not redescriber.is_changed(datasets.get("t"))
    with table.open("a") as file:
        file.write("3,3,0\n")
    versions._due.clear()  # so that it looks now
    assert redescriber.is_changed(datasets.get("t"))
    assert redescriber.is_changed(datasets.get("t"))
    assert len(begun) == 1
    begun[0]()  # what a thread of the daemon does
    assert datasets.get("t").num_rows == 3
    assert not redescriber.is_changed(datasets.get("t"))
    database.close()


def test_what_is_described_is_looked_at_by_name(home: NodeHome, table: Path) -> None:
    database = Database(home.database)
    with pytest.raises(SpecError, match="there is no dataset 's'"):
        describe_changed(Datasets(database), "s")
    table.write_text("x,z,y\n1,2,0\n2,1,1\n")
    assert describe_changed(Datasets(database), "t") == [], "the same content is the same version"
    database.close()


def test_a_weight_below_nothing_is_refused(table: Path) -> None:
    with pytest.raises(SpecError, match="--max-weight"):
        describe_dataset("t", table, max_weight=-1)
