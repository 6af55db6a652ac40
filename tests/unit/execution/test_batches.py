"""A node's half of a step, batch by batch: what is worked on, what is said, what may fail."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest

from fedjob.common.errors import NodeFailure, PlanError, SpecError
from fedjob.common.items import Items
from fedjob.common.reasons import FATAL
from fedjob.common.values import decode
from fedjob.data.item_choice import Known, choose, save_known
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.execution.workbench import Workbench
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.step_plan import Plan, check_split, check_step_plan
from tests import stepping

Said = list[tuple[str, dict[str, Any]]]


class Bench:
    """A warm worker and what it was given: a folder of files, each with a number in it."""

    def __init__(self, folder: Path, plan: type[Plan], **order: Any) -> None:
        self.folder = folder
        self.plan = extract(plan)
        self.bench = Workbench()
        self.said: Said = []
        self.order = order
        self._count = 0
        (folder / "scratch").mkdir(exist_ok=True)

    def files(self, values: Mapping[str, object]) -> Bench:
        (self.folder / "data").mkdir(exist_ok=True)
        for name, value in values.items():
            (self.folder / "data" / name).write_text(str(value))
        return self

    def run(self, step: str = "step", **changes: Any) -> WorkResult:
        self._count += 1
        output = Path(tempfile.mkdtemp(dir=self.folder, prefix="output"))
        fields = {
            "dataset": {"name": "files", "path": str(self.folder / "data"), "reader": "files"},
            **self.order,
            **changes,
        }
        order = WorkOrder(
            key=f"{self._count}",
            job="job",
            round=1,
            step=step,
            node="a",
            protocol="steps",
            plan_text=self.plan.text,
            entry=self.plan.entry,
            output_path=str(output),
            scratch_path=str(self.folder / "scratch"),
            **fields,
        )
        return self.bench.perform(order, lambda type_, body: self.said.append((type_, body)))

    def value(self, **changes: Any) -> Any:
        done = self.run(**changes)
        assert done.ok, done.trace
        return decode(done.value)

    def batches(self) -> list[dict[str, Any]]:
        return [body for type_, body in self.said if type_ == "batch"]


TEN = {f"{number:02d}": number for number in range(10)}


@pytest.mark.feature("BF-08", "BF-10", "BF-11", "BF-12", "BF-04", "BF-03")
def test_items_are_worked_on_in_batches_that_are_counted_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files(TEN)
    whole = bench.value()
    assert bench.batches()[0] == {"of": 1}
    bench.said.clear()
    assert bench.value(items=Items(batch=4)) == whole == list(range(10))
    began = [body for body in bench.batches() if body.get("state") == "started"]
    assert bench.batches()[0] == {"of": None}
    assert [body["n"] for body in began] == [1, 2, 3]
    assert [body.get("last", False) for body in began] == [False, False, True]
    results = [body for type_, body in bench.said if type_ == "result"]
    assert [body["num_rows"] for body in results] == [4, 4, 2]
    assert [value for body in results for value in body["value"]] == whole


@pytest.mark.feature("BF-21", "BF-22", "BF-33")
def test_setup_and_finish_are_called_once_and_the_plan_keeps_its_attributes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Counted, items=Items(batch=2)).files(TEN)
    assert bench.run("setup").num_examples == 10
    assert bench.value() == {"setups": 1, "sizes": [2, 2, 2, 2, 2], "models": 1, "batches": 5}


@pytest.mark.feature("BF-33")
def test_without_a_finish_what_the_batches_gave_is_joined(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({"a": 1, "b": 2})
    assert bench.value(items=Items(batch=1)) == [1, 2]
    assert bench.value() == [1, 2]
    total = Bench(tmp_path, stepping.Total)
    assert total.value(items=Items(batch=1)) == 3
    assert [body for type_, body in total.said if type_ == "result"] == [
        {"n": 1, "num_rows": 1},
        {"n": 2, "num_rows": 1},
    ], "what finish makes one answer of stays at the node"


@pytest.mark.feature("BF-35")
def test_setup_may_narrow_the_items(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Few, items=Items(batch=2)).files(TEN)
    assert bench.run("setup", training_args={"least": 7}).num_examples == 3
    assert bench.value(training_args={"least": 7}) == [7, 8, 9]
    assert [body["n"] for body in bench.batches() if body.get("state") == "started"] == [1, 2]
    none = Bench(tmp_path, stepping.Few).run("setup", training_args={"least": 100})
    assert (none.ok, none.reason) == (False, "no_data")


@pytest.mark.feature("BF-26")
def test_a_pipeline_passes_outputs_along(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Line).files({"a": 3, "b": 8})
    assert bench.value(items=Items(batch=1)) == ["a=2", "b=4"]


@pytest.mark.feature("BF-13", "BF-14", "BF-64")
def test_a_corrupt_item_costs_no_more_than_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({**TEN, "05": "corrupt"})
    done = bench.run(items=Items(batch=4, tolerate=5))
    assert decode(done.value) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert done.items == {"processed": 9, "failed": 1, "batches": 3}
    assert done.report.splitlines()[1].startswith("05,ValueError:")
    remembered = json.loads(Path(done.items_path).read_text())
    assert len(remembered["processed"]) == 9
    assert [item[3] for item in remembered["failed"]] == ["ValueError"], "what it says may be of the data"
    assert bench.batches()[-2:] == [
        {"state": "all-done", "ok": 2, "failed": 1},
        {"state": "retrying", "items": 4},
    ]


@pytest.mark.feature("BF-51")
def test_the_items_of_a_failed_batch_are_tried_again_one_by_one_only_if_that_is_switched_on(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({**TEN, "05": "corrupt"})
    done = bench.run(items=Items(batch=4, tolerate=5, retry_single=False))
    assert decode(done.value) == [0, 1, 2, 3, 8, 9]
    assert done.items == {"processed": 6, "failed": 4, "batches": 3}
    assert not [body for body in bench.batches() if body.get("state") == "retrying"]
    remembered = json.loads(Path(done.items_path).read_text())
    assert [item[0] for item in remembered["failed"]] == ["04", "05", "06", "07"]
    with pytest.raises(SpecError, match="tolerate=0 ends the task at the first failure"):
        Items(batch=4, retry_single=True)


@pytest.mark.feature("BF-14")
@pytest.mark.parametrize("tolerate", [0, 5], ids=["nothing is tolerated", "nothing failed"])
def test_nothing_is_tried_again_where_nothing_failed_or_may_fail(tmp_path: Path, tolerate: int) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({**TEN, **({} if tolerate else {"05": "corrupt"})})
    assert bench.run(items=Items(batch=4, tolerate=tolerate)).ok is bool(tolerate)
    assert not [body for body in bench.batches() if body.get("state") == "retrying"]


@pytest.mark.feature("BF-64")
@pytest.mark.parametrize("tolerate", [1, None], ids=["two in a row", "all of them"])
def test_too_many_failures_end_the_task(tmp_path: Path, tolerate: int | None) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files(dict.fromkeys(TEN, "corrupt"))
    done = bench.run(items=Items(batch=2, tolerate=tolerate))
    assert (done.ok, done.reason) == (False, "batch_failures")
    began = [body["n"] for body in bench.batches() if body.get("state") == "started"]
    assert began == ([1, 2] if tolerate else [1, 2, 3, 4, 5])


@pytest.mark.parametrize("reason", sorted(FATAL))
def test_a_fatal_reason_ends_the_task_at_its_first_attempt(tmp_path: Path, reason: str) -> None:
    bench = Bench(tmp_path, stepping.Limited, training_args={"reason": reason}).files(TEN)
    done = bench.run(items=Items(batch=1, tolerate=None))
    assert (done.ok, done.reason) == (False, reason)
    assert [body.get("n") for body in bench.batches()] == [None, 1]


@pytest.mark.feature("BF-50")
def test_a_trial_takes_the_first_items_says_so_and_leaves_nothing_to_remember(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({f"{number:03d}": number for number in range(100)})
    done = bench.run(items=Items(limit=5))
    assert decode(done.value) == [0, 1, 2, 3, 4]
    assert all(body["test"] for type_, body in bench.said if type_ in ("batch", "result"))
    assert done.items_path == ""
    assert bench.run().items_path


@pytest.mark.feature("BF-47", "BF-62")
def test_only_new_items_are_worked_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({"a": 1, "b": 2})
    known = tmp_path / "known.json"
    marks = {
        file.name: (file.stat().st_mtime, f"size:{file.stat().st_size}")
        for file in (tmp_path / "data").iterdir()
    }
    save_known(Known(processed=marks), known)
    again = {"items": Items(only="new"), "known_path": str(known)}
    done = bench.run(**again)
    assert (done.ok, done.reason) == (False, "no_new_data")
    os.utime(tmp_path / "data" / "b", (1, 1))
    assert bench.value(**again) == [2]
    bench.files({"c": 3})
    assert bench.value(**again) == [2, 3], "what came between two steps of a warm worker is seen"


def test_a_file_whose_time_cannot_be_read_is_new(tmp_path: Path) -> None:
    from fedjob.data.readers.base import ItemIdentity, identity_of

    gone = identity_of(tmp_path / "gone", tmp_path)
    assert choose([gone], Items(only="new"), Known(processed={"gone": (None, "unreadable")}), "a") == [0]
    row = ItemIdentity("0f")
    with pytest.raises(NodeFailure, match="no_new_data"):
        choose([row, row], Items(only="new"), Known(processed={"0f": (None, "")}), "a")


@pytest.mark.feature("BF-63")
def test_items_that_failed_before_can_be_left_out_until_they_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Sizes).files({"good": 1, "bad": "corrupt"})
    bad = (tmp_path / "data" / "bad").stat()
    known = tmp_path / "known.json"
    save_known(Known(failed={"bad": (bad.st_mtime, f"size:{bad.st_size}")}), known)
    skipping = {"items": Items(batch=1, tolerate=None, retry_failed=False), "known_path": str(known)}
    assert bench.run(**skipping).items == {"processed": 1, "failed": 0, "batches": 1}
    retrying = Items(batch=1, tolerate=None, only="new")
    assert bench.run(items=retrying, known_path=str(known)).items["failed"] == 1
    bench.files({"bad": 22})
    assert bench.value(**skipping) == [22, 1]


@pytest.mark.feature("BF-23")
def test_a_split_is_the_same_for_the_same_seed_and_has_no_overlap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Split).files(TEN)
    split = check_split({"test": 0.2, "validation": 0.1, "seed": 0})
    parts = bench.value(split=split)
    assert {name: len(names) for name, names in parts.items()} == {"test": 2, "train": 7, "validation": 1}
    assert sorted(name for names in parts.values() for name in names) == sorted(TEN)
    assert bench.value(split=split) == Bench(tmp_path, stepping.Split).value(split=split) == parts
    assert bench.value(split={**split, "seed": 1}) != parts
    for wrong in ({"test": 1.2}, {"train": 0.5}, {"seed": 1}, 3, {"test": 0.2, "seed": "x"}):
        with pytest.raises(SpecError, match="split"):
            check_split(wrong)


@pytest.mark.feature("BF-34")
def test_a_mean_over_a_million_rows_in_batches_is_exact(tmp_path: Path) -> None:
    rows = 1_000_000
    pandas.DataFrame({"x": range(rows)}).to_csv(tmp_path / "x.csv", index=False)
    bench = Bench(tmp_path, stepping.Mean, items=Items(batch=rows // 100))
    table = {"name": "x", "path": str(tmp_path / "x.csv"), "reader": "csv"}
    assert bench.value(dataset=table) == (rows - 1) / 2
    assert not list((tmp_path / "scratch").iterdir()), "what batches gave is gone with the task"


@pytest.mark.feature("BF-49")
def test_batches_bound_the_memory_that_a_node_takes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Reading).files({f"{number:02d}": "x" * 500_000 for number in range(64)})
    bench.value()  # imports, and what stays warm
    peaks = {}
    for batch in (16, None):
        tracemalloc.start()
        assert bench.value(items=Items(batch=batch)) == [500_000] * 64
        peaks[batch] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[None] > 64 * 500_000
    assert peaks[16] < 24 * 500_000


@pytest.mark.feature("BF-19")
def test_only_what_the_job_sends_along_can_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    bench = Bench(tmp_path, stepping.Fetching).files({"a": 1})
    artifacts = {"model": str(tmp_path / "model")}
    assert bench.value(artifacts=artifacts, training_args={"artifact": "model"}) == "weights"
    other = bench.run(artifacts=artifacts, training_args={"artifact": "/etc/passwd"})
    assert (other.ok, other.reason) == (False, "plan")
    assert "it sends model" in other.detail


@pytest.mark.feature("BF-18", "BF-28", "BF-21")
def test_a_plan_knows_its_work_and_nothing_of_the_transport(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stepping.Attributes, project="heart").files(TEN)
    told = bench.value()
    assert told["before"] == ("a", True, 10, None)
    assert told["project"] == "heart"
    assert not [name for name in told["names"] if any(word in name for word in ("socket", "broker", "link"))]


def test_an_incomplete_plan_is_refused_by_name() -> None:
    empty = type("Empty", (Plan,), {})
    both = type("Both", (Plan,), {"step": lambda self, ctx: 1, "steps": (stepping.Sizes,)})
    odd = type("Odd", (Plan,), {"step": lambda self: 1})
    part = type("Whole", (Plan,), {"steps": (stepping.Total,)})
    nested = type("Nested", (Plan,), {"steps": (stepping.Line,)})
    for cls, words in (
        (nested, "own steps"),
        (empty, "lacks step"),
        (both, "both step and steps"),
        (odd, "step"),
        (part, "finish"),
    ):
        with pytest.raises(PlanError, match=words):
            check_step_plan(cls)
