"""A training plan is tried on made-up rows at the researcher before an owner is asked; nothing else of it is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pandas
import psutil
import pytest
import torch

from fedjob import FedAvg, Job, TorchPlan
from fedjob.common.codec import pack
from fedjob.common.errors import SpecError
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.decisions import Grants
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.runner.batch_trial import answer_of
from tests.integration.nodes import Federation, Node
from tests.integration.test_jobs_over_memory import open_session


class Fits(TorchPlan):
    """Made for two features, read by name."""

    names = ("age", "chol")
    width = 2

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(self.width, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.001)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        frame = dataset.frame()
        print("this is seen by nobody")
        return frame[list(self.names)].to_numpy("float32"), frame["sick"].to_numpy("float32")

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs)[:, 0], targets)


class WrongWidth(Fits):
    width = 13


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("trial"))
    node = found.node("ward", NodeConfig(threads=1))
    path = node.folder / "heart.csv"
    pandas.DataFrame({"age": range(40), "chol": [0.5] * 40, "sick": [0, 1] * 20}).to_csv(path, index=False)
    with node.database() as database:
        Datasets(database).add(describe_dataset("heart", path, tags=["heart"]))
    node.start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as found:
        yield found


def requests_at(federation: Federation) -> list[str]:
    node: Node = federation.nodes[0]
    with node.database() as database:
        return [grant.id for grant in Grants(database).all()]


def test_no_owner_is_asked_for_a_plan_that_can_not_run_on_their_columns(
    federation: Federation,
    session: Session,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = requests_at(federation)
    job = Job(FedAvg(), training_plan=WrongWidth, data="heart", rounds=1, session=session)
    with pytest.raises(SpecError, match="nobody was asked yet") as refused:
        job.request()
    assert "2 features" in str(refused.value)
    assert f"{Path(__file__).name}, line" in str(refused.value), "the user's own line"
    assert requests_at(federation) == before
    assert "seen by nobody" not in "".join(capfd.readouterr())


def test_a_check_of_the_plan_alone_names_what_would_fail_and_asks_nobody(
    federation: Federation, session: Session
) -> None:
    before = requests_at(federation)
    job = Job(FedAvg(), training_plan=WrongWidth, data="heart", rounds=1, session=session)
    checks = job.check(plan_only=True)
    assert not checks.ok
    assert [(check.node, check.dataset, check.plan) for check in checks] == [("ward", "heart", "fails")]
    assert "the data have 2 features where a layer takes others (13x1)" in checks[0].why
    assert f"{Path(__file__).name}, line" in checks[0].why
    assert "fails" in checks._repr_html_()
    unscored = Job(
        FedAvg(),
        training_plan=Fits,
        data="heart",
        training_args={"test_on_global_updates": True},
        session=session,
    )
    assert "test_ratio" in unscored.check(plan_only=True)[0].why
    assert requests_at(federation) == before


def test_a_plan_that_fits_is_asked_for_and_is_tried_once(federation: Federation, session: Session) -> None:
    job = Job(FedAvg(), training_plan=Fits, data="heart", rounds=1, session=session)
    job.request()
    assert len(requests_at(federation)) == 1
    noted = session.home / "tried_plans"
    before = noted.stat().st_mtime_ns
    Job(FedAvg(), training_plan=Fits, data="heart", rounds=1, session=session).reach()
    assert len(noted.read_text(encoding="ascii").split()) == 1
    assert noted.stat().st_mtime_ns == before


def test_a_trial_that_is_not_done_in_time_or_ends_its_process_finds_nothing_and_leaves_nothing() -> None:
    order = {"text": "", "entry": "Net", "model_args": {}, "training_args": {}, "origins": []}
    children = {child.pid for child in psutil.Process().children()}
    began = time.monotonic()
    hangs = "import time\ntime.sleep(600)\n"
    assert answer_of(pack({**order, "text": hangs, "schema": [["a", "int"]]}), deadline_s=2.0) is None
    assert time.monotonic() - began < 30
    assert answer_of(b"no order") is None
    assert {child.pid for child in psutil.Process().children()} <= children
