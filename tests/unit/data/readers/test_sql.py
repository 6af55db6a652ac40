"""Databases: one statement that reads, and nothing of where they are or how they are opened in any message."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedjob.common.codec import pack
from fedjob.common.errors import FedjobError, MissingPackage, SpecError
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
