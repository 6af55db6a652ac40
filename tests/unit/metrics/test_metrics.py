from __future__ import annotations

import json
import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference

from fedjob.common.errors import SpecError
from fedjob.metrics.disclosure import LEAST, disclosed
from fedjob.metrics.state_checks import odd_state, settings_of
from fedjob.metrics.states import (
    METRICS,
    add,
    add_all,
    check_metric,
    error,
    mean_state,
    measure,
    num_examples,
    value,
    values,
)


def over_nodes(name: str, predictions: Any, targets: Any, cuts: tuple[int, ...], **options: Any) -> Any:
    """Measure parts apart, send each through JSON as a message would, and add them."""
    parts = zip(np.split(predictions, cuts), np.split(targets, cuts), strict=True)
    states = [measure([name], p, t, {name: options})[name] for p, t in parts]
    return reduce(add, [json.loads(json.dumps(state)) for state in states])


RNG = np.random.default_rng(7)
BINARY = RNG.integers(0, 2, 400)
SCORES = np.clip(0.3 * BINARY + 0.7 * RNG.random(400), 0, 1)
CLASSES = RNG.integers(0, 4, 400)
GUESSES = np.where(RNG.random(400) < 0.6, CLASSES, RNG.integers(0, 4, 400))
LOGITS = RNG.normal(size=(400, 4)) + 2 * np.eye(4)[CLASSES]
NUMBERS = 1e6 + RNG.normal(size=400)
ESTIMATES = NUMBERS + 0.3 * RNG.normal(size=400)
CUTS = (3, 3, 250)  # one part is empty, one is tiny


def test_counts_by_hand() -> None:
    a = measure(["accuracy", "precision", "recall", "f1"], [1, 1, 0, 0], [1, 0, 0, 1])
    b = measure(["accuracy", "precision", "recall", "f1"], [1, 1], [1, 1])
    assert values(a) == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    # hits 1 + 2, false alarms 1 + 0, misses 1 + 0; averaging ratios would give 0.75
    assert values(add_all(a, b)) == {"accuracy": 4 / 6, "precision": 0.75, "recall": 0.75, "f1": 0.75}
    assert a["f1"]["counts"] == [[1, 1, 1], [1, 1, 1]]


def test_errors_by_hand() -> None:
    a = measure(["mse", "mae", "r2", "explained_variance"], [1.0, 2.0], [1.0, 4.0])
    b = measure(["mse", "mae", "r2", "explained_variance"], [0.0], [1.0])
    total = values(add_all(a, b))
    assert total["mse"] == pytest.approx((0 + 4 + 1) / 3)
    assert total["mae"] == pytest.approx((0 + 2 + 1) / 3)
    assert total["r2"] == pytest.approx(1 - 5 / 6)  # mean of 1, 4, 1 is 2: spread 1 + 4 + 1
    assert total["explained_variance"] == pytest.approx(1 - 2 / 6)  # errors 0, 2, 1 around their mean


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_label_metrics_over_nodes_equal_those_of_the_union(name: str, average: str) -> None:
    state = over_nodes(name, GUESSES, CLASSES, CUTS, average=average)
    whole = getattr(reference, f"{name}_score")(CLASSES, GUESSES, average=average, zero_division=0)
    assert value(state) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "f1", "precision", "recall"])
def test_probabilities_over_nodes_equal_labels_of_the_union(name: str) -> None:
    state = over_nodes(name, SCORES, BINARY, CUTS)
    assert value(state) == pytest.approx(
        getattr(reference, f"{name}_score")(BINARY, SCORES >= 0.5), abs=1e-12
    )


def test_scores_by_class_are_labels_by_the_largest() -> None:
    state = over_nodes("accuracy", LOGITS, CLASSES, CUTS)
    assert value(state) == reference.accuracy_score(CLASSES, LOGITS.argmax(axis=1))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", reference.mean_squared_error),
        ("mae", reference.mean_absolute_error),
        ("r2", reference.r2_score),
        ("explained_variance", reference.explained_variance_score),
    ],
)
def test_regression_metrics_over_nodes_equal_those_of_the_union(name: str, function: Any) -> None:
    assert value(over_nodes(name, ESTIMATES, NUMBERS, CUTS)) == pytest.approx(
        function(NUMBERS, ESTIMATES), rel=1e-9
    )
    wide, wide_estimates = NUMBERS.reshape(-1, 2), ESTIMATES.reshape(-1, 2)
    assert value(over_nodes(name, wide_estimates, wide, (3, 120))) == pytest.approx(
        function(wide, wide_estimates), rel=1e-9
    )


