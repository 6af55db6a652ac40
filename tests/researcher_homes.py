"""Homes of researchers with jobs in them, as their page shows them, and the page served from this process."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pandas

from fedjob import FedAvg, Job
from fedjob.common.codec import pack, to_plain
from fedjob.common.pages.site import listen_on_loopback
from fedjob.common.types import new_job_id
from fedjob.researcher.jobs.session import job_orders
from fedjob.researcher.page.site import ResearcherSite
from fedjob.researcher.storage.event import JobEvent
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.starting_points.torch_plan import COLUMNS, RiskNetwork
from tests.owner_houses import TEXT, Opened

ARGS = {
    "lr": 0.05,
    "epochs": 1,
    "batch_size": 32,
    "test_ratio": 0.2,
    "test_on_global_updates": True,
    "test_metric": ["accuracy"],
}
WHEN = "2026-03-02T10:00:00.000000Z"
NODES = ("clinic-bern", "clinic-oslo", "clinic-porto")


def patients(seed: int, number: int = 120) -> pandas.DataFrame:
    """Return a made-up table."""
    draw = numpy.random.default_rng(seed)
    table = pandas.DataFrame(draw.normal([60, 130, 220], [10, 15, 40], (number, 3)).round(1), columns=COLUMNS)
    risk = (table["age"] - 60) / 10 + (table["cholesterol"] - 220) / 40
    table["sick"] = (draw.random(number) < 1 / (1 + numpy.exp(-2 * risk))).astype(int)
    return table


def trained(home: Path, folder: Path, name: str = "risk", **about: Any) -> Job:
    """Train on two nodes of this process, to the end."""
    data = {}
    for seed, node in enumerate(("north", "south")):
        path = folder / f"{node}.csv"
        if not path.exists():
            patients(seed).to_csv(path, index=False)
        data[node] = str(path)
    given = {"training_args": ARGS, "rounds": 3, "seed": 1, **about}
    job = Job(
        FedAvg(), training_plan=RiskNetwork, nodes="local", home=home, data=data, name=name, model_args={"hidden": 4}, **given
    )  # fmt: skip
    job.run()
    return job


def spec_of(id_: str, **about: Any) -> JobSpec:
    """Return the definition of a job of three clinics that was never run."""
    datasets = {node: {"name": "heart", "num_rows": 300 + 100 * at} for at, node in enumerate(NODES)}
    given: dict[str, Any] = {"name": "made-up", "rounds": 20, "datasets": datasets, **about}
    return JobSpec(id=id_, protocol=Component(name="fedavg"), seed=1, **given)


def made_up(home: Path, record: JobRecord, **about: Any) -> JobFolder:
    """Write a job's folder as a runner leaves it, without waiting for the disk."""
    folder = job_folder(home, new_job_id())
    folder.breakpoints.mkdir(parents=True)
    folder.spec.write_bytes(pack(to_plain(spec_of(folder.path.name, **about))))
    folder.record.write_text(json.dumps(to_plain(record)))
    folder.plan.write_text("class Plan: ...\n")
    return folder


def ended(state: str = "completed", at: int = 0, **about: Any) -> JobRecord:
    """Return the record of a job that has ended, the number `at` of its home."""
    submitted = f"2026-03-{1 + at // 1440 % 28:02}T{at // 60 % 24:02}:{at % 60:02}:00.000000Z"
    times = {"created": submitted, "submitted": submitted, "started": submitted, "finished": submitted}
    return JobRecord(state=state, attempt=1, rounds=20, **times, **about)


