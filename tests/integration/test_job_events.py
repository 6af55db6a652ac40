"""What is heard of jobs with real nodes in this process: events, handlers, snapshots, counts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import secrets
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import fedjob
from fedjob import FedAvg, Job, JobFailed, TorchPlan
from fedjob.common.errors import NotReady
from fedjob.common.types import Address
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import decode_frame
from fedjob.messaging.messages import decode_payload
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.results.download import download
from fedjob.researcher.storage import event as events_module
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.folder import JobFolder
from tests.e2e.federation import background
from tests.integration.nodes import Federation
from tests.integration.test_jobs_over_memory import open_session
from tests.processes import wait_until

SCHEMA = json.loads(Path(events_module.__file__).with_name("event.schema.json").read_text(encoding="utf-8"))
ARGS = {"lr": 0.1, "num_updates": 2, "batch_size": 5}


class Telling(TorchPlan):
    """One linear layer that tells of itself; `fail` makes it raise, `gate` names a file that it waits for."""

    extra_args = ("fail", "gate")

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        self.ctx.emit("rows_seen", {"rows": len(inputs)})
        time.sleep(0.3)  # progress in the first quarter second is not worth a message
        self.ctx.progress(3, 10)
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        print("Started execution..", flush=True)
        print("a warning", file=sys.stderr, flush=True)
        gate, ends = self.training_args.raw.get("gate"), time.monotonic() + 100
        while gate and not Path(gate).exists() and time.monotonic() < ends:
            time.sleep(0.02)
        if self.training_args.raw.get("fail"):
            raise RuntimeError("no luck")
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


class Spy:
    """Sees every frame that the broker passes."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()

    def __call__(self, sender: str, to: Address | None, frame: bytes) -> int:
        with self._lock:
            self.frames.append((sender, frame))
        return 1

    def counts(self, job: str, researcher: str) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
        """Return how many messages of a job there were, and their bytes, by direction and kind."""
        numbers: Counter[tuple[str, str]] = Counter()
        sizes: Counter[tuple[str, str]] = Counter()
        for sender, frame in list(self.frames):
            message = decode_payload(decode_frame(frame).payload, sender)
            if message.job == job:
                key = ("out" if sender == researcher else "in", message.body.kind)
                numbers[key] += 1
                sizes[key] += len(frame)
        return numbers, sizes


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("events"))
    found.broker.fate = Spy()
    first = found.node(
        "node1", NodeConfig(approval="off", threads=1, contact="bo@hospital.example", sandbox="none")
    )
    private, mock = first.folder / "toy.npz", first.folder / "mock.npz"
    shutil.copyfile(private, mock)
    with first.database() as database:
        Datasets(database).add(describe_dataset("twofold", private, tags=["twofold"], mock=mock))
    first.start()
    found.node("node2", NodeConfig(approval="on", threads=1, contact="ada@hospital.example")).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Telling,
        "data": "node1/toy",
        "training_args": ARGS,
        "rounds": 3,
        "seed": 5,
        "session": session,
        "name": "toy",
    }
    return Job(FedAvg(), **{**arguments, **changes})


def spy_of(federation: Federation) -> Spy:
    assert isinstance(federation.broker.fate, Spy)
    return federation.broker.fate


@pytest.mark.feature("TB-66", "TB-75", "TB-63")
def test_a_job_that_waits_for_an_owner_is_heard_from_the_first_state_to_the_last(
    session: Session, federation: Federation
) -> None:
    job = make_job(session, data={"tags": ["toy"]}, rounds=1)
    with pytest.raises(NotReady, match="a draft can't be followed"):
        job.events(follow=True)
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: bool(job.waiting_on), timeout_s=30, what="a node that waits")
        assert [(w["node"], w["contact"]) for w in job.waiting_on] == [("node2", "ada@hospital.example")]
        asks = "waits for the owner of node2 (ask ada@hospital.example) to decide"
        wait_until(lambda: asks in str(job), timeout_s=30, what=asks)
        with background(lambda: list(job.events(follow=True))) as listener:
            federation.nodes[1].decide()
            run.result(timeout=60)
            early = listener.result(timeout=20)
    late = list(job.events(follow=True))
    assert early == late
    states = [e.body["state"] for e in late if e.type == "state" and not e.node]
    assert states == ["waiting", "queued", "starting", "running", "completed"]
    assert [e.seq for e in late] == list(range(1, len(late) + 1))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    lines = [json.loads(line) for line in (job.folder / "events.jsonl").read_text().splitlines()]
    assert {line["type"] for line in lines} >= {
        "state",
        "grant",
        "ask",
        "round",
        "metrics",
        "breakpoint",
        "result",
    }
    assert {(line["type"], line["node"]) for line in lines} >= {
        ("rows_seen", "node1"),
        ("rows_seen", "node2"),
    }
    for line in lines:
        validator.validate(line)


