"""Child tasks: `ctx.launch` here and at nodes."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from fedjob import Job, JobFailed
from fedjob.common.errors import JobError, SpecError
from fedjob.identity.keys import Identity
from fedjob.node.cli import node as node_command
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.node.queue.store import TaskStore
from fedjob.researcher.jobs.session import Session
from tests import launching
from tests.e2e.federation import background
from tests.integration.nodes import Federation, Node
from tests.integration.test_jobs_over_memory import open_session
from tests.processes import wait_until


def local(function: object, home: Path) -> object:
    return Job(function, nodes="local", data=None, home=home).run(progress=False).value


def test_a_local_job_computes_its_children_in_its_own_process(tmp_path: Path) -> None:
    texts = list(launching.TEXTS)
    assert local(launching.count_all.bind(texts=texts), tmp_path) == {"a": 4, "b": 3, "c": 3}
    assert local(launching.diamond, tmp_path) == 15
    assert local(launching.three_levels.bind(seconds=0.01), tmp_path) == 0.01


def test_only_what_was_declared_can_be_launched(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"square was not declared: write launches=\[square\]"):
        local(launching.disobedient, tmp_path)


def test_the_failure_of_a_child_is_the_failure_of_who_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="no luck"):
        local(launching.with_a_broken_child, tmp_path)


def test_the_spec_lists_what_may_be_launched(tmp_path: Path) -> None:
    job = Job(launching.count_all.bind(texts=[]), nodes="local", home=tmp_path)
    assert list(job.spec.launches.values()) == ["count_words"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("children"))
    found.node("node1", NodeConfig(approval="off", threads=1, workers=2)).start()
    found.node("single", NodeConfig(approval="off", threads=1, workers=1)).start()
    found.node("strict", NodeConfig(threads=1, workers=2)).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def tasks_of(node: Node, job: Job) -> list[dict[str, Any]]:
    with node.database() as database:
        return [task for task in TaskStore(database).list_tasks() if task["job"] == job.id]


@pytest.mark.feature("PS-65", "PS-38")
def test_a_map_and_reduce_over_two_workers_gives_the_right_total(
    federation: Federation, session: Session
) -> None:
    job = Job(
        launching.count_all.bind(texts=list(launching.TEXTS)), data=None, nodes=["node1"], session=session
    )
    assert job.run(progress=False).value == {"a": 4, "b": 3, "c": 3}
    children = [task for task in tasks_of(federation.nodes[0], job) if task["parent"]]
    assert len(children) == 4
    assert re.search(r"<th[^>]*>child tasks</th><td[^>]*>4</td>", job._repr_html_())


@pytest.mark.feature("PS-66")
def test_a_child_waits_for_the_children_that_it_takes_values_of(session: Session) -> None:
    for node in ("node1", "single"):  # on a single worker the parent has to give its place back
        job = Job(launching.diamond, data=None, nodes=[node], session=session)
        assert job.run(progress=False).value == 15


def test_three_levels_run_on_a_single_worker(session: Session) -> None:
    job = Job(launching.three_levels.bind(seconds=0.1), data=None, nodes=["single"], session=session)
    assert job.run(progress=False).value == 0.1


@pytest.mark.feature("PS-31")
def test_an_undeclared_launch_is_refused_at_the_node(session: Session) -> None:
    job = Job(launching.disobedient, data=None, nodes=["node1"], session=session)
    with pytest.raises(JobFailed, match=r"square was not declared"):
        job.run(progress=False)


@pytest.mark.feature("PS-31")
def test_the_owner_sees_what_a_function_may_launch_and_approves_both_together(
    federation: Federation, session: Session
) -> None:
    strict = federation.nodes[-1]
    texts = list(launching.TEXTS)
    job = Job(launching.count_all.bind(texts=texts), data=None, nodes=["strict"], session=session)
    with background(lambda: job.run(progress=False)) as run:
        wait_until(lambda: job.waiting_on, timeout_s=60, what="the owner to be waited for")
        with strict.database() as database:
            (grant,) = Grants(database).all("pending")
        shown = CliRunner().invoke(
            node_command, ["grants", "show", grant.id, "--home", str(strict.home.root)]
        )
        (child,) = job.spec.launches
        assert re.search(rf"nested plans\s+{child[:16]}", shown.output), shown.output
        strict.decide()
        assert run.result(timeout=120).value == {"a": 4, "b": 3, "c": 3}
    with strict.database() as database:
        assert len(Grants(database).all()) == 1


def test_a_child_that_fails_fails_those_that_wait_for_its_value(session: Session) -> None:
    job = Job(launching.with_a_broken_child, data=None, nodes=["node1"], session=session)
    with pytest.raises(JobFailed, match="ValueError at plan line"):
        job.run(progress=False)


@pytest.mark.feature("PS-59")
def test_killing_a_job_ends_its_whole_tree_and_a_child_alone_can_not_be_killed(
    federation: Federation, session: Session
) -> None:
    node = federation.nodes[0]
    job = Job(launching.three_levels.bind(seconds=600.0), data=None, nodes=["node1"], session=session)
    ended = threading.Thread(target=run_ignoring, args=(job,))
    ended.start()

    def running() -> list[dict[str, Any]]:
        return [task for task in tasks_of(node, job) if task["state"] == "running" and task["worker"]]

    wait_until(lambda: len(running()) == 3, timeout_s=60, what="three levels of tasks to run")
    workers = [task["worker"] for task in running()]
    child = next(task for task in running() if task["parent"])
    refused = CliRunner().invoke(node_command, ["kill", child["key"][:16], "--home", str(node.home.root)])
    assert isinstance(refused.exception, SpecError)
    assert "kill that one" in str(refused.exception)
    job.kill()
    ended.join(60)
    assert job.state == "killed"
    wait_until(
        lambda: not any(psutil.pid_exists(pid) for pid in workers), timeout_s=30, what="no worker left"
    )
    wait_until(
        lambda: {task["state"] for task in tasks_of(node, job)} <= {"killed", "cancelled"},
        timeout_s=30,
        what="the ends of all tasks",
    )


def run_ignoring(job: Job) -> None:
    """Run a job that somebody else ends."""
    with contextlib.suppress(JobFailed, JobError):
        job.run(progress=False)
