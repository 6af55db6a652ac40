"""Jobs over one and three nodes: their tasks, their owner, their code and their results, on real parts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedjob import Job
from fedjob.common.types import Address, Ref, new_job_id
from fedjob.identity.keys import Identity
from fedjob.messaging.frame import encode_frame
from fedjob.messaging.messages import Message, Offer, encode_payload
from fedjob.researcher.jobs.session import Session
from tests import remote
from tests.e2e.federation import Federation, preferred_kind
from tests.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NODES = ("north", "east", "south")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("who")
    with Federation(folder, preferred_kind(), forked=True) as found:
        path = tmp_path_factory.mktemp("data") / "numbers.csv"
        path.write_text("A,B\n1,10\n2,20\n3,30\n")
        for node in found.add_nodes(*NODES):
            node.add("numbers", path, "numbers")
        found.start_nodes()
        yield found


@pytest.fixture
def session(federation: Federation) -> Session:
    return federation.session()


@pytest.mark.feature("TB-01")
@pytest.mark.parametrize("nodes", [["east"], list(NODES)])
def test_a_job_has_a_task_at_each_of_its_nodes(
    federation: Federation, session: Session, nodes: list[str]
) -> None:
    job = Job(remote.column_mean.bind(column="B"), data={"tags": ["numbers"]}, nodes=nodes, session=session)
    job.run(progress=False)
    assert len(job.tasks) == len(nodes)
    for node in nodes:
        tasks = [task for task in federation.nodes[node].json("tasks") if task["job"] == job.id]
        assert len(tasks) == 1


@pytest.mark.feature("NV-17", "NV-32")
def test_the_plan_and_the_results_are_files_that_their_hashes_find(session: Session) -> None:
    job = Job(remote.column_mean.bind(column="B"), data="east/numbers", keep=True, session=session)
    job.run(progress=False)
    text = job.training_plan_file.read_bytes()
    assert hashlib.sha256(text).hexdigest() == job.spec.plan_hash
    at_the_hub = session.repository.get_bytes(Ref(job.spec.plan_hash, len(text)), limit_bytes=1 << 20)
    assert at_the_hub == text
    assert job.result.artifacts
    for artifact in job.result.artifacts.values():
        assert hashlib.sha256(artifact.check().read_bytes()).hexdigest() == artifact.sha256


def test_the_hub_keeps_nothing_of_a_job_that_has_ended_unless_it_was_told_to(
    federation: Federation, session: Session, tmp_path: Path
) -> None:
    def at_the_hub() -> int:
        said = federation.processes.run(
            "fedjob", "hub", "status", "--json", "--home", federation.folder / "hub"
        ).stdout
        return int(json.loads(said)["objects"])

    brought = tmp_path / "mine.csv"
    brought.write_text("A,B\n5,6\n")
    before = at_the_hub()
    job = Job(remote.column_mean.bind(column="B"), data=brought, nodes=["east"], session=session)
    job.run(progress=False)
    assert at_the_hub() == before
    kept = job.clone(keep=True)
    kept.run(progress=False)
    assert at_the_hub() > before


@pytest.mark.feature("BF-44", "TB-26")
def test_the_owner_of_a_job_is_who_signed_and_is_what_the_nodes_owner_reads(
    federation: Federation, session: Session
) -> None:
    (strict,) = federation.add_nodes("strict", approval="on")
    strict.start()
    owner = {"name": "Ada", "org": "acme", "role": "data scientist"}
    job = Job(remote.column_mean.bind(column="B"), data=None, nodes=["strict"], owner=owner, session=session)
    asked_for = job.request()
    assert job.owner == {"id": "lab", "key": session.identity.public_key_hex, **owner}
    (asked,) = strict.json("grants", "list")
    assert asked["id"] == asked_for["strict"]
    assert asked["researcher"] == job.owner["id"]
    assert asked["key"] == job.owner["key"]
    assert asked["owner"] == owner
    forge(federation, session)
    wait_until(
        lambda: strict.status()["dropped"].get("bad_signature", 0) >= 1, timeout_s=60, what="the forged offer"
    )
    assert [grant["id"] for grant in strict.json("grants", "list")] == [asked["id"]]


def forge(federation: Federation, session: Session) -> None:
    """Send an offer in the name of the researcher, signed with another key."""
    mallory = Identity.generate(session.party)
    offer = Offer(dataset="", protocol="function", job_name="forged")
    payload = encode_payload(
        Message(
            to="strict/main",
            id="f" * 32,
            body=offer,
            reply_to=str(session.endpoint.address),
            job=new_job_id(),
            issued=time.time(),
            expires=time.time() + 60,
        )
    )
    frame = encode_frame(mallory, session.federation, payload)
    session.endpoint._transport.send(Address("strict"), frame)
