"""Databases: one statement that reads, and nothing of where they are or how they are opened in any message."""

from __future__ import annotations

import datetime
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.common.codec import pack
from fedjob.common.errors import EmptyData, FedjobError, MissingPackage, SpecError
from fedjob.data.column_types import settled
from fedjob.data.loader import describe, open_dataset
from fedjob.node.data.datasets import describe_dataset

QUERY = "SELECT age, weight FROM people ORDER BY age"
CANARY = "canary-hunter2"


def database(folder: Path) -> Path:
    path = folder / "people.sqlite"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE TABLE people (age INTEGER, weight REAL, note TEXT)")
        opened.executemany("INSERT INTO people VALUES (?, ?, ?)", [(61, 80.5, "a:b; c"), (47, None, "-- d")])
        opened.commit()
    return path


def settings(folder: Path, text: str) -> Path:
    path = folder / "warehouse.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_rows_of_a_query_are_a_table_with_types_and_gaps(tmp_path: Path) -> None:
    path = database(tmp_path)
    info = {"path": path, "reader": "sql", "options": {"query": QUERY}}
    frame = open_dataset(info).frame()
    assert frame["age"].tolist() == [47, 61]
    assert frame["weight"].isna().tolist() == [True, False]
    assert describe(path, "sql", {"query": QUERY})["columns"] == [
        {"name": "age", "type": "int"},
        {"name": "weight", "type": "float"},
    ]
    for query, rows in (
        ("SELECT age FROM people WHERE note = 'a:b; c'; ", 1),  # neither a parameter nor a second statement
        ("/* all */ WITH x AS (SELECT age AS a FROM people) SELECT a FROM x -- done", 2),
        ("VALUES (1), (2), (3)", 3),
    ):
        assert open_dataset({**info, "options": {"query": query}}).num_rows == rows


def test_the_values_of_a_column_have_one_type_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kinds.sqlite"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE TABLE t (id, n, mixed, code TEXT, x REAL, none)")
        rows = [
            (2**53 + 1, 1, 1, "007", 0.5, None),
            (None, None, "a", None, None, None),
            (2**53, 3, 2.0, "7", 2, None),
        ]
        opened.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
        opened.commit()
    dataset = open_dataset({"path": path, "reader": "sql", "options": {"query": "SELECT * FROM t"}})
    frame = dataset.frame()
    types = {column["name"]: column["type"] for column in dataset.columns}
    assert types == {
        "id": "int",
        "n": "int",
        "mixed": "string",
        "code": "string",
        "x": "float",
        "none": "float",
    }
    assert frame["id"].dropna().tolist() == [2**53 + 1, 2**53]
    assert dataset.texts("id").dropna().tolist() == [str(2**53 + 1), str(2**53)]
    assert frame["mixed"].tolist() == ["1", "a", "2"]
    assert frame["code"].dropna().tolist() == ["007", "7"]
    empty = {"query": "SELECT id, code FROM t WHERE n > 9"}
    with pytest.raises(EmptyData, match="has no rows"):
        describe(path, "sql", empty)


def test_decimals_and_dates_of_databases_become_numbers_and_times() -> None:
    def kept(*values: Any) -> Any:
        return settled(pd.Series(values, dtype=object))

    assert kept(Decimal("1.5"), None).dtype == "float64"
    assert kept(Decimal("7"), None, 8).dropna().tolist() == [7, 8]
    assert kept(Decimal(10**20 + 1), Decimal(1)).tolist() == [str(10**20 + 1), "1"]
    assert kept(True, None).dropna().tolist() == [True]
    assert kept(datetime.date(2024, 1, 31), None).iloc[0] == pd.Timestamp(2024, 1, 31)
    assert kept(np.int64(1), 2, np.float64(0.5)).tolist() == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DELETE FROM people", "one statement that reads"),
        ("SELECT 1; DROP TABLE people", "one statement that reads"),
        ("", "takes one query"),
        ("SELECT age, age FROM people", "two columns of one name"),
        ("SELECT canary FROM people", "refuses the query: OperationalError$"),
        ("WITH x AS (SELECT 1) DELETE FROM people", "refuses the query: OperationalError$"),
    ],
)
def test_what_does_more_than_read_is_refused_and_changes_nothing(
    query: str, words: str, tmp_path: Path
) -> None:
    path = database(tmp_path)
    before = path.read_bytes()
    by_url = settings(tmp_path, f'url = "sqlite:///{path}"\n')
    for place in (path, by_url):
        with pytest.raises(SpecError, match=words):
            open_dataset({"path": place, "reader": "sql", "options": {"query": query}}).frame()
    assert path.read_bytes() == before


def test_a_database_by_its_url_is_described_without_it(tmp_path: Path) -> None:
    path = database(tmp_path)
    place = settings(tmp_path, f'url = "sqlite:///{path}"\nquery = "{QUERY}"\n')
    dataset = describe_dataset("people", place, reader="sql")
    assert (dataset.num_rows, len(dataset.columns)) == (2, 2)
    assert b"sqlite" not in pack(dataset.public())
    with pytest.raises(SpecError, match=r"takes one query.*found 2"):
        describe(place, "sql", {"query": QUERY})


def test_no_message_names_the_password_or_the_place_of_a_database(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{CANARY}\n")
    secret.chmod(0o644)
    away = "127.0.0.1:1/canary-patients"
    texts = [
        f'url = "postgresql+psycopg2://canary-reader:{CANARY}@{away}"',
        f'url = "postgresql+psycopg2://canary-reader@{away}"\npassword_file = "{secret}"',
        f'url = "postgresql+psycopg2://canary-reader@{away}?password={CANARY}"',
        f'url = "canary-dialect://canary-reader@{away}"',
        f'url = "sqlite:////canary/nowhere.sqlite"\npassword_file = "{tmp_path}/canary-file"',
        f'url = "sqlite:////canary/nowhere.sqlite"\nsecret = "{CANARY}"',
        'url = "sqlite:////canary/nowhere.sqlite"',
        "url = canary",
        'url = "canary"',
        "",
    ]
    said = []
    for text in texts:
        place = settings(tmp_path, text)
        with pytest.raises(FedjobError) as caught:
            open_dataset({"path": place, "reader": "sql", "options": {"query": QUERY}}).frame()
        assert "canary" not in str(caught.value)
        said.append(str(caught.value))
    assert [words in text for words, text in zip(("holds a password", "chmod 600"), said, strict=False)] == [
        True
    ] * 2
    secret.chmod(0o600)
    with pytest.raises(MissingPackage, match="psycopg2"):
        open_dataset(
            {"path": settings(tmp_path, texts[1]), "reader": "sql", "options": {"query": QUERY}}
        ).frame()