class RunningJob:
    """A job that this process runs, as far as anybody who looks can tell."""

    def __init__(self, home: Path, **about: Any) -> None:
        times = {"created": WHEN, "submitted": WHEN, "started": WHEN}
        self.folder = made_up(home, JobRecord(state="running", attempt=1, rounds=20, **times), **about)
        self._lock = self.folder.take()
        self.events = EventLog(self.folder.events, self.folder.path.name)
        self.events.add("state", state="running")

    def begin_round(self, round_: int) -> None:
        self.events.add("ask", round_=round_, step="train", nodes=list(NODES))
        for node in NODES:
            self.events.add("state", round_=round_, node=node, task=f"{node}{round_}", state="running")

    def reports(self, round_: int, node: str, loss: float, iteration: int) -> None:
        body = {"phase": "train", "iteration": iteration, "loss": loss}
        self.events.add("metrics", round_=round_, node=node, task=f"{node}{round_}", **body)
        self.events.add(
            "progress", round_=round_, node=node, task=f"{node}{round_}", done=iteration, total=40
        )

    def end_round(self, round_: int) -> None:
        for node in NODES:
            self.events.add("state", round_=round_, node=node, task=f"{node}{round_}", state="completed")
        self.events.add("round", round_=round_, nodes=list(NODES), left_out={}, seconds=1.0)

    def close(self) -> None:
        self.events.close()
        os.close(self._lock)


def with_evil_texts(home: Path) -> JobFolder:
    """Write a job in which every text that others choose is hostile."""
    evil = {TEXT: {"name": TEXT, "num_rows": 5}}
    record = replace(
        ended("failed", reason=TEXT, detail=TEXT),
        participants={TEXT: TEXT},
        absent={f"other {TEXT}": TEXT},
        submitted_from=TEXT,
        privacy={TEXT: {"epsilon": 1.0, "delta": 1e-5}},
    )
    folder = made_up(
        home, record, name=TEXT, note=TEXT, project=TEXT, datasets=evil, training_args={TEXT: TEXT}, researcher=TEXT, props={TEXT: TEXT}
    )  # fmt: skip
    folder.plan.write_text(f"# {TEXT}\nX = {TEXT!r}\n")
    with EventLog(folder.events, folder.path.name) as events:
        events.add("ask", round_=1, step=TEXT, nodes=[TEXT])
        events.add("state", round_=1, node=TEXT, state=TEXT, reason=TEXT, metrics={"train": {TEXT: TEXT}})
        events.add("metrics", round_=1, node=TEXT, phase="train", iteration=1, **{TEXT: 0.5, "loss": 0.5})
        events.add("log", round_=1, node=TEXT, stream="stdout", lines=[TEXT])
        events.add("log", round_=1, node=TEXT, withheld=True, contact=TEXT)
        events.add("note", text=TEXT)
        events.add("error", node=TEXT, reason=TEXT, detail=TEXT)
        events.add("state", state="failed", reason=TEXT, detail=TEXT)
    return folder


def many_jobs(home: Path, number: int) -> None:
    """Write so many jobs that have ended, by copying what a runner leaves."""
    states = ("completed", "completed", "failed", "killed")
    for at in range(number):
        made_up(home, ended(states[at % len(states)], at), name=f"job {at:04}", project=f"project-{at % 5}")


def long_log(folder: JobFolder, number: int) -> None:
    """Give a job so many events, as nodes send them while they train."""
    per_round = 5000
    with folder.events.open("ab") as file:
        for seq in range(1, number + 1):
            round_, node = 1 + seq // per_round, NODES[seq % 3]
            kind, body = (
                "metrics",
                {"phase": "train", "iteration": seq % per_round, "loss": 1 / (1 + seq % per_round)},
            )
            if seq % per_round == 1:
                kind, body, node = "ask", {"step": "train", "nodes": list(NODES)}, ""
            elif seq % per_round == 0:
                kind, body, node = "round", {"nodes": list(NODES), "left_out": {}, "seconds": 9.0}, ""
                round_ -= 1
            at = 1772445600.0 + seq / 10
            event = JobEvent(
                type=kind, seq=seq, time=at, job=folder.path.name, node=node, round=round_, body=body
            )
            file.write(event.to_json().encode() + b"\n")


@contextmanager
def served_jobs(home: Path) -> Iterator[Opened]:
    """Serve the researcher's page of a home, as the command does, from a thread of this process."""
    listener = listen_on_loopback(0)
    port = int(listener.getsockname()[1])
    site = ResearcherSite(home, job_orders(home), port=port)
    server = site.make_server()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="page")
    thread.start()
    try:
        yield Opened(site, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()
