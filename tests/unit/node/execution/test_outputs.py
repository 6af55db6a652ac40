"""What a finished task is answered with, and what of it goes to the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import EncodeError
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.execution.orders import WorkResult
from fedjob.messaging.messages import MAX_INLINE_BYTES, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.execution.outputs import (
    MAX_METRICS_BYTES,
    UNTOLD,
    Destination,
    fits_in_answer,
    store,
    store_small,
)
from fedjob.node.queue.book import TaskRow
from fedjob.node.storage.spool import SmallOutput, Spool
from fedjob.privacy.protect import NodeDP, Protect, RecordDP
from fedjob.repository.memory import MemoryRepository

PLAN = Ref("ab" * 32, 9)


def row(
    use: str = "private", protect: dict[str, Any] | None = None, plan: Ref | None = None, **changes: Any
) -> TaskRow:
    order = pack(to_plain(Task(dataset="toy", protocol="fedavg", use=use, protect=protect or {}, plan=plan)))
    return TaskRow(
        key="a" * 64, job="job", researcher="ann", dataset="toy", round=1, step="train", epoch=1, attempt=1,
        reply_to="ann/s1", message="m1", order=order, seq=1, state=State.RUNNING, **changes,
    )  # fmt: skip


def destination(folder: Path, **settings: Any) -> Destination:
    home, repository = NodeHome(folder / "home"), MemoryRepository()
    home.create()
    config = NodeConfig(**settings)
    return Destination(
        home=home, config=config, spool=Spool(home, repository), repository=repository, large={}
    )


def result(**fields: Any) -> WorkResult:
    return WorkResult(**{"key": "a" * 64, "ok": True, "num_examples": 20, **fields})


def test_small_values_travel_in_the_answer_and_large_ones_through_the_repository(tmp_path: Path) -> None:
    to = destination(tmp_path)
    small = store(row(), 1, result(value=7, metrics={"train": {}}), 0, to).result
    assert (small.value, small.metrics, small.blob) == (7, {"train": {}}, None)
    text = "x" * MAX_INLINE_BYTES
    large = store(row(), 1, result(value=text, metrics={"train": {}}), 0, to).result
    assert (large.value, large.metrics) == (None, {})
    assert large.blob is not None
    packed = to.repository.get_bytes(large.blob, limit_bytes=large.blob.size_bytes)
    assert unpack(packed) == {"value": text, "metrics": {"train": {}}}


def test_a_metric_of_too_few_examples_stays_while_the_others_leave(tmp_path: Path) -> None:
    few, many = {"kind": "mean", "weight": 4.0, "total": 8.0}, {"kind": "accuracy", "n": 9, "correct": 7}
    metrics = {
        "before": {"loss": few, "accuracy": many},
        "after": {"loss": few, "odd": {"n": "many"}},
        "x": 3,
    }
    stored = store(row(), 1, result(metrics=metrics), 5, destination(tmp_path))
    assert stored.result.metrics == {"before": {"accuracy": many}}
    assert (
        store(row(), 1, result(metrics=metrics), 0, destination(tmp_path / "open")).result.metrics == metrics
    )


def test_what_was_computed_on_too_few_rows_never_leaves(tmp_path: Path) -> None:
    stored = store(row(), 1, result(value=7, num_examples=4), 5, destination(tmp_path, contact="dpo@x"))
    assert (stored.result.ok, stored.result.reason, stored.result.value) == (False, "min_rows", None)
    assert stored.result.detail == "computed on fewer rows than the owner's minimum of 5; ask dpo@x"


RECORD = Protect(dp=RecordDP(epsilon=1.0, delta=1e-5)).to_plain()
NODE = Protect(secagg=True, dp=NodeDP(epsilon=1.0, delta=1e-5)).to_plain()


@pytest.mark.parametrize(
    ("protect", "use", "reason", "detail"),
    [
        (RECORD, "private", "privacy", UNTOLD),
        (NODE, "private", "privacy", UNTOLD),
        (NODE, "mock", "exception", "ValueError in line 3: age is 41"),
    ],
    ids=["records", "nodes", "mock"],
)
def test_under_differential_privacy_a_plans_own_words_stay_even_where_errors_are_told_in_full(
    tmp_path: Path, protect: dict[str, Any], use: str, reason: str, detail: str
) -> None:
    failed = result(ok=False, reason="exception", detail="ValueError in line 3", message="age is 41")
    stored = store(row(use, protect, PLAN), 1, failed, 0, destination(tmp_path, errors="full"))
    assert (stored.result.reason, stored.result.detail) == (reason, detail)
    assert stored.left is (use == "private")  # and so it is paid for
    assert stored.message == "age is 41"  # for the node's own log


@pytest.mark.parametrize("protect", [RECORD, NODE], ids=["records", "nodes"])
@pytest.mark.parametrize(
    ("found", "min_rows", "plan", "reason"),
    [
        (result(value=7, num_examples=4), 5, PLAN, "privacy"),  # how many there are is not registered
        (result(ok=False, reason="unreadable_data", detail="the owner's log says why"), 0, None, "privacy"),
        (result(ok=False, reason="exception", detail="OverflowError"), 0, None, "privacy"),
        (result(ok=False, reason="out_of_memory", detail="a worker may have no more"), 0, None, "privacy"),
        (result(ok=False, reason="columns", detail="no column 'agee'"), 0, None, "columns"),
    ],
    ids=str,
)
def test_of_a_failure_under_differential_privacy_only_what_is_registered_anyway_leaves(
    found: WorkResult, min_rows: int, plan: Any, reason: str, protect: dict[str, Any], tmp_path: Path
) -> None:
    stored = store(row("private", protect, plan), 1, found, min_rows, destination(tmp_path))
    expected = "privacy" if protect is NODE else reason
    assert (stored.result.ok, stored.result.reason, stored.left) == (False, expected, True)
    if expected == "privacy":
        assert stored.result.detail == UNTOLD
    mock = store(row("mock", protect, plan), 1, found, min_rows, destination(tmp_path))
    assert mock.result.reason == (found.reason or "min_rows")


@pytest.mark.parametrize(
    ("use", "errors", "detail", "trace"),
    [
        ("private", "reason", "ValueError in line 3", ""),
        ("private", "full", "ValueError in line 3: age is 41", ""),
        ("mock", "reason", "ValueError in line 3: age is 41", "Traceback"),
    ],
)
def test_the_words_of_an_error_leave_only_where_the_owner_or_a_mock_allows_it(
    tmp_path: Path, use: str, errors: str, detail: str, trace: str
) -> None:
    failed = result(
        ok=False, reason="exception", detail="ValueError in line 3", message="age is 41", trace="Traceback"
    )
    stored = store(row(use), 1, failed, 0, destination(tmp_path, errors=errors))
    assert (stored.result.detail, stored.result.trace) == (detail, trace)
    assert (stored.message, stored.trace) == ("age is 41", "Traceback")  # for the node's log


def test_the_value_of_a_child_stays_at_the_node(tmp_path: Path) -> None:
    stored = store(row(parent="b" * 64), 1, result(value=7), 0, destination(tmp_path))
    assert (stored.result.ok, stored.result.value, stored.result.num_examples) == (True, None, 20)


def test_metrics_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="metrics take at most"):
        store(row(), 1, result(metrics={"train": {"x": "y" * MAX_METRICS_BYTES}}), 0, destination(tmp_path))


@pytest.mark.parametrize("min_rows", [0, 10, 30])
@pytest.mark.parametrize("params", [None, b"numbers"])
@pytest.mark.parametrize(
    "fields",
    [
        {"value": {"loss": 1.5}, "metrics": {"train": {"n": 5}}, "timing": {"total": 0.1}, "threads": 2},
        {"ok": False, "reason": "exception", "message": "no", "trace": "at line 1"},
        {"ok": False, "reason": "limits_exceeded", "used": {"inferences": 9}, "overrun": 2, "value": [1]},
        {"report": "one item failed", "items": {"processed": 3}, "weight": 2.0},
    ],
    ids=str,
)
def test_a_small_output_is_answered_as_one_that_lies_in_files(
    tmp_path: Path, fields: dict[str, Any], params: bytes | None, min_rows: int
) -> None:
    to = destination(tmp_path)
    found = result(**fields, params_path="params.safetensors" if params else "")
    folder = to.spool.begin(found.key)
    if params:
        (folder / "params.safetensors").write_bytes(params)
    (folder / "result.mpk").write_bytes(pack(to_plain(found)))
    to.spool.finish(found.key, folder)
    small = store_small(row(), 1, SmallOutput(found, params), min_rows, to.config)
    assert small == store(row(), 1, found, min_rows, to)
    if params and small.result.params:
        assert small.attached == {small.result.params.sha256: params}
        assert small.result.attached == {small.result.params.sha256: b""}
    assert fits_in_answer(found, None if params is None else len(params)) == (
        found.ok or bool(found.overrun) or params is None
    )
