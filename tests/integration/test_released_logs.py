"""A log that is released when its job has ended long since reaches whoever looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedjob
from fedjob import Job
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.queue.store import TaskStore
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session
from tests.processes import wait_until


@fedjob.function
def talkative(dataset):  # type: ignore[no-untyped-def]
    print("three cases")
    return dataset.num_rows


@pytest.mark.feature("PS-47")
def test_a_log_that_is_released_after_the_end_is_seen_by_a_later_session(tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    folder.mkdir()
    federation = Federation(folder)
    node = federation.node(
        "node1", NodeConfig(approval="off", threads=1, contact="ada@node1.example")
    ).start()
    ann = Identity.generate("ann")
    try:
        with open_session(federation, tmp_path / "lab", ann) as session:
            job = Job(talkative, data="node1/toy", session=session)
            job.run(progress=False)
            (line,) = job.logs()
            assert line.withheld
            assert "ada@node1.example" in line.text
        with node.database() as database:
            store = TaskStore(database)
            (task,) = [task for task in store.list_tasks() if task["job"] == job.id]
            store.order("release", task["key"])
        with open_session(federation, tmp_path / "lab", ann) as later:
            found = Job.open(job.folder, session=later)
            wait_until(lambda: not found.logs()[0].withheld, timeout_s=20, what="the released log")
            assert [line.text for line in found.logs()] == ["three cases"]
        other = Identity.generate("eve")
        with open_session(federation, tmp_path / "eve", other) as stranger:
            assert fetched_by(stranger, job) == 0
    finally:
        federation.close()


def fetched_by(session: fedjob.Session, job: Job) -> int:
    """Return how many released lines another researcher gets to see."""
    from fedjob.researcher.federation.released_logs import fetch_released
    from fedjob.researcher.storage.folder import JobFolder

    return fetch_released(session, JobFolder(job.folder), job.id, ["node1"])