@pytest.mark.feature("TB-30")
def test_the_last_metrics_of_each_node_stand_beside_those_over_all(session: Session) -> None:
    job = make_job(session)
    job.run(progress=False)
    told = [e for e in job.events(type="metrics") if e.node == "node1"]
    losses = [e.body["loss"] for e in told if "loss" in e.body]
    assert {e.round for e in told} == {1, 2, 3}
    assert job.metrics["node1"]["loss"] == losses[-1]
    assert "loss/train" in job.metrics
    assert (job.progress.done, job.progress.total, job.progress.percent) == (30, 30, 100.0)


@pytest.mark.feature("TB-60", "NV-37")
def test_messages_are_counted_as_a_spy_at_the_broker_counts_them(
    session: Session, federation: Federation, tmp_path: Path
) -> None:
    job = make_job(session)
    job.run(progress=False)
    download(JobFolder(job.folder), tmp_path / "out")  # what `fedjob job result -o` does
    numbers, sizes = spy_of(federation).counts(job.id, session.party)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "traffic.csv").read_text())))
    counted = {(row["direction"], row["kind"]): row for row in rows if row["kind"] != "object"}
    assert {key: int(row["count"]) for key, row in counted.items()} == dict(numbers)
    small = {
        ("in", "reply"),
        ("out", "task"),
    }  # parameters are attached to some of them, and count as objects
    assert {key: int(row["bytes"]) for key, row in counted.items() if key not in small} == {
        key: size for key, size in sizes.items() if key not in small
    }
    assert all(float(row["first"]) <= float(row["last"]) for row in rows)
    shot = job.snapshot()
    assert shot.num_messages_in == sum(n for (way, _), n in numbers.items() if way == "in")
    assert shot.num_messages_out == sum(n for (way, _), n in numbers.items() if way == "out")
    assert shot.communications == sum(numbers.values())
    objects = {row["direction"]: row for row in rows if row["kind"] == "object"}
    assert int(objects["in"]["count"]) == 3  # a contribution each round
    assert int(objects["out"]["count"]) >= 4  # the plan, and parameters each round
    assert shot.bytes_in == sum(sizes[key] for key in sizes if key[0] == "in"), "objects among them"
    assert int(counted["in", "reply"]["bytes"]) + int(objects["in"]["bytes"]) == sizes["in", "reply"]


@pytest.mark.feature("TB-59", "TB-62")
def test_a_snapshot_stays_when_its_job_goes_on(session: Session) -> None:
    job = make_job(session)
    before = job.snapshot()
    during: list[Any] = []

    @fedjob.on("round.finished")
    def look(event: JobEvent, seen: Job) -> None:
        if seen is job:
            during.append(seen.snapshot())

    try:
        job.run(progress=False)
    finally:
        fedjob.off(look)
    after = job.snapshot()
    assert (before.state, before.code, before.result, before.round) == ("draft", 10, None, 0)
    assert [(s.state, s.code, s.result) for s in during] == [("running", 3, None)] * 3
    assert [s.round for s in during] == [1, 2, 3]
    assert (after.state, after.code, after.reason, after.error, after.round) == (
        "completed",
        4,
        None,
        None,
        3,
    )
    assert after.result.params.keys() == job.result.params.keys()
    assert all(torch.equal(after.result.params[name], value) for name, value in job.result.params.items())


