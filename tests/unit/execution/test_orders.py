"""From a task to a worker's order, and from a worker's result to an answer."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import in_order, pack
from fedjob.common.types import Ref
from fedjob.execution.orders import WorkOrder, WorkResult, child_fields, child_place, result_of, work_order_of
from fedjob.messaging.messages import Task
from fedjob.training_plans.child_tasks import ChildOrder

PARAMS, BLOB, FILE = (Ref(digit * 64, 8) for digit in "abc")
TASK = Task(
    dataset="ehr",
    protocol="fedavg",
    config={"rate": 1},
    entry="Plan",
    values={"small": 1},
    blobs={"large": BLOB},
    params={"params": PARAMS},
    model_args={"width": 3},
    training_args={"epochs": 2},
    seed=7,
    props={"site": "a"},
    split={"parts": 2},
    project="study",
    artifacts={"weights": FILE},
)


def ordered(task: Task = TASK) -> WorkOrder:
    return work_order_of(
        task,
        key="k",
        job="j",
        round_=3,
        step="train",
        node="hospital",
        plan_text="text",
        dataset={"path": "/data"},
        path_of=lambda ref: Path("/spool") / ref.sha256[:1],
        value_of=lambda name, ref: f"{name} of {ref.sha256[:1]}",
        state_path="/state",
        output_path="/output",
    )


def test_an_order_says_all_that_its_task_says() -> None:
    order = ordered()
    same = {field.name for field in fields(Task)} & {field.name for field in fields(WorkOrder)}
    for name in same - {"dataset", "values", "params", "artifacts"}:
        assert getattr(order, name) == getattr(TASK, name), name
    assert order.values == {"small": 1, "large": "large of b"}
    assert order.params == {"params": "/spool/a"}
    assert order.artifacts == {"weights": "/spool/c"}
    assert (order.key, order.job, order.round, order.step, order.node) == ("k", "j", 3, "train", "hospital")
    assert (order.plan_text, order.dataset) == ("text", {"path": "/data"})
    assert (order.state_path, order.output_path) == ("/state", "/output")


def test_a_child_has_its_own_function_and_arguments_and_nothing_of_the_model() -> None:
    wanted = ChildOrder(number=2, entry="count", args={"words": 1})
    assert child_fields(wanted) == {
        "protocol": "function",
        "config": {},
        "entry": "count",
        "params": {},
        "model_args": {},
        "training_args": {"words": 1},
    }
    assert child_place("", 2) == "2"
    assert child_place(child_place("", 0), 2) == "0/2"


def test_an_answer_says_what_the_result_says_and_nothing_that_stays_at_the_node() -> None:
    done = WorkResult(
        key="k",
        ok=True,
        value=5,
        message="private",
        trace="private",
        weight=4.0,
        num_examples=4,
        metrics={"train": {}},
        timing={"total": 1.0},
        threads=2,
        items={"processed": 4},
        used={"inferences": 9},
    )
    result = result_of(done, params=PARAMS, state="s")
    same = {field.name for field in fields(WorkResult)} & {field.name for field in fields(type(result))}
    for name in same - {"used", "trace"}:
        assert getattr(result, name) == getattr(done, name), name
    assert result.used == [{"resource": "inferences", "amount": 9}]
    assert (result.params, result.state, result.trace) == (PARAMS, "s", "")
    assert "private" not in repr(result)


def test_the_order_of_keys_in_what_a_grant_binds_tells_a_plan_nothing() -> None:
    nested = {"b": [{"z": 1, "y": 2}], "a": {"d": 1, "c": {"f": 1, "e": 2}}}
    turned = {"a": {"c": {"e": 2, "f": 1}, "d": 1}, "b": [{"y": 2, "z": 1}]}
    bound = ("config", "model_args", "training_args", "props", "split")

    def seen(given: dict[str, Any], files: dict[str, Ref]) -> list[bytes]:
        task = replace(TASK, **dict.fromkeys(bound, given), round_args={}, artifacts=files)
        order = ordered(task)
        return [pack(getattr(order, name)) for name in (*bound, "artifacts")]

    two = {"weights": FILE, "begin": FILE}
    assert seen(nested, two) == seen(turned, dict(reversed(two.items())))


def test_maps_with_keys_of_several_types_have_an_order() -> None:
    assert list(in_order({"b": 1, 2: 1, "a": 1, 1: 1})) == [1, 2, "a", "b"]
