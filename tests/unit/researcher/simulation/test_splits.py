"""Splits: every row at one node, the same for the same seed, shaped as their papers say, and errors that say what is wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fedjob import IID, ByColumn, Dirichlet, Shards, Sizes, SpecError, simulate
from fedjob.researcher.simulation.population import simulation_of
from fedjob.researcher.simulation.splits import checked_rows


@dataclass
class Labelled:
    """Rows with labels, and no file."""

    values: Any

    @property
    def num_rows(self) -> int:
        return len(self.values)

    def labels(self, column: str | None) -> Any:
        return np.asarray(self.values)


TEN = Labelled(np.arange(1000) % 10)
EVERY = [
    IID(),
    Dirichlet(0.5),
    Dirichlet(100.0),
    Shards(2),
    ByColumn("label"),
    Sizes([100] * 10),
    Sizes([0.1] * 10),
]


def divided(split: Any, source: Labelled, num_nodes: int | None = 10, seed: int = 3) -> list[Any]:
    number = split.num_nodes(source, num_nodes)
    found = split.divide(source, number, np.random.default_rng(seed))
    return checked_rows(found, number, source.num_rows, repr(split))


@pytest.mark.parametrize("split", EVERY, ids=repr)
def test_every_row_is_at_one_node(split: Any) -> None:
    rows = divided(split, TEN)
    assert len(rows) == 10
    assert sorted(np.concatenate(rows).tolist()) == list(range(1000))


@pytest.mark.parametrize("split", EVERY, ids=repr)
def test_the_same_seed_gives_the_same_rows_and_another_gives_others(split: Any) -> None:
    first, again, other = divided(split, TEN), divided(split, TEN), divided(split, TEN, seed=4)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    same = all(len(a) == len(b) and (a == b).all() for a, b in zip(first, other, strict=True))
    assert same == isinstance(split, ByColumn)  # nothing is drawn there


def test_a_small_alpha_gives_nodes_few_labels_and_a_large_one_all() -> None:
    def labels_held(alpha: float) -> float:
        return float(np.mean([len(set(TEN.values[rows])) for rows in divided(Dirichlet(alpha), TEN)]))

    assert labels_held(0.05) < 6 < 9.5 < labels_held(1000.0)


def test_shards_give_each_node_about_as_many_labels_as_shards() -> None:
    assert max(len(set(TEN.values[rows])) for rows in divided(Shards(2), TEN)) <= 4


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = {len(rows) for rows in divided(IID(), TEN, 7)}
    assert max(sizes) - min(sizes) <= 1


def test_a_node_for_each_value_of_a_column() -> None:
    rows = divided(ByColumn("site"), Labelled(["b", "a", "b", "c"]), None)
    assert [own.tolist() for own in rows] == [[1], [0, 2], [3]]


@pytest.mark.parametrize(
    ("split", "source", "num_nodes", "words"),
    [
        (Dirichlet(0.001), TEN, 200, "leaves .* of 200 nodes with fewer than 1 rows"),
        (
            Dirichlet(0.5, min_rows=101),
            TEN,
            10,
            "101 rows at each of 10 nodes are 1010; the dataset has 1000",
        ),
        (Shards(200), TEN, 10, "need 2000 rows or more; the dataset has 1000"),
        (Sizes([500, 499]), TEN, None, "sums to 999 rows; the dataset has 1000"),
        (Sizes([0.5, 0.4]), TEN, None, "sums to 0.9; expected 1"),
        (Sizes([500, 500]), TEN, 3, "Sizes has 2 numbers; found simulate\\(3\\)"),
        (ByColumn("label"), TEN, 9, "has 10 values"),
        (IID(), TEN, None, "needs a number of nodes"),
        (IID(), Labelled([1, 2]), 3, "leaves 1 of 3 nodes without a row \\(number 3\\)"),
        (
            Dirichlet(1.0),
            Labelled(np.arange(500) / 7),
            10,
            "500 different values in 500 rows, which are no labels",
        ),
    ],
)
def test_a_split_that_can_not_be_had_is_an_error(split: Any, source: Any, num_nodes: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        divided(split, source, num_nodes)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([[0, 1], [1, 2]], "gave row 1 to 2 nodes"),
        ([[0, 1], [2, 7]], "gave row 7; the dataset has rows 0 to 4"),
        ([[0, 1], [-1]], "gave row -1"),
        ([[0, 1], []], "leaves 1 of 2 nodes without a row"),
        ([[0, 1]], "gave rows for 1 nodes; expected 2"),
        ([[0.0, 1.0], [2.0]], "array of float64"),
        ([[True, False], [True]], "array of bool"),
        ([["a"], ["b"]], "expected a list of whole numbers"),
        ([[[0]], [[1]]], "shape \\[1, 1\\]"),
        ([[0, 1, 1], [2]], "gave row 1 2 times to node number 1"),
        ([{0, 1}, {2}], "gave {0, 1} for a node; expected a list of whole numbers"),
        (["ab", "c"], "gave 'ab' for a node"),
        ([[[0], [1, 2]], [3]], "expected a list of whole numbers"),
        ([0, 1], "gave 0 for a node"),
        ([np.array([2**63 + 5], dtype=np.uint64), [1]], "gave row 9223372036854775813"),
        ([[2**70], [1]], "expected a list of whole numbers"),
        ({"a": [0], "b": [1]}, "expected a list with a list of row numbers"),
        ("ab", "expected a list with a list of row numbers"),
        (None, "expected a list with a list of row numbers"),
        (7, "expected a list with a list of row numbers"),
    ],
)
def test_rows_that_a_function_gives_are_checked(found: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        checked_rows(found, 2, 5, "split=mine")


def test_a_function_may_leave_rows_out() -> None:
    assert [rows.tolist() for rows in checked_rows([[0], [4]], 2, 5, "mine")] == [[0], [4]]


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e99, 1e101, 1.7e308])
def test_the_smallest_and_largest_alphas_divide_without_a_warning(alpha: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = [len(rows) for rows in divided(Dirichlet(alpha), TEN, 5)]
    assert sum(counts) == 1000
    assert alpha < 1 or max(counts) - min(counts) <= 10  # one a label


def test_few_rows_of_as_many_labels_can_be_divided() -> None:
    assert len(divided(Dirichlet(100.0), Labelled(np.arange(100)), 1)) == 1


@pytest.mark.parametrize(
    "sizes",
    [np.array([400, 600]), [np.int64(400), np.int32(600)], np.array([0.4, 0.6]), (400, 600)],
    ids=repr,
)
def test_sizes_are_numbers_of_numpy_too_and_survive_the_spec(sizes: Any) -> None:
    split = Sizes(sizes)
    assert [len(rows) for rows in divided(split, TEN, None)] == [400, 600]
    given = simulate(split=split)
    assert simulation_of(given.plain) == given


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dirichlet(0), "alpha"),
        (lambda: Dirichlet("a"), "alpha"),  # type: ignore[arg-type]
        (lambda: Dirichlet(1.0, min_rows=0), "min_rows"),
        (lambda: Shards(0), "per_node"),
        (lambda: Sizes([]), "list of numbers"),
        (lambda: Sizes([1, 0]), "above 0; found 0"),
        (lambda: Sizes([1, True]), "above 0; found True"),
        (lambda: Sizes(np.array([1.0, float("nan")])), "above 0; found nan"),
        (lambda: Sizes(np.ones((2, 2))), "above 0; found \\[1.0, 1.0\\]"),
        (lambda: Sizes(7), "list of numbers"),  # type: ignore[arg-type]
        (lambda: simulate(0), "num_nodes"),
        (lambda: simulate(2.5), "num_nodes"),  # type: ignore[arg-type]
        (lambda: simulate(100_001), "100000 nodes at most"),
        (lambda: simulate(3, workers=-1), "workers"),
        (lambda: simulate(3, workers=10**30), "100000 workers at most"),
        (lambda: simulate(3, drop=1.5), "drop"),
        (lambda: simulate(3, drop=1.0), "no answer come at all"),
        (lambda: simulate(3, drop=float("nan")), "drop"),
        (lambda: simulate(3, slow=-0.1), "slow"),
        (lambda: simulate(3, backend="threads"), "backend"),
        (lambda: simulate(3, backend="ray", workers=0), r"workers=0\) computes in this process"),
        (lambda: simulate(3, vectorize=1), "vectorize"),  # type: ignore[arg-type]
        (lambda: simulate(3, split="iid"), "one of IID, Dirichlet, Shards, ByColumn, Sizes or a function"),  # type: ignore[arg-type]
        (lambda: simulate(3, split=IID), "an instance: split=IID"),
    ],
)
def test_wrong_arguments_are_named(make: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()


@pytest.mark.parametrize("split", [*EVERY, None], ids=repr)
def test_a_simulation_survives_the_spec(split: Any) -> None:
    given = simulate(None if split is None else 10, split=split, workers=3, drop=0.25, slow=0.5)
    assert simulation_of(given.plain) == given


def test_a_function_as_split_is_recorded_by_its_hash_and_not_kept() -> None:
    def halves(dataset: Any, num_nodes: int, rng: Any) -> Any:
        return np.array_split(np.arange(dataset.num_rows), num_nodes)

    plain = simulate(2, split=halves).plain
    assert plain["split"]["config"]["entry"] == "halves"
    assert len(plain["split"]["config"]["sha256"]) == 64
    with pytest.raises(SpecError, match="divided by the function halves"):
        simulation_of(plain)
