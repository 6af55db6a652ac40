"""Columns of a table in a text file: a block of lines gives what its rows give one by one, and numbers keep all digits."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.errors import UnreadableData
from fedjob.data.column_types import MISSING_TEXTS, USUAL, NumberFormat, common_type
from fedjob.data.loader import open_dataset
from fedjob.data.readers.text_layout import TextLayout, rows_in
from fedjob.data.text_columns import column_of, kinds_in, known, split

PIECES = (
    "1",
    "-0.5",
    "007",
    "1e5",
    "+3",
    "a",
    "é",
    " ",
    "\t",
    "\x0b",
    "NA",
    '"',
    '""',
    '"x"',
    "'",
    ",",
    ",",
    ";",
)
CELLS = st.lists(st.sampled_from(PIECES), max_size=3).map("".join)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
NUMBERS = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["0", "-0", "00", "0.5", "00.5", "-0.5", "-00.5", ".5", "5.", "+5", "+.5", "1e5", "1E-5", "1.e5"]
    ),
    st.sampled_from(
        ["inf", "-Infinity", "True", "false", "0x1F", "1_000", "9007199254740993", "text", "1,5"]
    ),
)


def by_rows(block: str, width: int, separator: str, quote: str) -> list[list[str | None]] | None:
    """Return the columns of rows that are read one by one, None where they are not all as wide as that."""
    layout = TextLayout(separator=separator, quote=quote, found={})
    try:
        rows = [row for _, row in rows_in(io.StringIO(block, newline=""), layout)]
    except csv.Error:
        return None
    if any(len(row) != width for row in rows):
        return None
    return [known(cells, MISSING_TEXTS).to_pylist() for cells in zip(*rows, strict=True)]


@given(
    rows=st.lists(st.tuples(st.lists(CELLS, min_size=1, max_size=3), ENDS), min_size=1, max_size=5),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    quote=st.sampled_from(['"', "'", ""]),
    width=st.integers(1, 3),
)
def test_a_block_of_lines_gives_what_its_rows_give_or_is_left_to_them(
    rows: list[tuple[list[str], str]], separator: str, quote: str, width: int
) -> None:
    block = "".join(separator.join(cells) + end for cells, end in rows)
    found = split(block, width, separator, quote, MISSING_TEXTS)
    if found is not None:
        assert [column.to_pylist() for column in found] == by_rows(block, width, separator, quote)


@pytest.mark.parametrize(
    "block",
    [
        "1,2\n3,4\n",
        "1,2\r\n3,4",
        '"a, b","c ""d"""\n,\n x ,"y"\n',
        "é, 1\n\n\u00a0b,2\n",
        "NA,nan\nnull,1\n",
    ],
)
def test_regular_lines_are_split_as_one_block(block: str) -> None:
    found = split(block, 2, ",", '"', MISSING_TEXTS)
    assert found is not None
    assert [column.to_pylist() for column in found] == by_rows(block, 2, ",", '"')


@pytest.mark.parametrize(
    "block",
    [
        "1,2,3\n",
        "1\n",
        "1,2\n,\n",
        '1, "2"\n',
        '1,"2\n3"\n',
        '1,a"b\n',
        '1,"a"b\n',
        "1,2\r3,4\n",
        "1,\0\n",
        "\ufeff1,2\n",
    ],
)
def test_odd_lines_are_left_to_whoever_reads_row_by_row(block: str) -> None:
    assert split(block, 2, ",", '"', MISSING_TEXTS) is None


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_the_kinds_of_many_values_are_those_of_each(texts: list[str]) -> None:
    found = kinds_in(pa.array([*texts, None], pa.large_string()), USUAL)
    each = {USUAL.kind(text) for text in texts}
    assert common_type(found) == common_type(each)
    assert found <= each


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=6))
def test_numbers_are_read_to_the_last_bit(numbers: list[float]) -> None:
    texts = pa.array([repr(number) for number in numbers], pa.large_string())
    assert [number.hex() for number in column_of(texts, "float", USUAL).tolist()] == [
        n.hex() for n in numbers
    ]


@given(
    st.lists(NUMBERS, min_size=1, max_size=6),
    st.sampled_from([".", ","]),
    st.sampled_from(["", ",", " ", "'"]),
)
def test_what_is_a_number_has_the_kind_of_one(texts: list[str], decimal: str, thousands: str) -> None:
    form = NumberFormat(decimal, thousands if thousands != decimal else "")
    for text in texts:
        assert form.is_number(text) == (form.kind(text) in ("int", "long", "float"))


def test_an_odd_row_among_many_regular_ones_is_read_and_an_error_names_its_line(tmp_path: Path) -> None:
    """Lines are taken in blocks of some megabytes: odd ones stand in the second here, where a text goes on over lines."""
    regular = [f"{number},text of {number}{' ' * 80}" for number in range(60_000)]
    odd = '60000,"one\ntwo, ""three"""'
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["id,text", *regular, odd, *regular, ""]), encoding="utf-8")
    frame = open_dataset({"path": path, "reader": "csv"}).frame()
    assert frame["id"].tolist() == [*range(60_000), 60_000, *range(60_000)]
    assert frame["text"][60_000] == 'one\ntwo, "three"'
    assert frame["text"][60_001] == "text of 0"
    path.write_text("\n".join(["id,text", *regular, odd, "1,2,3", *regular]), encoding="utf-8")
    with pytest.raises(UnreadableData, match=re.escape("line 60004 has 3 fields, the header has 2")):
        open_dataset({"path": path, "reader": "csv"}).frame()


def test_empty_rows_between_blocks_stay_and_those_at_the_end_are_left_out(tmp_path: Path) -> None:
    row = "1,2" + " " * 200
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b", *[row] * 30_000, *[","] * 3, *[row] * 30_000, *[","] * 2, ""]))
    frame = open_dataset({"path": path, "reader": "csv"}).frame()
    assert len(frame) == 60_003
    assert frame["a"].isna().sum() == 3
    assert pd.isna(frame["b"][30_001])
