"""What an answer takes out of a node, counted: bytes and numbers."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.types import Ref
from fedjob.messaging.messages import Result, Task
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.departure import count_numbers, departure_of


def row_of(result: Result | None, *, use: str = "private", **about: Any) -> TaskRow:
    order = pack(to_plain(Task(dataset="hearts", protocol="fedavg", seed=1, use=use)))
    fields = {
        "key": "k", "job": "j", "researcher": "ann", "dataset": "hearts", "round": 1, "step": "train", "epoch": 1,
        "attempt": 1, "reply_to": "ann", "message": "m", "order": order, "seq": 1, "state": "completed",
    }  # fmt: skip
    packed = b"" if result is None else pack(to_plain(result))
    return TaskRow(**{**fields, "result": packed, **about})


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (None, 0),
        (True, 0),
        ("a text of 10", 0),
        (1, 1),
        ({"a": 1.5, "b": {"c": [1, 2, (3, False)]}}, 4),
        (b"\x00\x01\x02", 3),
        ([[0.0] * 10] * 10, 100),
    ],
)
def test_numbers_are_counted_however_deep_they_lie(value: Any, number: int) -> None:
    assert count_numbers(value) == number


def test_a_value_that_is_nested_very_deeply_is_counted() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert count_numbers(value) == 1


def test_bytes_are_those_of_the_message_and_of_the_objects_that_it_names() -> None:
    ref = Ref("ab" * 32, 48_216)
    result = Result(of="", key="k", ok=True, params=ref, metrics={"train": {"loss": {"sum": 2.0, "n": 4}}})
    row = row_of(result)
    assert departure_of(row) == {
        "bytes": len(row.result) + 48_216,
        "numbers": 2,
        "use": "private",
        "parameters_bytes": 48_216,
    }
    blob = row_of(Result(of="", key="k", ok=True, blob=Ref("cd" * 32, 1000)), use="mock")
    assert departure_of(blob) == {"bytes": len(blob.result) + 1000, "numbers": 0, "use": "mock"}


def test_what_stays_here_leaves_nothing() -> None:
    assert departure_of(row_of(None)) == {}
    assert departure_of(row_of(Result(of="", key="k", ok=True, value=1), parent="p")) == {}, "a child's value"


def test_that_a_task_failed_leaves_too() -> None:
    failed = departure_of(row_of(Result(of="", key="k", ok=False, reason="exception", detail="ValueError")))
    assert failed["bytes"] > 50
    assert failed["numbers"] == 0
