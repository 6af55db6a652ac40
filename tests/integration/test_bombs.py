"""What one bad node of three can do to a job by its answers: nothing but be left out, by name, in each round."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Guard, Job, Plan, Quorum, Statistics
from fedjob.common.codec import pack
from fedjob.common.types import Ref, new_job_id
from fedjob.messaging.messages import End, Event, Message, Pong, Result, Task
from fedjob.metrics.states import mean_state
from fedjob.researcher.jobs.session import Session
from tests.bombs import TRAINING, VALUES, Bomb
from tests.integration.scripted import Field
from tests.plans import Linear
from tests.processes import wait_until

MB = 1 << 20
STATE = "0" * 32


class Counting(Plan):
    def step(self, ctx):  # type: ignore[no-untyped-def]
        return 1


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


@pytest.fixture
def session(field: Field, tmp_path: Path) -> Session:
    return field.session(tmp_path / "lab")


def trained(message: Message, task: Task) -> Result:
    """Return the answer of an honest node to an ask to train: the parameters as they came."""
    metrics = {"train": {"loss": mean_state(0.5, 20)}}
    done = Result(of=message.id, key=message.task, ok=True, weight=20.0, num_examples=20, metrics=metrics)
    params, state = task.params.get("params"), STATE if task.params else None
    return replace(done, params=params, state=state, attached=dict(task.attached))


def counted(message: Message, task: Task) -> Result:
    """Return the answer of an honest node to an ask for a plain value."""
    value = None if message.step == "setup" else 1
    return Result(
        of=message.id, key=message.task, ok=True, weight=20.0, num_examples=20, value=value, state=STATE
    )


def throwing(field: Field, bombs: Sequence[Bomb], honest: Any) -> Any:
    """Return how a node answers that throws one bomb after another, one in each round."""

    def put(data: bytes) -> Ref:
        return field.repository.put(data, job="job_of_nobody")

    def answer(message: Message, task: Task) -> Result:
        good: Result = honest(message, task)
        if message.step == "setup" or message.round > len(bombs):
            return good
        thrown = bombs[message.round - 1].make(put)
        return replace(good, **({"attached": {}} if "params" in thrown else {}), **thrown)

    return answer


def reasons(job: Job) -> dict[int, str]:
    """Return round -> the reason for which the bad node is left out."""
    return {e.round: str(e.body["reason"]) for e in job.events() if e.type == "error" and e.node == "bad"}


def peak_growth(run: Any) -> int:
    """Return by how much the memory of this process grew at most, in bytes: on Linux, from what it has now."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    before = peak()
    run()
    return peak() - before


def peak() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = status.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


@pytest.mark.parametrize(
    ("bombs", "honest", "make"),
    [
        (
            TRAINING,
            trained,
            lambda session, **more: Job(
                FedAvg(), training_plan=Linear, training_args={"lr": 0.1}, session=session, **more
            ),
        ),
        (VALUES, counted, lambda session, **more: Job(Counting, session=session, **more)),
    ],
    ids=["training", "values"],
)
def test_every_bomb_is_named_and_left_out_and_the_job_goes_on(
    field: Field, session: Session, bombs: Sequence[Bomb], honest: Any, make: Any
) -> None:
    for name in ("ann", "ben"):
        field.node(name, works=honest)
    field.node("bad", works=throwing(field, bombs, honest))
    job = make(session, data={"tags": ["toy"]}, quorum=Quorum(min_nodes=2), rounds=len(bombs) + 1)
    grown = peak_growth(lambda: job.run(progress=False))
    assert job.state == "completed"
    found = reasons(job)
    wrong = {
        b.name: found.get(n) for n, b in enumerate(bombs, 1) if not found.get(n, "").startswith(b.reason)
    }
    assert wrong == {}
    assert len(bombs) + 1 not in found, "an honest answer counts again afterwards"
    assert grown < 256 * MB


def test_there_are_at_least_sixty_kinds_of_bombs() -> None:
    names = [bomb.name for bomb in (*TRAINING, *VALUES)]
    assert len(set(names)) == len(names) >= 60


def test_events_of_a_node_are_bounded_in_bytes_and_belong_to_their_signer(
    field: Field, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "lab" / "config.toml").write_text("events_mb = 1\n")
    field.node("ann", works=trained)

    def flood(message: Message, task: Task) -> Result:
        bad = field.nodes["bad"]
        endpoint, to = bad._endpoint, message.reply_to
        assert endpoint is not None
        wait_until(lambda: field.nodes["ann"].heard_of(Task), timeout_s=30, what="ann to have a task")
        about = next(m.task for m in field.nodes["ann"].heard if isinstance(m.body, Task))
        address = type(endpoint.address)(*to.split("/"))
        endpoint.send(address, Event(type="log", data={"text": "of ann"}), job=message.job, task=about)
        for _ in range(50):  # nobody asked, and none of these jobs is known
            endpoint.send(
                address, Pong(of="0" * 32, jobs=[new_job_id() for _ in range(300)]), job=message.job
            )
        for number in range(100):
            body = Event(type="found", data={"number": number, "text": "x" * 40_000})
            endpoint.send(address, body, job=message.job, task=message.task)
        return trained(message, task)

    field.node("bad", works=flood)
    job = Job(
        FedAvg(),
        training_plan=Linear,
        training_args={"lr": 0.1},
        session=session,
        data={"tags": ["toy"]},
        rounds=1,
    )
    job.run(progress=False)
    events = list(job.events())
    assert len(field.nodes["bad"].heard_of(End)) <= 1
    recorded = [e for e in events if e.type == "found"]
    assert 0 < len(recorded) < 40
    assert not [e for e in events if e.type == "log" and e.node == "ann"]
    notes = " ".join(str(e.body.get("text")) for e in events if e.type == "note" and e.node == "bad")
    assert "about the task of ann" in notes
    assert "events_mb" in notes


