"""Searches wait for the roster and name who did not answer; jobs keep on record whom they go without, and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job, Quorum
from fedjob.common.errors import NoDatasets, NoReply
from fedjob.researcher.connection.doctor import Finding, twin_findings
from fedjob.researcher.jobs.session import Session
from tests.e2e.federation import background
from tests.integration.scripted import Field
from tests.plans import Tiny

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


@pytest.fixture
def session(field: Field, tmp_path: Path) -> Session:
    return field.session(tmp_path / "lab", retry_min_s=0.2, retry_max_s=0.4)


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Tiny,
        "data": {"tags": ["toy"]},
        "training_args": {"lr": 0.1},
        "seed": 1,
        **changes,
    }
    return Job(FedAvg(), session=session, **arguments)


def test_a_node_that_is_there_is_found_whatever_its_presence_says(field: Field, session: Session) -> None:
    field.node("a")
    field.node("b")
    field.broker.show("b", present=False)
    for _ in range(20):
        found = session.datasets()
        assert ([handle.node for handle in found], found.silent) == (["a", "b"], {})
    assert [node.online for node in session.nodes()] == [True, True]
    job = make_job(session)
    job.reach()
    assert job.nodes == ["a", "b"]


def test_who_does_not_answer_a_search_is_named_and_costs_no_more_than_the_grace(
    field: Field, session: Session
) -> None:
    field.node("a")
    field.node("b").stop()
    began = time.monotonic()
    found = session.datasets(timeout_s=30)
    assert time.monotonic() - began < 10
    assert set(found.silent) == {"b"}
    assert "no answer from b: it did not answer within 30 s, and shows no presence at the broker" in repr(
        found
    )
    assert "no answer from b" in found._repr_html_()
    (_, away) = session.nodes()
    assert (away.online, "did not answer" in away.silence) == (False, True)


def test_a_job_by_tags_goes_without_a_silent_node_and_says_so_wherever_it_is_looked_at(
    field: Field, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="fedjob")
    field.node("a")
    field.node("b").stop()
    job = make_job(session, name="hearts")
    job.reach()
    assert job.nodes == ["a"]
    assert "job hearts goes without b: it did not answer within 10 s" in caplog.text
    assert job.participation.left_out["b"].startswith("it did not answer within 10 s")
    assert "b: left out: it did not answer" in "\n".join(job.participation.lines())


def test_all_means_every_node_of_the_roster_that_could_have_the_data(field: Field, session: Session) -> None:
    field.node("a")
    field.node("b").stop()
    job = make_job(session, quorum=Quorum(required="all"))
    with pytest.raises(
        NoReply, match=r'requires all nodes \(required="all"\), and b: it did not answer'
    ) as missing:
        job.reach()
    assert "nodes=['a']" in str(missing.value)
    for arguments in ({"nodes": ["a"]}, {"data": {"a": "toy"}}, {"data": "a/toy"}):
        named = make_job(session, quorum=Quorum(required="all"), **arguments)
        named.reach()
        assert named.nodes == ["a"]
        assert named.record.absent == {}


def test_nothing_found_names_the_silent_nodes_and_the_wrong_clock(field: Field, session: Session) -> None:
    field.node("a").stop()
    session.clock = "this machine's clock is 900 s slow"
    with pytest.raises(NoDatasets) as missing:
        make_job(session).reach()
    assert "no answer from a: it did not answer within 10 s" in str(missing.value)
    assert "this machine's clock is 900 s slow" in str(missing.value)


def test_a_node_that_can_not_start_is_on_record_with_its_reason(field: Field, session: Session) -> None:
    field.node("a")
    field.node("b", {"status": "not-needed", "schedule": "resources", "short": ["gpus"]})
    field.node("c", {"status": "rejected", "reason": "rejected", "note": "not our patients"})
    job = make_job(session)
    with background(lambda: job.run(progress=False)) as run:
        assert run.exception(timeout=60) is not None  # the only node refuses its task
    assert job.record.absent == {"b": "resources: gpus", "c": "rejected: not our patients"}
    assert job.participation.left_out["b"] == "resources: gpus"
    assert job.participation.left_out["c"] == "rejected: not our patients"


def test_two_daemons_of_one_node_are_a_finding_and_stand_in_the_list_of_nodes(
    field: Field, session: Session
) -> None:
    field.node("a", pong={"twin": True})
    field.node("b")
    found = session.nodes()
    assert [node.twin for node in found] == [True, False]
    (finding,) = twin_findings(found)
    assert isinstance(finding, Finding)
    assert (finding.check, finding.ok) == ("node a", False)
    assert "two daemons run under its name" in finding.found
