"""Hooks of a node's owner: they see every event with its task, and change nothing."""

from __future__ import annotations

import csv
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedjob
from fedjob import Items, Job
from fedjob.common.errors import ConfigError
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.hooks import build_hooks
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.event import JobEvent
from tests import stepping
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session
from tests.processes import wait_until

PLUGIN = """\
import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from fedjob.node.hooks.base import NodeHook


@dataclass(frozen=True)
class Recording(NodeHook):
    file: str = "seen.jsonl"
    name: ClassVar[str] = "recording"

    def event(self, event, task):
        told = {**asdict(event), "moment": event.moment, "task": {**asdict(task), "folder": ""}}
        with (task.folder / self.file).open("a") as file:
            file.write(json.dumps(told) + "\\n")


@dataclass(frozen=True)
class Clumsy(NodeHook):
    name: ClassVar[str] = "clumsy"

    def event(self, event, task):
        raise OSError("the disk of the hook is full")
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("hooks")
    about = folder / "site" / "recording_hook-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "site" / "recording_hook.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recording-hook\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[fedjob.node_hook]\nrecording = recording_hook:Recording\nclumsy = recording_hook:Clumsy\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        found = Federation(folder)
        config = NodeConfig(
            approval="off",
            threads=1,
            hooks="clumsy, csv, recording",
            hook_options="csv.events=batch.done task.finished, csv.file=batches.csv",
        )
        node = found.node("ward", config)
        scans = folder / "scans"
        scans.mkdir()
        for number in range(5):
            (scans / f"scan-{number}").write_text(str(number))
        with node.database() as database:
            Datasets(database).add(describe_dataset("scans", scans, reader="files"))
        node.start()
        yield found
        found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def rows(federation: Federation, job: Job) -> list[dict[str, str]]:
    path = federation.nodes[0].home.hooks / "batches.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["job"] == job.id]


def seen(federation: Federation, job: Job) -> list[dict[str, Any]]:
    path = federation.nodes[0].home.hooks / "seen.jsonl"
    if not path.exists():
        return []
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in told if event["task"]["job"] == job.id]


@pytest.fixture
def heard() -> Iterator[list[tuple[str, JobEvent, Any]]]:
    """What the researcher's own handlers hear; one of them raises."""
    told: list[tuple[str, JobEvent, Any]] = []

    def handler_of(name: str) -> Any:
        def handler(event: JobEvent, job: Any) -> None:
            told.append((name, event, job))
            if name == "task.started":
                raise ValueError("a slip")

        handler.__qualname__ = f"heard_{name}"
        return handler

    handlers = [fedjob.on(name)(handler_of(name)) for name in ("task.started", "batch.done", "task.finished")]
    yield told
    for handler in handlers:
        fedjob.off(handler)


@pytest.mark.feature("BF-58", "BF-59", "BF-61")
def test_a_nodes_hook_writes_a_row_per_batch_and_another_sees_everything(
    session: Session, federation: Federation, heard: list[tuple[str, JobEvent, Any]]
) -> None:
    job = Job(
        stepping.Sizes,
        data="ward/scans",
        items=Items(batch=2),
        name="sizes",
        project="lungs",
        session=session,
    )
    assert job.run(progress=False).value == [0, 1, 2, 3, 4]
    assert [name for name, _, _ in heard] == [
        "task.started",
        "task.finished",  # of the step that prepares
        "task.started",
        *["batch.done"] * 3,
        "task.finished",
    ]
    assert {told_of.id for _, _, told_of in heard} == {job.id}
    assert heard[-1][1].body["num_examples"] == 5
    slips = [e.body["text"] for e in job.events(type="note") if "a slip" in e.body["text"]]
    assert len(slips) == 2  # said, and nothing else came of it
    ends = ("setup", "step")
    wait_until(  # the recording hook is the last of them
        lambda: [event["moment"] for event in seen(federation, job)].count("task.finished") == len(ends),
        timeout_s=30,
        what="the hooks to see both tasks end",
    )
    batches = [row for row in rows(federation, job) if row["event"] == "batch.done"]
    assert [json.loads(row["body"])["n"] for row in batches] == [1, 2, 3]
    assert {(row["researcher"], row["dataset"], row["step"]) for row in batches} == {
        (session.party, "scans", "step")
    }
    events = seen(federation, job)
    for step in ends:
        of_step = [event for event in events if event["task"]["step"] == step]
        moments = [event["moment"] for event in of_step if event["moment"].startswith("task.")]
        assert moments == ["task.started", "task.finished"]
        assert of_step[-1]["body"]["num_examples"] == 5
    # every type of event came with a whole handle
    assert {"state", "batch", "result"} <= {event["type"] for event in events}
    for event in events:
        assert event["task"].keys() >= {
            "key",
            "job",
            "researcher",
            "dataset",
            "round",
            "step",
            "state",
            "node",
        }
        assert event["task"]["node"] == "ward"
        assert event["time"] > 0
    daemon = federation.nodes[0].daemon
    assert daemon is not None
    assert daemon._endpoint.counters["hooks_failed"] >= len(events)  # the clumsy one; the job went on


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ("cvs", "", "did you mean 'csv'"),
        ("csv", "csv.fiel=x", "fiel"),
        ("csv", "other.file=x", "expected HOOK.FIELD=VALUE of one of .*csv"),
        ("csv", "csv.file=../grants.csv", "a name without folders"),
    ],
)
def test_a_hook_that_there_is_not_is_told(names: str, options: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_hooks(names, options)
    assert build_hooks("", "") == []