@pytest.mark.parametrize(
    "scored",
    [
        lambda ranks: ranks,
        lambda ranks: 1e-9 * ranks,
        lambda ranks: 1e9 * ranks,
        lambda ranks: 0.5 + 1e-9 * ranks,
        lambda ranks: 1 / (1 + np.exp(4.6 - 0.02 * ranks)),
        lambda ranks: np.exp(50 * ranks),
        lambda ranks: np.round(ranks, 1),
        lambda ranks: np.where(ranks > 0, ranks, -0.0),
        lambda ranks: np.zeros_like(ranks),
    ],
    ids=[
        "margins",
        "tiny",
        "huge",
        "all near 0.5",
        "a rare outcome",
        "far apart",
        "ties",
        "zeros",
        "constant",
    ],
)
@pytest.mark.parametrize("size", [400, 30_000])
def test_roc_auc_of_scores_of_any_range_is_that_of_the_pooled_scores(size: int, scored: Any) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, size)
    scores = scored(1.5 * labels + rng.normal(size=size))
    state = over_nodes("roc_auc", scores, labels, (size // 50, size // 2))
    assert value(state) == pytest.approx(reference.roc_auc_score(labels, scores), abs=error(state) + 1e-12)
    assert error(state) <= (0 if size == 400 else 0.001)


def test_roc_auc_of_many_batches_stays_small_and_within_its_error() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 8_000)
    scores = np.sort(labels + rng.standard_cauchy(8_000))
    for order in (np.arange(8_000), rng.permutation(8_000)):
        parts = np.array_split(order, 200)
        state = reduce(add, [measure(["roc_auc"], scores[p], labels[p])["roc_auc"] for p in parts])
        assert abs(value(state) - reference.roc_auc_score(labels, scores)) <= error(state) < 0.002
        assert len(json.dumps(state)) < 100_000


def test_roc_auc_of_nodes_with_one_class_each_is_that_of_both() -> None:
    ups, downs = measure(["roc_auc"], [0.4, 0.6], [1, 1]), measure(["roc_auc"], [0.5, 0.3], [0, 0])
    assert value(add(ups["roc_auc"], downs["roc_auc"])) == 0.75


def test_roc_auc_of_two_logits_does_not_overflow() -> None:
    largest = np.finfo(np.float64).max
    given = [[largest, -largest], [-largest, largest], [0.0, 1.0]]
    assert value(measure(["roc_auc"], given, [0, 1, 0])["roc_auc"]) == 1.0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_counted_and_refused(odd: float) -> None:
    with pytest.raises(SpecError, match=r"not all finite: . of 2 are NaN, . are infinite"):
        measure(["roc_auc"], [odd, 0.1], [0, 1])


def test_roc_auc_of_two_columns_takes_logits_and_probabilities() -> None:
    rng = np.random.default_rng(2)
    logits = np.stack([rng.normal(size=400), rng.normal(size=400) + BINARY], axis=1)
    exact = reference.roc_auc_score(BINARY, logits[:, 1] - logits[:, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for given in (logits, shares):
        assert value(measure(["roc_auc"], given, BINARY)["roc_auc"]) == pytest.approx(exact, abs=1e-12)


def test_roc_auc_of_many_classes_is_one_against_the_rest() -> None:
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    state = over_nodes("roc_auc", LOGITS, CLASSES, (3, 3, 250))
    exact = reference.roc_auc_score(CLASSES, shares, multi_class="ovr")
    assert abs(value(state) - exact) <= error(state) < 0.01


def test_roc_auc_of_one_class_is_undefined() -> None:
    alone = measure(["roc_auc"], [0.2, 0.3], [0, 0])["roc_auc"]
    assert math.isnan(value(alone))
    assert error(alone) == 0


def test_a_mean_is_weighted() -> None:
    total = add(mean_state(1.0, 30), mean_state(4.0, 10))
    assert value(total) == pytest.approx(1.75)
    assert num_examples(total) == 40


def test_labels_may_be_strings() -> None:
    state = over_nodes("f1", np.array(["a", "b", "b"]), np.array(["a", "a", "b"]), (1,))
    assert value(state) == pytest.approx(
        reference.f1_score(["a", "a", "b"], ["a", "b", "b"], average="macro")
    )


def test_adding_is_in_any_order_and_grouping_the_same() -> None:
    for name in METRICS:
        predictions, targets = (ESTIMATES, NUMBERS) if name in METRICS[6:] else (SCORES, BINARY)
        parts = [
            measure([name], p, t)[name]
            for p, t in zip(np.split(predictions, 4), np.split(targets, 4), strict=True)
        ]
        a, b, c, d = parts
        assert value(add(add(a, b), add(c, d))) == pytest.approx(value(add(a, add(b, add(c, d)))), rel=1e-12)
        assert value(add(a, b)) == pytest.approx(value(add(b, a)), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "words"),
    [
        ("accuracy", [1, 0], [1], "2 predictions for 1 targets"),
        ("accuracy", [3.2, 0.1], [1, 0], "probability of class 1"),
        ("accuracy", [float("nan"), 0.1], [1, 0], "not all finite"),
        ("roc_auc", [0.1, 0.2], [0, 2], "targets run from 0 to 2"),
        ("roc_auc", [0.1, 0.2], ["a", "b"], "whole numbers"),
        ("mse", ["a"], [1.0], "numbers are needed"),
        ("mse", [[1.0, 2.0]], [1.0], "shape"),
        ("accuracy", [1], [0.5], "fractions"),
        ("accuracy", 1, 1, "one per example"),
    ],
)
def test_what_can_not_be_measured_says_why(name: str, predictions: Any, targets: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        measure([name], predictions, targets)


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="nearest is 'accuracy'"):
        check_metric("acuracy")
    assert check_metric("F1_SCORE") == "f1"


def test_different_metrics_do_not_add() -> None:
    a = measure(["accuracy", "f1", "recall"], [1], [1])
    with pytest.raises(SpecError, match="can't be added"):
        add(a["accuracy"], a["f1"])
    with pytest.raises(SpecError, match="differ in metric"):
        add(a["recall"], a["f1"])


def _honest_states() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    truth, scores = rng.integers(0, 2, 40), rng.random(40)
    numbers = rng.normal(size=(40, 2))
    several = rng.random((40, 3))
    return [
        mean_state(0.5, 10.0),
        *disclosed(
            measure(["accuracy", "f1", "precision", "recall", "roc_auc", "confusion_matrix"], scores, truth),
            0,
        ).values(),
        *disclosed(measure(["f1"], np.array(["a", "b"] * 20), np.array(["a", "c"] * 20)), 0).values(),
        *measure(["roc_auc"], several / several.sum(1, keepdims=True), rng.integers(0, 3, 40)).values(),
        *measure(["mse", "mae", "r2", "explained_variance"], numbers, numbers + 1).values(),
    ]


def test_states_that_were_measured_pass_the_checks_alone_and_added_up() -> None:
    for state in _honest_states():
        total = state
        for _ in range(12):
            assert odd_state(total) == ""
            total = add(total, total)


ODD_PARTS: tuple[Any, ...] = (
    "x",
    [1.0],
    {"a": 1},
    float("nan"),
    float("inf"),
    -1,
    1e200,
    True,
    None,
    10**15,
    [],
)


def test_a_state_that_passes_the_checks_can_be_added_and_has_a_value() -> None:
    """Every field of every state, and every entry of its lists, is replaced by each odd thing."""
    tried = refused = 0
    for state in _honest_states():
        for name in [*state, "more"]:
            for odd in ODD_PARTS:
                bad = [{**state, name: odd}]
                held = state.get(name)
                if isinstance(held, list) and held:
                    bad.append({**state, name: [odd, *held[1:]]})
                    bad.append({**state, name: [*held, odd]})
                    if isinstance(held[0], list) and held[0]:
                        bad.append({**state, name: [[odd, *held[0][1:]], *held[1:]]})
                for changed in bad:
                    tried += 1
                    if odd_state(changed):
                        refused += 1
                        continue
                    if settings_of(changed) == settings_of(state):
                        number = value(add(state, changed))
                        assert not math.isinf(number)
                        assert num_examples(add(state, changed)) >= 0
    assert tried > 1000
    assert refused > 0.9 * tried


@pytest.mark.parametrize("least", [2, 5, 40])
@pytest.mark.parametrize("spread", [1.0, 1e-9, 1e9])
def test_no_span_of_scores_that_leaves_counts_few_examples(least: int, spread: float) -> None:
    rng = np.random.default_rng(least)
    labels = rng.integers(0, 2, 120)
    scores = (rng.normal(size=120) + labels) * spread
    scores[:30] = scores[0]
    state = measure(["roc_auc"], scores, labels)["roc_auc"]
    sent = disclosed({"roc_auc": state}, least if least > LEAST else 0)["roc_auc"]
    assert sent["n"] == 120
    (sketch,) = sent["sketches"]
    assert min(ups + downs for _, _, ups, downs in sketch) >= max(least, LEAST)
    assert sum(ups for _, _, ups, _ in sketch) == labels.sum()
    own = {low for low, _, _, _ in state["sketches"][0]}
    edges = {edge for low, high, _, _ in sketch if low < high for edge in (low, high + 1)}
    assert not edges & own or spread < 1  # where a span ends is nobody's score
    assert abs(value(sent) - reference.roc_auc_score(labels, scores)) <= error(sent) + 1e-12


def test_scores_of_a_handful_are_one_span_about_which_nothing_is_known() -> None:
    state = measure(["roc_auc"], [0.1, 0.7, 0.9], [0, 1, 1])
    sent = disclosed(state, 0)["roc_auc"]
    assert [place[2:] for place in sent["sketches"][0]] == [[2, 1]]
    assert (value(sent), error(sent)) == (0.5, 0.5)


def test_sketches_of_several_nodes_that_were_made_coarser_add_within_their_error() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 2, 300)
    scores = 1 / (1 + np.exp(-rng.normal(size=300) - 2 * labels))
    parts = [slice(0, 60), slice(60, 160), slice(160, 300)]
    sent = [disclosed(measure(["roc_auc"], scores[p], labels[p]), 0)["roc_auc"] for p in parts]
    total = reduce(add, sent)
    exact = reference.roc_auc_score(labels, scores)
    assert abs(value(total) - exact) <= error(total)
    assert abs(value(total) - exact) < 0.01


@pytest.mark.parametrize(("min_rows", "kept"), [(0, True), (2, True), (3, False), (4, False)])
def test_counts_by_label_leave_if_every_label_is_that_of_enough_examples_and_found_in_enough(
    min_rows: int, kept: bool
) -> None:
    states = measure(["f1", "accuracy"], [0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1])
    sent = disclosed(states, min_rows)
    assert ("f1" in sent) is kept
    assert "accuracy" in sent
    if kept:
        assert odd_state(sent["f1"]) == ""
        assert value(sent["f1"]) == value(states["f1"])


def labels_of_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true labels with this confusion matrix."""
    pairs = [(found, true) for (true, found), count in np.ndenumerate(matrix) for _ in range(count)]
    predicted, truth = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return predicted, truth


def test_from_f1_precision_and_recall_follows_no_rare_error_that_the_confusion_matrix_would_keep() -> None:
    """Of 400 matrices counts by label leave only where no kind of error is rare, or as the number of all errors."""
    rng, whole, joined = np.random.default_rng(7), 0, 0
    names = ["f1", "precision", "recall", "confusion_matrix"]
    for _ in range(400):
        size, least = int(rng.integers(2, 5)), int(rng.integers(2, 9))
        matrix = rng.choice([0, 1, 4, 9, 12], (size, size)) + np.diag(rng.integers(0, 30, size))
        if not matrix.any():
            continue
        predicted, truth = labels_of_matrix(matrix)
        half = len(truth) // 2
        parts = [measure(names, predicted[p], truth[p]) for p in (slice(0, half), slice(half, None))]
        states = add_all(*parts)
        sent = disclosed(states, least)
        assert set(sent) - {"f1", "precision", "recall"} <= {"confusion_matrix"}
        errors = matrix[~np.eye(size, dtype=bool)]
        for name in set(sent) - {"confusion_matrix"}:
            assert odd_state(sent[name]) == ""
            assert "confusion_matrix" in sent
            assert value(sent[name]) == pytest.approx(value(states[name]))
            if sent[name]["counts"] == states[name]["counts"] and not ((errors > 0) & (errors < least)).any():
                whole += 1
                continue
            assert (name, size) == ("f1", 2)
            assert {(row[1], row[2]) for row in sent[name]["counts"]} == {(int(errors.sum()), 0)}
            joined += 1
    assert whole > 30
    assert joined > 10


def test_the_f1_of_several_nodes_is_the_same_where_one_sends_only_the_number_of_its_errors() -> None:
    matrices = [np.array([[30, 2], [9, 25]]), np.array([[20, 8], [7, 40]])]
    states = [measure(["f1"], *labels_of_matrix(matrix))["f1"] for matrix in matrices]
    sent = [disclosed({"f1": state}, 5)["f1"] for state in states]
    assert sent[0]["counts"] == [[30, 11, 0], [25, 11, 0]]
    assert sent[1]["counts"] == [[20, 7, 8], [40, 8, 7]]
    assert value(add(*sent)) == value(add(*states))


def test_counts_by_label_that_a_plan_made_itself_leave_only_where_no_rare_error_can_be_in_them() -> None:
    made = {"kind": "labels", "metric": "recall", "average": "macro", "n": 90, "labels": ["a", "b", "c"]}
    assert disclosed({"recall": {**made, "counts": [[30, 0, 0]] * 3}}, 5) != {}
    assert disclosed({"recall": {**made, "counts": [[20, 10, 10]] * 3}}, 5) == {}
    assert disclosed({"recall": {**made, "counts": [[20, 10, 10]] * 3}}, 0) != {}


def test_the_area_of_a_class_of_few_stays_where_the_owner_sets_a_minimum() -> None:
    state = measure(["roc_auc"], np.linspace(0, 1, 40), [1] * 3 + [0] * 37)
    assert disclosed(state, 5) == {}
    assert "roc_auc" in disclosed(state, 3)
