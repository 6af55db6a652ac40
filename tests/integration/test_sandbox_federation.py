"""A federation of real processes that a script or a notebook starts in one call, and that goes with it."""

from __future__ import annotations

import http.client
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest

import fedjob
from fedjob import Job
from fedjob.common.errors import FedjobError, NotReady, SpecError
from fedjob.one_machine.federation import SandboxSession
from fedjob.researcher.connection.opening import default_home
from tests.processes import Processes, processes_of, wait_until

PATIENTS = pd.DataFrame({"age": np.arange(40.0, 80.0), "sick": np.arange(40) % 2})


@fedjob.function
def count(dataset):  # type: ignore[no-untyped-def]
    return {"rows": len(dataset.frame())}


@fedjob.function
def count_columns(dataset):  # type: ignore[no-untyped-def]
    return {"columns": len(dataset.frame().columns)}


@pytest.fixture(scope="module")
def session() -> Iterator[SandboxSession]:
    nodes = {
        "clinic-1": PATIENTS,
        "clinic-2": {"data": PATIENTS[:30], "pairs": (np.ones((4, 2)), np.ones(4))},
    }
    with fedjob.sandbox_federation(nodes, approve="ask") as session:
        yield session
    assert not processes_of(session.folder)
    assert not session.folder.exists()


@pytest.fixture(autouse=True)
def nothing_waits(session: SandboxSession) -> Iterator[None]:
    """Decide what a test asked for, so that the next one finds owners with nothing to decide."""
    yield
    for node in ("clinic-1", "clinic-2"):
        if session.owner(node).requests():
            session.owner(node).approve()


def test_every_node_is_there_with_its_datasets(session: SandboxSession) -> None:
    assert {node.id for node in session.nodes() if node.online} == {"clinic-1", "clinic-2"}
    found = {(each.node, each.name): each.num_rows for each in session.datasets() if "late" not in each.tags}
    assert found == {("clinic-1", "data"): 40, ("clinic-2", "data"): 30, ("clinic-2", "pairs"): 4}
    assert session.datasets(name="data")[0].schema == {"age": "float", "sick": "int"}


def test_a_plan_waits_for_the_owners_who_are_played_here(session: SandboxSession) -> None:
    job = Job(count, data="data", session=session)
    asked = job.request()
    first = session.owner("clinic-1")
    assert [request.id for request in first.requests()] == [asked["clinic-1"]]
    assert "clinic-1" in repr(first)
    assert first.approve(asked["clinic-1"][:12])[0].id == asked["clinic-1"]
    session.owner("clinic-2").approve()
    assert not first.requests()
    assert first.requests("granted")[0].researcher == "researcher"
    job.run(progress=False)
    assert {node: value["rows"] for node, value in job.result.value.items()} == {
        "clinic-1": 40,
        "clinic-2": 30,
    }


def test_a_draft_is_submitted_on_the_page_of_a_session_whose_own_connection_stays(
    session: SandboxSession,
) -> None:
    job = Job(count_columns, data="data", session=session, name="from the page")
    with session.page() as page:
        address = urlsplit(page.link)
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        headers = {"Origin": f"http://{address.netloc}", "Content-Type": "application/x-www-form-urlencoded"}

        def ask(method: str, path: str, form: str = "") -> tuple[int, str]:
            connection.request(method, path, form or None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            if "set-cookie" in answer.headers:
                headers["Cookie"] = answer.headers["set-cookie"].split(";")[0]
            return answer.status, text

        assert ask("POST", "/enter", f"link={address.fragment}")[0] == 303
        text = ask("GET", f"/jobs/{job.id}")[1]
        found = re.search('name="csrf" value="([^"]+)"', text)
        assert found is not None
        assert ask("POST", f"/jobs/{job.id}/submit", f"csrf={found[1]}")[0] == 303
        assert "It was submitted" in ask("GET", f"/jobs/{job.id}")[1]
        connection.close()
    assert default_home() == session.home
    assert not session.closed
    assert Job.open(job.folder, session=session).kill()


def test_an_owner_is_not_taken_for_one_who_has_nothing_to_decide(session: SandboxSession) -> None:
    with pytest.raises(NotReady, match=r"no request waits for the owner of clinic-1 .*job\.request\(\)"):
        session.owner("clinic-1").approve(wait_s=0.0)
    with pytest.raises(SpecError, match="no node 'clinic-9'; it has clinic-1, clinic-2"):
        session.owner("clinic-9")


def test_an_owner_adds_data_and_says_how_they_are_read(session: SandboxSession) -> None:
    owner = session.owner("clinic-2")
    owner.add("strict", PATIENTS, tags=["late"], mock=PATIENTS[:5], min_rows=7)
    found = session.datasets(tags=["late"])
    assert [(each.name, each.num_rows, each.has_mock) for each in found] == [("strict", 40, True)]
    with pytest.raises(FedjobError, match="strict"):
        owner.add("strict", PATIENTS)


def test_a_federation_may_be_started_in_any_thread_and_a_port_that_is_taken_is_named(
    session: SandboxSession,
) -> None:
    port = int(session.membership.hub_url.rpartition(":")[2])
    raised: list[BaseException] = []

    def begin() -> None:
        try:
            fedjob.sandbox_federation({"clinic-1": None}, port=port)
        except FedjobError as error:
            raised.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join(120)
    assert f"{port}" in str(raised[0])
    assert "use" in str(raised[0])


SCRIPT = """
import pandas, time
import fedjob
session = fedjob.sandbox_federation({"clinic-1": pandas.DataFrame({"a": [1, 2], "b": [3, 4]})})
print("started", session.folder, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_and_folder_go_with_a_script_that_is_killed(
    number: signal.Signals, processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = processes.start(
        "python", tmp_path / "script.py", ready=r"^started ", env={"TMPDIR": str(temporary)}, timeout_s=120
    )
    assert len(processes_of(temporary)) >= 3
    script.send(number)
    wait_until(lambda: not processes_of(temporary), timeout_s=60, what="hub and node to end")
    wait_until(lambda: not list(temporary.iterdir()), timeout_s=30, what="the folder to be removed")
