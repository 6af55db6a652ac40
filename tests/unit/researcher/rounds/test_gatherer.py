"""What a round believes of its nodes: nothing that it has not looked over itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.collect import Collect
from fedjob.aggregation.guard import Guard, check_weight
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
from fedjob.aggregation.sum import Sum
from fedjob.common.codec import to_plain
from fedjob.common.errors import QuorumNotReached, SpecError
from fedjob.common.quorum import Quorum, Verdict
from fedjob.common.types import Ref, new_job_id
from fedjob.common.values import MARK, encode
from fedjob.messaging.messages import MAX_PAYLOAD_BYTES, Message, Result, Task, encode_payload
from fedjob.metrics.states import mean_state
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols.base import LOSS, Ask, Buffered
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.base import Accept, AskContext, Collected, Federation, Write
from fedjob.researcher.rounds.computation import Finish
from fedjob.researcher.rounds.gatherer import Gatherer
from fedjob.researcher.rounds.tasks import TaskBuilder
from fedjob.researcher.selection.all_nodes import AllNodes
from fedjob.researcher.selection.base import Selector
from fedjob.researcher.selection.power_of_choice import PowerOfChoice
from fedjob.researcher.storage.event_log import EventLog, read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Arrival
from fedjob.researcher.storage.spec import Component, JobSpec

NODES = ("a", "b", "c")


class Canned(Federation):
    """Nodes whose answers are written down beforehand."""

    def __init__(self, answers: Mapping[str, tuple[Result, dict[str, torch.Tensor] | None]]) -> None:
        self.num_rows = dict.fromkeys(NODES, 100)
        self.answers = answers
        self.tasks: dict[str, Task] = {}

    def prepare(self, plan: Ref | None) -> None: ...

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        return ref_of(source)

    def forget(self, refs: Any) -> None: ...

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None: ...

    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        self.tasks = dict(tasks)
        arrivals, left_out = {}, {}
        for node in tasks:
            result, tensors = self.answers[node]
            params = None
            if tensors is not None:
                path = place.spool / f"{node}.safetensors"
                save_params(tensors, path)
                params = FileParams(path)
                result = replace(result, params=ref_of(path))
            arrival = Arrival(node=node, result=result, params=params)
            if problem := accept(arrival):
                left_out[node] = problem
            else:
                arrivals[node] = arrival
        if quorum.decide(list(tasks), arrivals, left_out) is not Verdict.MET:
            raise QuorumNotReached("too few", left_out=left_out)
        return Collected(arrivals=arrivals, left_out=left_out)


def answer(value: float = 1.0, **changes: Any) -> tuple[Result, dict[str, torch.Tensor] | None]:
    result = Result(of="m", key="k" * 64, ok=True, weight=10.0, num_examples=10, state="s" * 32)
    return replace(result, **changes), {"w": torch.full((3,), value)}


def gather(
    folder: Path,
    answers: Mapping[str, Any],
    ask: Ask | None = None,
    states: Mapping[str, str] | None = None,
    *,
    guard: Guard | None = None,
    aggregator: Aggregator | None = None,
    selector: Selector | None = None,
    federation: type[Canned] | None = None,
    finish: Finish | None = None,
    size: int = 3,
) -> tuple[Any, Position, Canned]:
    nodes = (federation or Canned)(answers)
    job = JobFolder(folder / new_job_id())
    job.create()
    save_params({"w": torch.zeros(size)}, job.initial_params)
    spec = JobSpec(
        id=job.path.name,
        protocol=Component(name="fedavg"),
        rounds=2,
        seed=1,
        datasets={node: {"name": "d"} for node in NODES},
        guard={} if guard is None else to_plain(guard),
    )
    events = EventLog(job.events)
    gatherer = Gatherer(
        spec=spec,
        federation=nodes,
        folder=job,
        events=events,
        selector=lambda: selector or AllNodes(),
        aggregator=aggregator,
        tasks=TaskBuilder(
            spec=spec,
            federation=nodes,
            folder=job,
            events=events,
            code={},
            named_states=lambda: {"a": {"kept"}},
        ),
    )
    params = FileParams(job.initial_params)
    position = Position(state={"params": params, "round": 0}, node_states=dict(states or {}))
    try:
        gathered, after = gatherer(ask or Ask(shared={"params": params}), position, finish)
    finally:
        events.close()
    return gathered, after, nodes


def test_a_round_aggregates_what_counts_and_records_it(tmp_path: Path) -> None:
    answers = {"a": answer(1.0, weight=10.0), "b": answer(4.0, weight=20.0), "c": answer(1.0, weight=10.0)}
    gathered, after, federation = gather(tmp_path, answers)
    assert gathered.total.value["w"].tolist() == [2.5] * 3
    assert after.node_states == dict.fromkeys(NODES, "s" * 32)
    record = after.ledger[-1]
    assert [entry[0] for entry in record.inputs] == ["a", "b", "c"]
    assert record.output_hash == ref_of(gathered.total.value.path).sha256
    assert federation.tasks["a"].keep_states == ["kept"]
    assert federation.tasks["b"].keep_states == []


class Publishing(Canned):
    """Nodes that know what is published, and by whom it was written while it grew."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        super().__init__(answers)
        self.published: list[Ref] = []
        self.grown: list[list[int]] = []

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        self.published.append(ref_of(source))
        return self.published[-1]

    def attach_growing(self, path: Path, size_bytes: int, write: Write) -> Ref:
        self.grown.append([])
        write(self.grown[-1].append)
        assert self.grown[-1][-1] == path.stat().st_size == size_bytes
        return self.attach(path)

    def forget(self, refs: Any) -> None:
        for ref in refs:
            self.published.remove(ref)


