"""Real nodes and a researcher whose steps of a secure sum are too large for a message: the nodes fetch what they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import pack, to_plain
from fedjob.common.types import Ref
from fedjob.execution.step_parts import MAX_PARTS_BYTES
from fedjob.messaging.messages import Result, Task, packed_parts
from fedjob.node.config.config import NodeConfig
from tests.integration.nodes import ADD_ONE, Federation
from tests.secure_sums import first_terms

NODES = ["node1", "node2", "node3"]
SECAGG = {"threshold": None, "min_nodes": 3, "clip": 8.0, "bits": 32, "max_weight": None}


class Asker:
    """A researcher who takes the first steps of one sum by hand."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self.ann = federation, federation.ann
        self.task = self.ann.task(ADD_ONE, "AddOne", protect={"secagg": SECAGG})
        for node in NODES:
            assert self.ann.result(node, self.task).ok
        self.terms = to_plain(first_terms(self.ann.job, self.task))
        self.keys = [self.ask(node, "keys").value["keys"] for node in NODES]

    def step(self, step: str, **body: Any) -> Task:
        return replace(self.task, sum={"step": step, "terms": self.terms, **body})

    def ask(self, node: str, step: str, parts: dict[str, Ref] | None = None, **body: Any) -> Result:
        return self.ann.result(node, replace(self.step(step, **body), sum_parts=parts or {}))

    @property
    def named_bytes(self) -> int:
        """The bytes of the objects that the computation itself needs."""
        assert self.task.plan is not None
        return self.task.plan.size_bytes + self.task.params["params"].size_bytes

    def put(self, content: bytes) -> Ref:
        return self.federation.repository.put(content, job=self.ann.job, readers=NODES)


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    made = Federation(tmp_path)
    try:
        for name in NODES:
            made.node(name, NodeConfig(approval="off")).start()
        yield Asker(made)
    finally:
        made.close()


def test_a_step_whose_parts_are_in_the_repository_is_answered_as_one_that_holds_them(asker: Asker) -> None:
    keys = asker.put(packed_parts({"keys": asker.keys})["keys"])
    fetched = asker.ask("node1", "shares", {"keys": keys})
    held = asker.ask("node1", "shares", keys=asker.keys)
    assert fetched.ok, fetched.detail
    assert len(fetched.value["sealed"]) == 2
    assert (fetched.key, fetched.value) == (held.key, held.value)
    with asker.federation.nodes[0].database() as database:  # an owner may limit what moves
        (row,) = database.rows("SELECT bytes_in FROM costs")
    assert row["bytes_in"] == asker.named_bytes + keys.size_bytes
    asker.federation.repository.delete(keys, job=asker.ann.job)  # a step that is over is asked for again
    again = asker.ask("node1", "shares", {"keys": keys})
    assert (again.ok, again.reason, again.key) == (False, "object_missing", held.key)


def test_parts_that_are_no_parts_cost_their_step_alone(asker: Asker) -> None:
    lies = {
        "too large": {"keys": Ref("0" * 64, MAX_PARTS_BYTES + 1)},
        "in both": {"terms": asker.put(pack({}))},
        "missing": {"keys": Ref("0" * 64, 10)},
        "many values": {"keys": asker.put(pack([[None] * 26_000] * 2))},
        "no msgpack": {"keys": asker.put(b"\xc1")},
        "other keys": {"keys": asker.put(pack(asker.keys[1:]))},
    }
    found = {name: asker.ask("node1", "shares", parts) for name, parts in lies.items()}
    assert {name: answer.reason for name, answer in found.items()} == {
        "too large": "spec",
        "in both": "spec",
        "missing": "object_missing",
        "many values": "decode",
        "no msgpack": "decode",
        "other keys": "spec",
    }
    assert asker.ask("node1", "shares", keys=asker.keys).ok
