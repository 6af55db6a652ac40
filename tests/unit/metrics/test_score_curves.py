"""ROC curves and reliability from sketches, beside those of the scores themselves."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from fedjob.metrics.disclosure import disclosed
from fedjob.metrics.score_curves import (
    LOG_ODDS,
    LOG_PROBABILITY,
    PROBABILITY,
    reliability_of,
    roc_of,
    scale_of,
)
from fedjob.metrics.states import add, error, measure, value
from fedjob.privacy.secagg.metric_numbers import metrics_in, numbers_of_metrics
from fedjob.privacy.secagg.vector import union

RNG = np.random.default_rng(12)
TRUTH = RNG.integers(0, 2, 600)
MARGINS = 1.4 * TRUTH - 0.7 + RNG.normal(size=600)
SHARES = 1 / (1 + np.exp(-1.4 * MARGINS))
PARTS = [slice(0, 70), slice(70, 250), slice(250, 600)]


def of_nodes(scores: Any, min_rows: int | None) -> dict[str, Any]:
    """Return the state of three nodes together, as it leaves them where an owner sets a minimum."""
    states = [measure(["roc_auc"], scores[p], TRUTH[p])["roc_auc"] for p in PARTS]
    if min_rows is not None:
        states = [disclosed({"roc_auc": state}, min_rows)["roc_auc"] for state in states]
    return reduce(add, states)


@pytest.mark.parametrize("scores", [SHARES, MARGINS, np.round(SHARES, 1)], ids=["shares", "margins", "ties"])
def test_of_single_scores_the_curve_is_that_of_scikit_learn(scores: Any) -> None:
    state = of_nodes(scores, None)
    curve = roc_of(state["sketches"][0], scale_of(state))
    assert curve is not None
    rates = reference.roc_curve(TRUTH, scores, drop_intermediate=False)
    points = np.unique(np.round(np.column_stack([curve.false_positives, curve.true_positives]), 12), axis=0)
    assert points == pytest.approx(np.unique(np.round(np.column_stack(rates[:2]), 12), axis=0))
    assert np.abs(curve.high - curve.low).max() == 0


@pytest.mark.parametrize("least", [0, 10, 30])
@pytest.mark.parametrize("scores", [SHARES, MARGINS], ids=["shares", "margins"])
def test_where_spans_are_coarse_the_true_curve_lies_between_the_bounds(scores: Any, least: int) -> None:
    state = of_nodes(scores, least)
    curve = roc_of(state["sketches"][0], scale_of(state))
    assert curve is not None
    for rates in (curve.false_positives, curve.true_positives):
        assert (rates[0], rates[-1]) == (0, 1)
        assert (np.diff(rates) >= -1e-12).all()
    area = np.trapezoid(curve.true_positives, curve.false_positives)
    exact = reference.roc_auc_score(TRUTH, scores)
    assert abs(area - exact) <= error(state) + 1e-9
    assert abs(area - exact) < 0.02
    bounds = [np.trapezoid(points[:, 1], points[:, 0]) for points in (curve.low, curve.high)]
    assert bounds[0] - 1e-9 <= exact <= bounds[1] + 1e-9
    assert bounds == pytest.approx([value(state) - error(state), value(state) + error(state)], abs=0.02)
    false, true, _ = reference.roc_curve(TRUTH, scores, drop_intermediate=False)
    for x, y in zip(false, true, strict=True):
        under, over = curve.low[curve.low[:, 0] <= x + 1e-12], curve.high[curve.high[:, 0] >= x - 1e-12]
        assert under[:, 1].min() - 1e-9 <= y <= over[:, 1].max() + 1e-9


@pytest.mark.parametrize("scores", [SHARES, MARGINS], ids=["shares", "logits"])
@pytest.mark.parametrize("least", [None, 5, 30])
def test_reliability_is_that_of_the_probabilities_within_its_bounds(scores: Any, least: int | None) -> None:
    state = of_nodes(scores, least)
    scale = scale_of(state)
    assert scale == (PROBABILITY if scores is SHARES else LOG_ODDS)
    found = reliability_of(state["sketches"][0], scale)
    predicted = SHARES if scores is SHARES else 1 / (1 + np.exp(-MARGINS))
    place = np.clip((predicted * 10).astype(int), 0, 9)
    count = np.bincount(place, minlength=10)
    with np.errstate(invalid="ignore"):
        observed = np.bincount(place, weights=TRUTH, minlength=10) / count
        mean = np.bincount(place, weights=predicted, minlength=10) / count
    assert found.count.sum() == pytest.approx(600)
    used = count > 0
    assert (found.least[used] - 1e-9 <= observed[used]).all()
    assert (observed[used] <= found.most[used] + 1e-9).all()
    if least is None:
        assert found.count.tolist() == pytest.approx(count.tolist())
        assert found.observed[used].tolist() == pytest.approx(observed[used].tolist())
        assert found.predicted[used].tolist() == pytest.approx(mean[used].tolist())
        assert found.least[used].tolist() == pytest.approx(found.most[used].tolist())
    elif least == 5:
        assert np.abs(found.predicted - mean)[used].max() < 0.04


def test_two_columns_of_logits_are_log_odds_whose_sigmoid_is_their_softmax() -> None:
    logits = np.stack([RNG.normal(size=600), 3 * TRUTH + RNG.normal(size=600)], axis=1)
    softmax = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, 1]
    state = measure(["roc_auc"], logits, TRUTH)["roc_auc"]
    other = measure(["roc_auc"], softmax, TRUTH)["roc_auc"]
    one, two = (reliability_of(each["sketches"][0], scale_of(each)) for each in (state, other))
    assert (scale_of(state), scale_of(other)) == (LOG_ODDS, PROBABILITY)
    assert one.predicted.tolist() == pytest.approx(two.predicted.tolist())
    assert one.observed.tolist() == pytest.approx(two.observed.tolist())


def test_each_of_several_classes_has_a_curve_against_the_rest() -> None:
    truth = RNG.integers(0, 3, 400)
    logits = RNG.normal(size=(400, 3)) + 2 * np.eye(3)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    state = measure(["roc_auc"], logits, truth)["roc_auc"]
    assert scale_of(state) == LOG_PROBABILITY
    for place, sketch in enumerate(state["sketches"]):
        curve = roc_of(sketch, LOG_PROBABILITY)
        assert curve is not None
        area = np.trapezoid(curve.true_positives, curve.false_positives)
        assert area == pytest.approx(reference.roc_auc_score(truth == place, shares[:, place]), abs=0.01)
        found = reliability_of(sketch, LOG_PROBABILITY)
        exact = [shares[:, place][(shares[:, place] * 10).astype(int) == b].mean() for b in range(10)]
        assert np.nanmax(np.abs(found.predicted - exact)) < 0.02


def test_a_secure_sum_has_a_curve_too() -> None:
    states = [disclosed(measure(["roc_auc"], SHARES[p], TRUTH[p]), 5) for p in PARTS]
    sent = [numbers_of_metrics({"validate": one})[0] for one in states]
    outline = union([numbers.outline for numbers in sent])
    totals = [sum(numbers.values.get(name, 0) for numbers in sent) for name in outline.names]
    state = metrics_in(outline, totals)["validate"]["roc_auc"]
    assert scale_of(state) == PROBABILITY
    curve = roc_of(state["sketches"][0], PROBABILITY)
    assert curve is not None
    area = np.trapezoid(curve.true_positives, curve.false_positives)
    assert area == pytest.approx(reference.roc_auc_score(TRUTH, SHARES), abs=0.02)


def test_of_one_class_there_is_no_curve() -> None:
    state = measure(["roc_auc"], [0.1, 0.9], [1, 1])["roc_auc"]
    assert roc_of(state["sketches"][0], PROBABILITY) is None