LARGE = (1 << 18) + 1
"""Numbers of a model whose total is computed in stretches."""


def large(value: float, **changes: Any) -> tuple[Result, dict[str, torch.Tensor]]:
    return answer(**changes)[0], {"w": torch.full((LARGE,), value)}


def test_a_large_total_is_published_while_it_is_computed(tmp_path: Path) -> None:
    answers = {node: large(value) for node, value in zip(NODES, (1.0, 4.0, 1.0), strict=True)}
    gathered, _, nodes = gather(tmp_path, answers, federation=Publishing, size=LARGE)
    assert isinstance(nodes, Publishing)
    total = gathered.total.value
    assert torch.equal(total["w"], torch.full((LARGE,), 2.0))
    assert total.ref == ref_of(total.path)
    assert nodes.published.count(total.ref) == 1
    assert len(nodes.grown[0]) == 3, "the header, and two stretches"


def test_what_a_round_published_of_a_total_that_does_not_count_is_removed(tmp_path: Path) -> None:
    def no_fours(gathered: Any) -> dict[str, Any]:
        if float(gathered.total.value["w"][0]) != 1.0:
            raise SpecError("nothing can be begun with this")
        return {"params": gathered.total.value}

    answers = {node: large(value) for node, value in zip(NODES, (1.0, 4.0, 1.0), strict=True)}
    gathered, after, nodes = gather(
        tmp_path, answers, federation=Publishing, finish=no_fours, size=LARGE, ask=None
    )
    assert isinstance(nodes, Publishing)
    assert list(gathered.left_out) == ["b"]
    kept = after.state["params"].ref
    began_with = nodes.tasks["a"].params["params"]
    assert sorted(nodes.published, key=str) == sorted((began_with, kept), key=str)
    assert len(nodes.grown) == 2


