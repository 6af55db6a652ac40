"""An owner decides in a browser about a job that waits: hub, node, page and Chromium, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedjob import FedAvg, Job
from tests.browsers import Watched, chromium
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, background, preferred_kind
from tests.plans import Tiny
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(400)

READY = r"^page ready: (http://127\.0\.0\.1:\d+/enter#\S+)"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("clinic"), preferred_kind(), forked=True) as made:
        (node,) = made.add_nodes("clinic", approval="on")
        node.add("points", make_points(made.folder / "points.npz", 60, 0), "points")
        made.start_nodes()
        yield made


def test_a_job_waits_until_its_owner_has_decided_in_a_browser(clinic: Federation) -> None:
    node = clinic.nodes["clinic"]
    served = clinic.processes.start("fedjob", "node", "page", "--home", node.home, ready=READY, fork=True)
    link = served.wait_for(READY)[1]
    job = Job(
        FedAvg(),
        training_plan=Tiny,
        data="points",
        training_args=TRAINING,
        rounds=2,
        seed=1,
        name="points-2026",
        note="to see whether it works",
        session=clinic.session(),
    )
    with chromium() as browser, background(lambda: job.run(progress=False)) as run:
        window = Watched(browser, urlsplit(link).netloc)
        page = window.page
        wait_until(
            lambda: node.json("grants", "list", "--pending"), timeout_s=PATIENCE_S, what="the job to wait"
        )
        page.goto(link)
        page.get_by_text("to see whether it works").wait_for()
        assert page.get_by_text("connected", exact=True).count() == 1
        page.get_by_role("link", name="Look and decide").click()
        page.get_by_role("button", name="Approve for this dataset").wait_for()
        page.get_by_text("Limits", exact=True).click()
        page.get_by_label("Jobs at most").fill("1")
        page.get_by_label("Your name, for the audit log").first.fill("Mira Keller")
        page.get_by_role("button", name="Approve for this dataset").click()
        page.get_by_text("approved: lab may run plan Tiny").wait_for()
        run.result(timeout=PATIENCE_S)
        assert job.success
        page.get_by_role("link", name="What left").click()
        assert page.get_by_role("link", name="the result").count() == 2
        page.get_by_role("link", name="Audit log").click()
        page.get_by_role("button", name="Verify the chain now").click()
        page.get_by_text("records, unbroken").wait_for()
        assert page.get_by_text("by Mira Keller").count() >= 1
        page.get_by_role("link", name="Settings").click()
        page.get_by_text("Change workers").click()
        page.locator("#v-workers").fill("2")
        page.locator("form:has(#v-workers)").get_by_role("button", name="Save").click()
        page.get_by_text("workers = 2").wait_for()
        page.get_by_role("link", name="Security").click()
        page.get_by_role("button", name="Stop the node now").click()
        page.get_by_text("node stopped").wait_for()
        assert window.wrong == []
    (grant,) = node.json("grants", "list")
    assert (grant["status"], grant["decided_by"], grant["limits"]["runs"]) == ("granted", "Mira Keller", 1)
    assert node.status()["running"] is False
    assert node.json("config", "show")["workers"] == 2
    stopped = [record for record in node.json("audit") if record["kind"] == "node"]
    assert [record["body"]["status"] for record in stopped] == ["stopped"]
    assert served.stop(timeout_s=30) == 0
    assert "Traceback" not in served.log_path.read_text()


def test_the_home_of_another_role_and_a_folder_are_no_page(clinic: Federation, tmp_path: Path) -> None:
    run = clinic.processes.run
    hub = run("fedjob", "node", "page", "--home", clinic.folder / "hub", expect=1)
    assert "is the home of a hub, not of a node" in hub.stderr
    lab = run("fedjob", "node", "page", "--home", clinic.folder / "lab", expect=1)
    # which of the two depends on whether the researcher has done anything in it yet
    words = ("is the home of a researcher, not of a node", "is not a node's home")
    assert any(each in lab.stderr for each in words)
    nothing = run("fedjob", "node", "page", "--home", tmp_path / "nothing", expect=1)
    assert "is not a node's home" in nothing.stderr
    assert not (tmp_path / "nothing").exists()
