"""What analytic protocols promise: who begins anew ends in the same; what an owner limits holds; who leaves half-way is not counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedjob import (
    PCA,
    CoxRegression,
    KMeans,
    LinearRegression,
    LogisticRegression,
    Outliers,
    PoissonRegression,
    Ridge,
    Statistics,
)
from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, unpack
from fedjob.common.errors import NodeFailure
from fedjob.execution.orders import WorkOrder
from fedjob.execution.workbench import Workbench
from fedjob.parameters.tree import load_tree, save_tree
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import Ask, Done, FederatedProtocol, Gathered, Reply, View

PROTOCOLS_TO_PLAY = [
    Statistics(mean=["age", "x"], std="x", quantiles="x", categories="kind", by="sick"),
    LinearRegression(target="x", features=["age", "kind"], categorical="kind"),
    Ridge(target="x", features=["age", "sick"]),
    LogisticRegression(target="sick", features=["age", "x"]),
    PoissonRegression(target="visits", features=["age"]),
    CoxRegression(duration="months", event="sick", features=["age", "x"]),
    CoxRegression(duration="months", event="sick", features=["age"], baseline="shared"),
    KMeans(features=["age", "x"], clusters=2, max_steps=6),
    PCA(features=["age", "x", "visits"]),
    Outliers(columns=["age", "x"], z=2),
]


def rows(seed: int, num_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.integers(40, 80, num_rows)
    return pd.DataFrame(
        {
            "age": age,
            "x": rng.normal(0.05 * age, 1).round(2),
            "kind": rng.choice(["p", "q", "r"], num_rows),
            "sick": (rng.random(num_rows) < 0.5).astype(int),
            "visits": rng.poisson(2, num_rows),
            "months": rng.integers(1, 60, num_rows),
        }
    )


class Clinics:
    """Nodes whose half is a worker's own code, and what goes between the halves as the bytes of the wire."""

    def __init__(self, folder: Path, min_rows: int = 0) -> None:
        self.folder, self.min_rows = folder, min_rows
        folder.mkdir(exist_ok=True)
        self.tables = {"a": rows(1, 40), "b": rows(2, 60)}
        for node, table in self.tables.items():
            table.to_csv(folder / f"{node}.csv", index=False)
        self._numbers = itertools.count()
        self._benches = {node: Workbench() for node in self.tables}

    def play(self, protocol: FederatedProtocol, *, anew: bool = False) -> Any:
        """Run a protocol to its end; `anew` builds it and its state again from plain data after every ask."""
        state, round_ = protocol.start({}), 0
        while True:
            ask = protocol.instruct(state, View(rounds=1, nodes=tuple(self.tables)))
            if isinstance(ask, Done):
                assert round_ == 1  # the last ask commits, no other
                return ask.value
            state = protocol.finish(state, self.gather(protocol, ask))
            round_ += ask.commit
            if anew:
                path = self.folder / f"state_{next(self._numbers)}.safetensors"
                save_tree(state, path)
                state, protocol = load_tree(path), PROTOCOLS.build(*PROTOCOLS.config_of(protocol))

    def gather(self, protocol: FederatedProtocol, ask: Ask) -> Gathered:
        replies = {}
        for node in ask.to or self.tables:
            output = self.folder / f"out_{next(self._numbers)}"
            output.mkdir()
            name, config = PROTOCOLS.config_of(protocol)
            order = WorkOrder(
                key="k",
                job="job",
                round=1,
                step=ask.step,
                node=node,
                protocol=name,
                config=unpack(pack(config)),
                dataset={"name": node, "path": str(self.folder / f"{node}.csv")},
                values=unpack(pack(dict(ask.shared))),
                output_path=str(output),
                limits={"min_rows": self.min_rows} if self.min_rows else {},
                releases_path=str(self.folder / f"releases_{node}.safetensors"),
            )
            done = self._benches[node].compute(order, lambda type_, data: None)
            value = unpack(pack(done.value))
            assert ask.answer.problem(value) == "", "what a node answers has the form that the ask declares"
            replies[node] = Reply(node=node, num_examples=done.num_examples, value=value)
        total = ask.aggregator.aggregate([Contribution(reply.value, 1.0) for reply in replies.values()])
        return Gathered(total=total, replies=replies, left_out={})


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    else:
        assert a == b