@pytest.mark.parametrize("size", [3, LARGE])
def test_the_parameters_of_the_round_stay_published_where_its_total_is_the_same(
    size: int, tmp_path: Path
) -> None:
    def fails(gathered: Any) -> dict[str, Any]:
        raise SpecError("nothing can be begun with this")

    zeros = {node: (answer()[0], {"w": torch.zeros(size)}) for node in NODES}
    held: list[Publishing] = []

    class Held(Publishing):
        def __init__(self, answers: Mapping[str, Any]) -> None:
            super().__init__(answers)
            held.append(self)

    with pytest.raises(SpecError, match="nothing can be begun"):
        gather(tmp_path, zeros, federation=Held, finish=fails, size=size)
    assert held[0].tasks["a"].params["params"] in held[0].published


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((answer()[0], {"w": torch.tensor([1.0, NAN, 1.0])}), "not_finite"),
        ((answer()[0], {"w": torch.tensor([1.0, INF, 1.0])}), "not_finite"),
        ((answer()[0], {"v": torch.ones(3)}), "bad_names"),
        ((answer()[0], {"w": torch.ones(3), "x": torch.ones(1)}), "bad_names"),
        ((answer()[0], {"w": torch.ones(4)}), "bad_shape"),
        ((answer()[0], {"w": torch.ones(3, dtype=torch.float64)}), "bad_shape"),
        ((answer()[0], None), "no_params"),
        (answer(weight=NAN), "bad_weight"),
        (answer(weight=-1.0), "bad_weight"),
        (answer(num_examples=-1), "bad_weight"),
        (answer(metrics={"train": {"loss": "most of all"}}), "bad_metrics"),
        (answer(metrics={"train": {"loss": {"kind": "mean", "total": "x", "weight": 1}}}), "bad_metrics"),
        (answer(metrics={"train": {"loss": {"kind": "accuracy"}}}), "bad_metrics"),
        (answer(metrics={"train": 0.5}), "bad_metrics"),
    ],
)
def test_a_contribution_that_can_not_be_right_is_named_and_left_out(
    tmp_path: Path, bad: Any, reason: str
) -> None:
    gathered, after, _ = gather(tmp_path, {"a": answer(1.0), "b": bad, "c": answer(3.0)})
    assert gathered.total.value["w"].tolist() == [2.0] * 3
    assert gathered.left_out["b"].startswith(reason)
    assert "b" not in after.node_states


def test_a_plan_may_make_many_examples_of_a_row_and_a_guard_may_say_how_many(tmp_path: Path) -> None:
    answers = {"a": answer(1.0), "b": answer(3.0, weight=300.0, num_examples=300), "c": answer(1.0)}
    gathered, _, _ = gather(tmp_path / "free", answers)
    assert gathered.left_out == {}
    expected = (answers["a"][0].weight * 2 + 3 * 300) / (answers["a"][0].weight * 2 + 300)
    assert gathered.total.value["w"].tolist() == pytest.approx([expected] * 3)
    for per_row, left_out in ((3, []), (2.9, ["b"])):
        bound, _, _ = gather(tmp_path / str(per_row), answers, guard=Guard(max_examples_per_row=per_row))
        assert list(bound.left_out) == left_out
    assert "300 examples claimed of 100 rows" in bound.left_out["b"]
    assert "max_examples_per_row=2.9" in bound.left_out["b"]


def test_a_node_without_rows_does_not_lift_the_bound_on_examples_of_a_row() -> None:
    assert check_weight(10.0, 10, 0, per_row=1.0).startswith("bad_weight")
    assert check_weight(0.0, 0, 0, per_row=1.0) == ""
    assert check_weight(10.0, 10, None, per_row=1.0) == ""


def test_what_an_owner_lets_a_dataset_weigh_is_explained(tmp_path: Path) -> None:
    answers = {"a": answer(1.0), "b": answer(3.0, weight=50.0, num_examples=300), "c": answer(1.0)}
    gathered, _, _ = gather(tmp_path, answers)
    (job,) = tmp_path.iterdir()
    assert gathered.left_out == {}
    notes = [e.body["text"] for e in read_events(JobFolder(job).events) if e.type == "note"]
    assert [note for note in notes if "b counts as 50 of its 300 examples" in note]
    assert not [note for note in notes if note.startswith("a ")]


