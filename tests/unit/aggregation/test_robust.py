"""Folds that bear liars: hand-computed numbers, and what holds for any contributions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator, check_nodes
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.elementwise import CHUNK
from fedjob.aggregation.robust.centred_clipping import CentredClipping
from fedjob.aggregation.robust.geometric_median import GeometricMedian
from fedjob.aggregation.robust.krum import Bulyan, Krum
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.robust.norm_bounded import NormBounded
from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
from fedjob.aggregation.sorting import sorted_rows
from fedjob.common.errors import SpecError
from fedjob.parameters.files import FileParams, save_params

ROBUST = [
    Median(),
    TrimmedMean(1),
    GeometricMedian(),
    Krum(1),
    Krum(1, 3),
    Bulyan(1),
    CentredClipping(2.0, 40),
]
BOUNDING = [NormBounded(1.0), CentredClipping(1.0)]

wide = st.floats(-(2.0**100), 2.0**100, width=32)
vectors = st.integers(7, 11).flatmap(
    lambda n: st.lists(st.lists(wide, min_size=3, max_size=3), min_size=n, max_size=n)
)


def aggregator(rule: Aggregator, rows: object, weights: list[float] | None = None) -> NDArray[np.float64]:
    tensor = torch.as_tensor(np.array(rows, dtype=np.float32))
    found = [Contribution({"w": row}, 1 if weights is None else weights[k]) for k, row in enumerate(tensor)]
    return np.asarray(rule.aggregate(found).value["w"], dtype=np.float64)


def honest_and_liars(num_honest: int, num_liars: int, far: float) -> NDArray[np.float64]:
    honest = np.random.default_rng(0).normal(size=(num_honest, 50))
    return np.vstack([honest, np.full((num_liars, 50), far)])


# -- numbers by hand -------------------------------------------------------------------------


def test_the_median_of_five_is_the_third_and_of_four_the_middle() -> None:
    assert aggregator(Median(), [[1, 9], [2, 7], [100, -5], [3, 8], [-1, 6]]).tolist() == [2, 7]
    assert aggregator(Median(), [[1, 9], [2, 7], [100, -5], [3, 8]]).tolist() == [2.5, 7.5]


def test_the_trimmed_mean_leaves_out_an_extreme_at_either_end() -> None:
    assert aggregator(TrimmedMean(1), [[1], [2], [100], [3], [-50]]).tolist() == [2]
    assert aggregator(TrimmedMean(2), [[1], [2], [100], [3], [-50]]).tolist() == [2]
    assert aggregator(TrimmedMean(0), [[1], [2], [6]]).tolist() == [3]


def test_krum_takes_the_one_with_the_closest_neighbours() -> None:
    # n = 5, f = 1: the two nearest count. Scores of 0, 1, 3, 4, 100: 1+9, 1+4, 1+4, 1+9, 96^2+97^2
    points = [[0], [1], [3], [4], [100]]
    assert aggregator(Krum(1), points).tolist() == [3]  # of equal scores the one that is closer to all
    assert aggregator(Krum(1, 2), points).tolist() == [2]


def test_bulyan_is_the_mean_around_the_median_of_what_krum_chooses() -> None:
    # n = 7, f = 1. With 4, 3, 2, 1 and 1 nearest counting, the smallest scores are those of 2.5 (32.75),
    # 4.5 (38.75), 1 (37), 7 (9) and 10 (100, as that of 0); around their median lie 2.5, 4.5 and 7.
    points = [[0.0], [1.0], [2.5], [4.5], [7.0], [10.0], [1000.0]]
    assert aggregator(Bulyan(1), points) == pytest.approx([14 / 3])


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    corners = [[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]]
    assert aggregator(GeometricMedian(), corners) == pytest.approx([0.5, math.sqrt(3) / 6], abs=1e-6)


def test_a_long_update_is_scaled_down_to_the_bound_and_weighs_what_it_weighed() -> None:
    found = [
        Contribution({"w": torch.tensor([1.0, 5.0])}, 1),
        Contribution({"w": torch.tensor([1.5, 1.0])}, 3),
    ]
    origin = {"w": torch.tensor([1.0, 1.0])}
    # updates [0, 4] and [0.5, 0]: the first becomes [0, 2]
    total = NormBounded(2.0).aggregate(found, origin).value["w"]
    assert total.tolist() == [1.375, 1.5]
    assert torch.equal(NormBounded(4.0).aggregate(found, origin).value["w"], torch.tensor([1.375, 2.0]))


def test_centred_clipping_steps_from_the_origin_by_the_mean_of_clipped_differences() -> None:
    found = [Contribution({"w": torch.tensor([w])}, 9 * k + 1) for k, w in enumerate((11.0, 12.0))]
    origin = {"w": torch.tensor([10.0])}
    assert CentredClipping(1.0).aggregate(found, origin).value["w"].item() == 11.0  # 10 + (1 + 1) / 2
    assert CentredClipping(1.0, 2).aggregate(found, origin).value["w"].item() == 11.5  # 11 + (0 + 1) / 2
    assert CentredClipping(100.0).aggregate(found, origin).value["w"].item() == 11.5


def test_an_origin_without_a_tensor_counts_as_zero_there() -> None:
    found = [Contribution({"w": torch.tensor([3.0]), "aux.c": torch.tensor([4.0])}, 1)]
    total = NormBounded(2.5).aggregate(found, {"w": torch.tensor([0.0])})
    assert [total.value[name].item() for name in ("w", "aux.c")] == [1.5, 2.0]


# -- what holds for any contributions ------------------------------------------------------------


@pytest.mark.parametrize("rule", [*ROBUST, *BOUNDING, AGGREGATORS.build("weighted_mean", {})], ids=repr)
@settings(max_examples=15, deadline=None)
@given(rows=vectors)
def test_every_number_stays_between_the_smallest_and_the_largest(
    rule: Aggregator, rows: list[list[float]]
) -> None:
    found = aggregator(rule, rows)
    box = np.array(rows, dtype=np.float32)
    if rule.name in ("norm_bounded", "centred_clipping"):  # the origin, zero here, is a corner too
        box = np.vstack([box, np.zeros(3, dtype=np.float32)])
    slack = 0 if rule.name in ("median", "trimmed_mean", "bulyan") else 1e-6 * np.abs(box).max(0)
    assert np.all(found >= box.min(0) - slack)
    assert np.all(found <= box.max(0) + slack)


@pytest.mark.parametrize("rule", [*ROBUST, *BOUNDING], ids=repr)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(9)))
def test_the_order_of_contributions_does_not_matter(rule: Aggregator, seed: int, order: list[int]) -> None:
    rows = np.random.default_rng(seed).normal(size=(9, 4))
    assert aggregator(rule, rows[order]) == pytest.approx(aggregator(rule, rows), rel=1e-5, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(rows=vectors, order=st.randoms(use_true_random=False))
def test_the_order_does_not_change_a_bit_of_what_is_sorted(rows: list[list[float]], order: object) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for rule in (Median(), TrimmedMean(2)):
        assert np.array_equal(aggregator(rule, rows), aggregator(rule, shuffled))


@given(st.integers(1, 40), st.data())
@settings(max_examples=25, deadline=None)
def test_a_network_sorts_any_number_of_rows(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(first + 1, count))
    rows = torch.from_numpy(np.random.default_rng(count).integers(0, 9, size=(count, 20)))
    expected = rows.sort(0).values[first:end]
    assert torch.equal(torch.stack(sorted_rows(rows.clone(), first, end)), expected)


@pytest.mark.parametrize("rule", [*ROBUST, *BOUNDING], ids=repr)
def test_mapped_files_chunk_by_chunk_give_the_numbers_of_whole_arrays(
    rule: Aggregator, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    whole = [
        {
            "w": torch.from_numpy(rng.normal(size=(CHUNK + 7,)).astype(np.float32)),
            "b": torch.from_numpy(rng.normal(size=(2, 3)).astype(np.float16)),
            "n": torch.tensor(5 + k),
        }
        for k in range(8)
    ]
    files = []
    for k, params in enumerate(whole):
        save_params(params, tmp_path / str(k))
        files.append(Contribution(FileParams(tmp_path / str(k)), 1))
    mapped, in_memory = rule.aggregate(files).value, rule.aggregate([Contribution(p, 1) for p in whole]).value
    for name in whole[0]:
        assert torch.equal(mapped[name], in_memory[name])
        assert mapped[name].dtype == whole[0][name].dtype
    stacked = np.stack([params["w"].double().numpy() for params in whole])
    if isinstance(rule, Median):
        assert np.allclose(mapped["w"].numpy(), np.median(stacked, 0), rtol=1e-6)
    if isinstance(rule, TrimmedMean):
        assert np.allclose(mapped["w"].numpy(), np.sort(stacked, 0)[1:-1].mean(0), rtol=1e-5, atol=1e-7)
    if isinstance(rule, Krum) and rule.num_selected == 1:
        flat = np.hstack([stacked, np.stack([p["b"].double().numpy().ravel() for p in whole])])
        apart = ((flat[:, None] - flat[None]) ** 2).sum(-1)
        best = np.argmin([np.sort(row)[1:6].sum() for row in apart])
        assert torch.equal(mapped["w"], whole[best]["w"])


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
@pytest.mark.parametrize("far", [1e3, -1e30, 3e38])
def test_one_liar_among_seven_does_not_carry_the_total_away(rule: Aggregator, far: float) -> None:
    rows = honest_and_liars(6, 1, far)
    middle = rows[:6].mean(0)
    assert (
        np.linalg.norm(aggregator(rule, rows) - middle)
        < 1.5 * np.linalg.norm(rows[:6] - middle, axis=1).max()
    )


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(3), GeometricMedian(), Krum(3), Krum(3, 4)], ids=repr)
def test_three_liars_that_agree_among_ten_do_not_carry_the_total_away(rule: Aggregator) -> None:
    rows = honest_and_liars(7, 3, 1e6)
    middle = rows[:7].mean(0)
    assert (
        np.linalg.norm(aggregator(rule, rows) - middle) < 2 * np.linalg.norm(rows[:7] - middle, axis=1).max()
    )


def test_one_number_far_off_is_caught_by_bulyan_where_the_distance_hides_it() -> None:
    rows = honest_and_liars(7, 0, 0)
    rows[6] = rows[:6].mean(0)
    rows[6, 0] += 5.0  # less than honest contributions lie apart
    assert aggregator(Krum(1), rows)[0] == pytest.approx(rows[6, 0], rel=1e-6)
    assert rows[:6, 0].min() <= aggregator(Bulyan(1), rows)[0] <= rows[:6, 0].max()


@pytest.mark.parametrize("rule", [*ROBUST, *BOUNDING], ids=repr)
def test_numbers_whose_squares_overflow_are_borne(rule: Aggregator) -> None:
    found = [Contribution([float(k)], 1) for k in range(7)]
    found += [Contribution([1e300], 1)]
    total = rule.aggregate(found).value[0]
    assert math.isfinite(total)
    assert total <= 6


def test_a_node_that_claims_a_large_weight_has_one_vote_all_the_same() -> None:
    rows = honest_and_liars(6, 1, 50.0)
    claimed = [1.0] * 6 + [1e6]
    for rule in ROBUST:
        assert np.array_equal(aggregator(rule, rows), aggregator(rule, rows, claimed))


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TrimmedMean(-1),
        lambda: TrimmedMean(0.2),  # type: ignore[arg-type]
        lambda: Krum(-1),
        lambda: Krum(1, 0),
        lambda: Bulyan(True),
        lambda: GeometricMedian(0),
        lambda: GeometricMedian(5, 0.0),
        lambda: NormBounded(0.0),
        lambda: NormBounded(math.inf),
        lambda: NormBounded(math.nan),
        lambda: CentredClipping(-1.0),
        lambda: CentredClipping(1.0, 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: object) -> None:
    with pytest.raises(SpecError, match=r"\w+\(\w+=\.\.\.\) is a (whole )?number"):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Median(), 1),
        (TrimmedMean(2), 5),
        (Krum(2), 7),
        (Krum(1, 4), 7),
        (Bulyan(2), 11),
        (GeometricMedian(), 1),
    ],
    ids=repr,
)
def test_an_aggregator_says_how_many_nodes_its_settings_need(rule: Aggregator, least: int) -> None:
    assert rule.min_nodes == least
    check_nodes(rule, least, "as many")
    if least > 1:
        with pytest.raises(SpecError, match=f"needs {least} nodes or more, but the job has {least - 1}"):
            check_nodes(rule, least - 1, f"the job has {least - 1}")


def test_contributions_of_different_structure_are_refused() -> None:
    for a, b in (({"a": 1.0}, {"b": 1.0}), ([1.0], [1.0, 2.0]), ({"a": 1.0}, [1.0]), (["x"], ["y"])):
        with pytest.raises(SpecError, match=r"can't be aggregated|an aggregator computes"):
            Median().aggregate([Contribution(a, 1), Contribution(b, 1)])
    different = [Contribution({"w": torch.zeros(n)}, 1) for n in (2, 3)]
    with pytest.raises(SpecError, match="shapes"):
        Median().aggregate(different)