@pytest.mark.parametrize(
    "protocol", PROTOCOLS_TO_PLAY, ids=lambda p: f"{p.name}-{getattr(p, 'baseline', '')}"
)
def test_who_begins_anew_after_every_ask_ends_in_the_same_numbers(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    clinics = Clinics(tmp_path)
    assert_equal(clinics.play(protocol), clinics.play(protocol, anew=True))


@pytest.mark.parametrize(
    "protocol", PROTOCOLS_TO_PLAY, ids=lambda p: f"{p.name}-{getattr(p, 'baseline', '')}"
)
def test_without_a_node_that_leaves_half_way_everything_is_asked_anew(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    clinics, state = Clinics(tmp_path), protocol.start({})
    view = View(rounds=1, nodes=("a", "b"))
    state = protocol.finish(state, clinics.gather(protocol, protocol.instruct(state, view)))
    gathered = clinics.gather(protocol, protocol.instruct(state, view))
    alone = Gathered(total=gathered.total, replies={"a": gathered.replies["a"]}, left_out={"b": "silent"})
    anew = protocol.finish(state, alone)
    again, first = protocol.instruct(anew, view), protocol.instruct(protocol.start({}), view)
    assert isinstance(again, Ask)
    assert isinstance(first, Ask)
    assert again.to == ("a",)
    assert (again.step, again.shared, again.commit) == (first.step, first.shared, first.commit)
    with_a = protocol.finish(anew, clinics.gather(protocol, replace(again, to=("a",))))
    assert_equal(
        with_a, protocol.finish(protocol.start({}), clinics.gather(protocol, replace(first, to=("a",))))
    )


@pytest.mark.parametrize(
    "protocol", PROTOCOLS_TO_PLAY, ids=lambda p: f"{p.name}-{getattr(p, 'baseline', '')}"
)
def test_under_a_minimum_of_rows_whole_tables_are_told_as_without(
    protocol: FederatedProtocol, tmp_path: Path
) -> None:
    strict = Clinics(tmp_path, min_rows=5)
    if getattr(protocol, "baseline", "") == "shared":
        with pytest.raises(NodeFailure, match='ask with baseline="node"') as caught:
            strict.play(protocol)
        assert caught.value.reason == "min_rows"
        return
    found, expected = strict.play(protocol), Clinics(tmp_path / "free").play(protocol)
    if isinstance(protocol, Outliers):
        both = (one["columns"].to_dict("records") for one in (found, expected))
        for row, exact in zip(*both, strict=True):
            assert (row["count"], row["mean"], row["std"]) == (exact["count"], exact["mean"], exact["std"])
            assert max(abs(row[q] - exact[q]) for q in ("q1", "q3")) <= row["error"]
    elif isinstance(protocol, Statistics):
        pd.testing.assert_frame_equal(found["columns"], expected["columns"])
    elif not isinstance(protocol, KMeans):
        assert_equal(found, expected)
    assert_equal(strict.play(protocol), found)  # asked again, the same is told again


def test_a_model_of_other_complete_rows_is_held_against_what_was_told(tmp_path: Path) -> None:
    clinics = Clinics(tmp_path, min_rows=5)
    gaps = clinics.tables["a"].astype({"visits": float})
    gaps.loc[[0, 1], "visits"] = np.nan
    gaps.to_csv(tmp_path / "a.csv", index=False)
    clinics.play(LinearRegression(target="x", features=["age"]))
    with pytest.raises(NodeFailure, match="sums of this model would be about fewer rows"):
        clinics.play(LinearRegression(target="x", features=["age", "visits"]))


@pytest.mark.parametrize("kind", ["few", "base"])
def test_a_regression_on_a_mark_of_few_rows_is_withheld(tmp_path: Path, kind: str) -> None:
    clinics = Clinics(tmp_path, min_rows=5)
    for node, table in clinics.tables.items():
        few = np.arange(len(table)) < 7
        table["mark"] = np.where(few, "few", "z") if kind == "few" else np.where(few, "base", "z")
        table.loc[:3, "x"] = np.nan  # of seven rows with the mark, three are left
        table.to_csv(tmp_path / f"{node}.csv", index=False)
    with pytest.raises(NodeFailure, match="products of these columns would be about fewer rows"):
        clinics.play(LinearRegression(target="x", features=["mark"], categorical="mark"))


def test_rows_of_a_small_cluster_count_with_a_larger_one(tmp_path: Path) -> None:
    found = Clinics(tmp_path, min_rows=5).play(
        KMeans(features=["age"], clusters=3, first=[[50], [70], [79.9]], max_steps=1)
    )
    sizes = found["centres"]["rows"].tolist()
    assert (found["withheld"], sum(sizes)) == (0, 100)
    assert all(size == 0 or size >= 5 for size in sizes)