def test_an_update_beyond_the_guards_bound_is_left_out_and_nan_is_found_before_its_length(
    tmp_path: Path,
) -> None:
    result = answer()[0]
    answers = {
        "a": (result, {"w": torch.tensor([3.0, 4.0, 0.0])}),
        "b": (result, {"w": torch.tensor([3.0, 4.0, 0.1])}),
        "c": (result, {"w": torch.tensor([NAN, 0.0, 0.0])}),
    }
    gathered, _, _ = gather(tmp_path, answers, guard=Guard(max_norm=5.0))
    assert gathered.left_out["b"] == "long_update: the update is 5.001 long, at most 5 counts"
    assert gathered.left_out["c"].startswith("not_finite")
    assert gathered.total.value["w"].tolist() == [3.0, 4.0, 0.0]
    moved = Ask(shared={"params": {"w": torch.tensor([3.0, 4.0, 0.0])}})
    gathered, _, _ = gather(tmp_path, answers, moved, guard=Guard(max_norm=1.0))
    assert list(gathered.left_out) == ["c"]
    changes = replace(moved, origin={})
    gathered, _, _ = gather(tmp_path, answers, changes, guard=Guard(max_norm=5.0))
    assert list(gathered.left_out) == ["b", "c"]


@pytest.mark.parametrize(
    "bad",
    [NAN, {"sum": [1.0, INF]}, [[-INF]], encode(np.array([1.0, NAN])), encode(torch.tensor([INF]))],
    ids=["number", "map", "list", "array", "tensor"],
)
def test_a_number_that_is_not_finite_is_left_out_of_an_aggregator_that_computes(
    tmp_path: Path, bad: Any
) -> None:
    def returned(value: Any) -> tuple[Result, None]:
        return replace(answer()[0], value=value), None

    answers = {"a": returned(None), "b": returned(bad), "c": returned(None)}
    gathered, _, _ = gather(tmp_path, answers, Ask(step="count", aggregator=Sum()))
    assert list(gathered.left_out) == ["b"]
    assert gathered.left_out["b"].startswith("not_finite: ")
    gathered, _, _ = gather(tmp_path, answers, Ask(step="count", aggregator=Collect()))
    assert gathered.left_out == {}
    odd = {**answers, "b": returned({MARK: "array", "data": b"no array"})}
    gathered, _, _ = gather(tmp_path, odd, Ask(step="count", aggregator=Sum()))
    assert gathered.left_out["b"].startswith("unreadable: ")


def test_the_need_of_an_aggregator_raises_the_quorum(tmp_path: Path) -> None:
    bad = (answer()[0], {"w": torch.ones(4)})
    with pytest.raises(QuorumNotReached):
        gather(tmp_path, {"a": answer(), "b": bad, "c": answer()}, aggregator=TrimmedMean(1))
    with pytest.raises(SpecError, match="needs 5 nodes or more, but round 1 asks 3"):
        gather(tmp_path, dict.fromkeys(NODES, answer()), aggregator=TrimmedMean(2))


def test_an_aggregator_of_the_jobs_own_is_for_asks_that_complete_a_round(tmp_path: Path) -> None:
    answers = {node: (replace(answer()[0], value=float(k)), None) for k, node in enumerate(NODES)}
    gathered, _, _ = gather(
        tmp_path, answers, Ask(step="count", aggregator=Collect(), commit=False), aggregator=Median()
    )
    assert gathered.total.value == [0.0, 1.0, 2.0]
    gathered, _, _ = gather(tmp_path, answers, Ask(step="count", aggregator=Collect()), aggregator=Median())
    assert gathered.total.value == 1.0


