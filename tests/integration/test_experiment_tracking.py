"""Jobs that are kept at MLflow and Weights & Biases, and traced with OpenTelemetry."""

from __future__ import annotations

import gzip
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedjob import FedAvg, Hook, Job, MLflow, Tracing, WandB
from fedjob.common.errors import ConfigError, JobFailed, MissingPackage
from fedjob.researcher.hooks.tracking.tracked_job import metric_key
from tests.data import TRAINING, make_points
from tests.foreign import accept
from tests.parts import missing, package
from tests.plans import Tiny
from tests.processes import wait_until

BLOCK = 32768
NODES = ("clinic-1", "clinic-2")


@pytest.fixture
def clinics(tmp_path: Path) -> dict[str, str]:
    return {node: str(make_points(tmp_path / f"{node}.npz", 40, k)) for k, node in enumerate(NODES)}


def make_job(clinics: dict[str, str], home: Path, *hooks: Hook, rounds: int = 3) -> Job:
    return Job(
        FedAvg(),
        training_plan=Tiny,
        data=clinics,
        nodes="local",
        home=home,
        rounds=rounds,
        seed=1,
        training_args=TRAINING,
        hooks=list(hooks),
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path / 'mlruns'}"


def test_a_job_is_a_run_of_mlflow_with_parameters_metrics_plan_and_result(
    clinics: dict[str, str], tmp_path: Path, store: str
) -> None:
    client = package("mlflow").MlflowClient(tracking_uri=store)
    job = make_job(clinics, tmp_path / "home", MLflow(store, experiment="hearts"))
    job.run(progress=False)
    (run,) = client.search_runs([client.get_experiment_by_name("hearts").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["fedjob.job"] == job.id
    assert run.data.params["training_args.lr"] == str(TRAINING["lr"])
    assert run.data.params["protocol"] == "fedavg"
    for node in (*NODES, "all"):
        key = f"loss/train/{node}"
        kept = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)]
        rows = [(row.round, row.value) for row in job.position.rows if metric_key(row) == key]
        assert kept == rows
        assert [round_ for round_, _ in kept] == [1, 2, 3]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"plan.py", "result"}


def test_a_resumed_job_has_its_whole_history_at_mlflow_once(
    clinics: dict[str, str], tmp_path: Path, store: str
) -> None:
    client = package("mlflow").MlflowClient(tracking_uri=store)
    half = make_job(clinics, tmp_path / "home", MLflow(store), rounds=2)
    half.run(progress=False)
    rest = accept(half.breakpoints[-1], rounds=4, home=tmp_path / "other")
    rest.run(progress=False)
    experiment = client.get_experiment_by_name("fedjob").experiment_id
    runs = client.search_runs([experiment], f"tags.`fedjob.job` = '{rest.id}'")
    (run,) = runs
    history = client.get_metric_history(run.info.run_id, "loss/train/all")
    assert [each.step for each in history] == [1, 2, 3, 4]


def records(file: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: a LevelDB log after 7 bytes, in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(file):
        if (left := BLOCK - at % BLOCK) < 7:  # too short for a header
            at += left
            continue
        length, kind = struct.unpack_from("<HB", file, at + 4)
        whole += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def history(file: Path) -> list[tuple[float, float, float]]:
    """Return step, loss of all nodes and loss of the first node, as they were logged."""
    record = package("wandb.proto.wandb_internal_pb2").Record
    steps = []
    for block in records(file.read_bytes()):
        found = record.FromString(block)
        if found.WhichOneof("record_type") == "history":
            items = {
                each.key or "/".join(each.nested_key): json.loads(each.value_json)
                for each in found.history.item
            }
            steps.append((items["_step"], items["loss/train/all"], items[f"loss/train/{NODES[0]}"]))
    return steps


def test_a_run_of_wandb_offline_has_a_folder_that_can_be_sent_later(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path / "home", WandB(mode="offline", dir=str(tmp_path)))
    job.run(progress=False)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    wait_until(lambda: len(history(file)) == 3, timeout_s=30, what="wandb to have written its file")
    expected = {
        (row.round, row.node): row.value
        for row in job.position.rows
        if (row.metric, row.phase) == ("loss", "train")
    }
    assert history(file) == [
        (n, pytest.approx(expected[n, "all"]), pytest.approx(expected[n, NODES[0]])) for n in (1, 2, 3)
    ]


def test_a_service_that_does_not_answer_is_named_before_the_first_round(
    clinics: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    job = make_job(clinics, tmp_path / "home", MLflow("http://127.0.0.1:9"))
    with pytest.raises(JobFailed, match=r"mlflow can't be used: .*127\.0\.0\.1"):
        job.run(progress=False)
    assert not job.breakpoints


def test_wandb_names_its_modes_and_never_asks_for_a_key(
    clinics: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="expected online or offline, found 'loud'"):
        WandB(mode="loud").run()
    with pytest.raises(ConfigError, match="wandb login"):
        WandB(mode="online").run()


def spans(text: str) -> dict[str, dict[str, object]]:
    return {each["context"]["span_id"]: each for each in map(json.loads, text.splitlines())}


def test_a_trace_shows_rounds_asks_tasks_and_their_states_inside_each_other(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path / "home", Tracing(), rounds=2)
    job.run(progress=False)
    found = spans((job.folder / "traces.jsonl").read_text(encoding="utf-8"))
    parents = {
        (each["name"], found[each["parent_id"]]["name"] if each["parent_id"] else "")
        for each in found.values()
    }
    assert {
        ("job", ""),
        ("round 1", "job"),
        ("round 2", "job"),
        ("ask train", "round 1"),
        ("clinic-1", "ask train"),
        ("running", "clinic-2"),
    } <= parents
    assert all(each["start_time"] <= each["end_time"] for each in found.values())  # type: ignore[operator]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_trace_reaches_a_collector(
    clinics: dict[str, str], tmp_path: Path, collector: tuple[str, list[bytes]]
) -> None:
    url, bodies = collector
    make_job(clinics, tmp_path / "home", Tracing(url), rounds=1).run(progress=False)
    request = package("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceRequest
    names = {
        span.name
        for body in bodies
        for resource in request.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert {"job", "round 1", "ask train", *NODES} <= names


def test_what_the_small_client_of_mlflow_lacks_is_named_with_what_to_install(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    package("mlflow")
    if find_spec("alembic") is not None:
        missing("a client of MLflow without alembic")
    job = make_job(clinics, tmp_path / "home", MLflow(f"sqlite:///{tmp_path / 'runs.db'}"))
    with pytest.raises(
        (MissingPackage, JobFailed), match=r"needs the package 'alembic'.*: pip install mlflow"
    ):
        job.run(progress=False)
