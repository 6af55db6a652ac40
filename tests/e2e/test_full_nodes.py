"""A node whose disk is full: it lives on, says so, and works again as soon as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job, JobFailed
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, Node, background, preferred_kind
from tests.e2e.plans import Large, Points
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(300)

MAX_FILES = 600


@pytest.fixture
def node(small_disk: Callable[..., Path], tmp_path: Path) -> Iterator[Node]:
    """Yield a node that runs, with a small disk of its own for its home."""
    small_disk("site", 24, MAX_FILES)
    with Federation(tmp_path, preferred_kind()) as federation:
        (made,) = federation.add_nodes("site")
        made.add("points", make_points(tmp_path / "points.npz", 50, 1), "points")
        federation.start_nodes()
        federation.session()
        yield made


def job_of(node: Node, plan: type = Points) -> Job:
    (session,) = node._federation.sessions()
    arguments: dict[str, Any] = {"data": "points", "training_args": TRAINING, "rounds": 2, "seed": 9}
    return Job(FedAvg(), training_plan=plan, session=session, **arguments)


def make_files(folder: Path) -> None:
    for number in range(MAX_FILES):
        (folder / str(number)).touch()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def lives(node: Node) -> bool:
    return node.process is not None and node.process.alive


@pytest.mark.parametrize("plan", [Points, Large], ids=["a small model", "a large one"])
def test_a_node_without_room_for_one_more_file_says_so_and_goes_on_when_there_is(
    node: Node, plan: type
) -> None:
    """It ended, because no folder could be made for the task."""
    job_of(node, plan).run(progress=False)
    many = node.home / "many"
    many.mkdir()
    with pytest.raises(OSError, match="No space left"):
        make_files(many)
    with pytest.raises(JobFailed, match="site: no_space: no space is left on the node's disk: ask its owner"):
        job_of(node, plan).run(progress=False)
    assert lives(node)
    for path in many.iterdir():
        path.unlink()
    job = job_of(node, plan)
    job.run(progress=False)
    assert job.state == "completed"


def test_a_node_whose_database_has_no_room_tells_the_researcher_and_goes_on_by_itself(node: Node) -> None:
    """The job waited for it, and nobody learned why."""
    job_of(node).run(progress=False)
    node.stop()
    node.start()  # the database's log is empty then, and has to grow
    ballast = node.home / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    job = job_of(node)

    def notes() -> list[str]:
        return [str(event.body["text"]) for event in job.events() if event.type == "note"]

    with background(lambda: job.run(progress=False)) as run:
        wait_until(
            lambda: any("the node can't write its database" in text for text in notes()),
            timeout_s=PATIENCE_S,
            what="the researcher to learn of it",
        )
        assert lives(node)
        assert not run.done()
        ballast.unlink()
        run.result(timeout=PATIENCE_S)
    assert job.state == "completed"
    assert "takes commits again" in node.log()
