"""Node states, which stay at a node: none of private data reaches a mock run, and none without noise a task with noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob.messaging.messages import Task
from fedjob.node.config.config import NodeConfig
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher

KEEPING = ADD_ONE.replace('print("the data are loaded")', "pass").replace(
    "inputs, targets = batch",
    "inputs, targets = batch; self.ctx.state['seen'] = inputs.flatten()[:4].clone()",
)
"""It keeps what it has seen of the data."""

RECORD = {"dp": {"kind": "record", "epsilon": 5.0, "delta": 1e-4, "max_grad_norm": 1.0}}
TREE = {"dp": {**RECORD["dp"], "mechanism": "tree"}}
SECAGG: dict[str, Any] = {"threshold": None, "min_nodes": 3, "clip": 8.0, "bits": 32, "max_weight": None}
NODE = {
    "secagg": SECAGG,
    "dp": {"kind": "node", "epsilon": 5.0, "delta": 1e-4, "clip_norm": 1.0},
}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    made = federation.node(config=NodeConfig(approval="off"))
    with made.database() as database:
        database.execute("UPDATE datasets SET mock = ?", (str(made.folder / "toy.npz"),))
    return made.start()


def task(ann: Researcher, **more: Any) -> Task:
    return ann.task(KEEPING, "AddOne", **{"rounds": 4, **more})


def test_a_state_goes_to_tasks_of_the_same_data_and_protection_alone(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    plain = ann.result("node1", task(ann), round_=1)
    assert plain.ok, plain.detail
    assert plain.state is not None
    for number, (more, words) in enumerate(
        [
            ({"use": "mock"}, "private data of dataset toy, no protection, and this task is of mock data"),
            ({"protect": RECORD}, "this task is of private data of dataset toy, record differential privacy"),
            ({"protect": NODE}, "node differential privacy and secure aggregation"),
            ({"protect": {"secagg": SECAGG}}, "no protection, and this task .* secure aggregation"),
        ]
    ):
        refused = ann.result("node1", task(ann, state=plain.state, seed=number, **more), round_=2)
        assert (refused.ok, refused.reason) == (False, "not_permitted")
        assert re.search(words, refused.detail), refused.detail
    missing = ann.result("node1", task(ann, state="0" * 32), round_=2)
    assert (missing.ok, missing.reason) == (False, "state_missing")
    assert ann.result("node1", task(ann, state=plain.state, seed=9), round_=2).ok
