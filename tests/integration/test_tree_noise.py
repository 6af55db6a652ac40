"""Jobs with tree noise: at a node that is killed, repeated and lied to, in a federation, and on sites of this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import FedAvg, Job, RecordDP, SpecError, Statistics
from fedjob.execution.tree_stretches import RECORD_NAME
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.privacy.dp.tree_noise import TreeNoise
from fedjob.privacy.dp.tree_terms import TreeStretch, tree_terms
from fedjob.training_plans.private.step_draws import TreeSteps
from tests.integration.nodes import ADD_ONE, Federation, Node, Researcher, write_toy
from tests.integration.scripted import open_session

ROWS, ARGS = 20, {"num_updates": 2, "batch_size": 5}
DP = {"kind": "record", "epsilon": 5.0, "delta": 1e-4, "max_grad_norm": 1.0, "mechanism": "tree"}
TERMS = tree_terms(epsilon=5.0, delta=1e-4, max_grad_norm=1.0, rounds=4, num_rows=ROWS, batch_size=5, steps=2)
"""Four blocks, so that two of the four rounds are a pass."""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def node(federation: Federation) -> Node:
    return federation.node(config=NodeConfig(approval="off")).start()


def treed(ann: Researcher, **more: Any) -> Task:
    more = {"training_args": ARGS, "protect": {"dp": DP}, "rounds": 4, **more}
    return ann.task(ADD_ONE, "AddOne", **more)


def given(node: Node) -> list[tuple[int, int, int, str]]:
    """Return trees, first step, passes paid and state of each charge, in their order."""
    with node.database() as database:
        rows = database.rows("SELECT * FROM charges ORDER BY seq")
    return [(row["tree"], row["first"], row["passes"], row["state"]) for row in rows]


def seed_of(node: Node, tree: int) -> bytes:
    with node.database() as database:
        found = database.rows("SELECT seed FROM noise_trees WHERE id = ?", (tree,))
    return bytes(found[0]["seed"])


def by_hand(node: Node, seed: bytes, first: int, params: dict[str, torch.Tensor]) -> np.ndarray:
    """Return what two steps of the plan come to, by the formulas alone."""
    with np.load(node.folder / "toy.npz") as arrays:
        x, y = (torch.tensor(arrays[name]).numpy() for name in ("x", "y"))
    steps = TreeSteps(TreeStretch(terms=TERMS, seed=seed, first=first), np.arange(len(x)), lambda: (x, y))
    noise = TreeNoise(seed, TERMS.blocks, first, 3)
    point = np.concatenate([params["weight"].numpy().ravel(), params["bias"].numpy()]).astype(np.float64)
    for _ in range(2):
        rows = steps.chosen()
        inputs = np.column_stack([x[rows], np.ones(len(rows))]).astype(np.float64)
        gradients = 2 * (inputs @ point - y[rows].ravel())[:, None] * inputs
        gradients *= np.minimum(1.0, 1.0 / np.maximum(np.linalg.norm(gradients, axis=1), 1e-12))[:, None]
        point -= 0.1 * (gradients.sum(0) + TERMS.noise * noise.step()) / TERMS.sample_size
    return point


@pytest.mark.feature("BF-24")
def test_rounds_go_on_with_one_tree_through_restarts_and_what_is_repeated_has_further_steps(
    federation: Federation, node: Node, tmp_path: Path
) -> None:
    ann = federation.ann
    task = treed(ann)
    start = ann.fetch(task.params["params"], tmp_path)
    first = ann.result("node1", task, round_=1)
    assert first.ok, first.detail
    again = ann.result("node1", task, round_=1, attempt=2)
    assert again.params == first.params, "its bytes are kept"
    assert given(node) == [(1, 0, 1, "spent")]
    node.stop()
    node.start()
    assert first.params is not None
    content = {first.params.sha256: first.attached[first.params.sha256]}
    second_task = replace(treed(ann), params={"params": first.params}, attached=content)
    second = ann.result("node1", second_task, round_=2)
    assert second.ok, second.detail
    assert given(node)[1:] == [(1, 2, 0, "spent")]
    assert second.privacy["epsilon"] == first.privacy["epsilon"], "the pass was paid with its first round"
    repeated = ann.result("node1", task, round_=1, epoch=2)  # its bytes are gone: it is computed anew
    assert repeated.ok, repeated.detail
    assert given(node)[2:] == [(1, 4, 1, "spent")]

    middle = ann.fetch(first, tmp_path)
    seed = seed_of(node, 1)
    for result, from_, number in ((first, start, 0), (second, middle, 2), (repeated, start, 4)):
        assert result.params is not None
        found = ann.fetch(result, tmp_path)
        flat = np.concatenate([found["weight"].numpy().ravel(), found["bias"].numpy()])
        assert np.allclose(flat, by_hand(node, seed, number, from_), atol=1e-4)
    third = ann.result("node1", replace(second_task, seed=11, limit_s=50.0), round_=3, epoch=2)
    assert third.ok, third.detail
    assert 4.9 < third.privacy["epsilon"] <= 5.0
    beyond = ann.result("node1", replace(task, limit_s=49.0), round_=4, epoch=3)
    assert (beyond.ok, beyond.reason) == (False, "budget")
    everything = repr([message.body for message in ann.received])
    assert seed.hex() not in everything
    assert repr(seed)[2:-1] not in everything


def test_data_that_change_between_rounds_begin_a_tree_that_pays_for_itself(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    assert ann.result("node1", treed(ann), round_=1).ok
    node.stop()
    with np.load(node.folder / "toy.npz") as arrays:
        turned = {name: array[::-1].copy() for name, array in arrays.items()}
    np.savez(node.folder / "toy.npz", **turned)
    node.start()
    assert ann.result("node1", replace(treed(ann), limit_s=50.0), round_=2).ok
    assert given(node) == [(1, 0, 1, "spent"), (2, 0, 1, "spent")]
    assert seed_of(node, 1) != seed_of(node, 2)


def test_a_node_that_is_killed_in_the_middle_takes_the_same_steps_again(
    federation: Federation, node: Node
) -> None:
    ann = federation.ann
    slow = ADD_ONE.replace('print("the data are loaded")', "import time; time.sleep(2)")
    sent = ann.train("node1", replace(treed(ann), plan=ann.plan(slow)))
    ann.take(lambda received: bool(given(node)))
    node.stop()
    node.start()
    assert ann.answer_to(sent, Result).ok
    assert given(node) == [(1, 0, 1, "spent")]


def test_a_federation_and_a_local_job_have_what_was_estimated(federation: Federation, tmp_path: Path) -> None:
    for name in ("a", "b"):
        federation.node(name, NodeConfig(approval="off", threads=1)).start()
    plan = tmp_path / "plan.py"
    plan.write_text(ADD_ONE)
    (tmp_path / "lab").mkdir()
    about: dict[str, Any] = {
        "training_plan": f"{plan}:AddOne",
        "training_args": ARGS,
        "rounds": 3,
        "protect": RecordDP(epsilon=5.0, delta=1e-4, mechanism="tree"),
    }
    with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
        job = Job(FedAvg(), data={"tags": ["toy"]}, session=session, **about)
        estimates = job.estimate(timeout_s=60)
        assert [round(one.cost, 3) for one in estimates] == [5.0, 5.0]
        result = job.run(progress=False)
        assert result.epsilon == pytest.approx({one.node: one.cost for one in estimates})
        assert job.history.empty

    sites = {name: str(tmp_path / f"{name}.npz") for name in "ab"}
    for path in sites.values():
        write_toy(Path(path))
    local = Job(
        FedAvg(),
        data=sites,
        nodes="local",
        home=tmp_path / "home",
        **about,
    )
    assert local.run(progress=False).epsilon == {one.node: one.cost for one in local.estimate()}
    assert len(list((tmp_path / "home").rglob(f"{RECORD_NAME}_*"))) == 2


def test_what_has_no_steps_has_no_tree(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.npz")
    dp = RecordDP(epsilon=5.0, delta=1e-4, mechanism="tree")
    with pytest.raises(SpecError, match="statistics has none: leave mechanism out"):
        Job(
            Statistics(mean=["x"], bounds={"x": (0, 1)}),
            data={"here": str(tmp_path / "toy.npz")},
            nodes="local",
            home=tmp_path,
            protect=dp,
        )
    with pytest.raises(SpecError, match=r'"sampled" \(DP-SGD\) or "tree"'):
        RecordDP(epsilon=5.0, delta=1e-4, mechanism="forest")
