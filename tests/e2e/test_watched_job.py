"""A submitted job that a partner watches: through a real hub and broker, live, and after its runner is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedjob import FedAvg, Job
from fedjob.common.errors import NoSuchJob, NotAllowed
from tests.data import TRAINING, make_points
from tests.e2e.federation import PATIENCE_S, Federation, background, preferred_kind
from tests.plans import Tiny
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("watched"), preferred_kind()) as made:
        (node,) = made.add_nodes("clinic")
        node.add("points", make_points(made.folder / "points.npz", 60, 1), "points")
        made.start_nodes()
        yield made


@pytest.mark.feature("TB-72", "TB-74", "NV-62")
def test_a_partner_watches_a_submitted_job_and_nobody_else_does(fed: Federation) -> None:
    partner, stranger = fed.session("partner"), fed.session("stranger")
    job = Job(
        FedAvg(),
        training_plan=Tiny,
        data="points",
        training_args=TRAINING,
        rounds=3,
        seed=5,
        name="shared",
        watchers=[partner.party],
        session=fed.session("lab"),
    )
    job.submit()

    def shown() -> bool:
        try:
            return bool(partner.follow(job.id).id)
        except NoSuchJob:
            return False

    wait_until(shown, timeout_s=PATIENCE_S, what="the job at the hub")
    followed = partner.follow(job.id)
    with background(lambda: list(followed.events(follow=True))) as listener:
        job.wait(timeout_s=PATIENCE_S, silent=True)
        heard = listener.result(timeout=PATIENCE_S)
    assert heard == list(job.events())
    assert followed.success
    assert {event.type for event in heard} >= {"state", "ask", "metrics", "round", "result"}
    with pytest.raises(NotAllowed):
        stranger.follow(job.id)
    for verb in (followed.kill, followed.cancel, followed.delete):
        with pytest.raises(NotAllowed):
            verb()
    assert job.success
    told = fed.cli("job", "watch", job.id, home=fed.folder / "partner")
    assert "round 3 | done with clinic" in told.stdout
    assert "completed" in fed.cli("job", "wait", job.id, home=fed.folder / "partner").stdout
    said = fed.cli("job", "wait", job.id, home=fed.folder / "stranger", expect=2).stderr
    assert len(said.strip().splitlines()) == 1
    job.delete()
    with pytest.raises(NoSuchJob):
        list(partner.follow(job.id).events())
