"""Both halves of a private set intersection, played by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedjob.aggregation.contribution import Contribution
from fedjob.common.errors import NodeFailure, QuorumNotReached, SpecError
from fedjob.data.readers.base import Dataset
from fedjob.privacy.blinding import blind, divided, joined, point_of
from fedjob.protocols.base import Ask, Gathered, Instruction, Local, Reply, View
from fedjob.protocols.psi import PrivateSetIntersection

PSI = PrivateSetIntersection(on="id", own="a")


class Rows(Dataset):
    """A dataset in memory."""

    def __init__(self, ids: list[Any]) -> None:
        super().__init__(Path("nowhere"), {})
        self._frame = pd.DataFrame({"id": ids})

    @property
    def num_rows(self) -> int:
        return len(self._frame)

    @property
    def columns(self) -> list[dict[str, str]]:
        return [{"name": "id", "type": "string"}]

    def frame(self) -> pd.DataFrame:
        return self._frame


def local(node: str, ids: list[Any], state: dict[str, Any], folder: Path, **limits: Any) -> Local:
    return Local(
        node=node,
        round=1,
        seed=1,
        plan=None,
        data=Rows(ids),
        args=None,
        state=state,
        emit=lambda type_, data: None,
        progress=lambda done, total: None,
        scratch=folder,
        limits=limits,
    )


def gathered(told: dict[str, Any], left_out: dict[str, str] | None = None) -> Gathered:
    replies = {node: Reply(node=node, value=value) for node, value in told.items()}
    return Gathered(total=Contribution(), replies=replies, left_out=left_out or {})


def test_two_parties_by_the_papers_rule(tmp_path: Path) -> None:
    """a * b * H(x) is the same for both, b * a * H(x), and the own node finds what stands at the common places."""
    people = {"a": [1, 2, 3], "b": ["3", "1", "9"]}
    states: dict[str, dict[str, Any]] = {node: {} for node in people}
    view = View(rounds=1, nodes=("a", "b"))

    def answers(ask: Ask) -> Gathered:
        told = {}
        for node in ask.to or ():
            place = local(node, people[node], states[node], tmp_path, own=node == "a")
            instruction = Instruction(step=ask.step, round=1, values={**ask.shared, **ask.each.get(node, {})})
            told[node] = PSI.contribute(instruction, place).value
        return gathered(told)

    state, steps = PSI.start({}), []
    while isinstance(ask := PSI.instruct(state, view), Ask):
        steps.append((ask.step, ask.commit))
        found = answers(ask)
        if ask.step == "blind":
            first = {node: divided(reply.value) for node, reply in found.replies.items()}
        if ask.step == "pass":
            both = set(blind(states["a"]["key"], blind(states["b"]["key"], [point_of("1"), point_of("3")])))
            assert set(divided(found.replies["a"].value)) & set(divided(found.replies["b"].value)) == both
        state = PSI.finish(state, found)
    assert steps == [("blind", False), ("pass", False), ("reveal", True)]
    assert ask.value.tolist() == ["1", "3"]
    assert set(first["a"]) == set(blind(states["a"]["key"], map(point_of, "123")))
    assert first["a"] == sorted(first["a"])  # the order tells nothing of the rows
    assert states["a"]["key"] != states["b"]["key"]
    assert state["sets"] == {}  # a breakpoint keeps the result alone


@pytest.mark.parametrize("points", [b"x" * 33, bytes(32), None, "text"], ids=["cut", "zero", "none", "text"])
def test_a_node_blinds_nothing_but_points(points: Any, tmp_path: Path) -> None:
    place = local("b", [1], {"key": b"k" * 32}, tmp_path)
    with pytest.raises(NodeFailure, match="decode"):
        PSI.contribute(Instruction(step="pass", round=1, values={"points": points}), place)


def test_a_node_shows_identifiers_to_its_own_researchers_alone(tmp_path: Path) -> None:
    instruction = Instruction(step="reveal", round=1, values={"places": b"\0\0\0\0"})
    state = {"key": b"k" * 32}
    for node, limits in (("b", {"own": True}), ("a", {"own": False}), ("a", {})):
        with pytest.raises(NodeFailure, match="not_permitted"):
            PSI.contribute(instruction, local(node, [1], state, tmp_path, **limits))
    beyond = Instruction(step="reveal", round=1, values={"places": b"\x01\0\0\0"})
    with pytest.raises(NodeFailure, match="a place beyond"):
        PSI.contribute(beyond, local("a", [1], state, tmp_path, own=True))


def test_answers_of_another_form_and_missing_nodes_end_it() -> None:
    start = PSI.start({})
    for value in (None, "text", b"x" * 31):
        with pytest.raises(SpecError, match="node b answered no blinded identifiers"):
            PSI.finish(start, gathered({"a": b"", "b": value}))
    with pytest.raises(QuorumNotReached, match=r"needs the answers of all nodes \(c: timeout\)"):
        PSI.finish(start, gathered({"a": b"", "b": b""}, {"c": "timeout"}))
    one = joined([point_of("1")])
    begun = {**start, "sets": {"a": one, "b": one, "c": one}}
    with pytest.raises(SpecError, match="identifiers of a came back in another number"):
        PSI.finish(begun, gathered({"a": one, "b": b"", "c": one}))
