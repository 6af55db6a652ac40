"""Tables in text files: their form is found or asked for, their types hold for all rows, nothing is shifted or lost."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob.common.errors import EmptyData, SpecError, UnreadableData
from fedjob.data.loader import describe, open_dataset
from fedjob.data.readers.base import Dataset


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def opened(path: Path, **options: str) -> Dataset:
    return open_dataset({"path": path, "reader": "csv", "options": options})


def values(path: Path, **options: str) -> dict[str, list[Any]]:
    """Return the columns that are read, and check that they are those that are listed, of the types that are listed."""
    dataset = opened(path, **options)
    frame = dataset.frame()
    kinds = {"b": "bool", "i": "int", "f": "float"}
    read = [
        {"name": name, "type": kinds.get(getattr(frame[name].dtype, "kind", "O"), "string")} for name in frame
    ]
    about = describe(path, "csv", options)
    assert about["columns"] == read
    assert about["num_rows"] == len(frame) == opened(path, **options).num_rows
    return {name: [None if pd.isna(v) else v for v in frame[name].tolist()] for name in frame}


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("a;b\n1;2\n", {"a": [1], "b": [2]}, "separator=semicolon"),
        ("a\tb\n1\tx, y\n", {"a": [1], "b": ["x, y"]}, "separator=tab"),
        ("a|b\n1|2\n", {"a": [1], "b": [2]}, "separator=pipe"),
        ("a b\n1   2\n3 \t 4\n", {"a": [1, 3], "b": [2, 4]}, "separator=space"),
        ("sep=;\na;b\n1;2\n", {"a": [1], "b": [2]}, "separator=semicolon"),
        ("id;v\n7;5,2\n8;6\n", {"id": [7, 8], "v": [5.2, 6.0]}, "separator=semicolon decimal=comma"),
        ("v;w\n1.234,5;x\n2,25;y\n", {"v": [1234.5, 2.25], "w": ["x", "y"]}, "decimal=comma thousands=point"),
        ("v;w\n1 234,5;x\n2\u202f000,0;y\n", {"v": [1234.5, 2000.0], "w": ["x", "y"]}, "thousands=space"),
        ("v,w\n1'234.5,x\n2\u2019000.5,y\n", {"v": [1234.5, 2000.5], "w": ["x", "y"]}, "thousands=apostrophe"),
        ('v,w\n"1,234,567",x\n12,y\n', {"v": [1234567, 12], "w": ["x", "y"]}, "thousands=comma"),
        ("n;age\nMeier, Hans;30\nHuber, Eva;40\n", {"n": ["Meier, Hans", "Huber, Eva"], "age": [30, 40]}, "semicolon"),
        ("5,2;6,1\n5,3;6,2\n", {"5,2": [5.3], "6,1": [6.2]}, "separator=semicolon decimal=comma"),
    ],
)  # fmt: skip
def test_the_form_of_a_file_is_found_in_its_first_rows_and_reported(
    text: str, expected: dict[str, Any], found: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    assert values(path) == expected
    assert found in describe(path)["notes"][0]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a;b\n1,234;x\n2,500;y\n", {"decimal": "comma"}, {"a": [1.234, 2.5], "b": ["x", "y"]}),
        ("a;b\n1,234;x\n2,500;y\n", {"thousands": "comma"}, {"a": [1234, 2500], "b": ["x", "y"]}),
        ("a;b\n1.234;x\n2.500;y\n", {"thousands": "point"}, {"a": [1234, 2500], "b": ["x", "y"]}),
        ("a;b\n1.234;x\n2.500;y\n", {"decimal": "point"}, {"a": [1.234, 2.5], "b": ["x", "y"]}),
        ("c;v\n250.1;5,2\n401.9;6,1\n", {"decimal": "comma"}, {"c": ["250.1", "401.9"], "v": [5.2, 6.1]}),
        ("Export\n\na,b\n1,2\n", {"skip": "2"}, {"a": [1], "b": [2]}),
        ("a,b\nyears,mg\n1,2\n", {"header": "2"}, {"a": [1], "b": [2]}),
        ("a,b\n1,2\n", {"names": "x,y", "header": "yes"}, {"x": [1], "y": [2]}),
        ("a,b\n1,7,2\n3,8,4\n", {"names": "row,x,y", "header": "yes"}, {"row": [1, 3], "x": [7, 8], "y": [2, 4]}),
        ("1,2,\n3,4,\n", {"names": "x,y"}, {"x": [1, 3], "y": [2, 4]}),
        ("a,b,c\n1\n1,2,3\n", {"short_rows": "missing"}, {"a": [1, 1], "b": [None, 2], "c": [None, 3]}),
        ('a,b\n1,5" wide\n2,"x\n', {"quote": "none"}, {"a": [1, 2], "b": ['5" wide', '"x']}),
        ("a,b\n1,'x, y'\n", {"quote": "single"}, {"a": [1], "b": ["x, y"]}),
        ("a,b\n1,2\n3,4\n", {"text": "a"}, {"a": ["1", "3"], "b": [2, 4]}),
        ("a,b\n01,2\n-,4\n", {"numbers": "a", "na": "-"}, {"a": [1, None], "b": [2, 4]}),
        ("a;b\n1;2\n", {"names": "one", "header": "yes", "separator": "comma"}, {"one": ["1;2"]}),
        ("a#b\n1#2\n", {"separator": "#"}, {"a": [1], "b": [2]}),
    ],
)  # fmt: skip
def test_an_option_decides_what_a_look_can_not(
    text: str, options: dict[str, str], expected: dict[str, Any], tmp_path: Path
) -> None:
    assert values(written(tmp_path, text), **options) == expected


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2,3\n4,5,6\n", {}, "line 2 has 3 fields, the header has 2.*names=ROW,a,b"),
        ("a b\n1 30 200\n2 40 210\n", {}, "line 2 has 3 fields, the header has 2.*names=ROW,a,b"),
        ("Export of today\na,b\n1,2\n", {}, "line 2 has 2 fields, the header has 1.*skip=1"),
        ("a,b\n1,2\n2 rows exported\n", {}, "line 3 has 1 field, the header has 2.*short_rows=missing"),
        ("a,b\n1,x\n2,Smith, Ann\n", {}, "line 3 has 3 fields"),
        ("1,2\n3,4,5\n", {"header": "no"}, "line 2 has 3 fields, expected are 2"),
        ("a;b\n1;2\n", {"separator": "comma"}, "one column, and a semicolon in every row.*separator=semicolon"),
        ("a;b\n1,234;x\n2,500;y\n", {}, "fractions or thousands.*decimal=comma or --option thousands=comma"),
        ("a;b\n1.234;x\n2.500;y\n", {}, "fractions or thousands.*decimal=point or --option thousands=point"),
        ("a;b\n5.2;1,5\n1.1;2,5\n", {}, "columns 1 and 2 write numbers with different signs.*decimal=comma"),
        ('a,b\n1,"x\n2,y\n', {}, "quote=none"),
        ("a,a\n1,2\n", {}, "two columns are called 'a'.*names="),
        ("n,v\nИванов,1\n".encode("cp1251"), {}, "not encoded in UTF-8.*cp1251"),
        ("n,v\nŁódź,1\n".encode("cp1250"), {}, "not encoded in UTF-8.*cp1250"),
        ("n,v\nü,1\n".encode("cp1252"), {"encoding": "utf-8"}, "not encoded in utf-8.*cp1252"),
        (b"a,b\n" + b"x,1\n" * 80_000 + b"\xfc,1\n", {}, "not all of it .* utf-8.*encoding="),
        ("a,b\n01,1\nx,2\n", {"numbers": "a"}, "names column 'a', but it holds other texts"),
        (b"\x00\x01\x02" * 50, {}, "bytes that no text has"),
        ("\n \n", {}, "it is empty"),
    ],
)  # fmt: skip
def test_a_suspicious_reading_is_refused_with_the_option_that_helps(
    text: str | bytes, options: dict[str, str], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UnreadableData, match=f"(?s)t.csv.*{words}"):
        describe(path, "csv", options)
    with pytest.raises(UnreadableData, match=f"(?s)t.csv.*{words}"):
        opened(path, **options).frame()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"separator": "||"}, "comma, semicolon, tab, pipe, space, or one character; found '\\|\\|'"),
        ({"decimal": "dot"}, "decimal is point, comma; found 'dot'"),
        ({"decimal": "comma", "thousands": "comma"}, "both comma"),
        ({"encoding": "klingon"}, "none of the name 'klingon'"),
        ({"encoding": "base64"}, "none of the name 'base64'"),
        ({"header": "maybe"}, "yes or no, or a number"),
        ({"skip": "-1"}, "number of lines"),
        ({"text": "c"}, "option text names 'c', which is no column; there are a, b"),
        ({"short_rows": "fill"}, "error or missing"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(
    options: dict[str, str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        describe(written(tmp_path, "a,b\n1,2\n"), "csv", options)


def test_separators_at_the_end_of_rows_shift_nothing(tmp_path: Path) -> None:
    expected = {"age": [30, 40], "chol": [200, 210]}
    assert values(written(tmp_path, "age,chol\n30,200,\n40,210,\n")) == expected
    assert values(written(tmp_path, "age,chol,\n30,200,\n40,210,\n")) == expected
    assert values(written(tmp_path, "age;chol;;\n30;200;;\n40;210\n")) == expected
    with pytest.raises(UnreadableData, match="line 3 has 3 fields"):
        values(written(tmp_path, "age,chol\n30,200,\n40,210,1\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_is_found(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path, "name,Größe\nMüller,3\nJosé,4\n".encode(encoding))
    assert values(path) == {"name": ["Müller", "José"], "Größe": [3, 4]}
    notes = describe(path)["notes"]
    assert notes == [] if encoding.startswith("utf-8") else f"encoding={encoding}" in notes[0]
    assert values(path, encoding=encoding) == {"name": ["Müller", "José"], "Größe": [3, 4]}


def test_an_encoding_that_is_given_holds_for_files_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "Müller,3\nJosé,4\n".encode("latin-1"))
    assert values(path, encoding="latin-1", names="name,size") == {"name": ["Müller", "José"], "size": [3, 4]}


@pytest.mark.parametrize("suffix", [".tsv", ".tab", ".tsv.gz"])
def test_tabs_separate_where_the_name_of_the_file_says_so(suffix: str, tmp_path: Path) -> None:
    text = b"a\tb,c\n1,5\tx\n"
    path = written(tmp_path, gzip.compress(text) if suffix.endswith("gz") else text, f"t{suffix}")
    assert describe(path)["reader"] == "csv"
    assert values(path) == {"a": [1.5], "b,c": ["x"]}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_packed_files_are_unpacked(suffix: str, tmp_path: Path) -> None:
    text, path = b"a;b\n1;2\n", tmp_path / f"t.csv{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.csv", text)
    else:
        pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
        path.write_bytes(pack(text))
    assert values(path) == {"a": [1], "b": [2]}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UnreadableData, match="can't be read as csv"):
        describe(path, "csv")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["True", "", "FALSE"], [True, None, False]),
        (["1", "", "3"], [1, None, 3]),
        (["9007199254740993", "", "-5"], [9007199254740993, None, -5]),
        (["+1", "2"], [1, 2]),
        (["1", "2.5", "NA"], [1.0, 2.5, None]),
        ([".5", "5.", "-1e-3", "2.5E3"], [0.5, 5.0, -0.001, 2500.0]),
        (["00123", "7"], ["00123", "7"]),
        (["1E5", "2E4"], ["1E5", "2E4"]),
        (["12345678901234567890", "3"], ["12345678901234567890", "3"]),
        (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
        (["True", "1"], ["True", "1"]),
        (["1", "x"], ["1", "x"]),
        ([" 7 ", "8"], [7, 8]),
        ([" male", "male "], ["male", "male"]),
        (["", "n/a"], [None, None]),
        (["030 123 456", "912 345 678"], ["030 123 456", "912 345 678"]),
        (["2024-01-31", "01.02.2024"], ["2024-01-31", "01.02.2024"]),
    ],
)
def test_a_column_has_the_type_that_all_its_values_share(
    cells: list[str], expected: list[Any], tmp_path: Path
) -> None:
    found = values(written(tmp_path, "c,y\n" + "".join(f"{cell},1\n" for cell in cells)))["c"]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in expected]


def test_one_code_far_down_makes_the_whole_column_text(tmp_path: Path) -> None:
    path = written(tmp_path, "code,y\n" + "00123,1\n" * 60_000 + "A77,0\n" + "00123,1\n" * 60_000)
    assert opened(path).frame()["code"].value_counts().to_dict() == {"00123": 120_000, "A77": 1}
    path = written(tmp_path, "code,y\n" + "123,1\n" * 60_000 + "A77,0\n")
    assert opened(path).frame()["code"].value_counts().to_dict() == {"123": 60_000, "A77": 1}


def test_types_are_settled_over_all_files_of_a_folder_each_in_its_own_form(tmp_path: Path) -> None:
    written(tmp_path, "code,v\n1,2.5\n2,\n", "2023.csv")
    written(tmp_path, "code;v\nA3;2,5\n4;3,5\n", "2024.csv")
    assert values(tmp_path) == {"code": ["1", "2", "A3", "4"], "v": [2.5, None, 2.5, 3.5]}
    assert "of 2024.csv" in describe(tmp_path)["notes"][0]


def test_rows_without_any_value_at_the_end_are_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n,\n\n3,4\n , \n,,,\n")
    assert values(path) == {"a": [1, None, 3], "b": [2, None, 4]}
    assert "2 rows without any value at the end are left out" in describe(path)["notes"]
    assert values(written(tmp_path, 'a\n1\n""\n3\n')) == {"a": [1, None, 3]}


def test_the_owner_reads_what_became_text_and_what_has_no_name_or_value(tmp_path: Path) -> None:
    notes = " ".join(describe(written(tmp_path, ",code,empty\n0,007,\n1,8,\n"))["notes"])
    assert "code: kept as text" in notes
    assert "no name to Unnamed: 0" in notes
    assert "empty: no row has a value" in notes
    late = written(tmp_path, "a,b\n" + "1,2\n" * 2000 + '"1,5",2\n')
    assert "a: text, because not all values are numbers" in describe(late)["notes"][0]


def test_a_table_without_rows_is_refused_and_holds_no_data(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n")
    with pytest.raises(EmptyData, match=r"t\.csv has no rows"):
        describe(path)
    for read in (lambda: opened(path).arrays(), lambda: opened(path).frame(), lambda: opened(path).items):
        with pytest.raises(EmptyData, match=r"t\.csv has no rows") as caught:
            read()
        assert caught.value.reason == "no_data"
    nobody = [{"step": "filter", "column": "a", "test": ">", "value": 9}]
    written(tmp_path, "a,b\n1,2\n")
    assert len(open_dataset({"path": path, "preprocess": nobody}).frame()) == 0


def test_arrays_and_items_of_columns_with_gaps(tmp_path: Path) -> None:
    path = written(tmp_path, "ok,n,y\nTrue,1,1\n,,0\nFalse,3,\n")
    inputs, targets = opened(path).arrays()
    np.testing.assert_array_equal(inputs, np.array([[1, 1], [np.nan, np.nan], [0, 3]], dtype=np.float32))
    np.testing.assert_array_equal(targets, np.array([1, 0, np.nan]))
    assert targets.dtype == np.float64
    first, second, third = opened(path).items
    assert first == {"ok": True, "n": 1, "y": 1}
    assert np.isnan([second["ok"], second["n"], third["y"]]).all()


def test_identifiers_are_read_exactly_as_they_stand_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "id,v\n 1.10,1\n1.1,2\n,3\n")
    assert opened(path).texts("id").dropna().tolist() == ["1.10", "1.1"]
    assert opened(written(tmp_path, "id,v\n7.0,1\n,2\n8.0,3\n")).texts("id").dropna().tolist() == ["7", "8"]
    assert opened(written(tmp_path, "id,v\n007,1\n7,2\n")).texts("id").tolist() == ["007", "7"]
    with pytest.raises(SpecError, match="no column 'pid'; there are id, v"):
        opened(path).texts("pid")
    written(tmp_path, "id,v\n 1.10,1\n1.1,2\n,3\n")
    taken = opened(path).take([2, 0])
    assert taken.texts("id").isna().tolist() == [True, False]
    named = open_dataset({"path": path, "loading": {"columns": {"pid": "id"}}})
    assert named.texts("pid").dropna().tolist() == ["1.10", "1.1"]
    rows = [{"step": "filter", "column": "v", "test": "<", "value": 2}]
    assert open_dataset({"path": path, "preprocess": rows}).texts("id").tolist() == ["1.10"]


def test_messages_quote_no_value_of_the_file(tmp_path: Path) -> None:
    for text in (
        "a,b\n1,2\ncanary,canary,canary,canary\n",
        'a,b\n"canary,1\n',
        "a;b\ncanary;5,2\ncanary;1.5,1\n1;2;3\n",
    ):
        with pytest.raises(UnreadableData) as caught:
            describe(written(tmp_path, text))
        assert "canary" not in str(caught.value)
