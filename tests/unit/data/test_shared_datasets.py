"""The datasets of simulated nodes are made when they are asked for, and kept as names and numbers."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, UnreadableData
from fedjob.data.loader import open_dataset
from fedjob.data.node_names import NumberedNames
from fedjob.data.shares import SHARED, RowRanges, SharedDatasets

INFO = {"name": "scans", "path": "/data/scans", "reader": "npy", "version": "v1"}


def shared(**changes: Any) -> SharedDatasets:
    rows = RowRanges(names=("a", "b", "d"), stops=array("q", [2, 3, 9]))
    return SharedDatasets(**{"info": INFO, "index": "/job/rows.npy", "rows": rows, **changes})


def stops(*ends: int) -> bytes:
    return array("q", ends).tobytes()


def test_each_node_has_its_range_of_rows() -> None:
    found = shared()
    assert found["a"] == {
        **INFO,
        "num_rows": 2,
        "share": {"index": "/job/rows.npy", "start": 0, "stop": 2, "version": "v1"},
    }
    assert [(found[node]["share"]["start"], found[node]["num_rows"]) for node in found] == [
        (0, 2),
        (2, 1),
        (3, 6),
    ]


def test_it_is_a_map_of_its_nodes() -> None:
    found = shared()
    assert list(found) == ["a", "b", "d"]
    assert len(found) == 3
    assert "b" in found
    assert found == dict(found)
    assert found.get("c") is None
    for unknown in ("", "c", "e", 1, None):
        assert unknown not in found


def test_what_is_done_to_one_of_them_is_not_done_to_the_next() -> None:
    found = shared()
    found["a"]["share"]["start"] = 5
    found["a"].pop("path")
    assert found["a"] == shared()["a"]


def test_they_come_back_from_plain_data() -> None:
    back = SharedDatasets.of(unpack(pack(shared().plain)))
    assert back == shared()
    assert list(back.plain) == [SHARED]


def test_a_node_costs_few_bytes() -> None:
    many = shared(rows=RowRanges(names=NumberedNames(10_000), stops=array("q", range(1, 10_001))))
    assert len(pack(many.plain)) < 9 * len(many)
    assert many["node-10000"]["share"]["start"] == 9_999
    assert SharedDatasets.of(unpack(pack(many.plain))) == many


def test_rows_of_nodes_are_counted_without_what_they_are_opened_by() -> None:
    assert dict(shared().num_rows) == {"a": 2, "b": 1, "d": 6}
    assert "c" not in shared().num_rows


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["b", "a", "d"]},
        {"names": ["a", "a", "d"]},
        {"names": ["a", "b"]},
        {"names": []},
        {"names": ["a", "b", 3]},
        {"names": None},
        {"names": True},
        {"names": 4},
        {"names": -3},
        {"stops": stops(2, 2, 9)},
        {"stops": stops(0, 3, 9)},
        {"stops": stops(-1, 3, 9)},
        {"stops": stops(2, 3, 9)[:-1]},
        {"stops": [2, 2, 9]},
        {"stops": [2, 3.5, 9]},
        {"stops": [2, 3, 2**70]},
        {"stops": "abc"},
        {"index": 7},
        {"info": {"name": "scans"}},
        {"info": None},
        {"info": ["name"]},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    plain = shared().plain[SHARED]
    with pytest.raises(DecodeError, match="no datasets of simulated nodes"):
        SharedDatasets.of({SHARED: {**plain, **change}})


@pytest.mark.parametrize("plain", [{}, {SHARED: None}, {SHARED: []}, {SHARED: {}}])
def test_so_is_what_has_none(plain: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="no datasets of simulated nodes"):
        SharedDatasets.of(plain)


def test_row_numbers_that_are_written_anew_are_read_anew_and_those_that_are_gone_are_missed(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "inputs.npy", np.arange(6.0).reshape(6, 1))
    np.save(tmp_path / "targets.npy", np.arange(6))
    index = tmp_path / "rows.npy"
    info = {
        **INFO,
        "path": str(tmp_path),
        "share": {"index": str(index), "start": 1, "stop": 3, "version": "v1"},
    }
    for rows in ([5, 4, 3, 2], [0, 1, 2, 3]):
        np.save(tmp_path / "new.npy", np.array(rows))
        os.replace(tmp_path / "new.npy", index)
        for _ in range(2):
            found = open_dataset(info)
            assert found.arrays()[1].tolist() == rows[1:3]
            assert found.rows_read == 2
    index.unlink()
    with pytest.raises(UnreadableData, match=r"rows\.npy can't be read as row numbers"):
        open_dataset(info)


def test_the_rows_of_a_node_are_all_that_it_has_read_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "ages.csv").write_text("age\n1\n2\n3\n4\n")
    np.save(tmp_path / "rows.npy", np.array([3, 0, 1, 2]))
    share = {"index": str(tmp_path / "rows.npy"), "start": 0, "stop": 3, "version": "v1"}
    found = open_dataset({**INFO, "path": str(tmp_path / "ages.csv"), "reader": "csv", "share": share})
    assert found.frame()["age"].tolist() == [4, 1, 2]
    assert found.rows_read == 3