def test_losses_that_a_selector_asks_for_are_no_part_of_the_round(tmp_path: Path) -> None:
    losses = {"a": mean_state(0.5, 10), "b": mean_state(0.75, 10), "c": mean_state(0.25, 10)}
    answers = {node: answer(metrics={LOSS: {"loss": loss}}) for node, loss in losses.items()}

    class LossesFirst(Canned):
        def collect(self, tasks: Any, place: AskContext, *rest: Any) -> Collected:
            if place.step == LOSS:
                self.answers = {node: (found[0], None) for node, found in answers.items()}
            else:
                self.answers = answers
            return super().collect(tasks, place, *rest)

    gathered, after, federation = gather(
        tmp_path, answers, selector=PowerOfChoice(1, 3), federation=LossesFirst
    )
    assert list(federation.tasks) == ["b"]
    assert [record.step for record in after.ledger] == [LOSS, "train"]
    assert list(gathered.replies) == ["b"]
    assert {row.node for row in after.rows} == {"b", "all"}


@pytest.mark.feature("FB-69")
def test_a_reply_without_the_state_that_its_node_had_is_a_failed_reply(tmp_path: Path) -> None:
    had = {"a": "1" * 32, "b": "2" * 32}
    gathered, after, _ = gather(tmp_path, {"a": answer(), "b": answer(state=None), "c": answer()}, states=had)
    assert gathered.left_out["b"].startswith("no_state")
    assert after.node_states["b"] == "2" * 32


def test_parameters_that_come_back_from_a_validation_do_not_count(tmp_path: Path) -> None:
    ask = Ask(step="validate", commit=False)
    good = (answer()[0], None)
    gathered, _, _ = gather(tmp_path, {"a": good, "b": answer(), "c": good}, ask)
    assert list(gathered.left_out) == ["b"]


@pytest.mark.feature("FB-52")
def test_auxiliary_variables_do_not_travel_with_a_validation_and_a_note_says_so(tmp_path: Path) -> None:
    control = {"w": torch.ones(3)}
    ask = Ask(
        step="validate",
        shared={"params": {"w": torch.zeros(3)}, "control": control, "threshold": 0.5},
        each={"b": {"own_control": control, "name": "b"}},
        commit=False,
    )
    good = (answer()[0], None)
    _, _, federation = gather(tmp_path, dict.fromkeys(NODES, good), ask)
    for task in federation.tasks.values():
        assert list(task.params) == ["params"]
    assert federation.tasks["a"].values == {"threshold": 0.5}
    assert federation.tasks["b"].values == {"threshold": 0.5, "name": "b"}
    (job,) = tmp_path.iterdir()
    notes = [e.body["text"] for e in read_events(JobFolder(job).events) if e.type == "note"]
    assert notes == ["auxiliary variables are not sent with a validation: control, own_control"]


def test_an_ask_to_unknown_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="zz"):
        gather(tmp_path, {}, Ask(to=("zz",)))


def test_values_that_are_small_each_but_too_many_for_a_message_go_through_the_repository(
    tmp_path: Path,
) -> None:
    answers = {node: (replace(answer()[0], value=3), None) for node in NODES}
    ask = Ask(
        step="count",
        shared={f"v{number}": "x" * (12_000 + number) for number in range(6)},
        each={"a": {f"own{number}": "y" * 12_000 for number in range(4)}},
        aggregator=Sum(),
    )
    gathered, _, nodes = gather(tmp_path, answers, ask)
    assert gathered.total.value == 9
    for task in nodes.tasks.values():
        message = Message(to="a/main", id="1" * 32, body=task, issued=1.0, expires=2.0, sender="ann")
        assert len(encode_payload(message)) <= MAX_PAYLOAD_BYTES
    assert sorted(nodes.tasks["b"].values) == ["v0"], "the largest go first"
    assert sorted(nodes.tasks["b"].blobs) == ["v1", "v2", "v3", "v4", "v5"]
    assert len(nodes.tasks["a"].values) == 2