@pytest.mark.feature("TB-62", "TB-67", "PS-64")
def test_a_failed_job_says_why_in_its_snapshot_its_stream_and_its_handlers(session: Session) -> None:
    job = make_job(session, training_args={**ARGS, "fail": True})
    heard: list[tuple[str, str]] = []

    @fedjob.on("job.finished")
    def finished(event: JobEvent, ended: Job) -> None:
        if ended.id == job.id:
            heard.append((event.body["state"], event.body["reason"]))
            raise ValueError("the mail server is away")

    try:
        with pytest.raises(JobFailed):
            job.run(progress=False)
        with pytest.raises(JobFailed):
            job.wait(silent=True)
        found = job.events(follow=True)
        states = list(found)
        assert heard == [("failed", job.reason)]
    finally:
        fedjob.off(finished)
    shot = job.snapshot()
    assert (shot.state, shot.code, shot.result) == ("failed", 10, None)
    assert shot.reason == job.reason
    assert shot.error
    assert str(job).startswith(f"toy ({job.id[:12]}): failed ({job.reason}: ")
    assert [e for e in states if e.type == "note" and "the mail server is away" in e.body["text"]]
    again = job.events(follow=True)

    def wrapper() -> Iterator[JobEvent]:
        error = yield from again
        assert isinstance(error, JobFailed)
        assert error.reason == job.reason
        yield from ()

    assert list(wrapper()) == states


@pytest.mark.feature("PS-49")
@pytest.mark.parametrize(
    ("use", "printed"),
    [("mock", "Started execution.."), ("private", "withheld by node1; ask bo@hospital.example")],
)
def test_waiting_for_a_live_job_shows_its_states_and_what_its_owner_lets_out(
    use: str, printed: str, session: Session, tmp_path: Path
) -> None:
    gate, shown = tmp_path / "gate", io.StringIO()
    job = make_job(
        session, data="node1/twofold", use=use, training_args={**ARGS, "gate": str(gate)}, rounds=1
    )

    def open_gate() -> None:
        until = "Started execution.." if use == "mock" else "| running"
        wait_until(lambda: until in shown.getvalue(), timeout_s=60, what=f"{until!r} on the screen")
        assert not job.finished
        gate.touch()

    with background(lambda: job.run(progress=False)) as run, background(open_gate) as opened:
        wait_until(lambda: job.state != "draft", timeout_s=30, what="the job's begin")
        with contextlib.redirect_stderr(shown):
            assert job.wait(timeout_s=90) is job
        opened.result(timeout=5)
        run.result(timeout=30)
    text = shown.getvalue()
    for state in ("waiting", "queued", "starting", "running", "completed"):
        assert f"| {state}" in text
    assert printed in text
    assert ("Started execution.." in text) == (use == "mock")


def test_waiting_returns_the_job_and_tells_on_stderr_only(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(session, rounds=1)
    job.run(progress=False)
    assert job.wait() is job
    said = capsys.readouterr()
    assert said.out == ""
    assert "round 1 | done with node1" in said.err
    assert "completed" in said.err
    assert job.wait(silent=True) is job
    assert capsys.readouterr().err == ""


@pytest.mark.feature("PS-40")
def test_logs_on_mocks_stream_while_those_on_private_data_are_withheld(
    session: Session, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    args = {**ARGS, "gate": str(gate)}
    mock = make_job(session, data="node1/twofold", use="mock", training_args=args, rounds=1)
    with background(lambda: mock.run(progress=False)) as run:
        wait_until(lambda: len(mock.logs()) > 0, timeout_s=30, what="lines of a task that runs")
        assert mock.state == "running"
        gate.touch()
        run.result(timeout=60)
    texts = [line.text for line in mock.logs()]
    assert texts.count("Started execution..") == texts.count("a warning") == 2
    assert {line.text for line in mock.logs(stderr=False)} == {"Started execution.."}
    assert {line.text for line in mock.logs("node1", stdout=False)} == {"a warning"}
    assert " node1 round 1 | Started execution.." in str(mock.logs())
    private = make_job(session, data="node1/twofold", rounds=1)
    private.run(progress=False)
    assert [line.text for line in private.logs()] == ["withheld by node1; ask bo@hospital.example"]
