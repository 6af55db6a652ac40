"""Sketches of ranks as counts that add: the area that comes out is within its bound, and no count is of a handful."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedjob.metrics.disclosure import LEAST
from fedjob.metrics.rank_sketch import LAST, area, coarsened, joined, key_of, sketch_of
from fedjob.metrics.state_checks import odd_state
from fedjob.privacy.secagg.metric_numbers import metrics_in, numbers_of_metrics
from fedjob.privacy.secagg.rank_histograms import bins_for, histograms_of, sketch_of_histograms
from fedjob.privacy.secagg.vector import union

KINDS = {
    "shares": lambda x: 1 / (1 + np.exp(-x)),
    "rare": lambda x: 1 / (1 + np.exp(-(x - 6))),
    "margins": lambda x: 30 * x,
    "logarithms": lambda x: -np.exp(-x),
    "few values": lambda x: np.round(x) / 4,
    "huge": lambda x: x * 1e300,
    "one value": lambda x: x * 0,
}


def data(kind: str, num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.random(num_rows) < 0.4
    return KINDS[kind](rng.normal(size=num_rows) + 1.5 * true), true


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [30, 400])
@pytest.mark.parametrize("bins", [512, 32])
def test_the_area_of_a_sum_is_within_its_bound(kind: str, num_rows: int, bins: int) -> None:
    parts = [data(kind, num_rows, seed) for seed in range(4)]
    sketches = [coarsened(sketch_of(*part), LEAST) for part in parts]
    total = np.sum([histograms_of(sketch, bins) for sketch in sketches], axis=0).tolist()
    found, error = area(sketch_of_histograms(total))
    exact = roc_auc_score(np.concatenate([p[1] for p in parts]), np.concatenate([p[0] for p in parts]))
    assert abs(found - exact) <= error + 1e-12
    if bins == 512 and num_rows == 400 and kind in ("shares", "rare", "margins", "logarithms"):
        assert error < 0.03
    assert error >= area(reduce(joined, sketches))[1] - 1e-12  # it says no more than the sketches themselves


@pytest.mark.parametrize("kind", KINDS)
def test_every_count_is_of_as_many_examples_as_may_leave_or_none(kind: str) -> None:
    for least in (5, 20):
        sketch = coarsened(sketch_of(*data(kind, 300, 1)), least)
        up_begins, up_ends, down_begins, down_ends = np.array(histograms_of(sketch, 512))
        for both in (up_begins + down_begins, up_ends + down_ends):
            assert set(both[both > 0] >= least) == {True}
            assert both.sum() == 300


def test_every_score_is_in_one_bin_and_bins_are_the_same_whatever_a_node_holds() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(size=500), rng.random(500), [0.0, -0.0, 1.0, 5e-324, 1e308, -1e308]])
    keys = [key_of(score) for score in sorted(scores.tolist())]
    assert keys == sorted(keys)
    assert key_of(0.0) == key_of(-0.0)
    for key in (0, LAST, *keys):
        histograms = histograms_of([[key, key, 1, 0]], 512)
        assert [sum(row) for row in histograms] == [1, 1, 0, 0]
        (place,) = sketch_of_histograms(histograms)
        assert place[0] <= key <= place[1]


def test_counts_that_no_sketches_add_up_to_make_no_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        spoilt = rng.integers(-50, 50, (4, 32)).tolist()
        sketch = sketch_of_histograms(spoilt)
        state = {"kind": "auc", "classes": 2, "n": 10, "sketches": [sketch]}
        assert odd_state(state) == ""


def test_a_state_goes_through_a_sum_and_one_of_too_many_classes_stays() -> None:
    state = {
        "kind": "auc",
        "classes": 2,
        "n": 300,
        "sketches": [coarsened(sketch_of(*data("shares", 300, 5)), LEAST)],
    }
    numbers, staying = numbers_of_metrics({"val": {"roc_auc": state}})
    assert staying == []
    assert len(numbers.values) == 4 * bins_for(1) + 1  # those of all bins: which are empty nobody sees
    outline = union([numbers.outline, numbers.outline])
    totals = [2 * numbers.values[name] for name in outline.names]
    found = metrics_in(outline, totals)["val"]["roc_auc"]
    assert odd_state(found) == ""
    assert (found["classes"], found["n"]) == (2, 600)
    assert area(found["sketches"][0])[0] == pytest.approx(area(state["sketches"][0])[0], abs=0.01)
    many = {**state, "classes": 100, "sketches": state["sketches"] * 100}
    assert numbers_of_metrics({"val": {"roc_auc": many}})[1] == ["val.roc_auc"]