def test_no_node_has_more_than_its_share_of_the_weight(field: Field, session: Session) -> None:
    field.node("ann", works=trained)
    field.node("ben", works=trained)
    field.node("bad", works=lambda m, t: replace(trained(m, t), weight=2000.0, num_examples=2000))
    job = Job(
        FedAvg(),
        training_plan=Linear,
        training_args={"lr": 0.1},
        session=session,
        data={"tags": ["toy"]},
        rounds=1,
        guard=Guard(max_share=0.5),
    )
    job.run(progress=False)
    texts = [str(e.body["text"]) for e in job.events() if e.type == "note" and e.node == "bad"]
    assert texts == [
        "bad counts as 40 instead of 2000: no node has more than 0.5 of the weight (Guard(max_share=...))"
    ]


ODD_STATISTICS: tuple[dict[str, Any], ...] = (
    {"columns": {"": {"age": {"count": 20, "missing": 0, "sum": {"a": 1}}}}},
    {"columns": {"": {"age": {"count": [20], "missing": 0, "sum": 1.0}}}},
    {"columns": {"": {"age": {"count": 20, "missing": 0, "sum": float("nan")}}}},
    {"columns": {"": {"age": {"count": 10**15, "missing": 0, "sum": 1.0}}}},
    {"columns": {"": {"ssn": {"count": 20, "missing": 0, "sum": 1.0}}}},
    {"columns": [1, 2]},
    {"withheld": "all"},
    {"rows": {"": -20}},
    {"more": 1},
)


def test_statistics_go_on_without_nodes_that_answer_in_another_form(field: Field, session: Session) -> None:
    def honest(message: Message, task: Task) -> Result:
        value = {
            "rows": {"": 20},
            "columns": {"": {"age": {"count": 20, "missing": 0, "sum": 800.0}}},
            "withheld": 0,
            "quantiles": {},
            "coverage": {"read": 20, "kept": 20, "used": 20},
        }
        done = Result(of=message.id, key=message.task, ok=True, weight=20.0, num_examples=20, value=value)
        return replace(done, state=STATE)

    def answering(odd: dict[str, Any]) -> Any:
        def bad(message: Message, task: Task) -> Result:
            good = honest(message, task)
            return replace(good, value={**good.value, **odd})

        return bad

    for name in ("ann", "ben"):
        field.node(name, works=honest)
    for number, odd in enumerate(ODD_STATISTICS):
        field.node(f"bad-{number}", works=answering(odd))
    job = Job(Statistics(mean=["age"]), session=session, data={"tags": ["toy"]}, quorum=Quorum(min_nodes=2))
    result = job.run(progress=False).value
    assert result["columns"]["mean"].tolist() == [40.0]
    assert sorted(result["nodes"]) == ["ann", "ben"]
    named = {e.node: str(e.body["reason"]) for e in job.events() if e.type == "error"}
    assert sorted(named) == sorted(f"bad-{number}" for number in range(len(ODD_STATISTICS)))
    assert all(reason.startswith("bad_value: ") for reason in named.values())


def test_statistics_begin_anew_without_a_node_whose_second_answer_is_bad(
    field: Field, session: Session
) -> None:
    def honest(message: Message, task: Task) -> Result:
        first = {
            "rows": {"": 20},
            "columns": {"": {"age": {"count": 20, "missing": 0, "sum": 800.0}}},
            "withheld": 0,
            "quantiles": {},
            "coverage": {"read": 20, "kept": 20, "used": 20},
        }
        value = first if message.step == "count" else {"centred": {"": {"age": [20, 0.0, 39.0]}}}
        done = Result(of=message.id, key=message.task, ok=True, weight=20.0, num_examples=20, value=value)
        return replace(done, state=STATE)

    def bad(message: Message, task: Task) -> Result:
        good = honest(message, task)
        odd = {"centred": {"": {"age": [20, 0.0, float("inf")]}}}
        return good if message.step == "count" else replace(good, value=odd)

    for name in ("ann", "ben"):
        field.node(name, works=honest)
    field.node("bad", works=bad)
    job = Job(
        Statistics(mean=["age"], variance=["age"]),
        session=session,
        data={"tags": ["toy"]},
        quorum=Quorum(min_nodes=2),
    )
    columns = job.run(progress=False).value["columns"]
    assert columns["mean"].tolist() == [40.0]
    assert columns["variance"].tolist() == [2.0]
    assert reasons(job)[1].startswith("bad_value: ")
    assert sorted(job.result.value["nodes"]) == ["ann", "ben"]


def test_an_answer_within_the_guards_limit_of_bytes_may_be_large(field: Field, session: Session) -> None:
    data = pack({"value": b"x" * (3 * MB), "metrics": {}})

    def large(message: Message, task: Task) -> Result:
        good = counted(message, task)
        if message.step == "setup":
            return good
        return replace(good, value=None, blob=field.repository.put(data, job="job_of_nobody"))

    for name in ("ann", "ben"):
        field.node(name, works=counted)
    field.node("bad", works=large)
    for mb, kept in ((2.0, ["ann", "ben"]), (4.0, ["ann", "bad", "ben"])):
        job = Job(
            Counting,
            session=session,
            data={"tags": ["toy"]},
            quorum=Quorum(min_nodes=2),
            rounds=1,
            guard=Guard(max_value_mb=mb),
        )
        assert sorted(job.run(progress=False).value) == kept
