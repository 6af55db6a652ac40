"""Four hospitals, four files, one model: the way a user goes, with every command typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob import FedAvg, Job
from tests.e2e.conftest import NODES, one_broker
from tests.e2e.federation import Federation
from tests.e2e.plans import Heart, PointsMLP, PointsSGD
from tests.parts import shared_data

pytestmark = pytest.mark.timeout(400)

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture
def hearts(federation: Federation) -> None:
    """Give each node the file of one hospital."""
    folder = shared_data("heart")
    for name, hospital in zip(NODES, HOSPITALS, strict=True):
        node = federation.nodes[name]
        if not any(dataset["name"] == "heart" for dataset in node.json("data", "list")):
            options = ("--reader", "csv", "--option", "header=no", "--option", "na=?", "--tags", "heart,uci")
            node.cli("data", "add", "heart", str(folder / f"processed.{hospital}.data"), *options)


@pytest.mark.usefixtures("hearts")
def test_four_hospitals_train_a_linear_model(federation: Federation, tmp_path: Path) -> None:
    session = federation.session()
    found = session.datasets(tags=["heart"], timeout_s=30)
    assert [handle.num_rows for handle in found] == [303, 294, 123, 200]
    assert found[0].schema["13"] in ("int", "int64", "integer")
    job = Job(
        FedAvg(),
        training_plan=Heart,
        data={"tags": ["heart"]},
        model_args={"num_features": 10},
        training_args={"lr": 0.5, "num_updates": 60, "batch_size": 16, "test_ratio": 0.25, "test_metric": "accuracy",
                       "test_on_local_updates": True},
        rounds=6,
        seed=5,
        name="heart-fedavg",
        validate_at_end=True,
        session=session,
    )  # fmt: skip
    result = job.run(progress=False)
    assert set(job.spec.datasets) == set(NODES)
    assert {name for info in job.rounds.values() for name in info.replied} == set(NODES)
    assert job.metrics["accuracy/validate"] > 0.68  # always saying "disease" is right for 55 of 100
    assert result.model()(result.model().weight.new_zeros(1, 10)).shape == (1, 1)
    assert result.save(tmp_path / "heart.safetensors").stat().st_size > 40
    weights = {node: weight for node, _, weight in job.position.ledger[0].inputs}
    assert max(weights, key=weights.__getitem__) == "clinic-1"  # 303 complete rows, of which the fewest at
    assert min(weights, key=weights.__getitem__) == "clinic-3"  # Switzerland's, with 46


@pytest.mark.parametrize(("plan", "least"), [(PointsSGD, 0.85), (PointsMLP, 0.85)])
@one_broker
def test_scikit_learn_trains_although_one_node_misses_a_class(
    federation: Federation, plan: type, least: float, one_class: str
) -> None:
    job = Job(
        FedAvg(),
        training_plan=plan,
        data=[f"{name}/points-of-{name}" for name in NODES[:2]] + [one_class],
        model_args={"num_features": 4, "classes": [0, 1]},
        training_args={"epochs": 5, "batch_size": 8, "test_ratio": 0.25, "test_metric": ["accuracy", "f1"]},
        rounds=5,
        seed=3,
        validate_at_end=True,
        session=federation.session(),
    )
    result = job.run(progress=False)
    assert len(job.rounds[5].replied) == 3
    assert job.metrics["accuracy/validate"] > least
    assert type(result.model()).__name__ in ("SGDClassifier", "MLPClassifier")
    assert result.model().predict([[3.0, 3.0, 3.0, 3.0], [-3.0, -3.0, -3.0, -3.0]]).tolist() == [1, 0]
    reply = job.position.ledger[0].inputs[0]
    assert reply[0] == NODES[0]
    assert job.position.node_states.keys() == {*NODES[:3]}


@pytest.fixture
def one_class(federation: Federation) -> str:
    """Give the third node points of one class only; return where they are."""
    import numpy as np

    node = federation.nodes[NODES[2]]
    with np.load(federation.folder / "points-2.npz") as points:
        inputs, targets = points["x"], points["y"]
    path = federation.folder / "one-class.npz"
    np.savez(path, x=inputs[targets == 1], y=targets[targets == 1])
    if not any(dataset["name"] == "one-class" for dataset in node.json("data", "list")):
        node.add("one-class", path, "rare")
    return f"{node.name}/one-class"
