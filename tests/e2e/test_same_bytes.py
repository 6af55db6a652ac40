"""Federated, simulated and local runs end in the same bytes, over both brokers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedjob import FedAvg, Fraction, Job
from tests.data import TRAINING
from tests.e2e.conftest import NODES
from tests.e2e.federation import Federation, digest
from tests.plans import Tiny

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as the nodes here do: another number may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def points(federation: Federation, *nodes: str) -> dict[str, str]:
    return {n: str(federation.folder / f"points-{NODES.index(n)}.npz") for n in nodes}


def make_job(**changes: object) -> Job:
    arguments = {"training_plan": Tiny, "training_args": TRAINING, "rounds": 3, "seed": 11, **changes}
    return Job(FedAvg(), **arguments)  # type: ignore[arg-type]


@pytest.mark.feature("FB-80", "FB-81")
def test_a_job_on_one_node_equals_a_local_job_that_plays_it(federation: Federation, tmp_path: Path) -> None:
    remote = make_job(data="clinic-2/points-of-clinic-2", session=federation.session())
    remote.run(progress=False)
    data = {
        "path": points(federation, "clinic-2")["clinic-2"],
        "name": "points-of-clinic-2",
        "tags": ["points"],
    }
    local = make_job(data=data, nodes="local", as_node="clinic-2", home=tmp_path)
    local.run(progress=False)
    assert digest(remote) == digest(local)
    assert remote.result.rows == local.result.rows


@pytest.mark.feature("FB-27", "FB-55", "FB-70")
def test_nodes_whose_datasets_have_different_names_train_together_as_a_simulation_does(
    federation: Federation, tmp_path: Path
) -> None:
    arguments = {"selector": Fraction(0.5), "validate_at_end": True}
    remote, again = (
        make_job(data={"tags": ["points"]}, session=federation.session(), **arguments) for _ in range(2)
    )
    remote.run(progress=False)
    assert len({info["name"] for info in remote.spec.datasets.values()}) == 4
    assert all(len(info.replied) == 2 for info in remote.rounds.values())
    assert sorted(remote.rounds) == [1, 2, 3]
    again.run(progress=False)
    assert digest(again) == digest(remote)
    simulated = make_job(data=points(federation, *NODES), nodes="local", home=tmp_path, **arguments)
    simulated.run(progress=False)
    assert digest(simulated) == digest(remote)
    assert remote.metrics == simulated.metrics
