"""One job from end to end, over a hub and nodes that are processes of their own: what `make quick` adds to the units."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedjob import FedAvg, Job
from tests.data import TRAINING, make_points
from tests.e2e.federation import Federation, preferred_kind
from tests.e2e.plans import Points
from tests.homes import open_to_others

NODES = ("clinic-1", "clinic-2")

pytestmark = pytest.mark.timeout(300)


def test_two_nodes_behind_a_hub_train_one_model_together(tmp_path: Path) -> None:
    with Federation(tmp_path / "federation", preferred_kind()) as federation:
        for index, node in enumerate(federation.add_nodes(*NODES)):
            node.add("points", make_points(tmp_path / f"{node.name}.npz", 60, index), "points")
        federation.start_nodes()
        about = {"training_plan": Points, "data": "points", "training_args": TRAINING, "rounds": 3, "seed": 2}
        job = Job(FedAvg(), session=federation.session(), **about)  # type: ignore[arg-type]
        result = job.run(progress=False)
        assert {number: info.replied for number, info in job.rounds.items()} == dict.fromkeys(
            (1, 2, 3), NODES
        )
        assert result.save(tmp_path / "model.safetensors").stat().st_size > 40
        assert job.success
        listed = json.loads(federation.cli("job", "list", "--json").stdout)
        assert [(row["id"], row["state"]) for row in listed] == [(job.id, "completed")]
        homes = [
            federation.folder / "hub",
            federation.folder / "lab",
            *(node.home for node in federation.nodes.values()),
        ]
        assert {home.name: open_to_others(home) for home in homes} == {home.name: [] for home in homes}
