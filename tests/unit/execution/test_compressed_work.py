"""The compressed way of a task, whose sizes come from a researcher who may lie about them."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import NodeFailure
from fedjob.execution.compressed_work import CompressedWork
from fedjob.execution.orders import WorkOrder

ASKED = {"name": "top_k", "config": {"fraction": 0.1}, "down": "whole", "up": "changes", "num_bytes": 4000}


def work(**changes: Any) -> CompressedWork:
    asked = {**ASKED, **changes}
    order = WorkOrder(
        key="k", job="j", round=1, step="train", node="clinic-1", protocol="fedavg", compress=asked
    )
    return CompressedWork(order, frozenset())


def test_a_task_that_says_all_of_it_is_taken() -> None:
    assert work().parcels({}) == {}


@pytest.mark.parametrize(
    "num_bytes", ["1000000000000", 1e12, True, None, -1, [4000], float("inf"), float("nan")]
)
def test_a_size_that_is_no_whole_number_announces_nothing(num_bytes: Any) -> None:
    with pytest.raises(NodeFailure, match="how many bytes the parameters have, a whole number"):
        work(num_bytes=num_bytes)


@pytest.mark.parametrize(
    "changes",
    [{"name": "zip"}, {"config": 3}, {"config": {"fraction": float("nan")}}, {"down": "up"}, {"up": None}],
)
def test_a_way_that_nobody_knows_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NodeFailure):
        work(**changes)
