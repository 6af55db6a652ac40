"""What a bad node says before any task: of itself, of its datasets, of an offer. Others are found, and jobs begin, all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAvg, Job, Quorum
from tests.integration.scripted import Field
from tests.integration.test_bombs import trained
from tests.plans import Linear

NAN, INF = float("nan"), float("inf")

DATASETS: tuple[Any, ...] = (
    {"num_rows": "many"},
    {"num_rows": INF},
    {"num_rows": [1]},
    {"num_rows": 10**30 % (1 << 63)},
    {"num_rows": -5},
    {"min_rows": {"a": 1}},
    {"tags": 5},
    {"tags": {"toy": 1}},
    {"columns": {"a": 1}},
    {"columns": ["a", 1, None]},
    {"contacts": 7},
    {"contacts": [7, {"name": ["x"]}]},
    {"assets": 7},
    {"assets": [7, {"name": 7, "num_rows": "x", "columns": 7}]},
    {"name": 7},
    {"description": ["x"] * 100},
    {"session": "x", "node": "ann", "extra": 1},
)

ANSWERS: tuple[dict[str, Any], ...] = (
    {"until": 1e300},
    {"until": INF},
    {"until": NAN},
    {"until": -1e18},
    {"decided": NAN, "by": "x" * 10_000},
    {"limits": {"runs": NAN, "min_rows": "x", "args": [1, {"a": []}]}},
    {"num_rows": -(10**18)},
    {"num_rows": 10**18},
    {"contact": "x\x1b[2J" * 3000},
    {"workers": -1, "ahead": 10**18},
    {"note": "n" * 30_000, "reason": "\n" * 1000},
    {"grant": "../../..", "grant_state": "owned", "origin": "hub"},
    {"needs": ["x"] * 1000, "missing": ["y"] * 1000, "short": ["z"] * 1000},
    {"version": "v" * 10_000},
)


@pytest.fixture
def field() -> Iterator[Field]:
    made = Field()
    yield made
    made.close()


def test_what_a_node_says_of_its_datasets_hides_no_other_node(field: Field, tmp_path: Path) -> None:
    toy = {"name": "toy", "tags": ["toy"], "reader": "npz", "num_rows": 20, "columns": []}
    said = dict(toy)
    field.node("ann")
    field.node("bad", finds=lambda search: [said])
    session = field.session(tmp_path / "lab")
    for odd in DATASETS:
        said.clear()
        said.update({**toy, **odd})
        found = session.datasets()
        assert [str(handle) for handle in found if handle.node == "ann"] == ["ann/toy"], odd
        assert all(handle.node in ("ann", "bad") for handle in found)
        assert repr(found)
        assert found._repr_html_()
        for handle in found:
            assert handle.describe()
            assert handle._repr_html_()
            assert handle.num_rows >= 0
    said.clear()
    session.nodes()


def test_what_nodes_answer_to_an_offer_ends_no_job_of_the_others(field: Field, tmp_path: Path) -> None:
    for name in ("ann", "ben"):
        field.node(name, works=trained)
    for number, odd in enumerate(ANSWERS):
        field.node(f"bad-{number}", {"status": "granted", "grant_state": "granted", **odd}, works=trained)
    session = field.session(tmp_path / "lab")
    job = Job(
        FedAvg(),
        training_plan=Linear,
        training_args={"lr": 0.1},
        session=session,
        data={"tags": ["toy"]},
        quorum=Quorum(min_nodes=2, deadline_s=60),
        rounds=1,
    )
    assert repr(job.check())
    job.run(progress=False)
    assert job.state == "completed"
    assert repr(job)
    assert repr(session.jobs())
    assert job.snapshot()
