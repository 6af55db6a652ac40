"""Real nodes and a researcher who has work done twice: what comes out differently is not masked with the same keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import to_plain
from fedjob.messaging.messages import Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.protection.sum_sessions import SumSessions
from fedjob.privacy.secagg.node_noise import noise_terms
from fedjob.privacy.secagg.vector import Outline
from tests.integration.nodes import Federation, plan_with
from tests.secure_sums import first_terms

SECAGG = {"threshold": None, "min_nodes": 3, "clip": 8.0, "bits": 32, "max_weight": None}
DP = {"kind": "node", "epsilon": 50.0, "delta": 1e-5, "clip_norm": 1.0}
NODES = ["node1", "node2", "node3"]

CHANGING = plan_with("loss = loss * (1 + int.from_bytes(os.urandom(4), 'big') / 2**32)")
"""A plan whose updates are others each time, as on a processor that adds in no fixed order."""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        for name in NODES:
            made.node(name, NodeConfig(approval="off")).start()
        yield made
    finally:
        made.close()


class Asker:
    """A researcher who takes the steps of one sum of round 1 by hand."""

    def __init__(self, federation: Federation, protect: dict[str, Any], noise: Any) -> None:
        self.ann = federation.ann
        self.task = self.ann.task(CHANGING, "Odd", protect=protect, rounds=3)
        self.held = self.computed()
        self.terms = first_terms(self.ann.job, self.task, noise=noise)

    def computed(self, nodes: list[str] = NODES, **header: Any) -> dict[str, Result]:
        found = {node: self.ann.result(node, self.task, **{"round_": 1, **header}) for node in nodes}
        assert all(one.ok for one in found.values()), [one.detail for one in found.values()]
        return found

    def step(self, node: str, step: str, epoch: int = 1, **body: Any) -> Result:
        asked: Task = replace(self.task, sum={"step": step, "terms": to_plain(self.terms), **body})
        return self.ann.result(node, asked, round_=1, epoch=epoch)

    def up_to_shares(self, epoch: int = 1) -> None:
        keys = [self.step(node, "keys", epoch).value["keys"] for node in NODES]
        shares = {node: self.step(node, "shares", epoch, keys=keys) for node in NODES}
        assert all(one.ok for one in shares.values()), shares
        self.sealed = {
            node: dict(zip([other for other in NODES if other != node], one.value["sealed"], strict=True))
            for node, one in shares.items()
        }

    def masked(self, node: str, epoch: int = 1) -> Result:
        outline = replace(
            Outline.unpacked(self.held[node].value["outline"]), relative=["bias", "weight"]
        ).packed
        sealed = {other: one[node] for other, one in self.sealed.items() if other != node}
        body = {"of": self.held[node].key, "outline": outline, "sealed": sealed}
        return self.step(node, "mask", epoch, taking_part=NODES, **body)


def noise_of(length: int) -> Any:
    return noise_terms(
        epsilon=50.0,
        delta=1e-5,
        clip_norm=1.0,
        rounds=3,
        length=length,
        num_nodes=3,
        threshold=3,
        clip=8.0,
        bits=32,
    )


@pytest.mark.parametrize("is_private", [False, True], ids=["a plain sum", "noise of whole nodes"])
def test_work_that_is_done_again_and_comes_out_differently_is_masked_with_fresh_keys_only(
    federation: Federation, is_private: bool
) -> None:
    protect = {"secagg": SECAGG, **({"dp": DP} if is_private else {})}
    asker = Asker(federation, protect, noise_of(3) if is_private else None)
    ann, key = asker.ann, asker.held["node1"].key
    asker.up_to_shares()
    first = asker.masked("node1")
    assert first.ok, first.detail
    assert asker.masked("node1").params == first.params  # asked again: the same bytes
    with federation.nodes[0].database() as database:
        kept = SumSessions(database).find(asker.terms)
    assert kept is not None
    assert len(kept.contribution) == 64
    assert ann.result("node1", replace(asker.task, seed=12), round_=2).ok  # round 1 is released
    again = asker.computed(["node1"], epoch=2)["node1"]
    assert again.key == key
    other = asker.masked("node1", epoch=2)
    assert (other.ok, other.reason, other.params) == (False, "other_contribution", None)
    federation.nodes[0].stop()
    federation.nodes[0].start()
    other = asker.masked("node1", epoch=2)
    assert (other.ok, other.reason, other.params) == (False, "other_contribution", None)
    asker.terms = replace(asker.terms, attempt=2)
    asker.up_to_shares(epoch=2)
    fresh = asker.masked("node1", epoch=2)
    assert fresh.ok, fresh.detail
    assert fresh.params != first.params
