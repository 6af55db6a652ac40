"""Data that a node can't read: the researcher reads a reason of the node, its owner's log has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.analytics.statistics import Statistics


def answered(path: Path, folder: Path, reader: str = "csv", **options: str) -> WorkResult:
    name, config = PROTOCOLS.config_of(Statistics(mean="a"))
    order = WorkOrder(
        key="1",
        job="job",
        round=1,
        step="first",
        node="clinic",
        protocol=name,
        config=config,
        dataset={"name": "d", "path": str(path), "reader": reader, "options": options},
        output_path=str(folder),
        scratch_path=str(folder),
    )
    return Workbench().perform(order, lambda type_, body: None)


@pytest.mark.parametrize(
    ("content", "reader", "reason", "logged"),
    [
        (b"a,b\n1,2\n1,2,3,4\n", "csv", "unreadable_data", "line 3 has 4 fields"),
        (b"a,b\n\xff\xfa\x00,2\n", "csv", "unreadable_data", "bytes that no text has"),
        (b"PAR1 and no more", "parquet", "unreadable_data", "can't be read as parquet"),
        (b"no archive", "npz", "unreadable_data", "can't be read as npz"),
        (b"no database", "sql", "unreadable_data", "refuses the query"),
        (None, "csv", "unreadable_data", "No such file"),
        (b"a,b\n", "csv", "no_data", "no rows"),
    ],
)
def test_what_a_node_can_not_read_is_a_reason_of_the_node(
    content: bytes | None, reader: str, reason: str, logged: str, tmp_path: Path
) -> None:
    path = tmp_path / "canary-file.csv"
    if content is not None:
        path.write_bytes(content)
    options: dict[str, Any] = {"query": "SELECT a FROM t"} if reader == "sql" else {}
    result = answered(path, tmp_path, reader, **options)
    assert (result.ok, result.reason) == (False, reason)
    assert "canary" not in result.detail
    assert "rows" in result.detail if reason == "no_data" else "owner" in result.detail
    assert logged in result.message
