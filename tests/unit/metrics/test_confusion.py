"""The confusion matrix: counts of pairs of labels that add, and what of them may leave a node."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from fedjob.common.errors import SpecError
from fedjob.metrics.confusion import MAX_LABELS, cells_of, state_of
from fedjob.metrics.disclosure import disclosed
from fedjob.metrics.state_checks import odd_state
from fedjob.metrics.states import add, measure, num_examples, value
from fedjob.privacy.secagg.metric_numbers import MAX_MATRIX, metrics_in, numbers_of_metrics
from fedjob.privacy.secagg.vector import union


def matrix_of(state: dict[str, Any], labels: list[Any]) -> list[list[int]]:
    cells = cells_of(state)
    return [[cells.get((true, found), 0) for found in labels] for true in labels]


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 7], ["benign", "malign", "unclear"]])
def test_a_confusion_matrix_over_nodes_is_that_of_the_pooled_labels(labels: list[Any]) -> None:
    rng = np.random.default_rng(len(labels))
    truth, found = rng.choice(labels, 300), rng.choice(labels, 300)
    parts = [slice(0, 3), slice(3, 50), slice(50, 300)]
    total = reduce(
        add, [measure(["confusion_matrix"], found[p], truth[p])["confusion_matrix"] for p in parts]
    )
    exact = reference.confusion_matrix(truth, found, labels=labels)
    assert matrix_of(total, labels) == exact.tolist()
    assert value(total) == pytest.approx(reference.accuracy_score(truth, found))
    assert num_examples(total) == 300


def test_probabilities_and_scores_by_class_become_labels() -> None:
    one = measure(["confusion_matrix"], [0.2, 0.7, 0.9], [0, 0, 1])["confusion_matrix"]
    two = measure(["confusion_matrix"], [[2.0, 1.0], [0.1, 0.4], [-1.0, 3.0]], [0, 0, 1])["confusion_matrix"]
    assert one == two == {"kind": "confusion", "n": 3, "cells": [[0, 0, 1], [0, 1, 1], [1, 1, 1]]}


def test_a_matrix_of_very_many_labels_is_refused_with_what_to_use() -> None:
    labels = np.arange(MAX_LABELS + 1)
    with pytest.raises(SpecError, match="there are 101 different labels, at most 100; accuracy"):
        measure(["confusion_matrix"], labels, labels)


@pytest.mark.parametrize(
    ("matrix", "kept"),
    [
        ([[50, 3], [2, 45]], [[50, 0], [0, 45]]),
        ([[50, 8], [2, 40]], [[50, 0], [0, 40]]),
        ([[50, 8], [0, 42]], [[50, 8], [0, 42]]),
        ([[50, 0], [2, 40]], [[50, 0], [0, 40]]),
        ([[30, 9, 1, 1], [3, 30, 0, 20], [0, 0, 50, 0], [7, 0, 0, 9]], None),
    ],
    ids=["both rare", "the next rarer one too", "none rare", "all errors there are", "several labels"],
)
def test_errors_that_are_rare_leave_as_their_number_alone(
    matrix: list[list[int]], kept: list[list[int]] | None
) -> None:
    places = range(len(matrix))
    state = state_of(sum(map(sum, matrix)), {(a, b): matrix[a][b] for a in places for b in places})
    sent = disclosed({"confusion_matrix": state}, 5)["confusion_matrix"]
    assert odd_state(sent) == ""
    assert value(sent) == value(state)
    if kept is not None:
        assert matrix_of(sent, list(places)) == kept
    counts = [count for _, _, count in sent["cells"]]
    assert min(counts) >= 5
    wrong = sum(count for true, found, count in state["cells"] if true != found)
    missing = sent["n"] - sum(counts)
    assert missing == 0 or missing >= 5 or missing == wrong


def test_no_rare_kind_of_error_follows_from_what_leaves() -> None:
    """Of 300 matrices every count that is told, and what is missing to their sum, is large or known from accuracy."""
    rng, told = np.random.default_rng(4), 0
    for _ in range(300):
        size, least = int(rng.integers(2, 6)), int(rng.integers(2, 12))
        counts = rng.integers(0, 14, (size, size)) + np.diag(rng.integers(0, 40, size))
        state = state_of(
            int(counts.sum()), {(a, b): int(counts[a, b]) for a in range(size) for b in range(size)}
        )
        sent = disclosed({"confusion_matrix": state}, least).get("confusion_matrix")
        rows, hits = counts.sum(axis=1), np.diag(counts)
        assert (sent is None) == bool(((rows > 0) & (rows < least) | (hits > 0) & (hits < least)).any())
        if sent is None:
            continue
        told += 1
        assert all(count >= least for _, _, count in sent["cells"])
        missing = sent["n"] - sum(count for _, _, count in sent["cells"])
        assert missing == 0 or missing >= least or missing == counts.sum() - hits.sum()
    assert told > 50


def test_without_a_minimum_the_whole_matrix_leaves() -> None:
    state = state_of(4, {(0, 0): 1, (0, 1): 1, (1, 1): 2})
    assert disclosed({"confusion_matrix": state}, 0) == {"confusion_matrix": state}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n": 2}, "more examples in its cells"),
        ({"cells": [[0, 0, 2], [0, 0, 1]]}, "twice"),
        ({"cells": [[0, 0, -1]]}, "true label"),
        ({"cells": [[0, [1], 1]]}, "true label"),
        ({"cells": [[0, 0]]}, "true label"),
        ({"cells": [[i, j, 1] for i in range(101) for j in range(101)], "n": 10**6}, "more than 10000"),
        ({"cells": None}, "list of cells"),
        ({"more": 1}, "other fields"),
    ],
)
def test_a_state_that_is_no_matrix_is_refused(changed: dict[str, Any], words: str) -> None:
    state = state_of(4, {(0, 0): 3, (1, 0): 1})
    assert odd_state(state) == ""
    assert words in odd_state({**state, **changed})


def test_matrices_go_through_a_secure_sum_and_say_not_which_pairs_a_node_lacks() -> None:
    one = state_of(60, {(0, 0): 30, (0, 1): 10, (1, 1): 20})
    two = state_of(55, {(0, 0): 20, (1, 0): 6, (2, 2): 25})
    sent = [numbers_of_metrics({"validate": {"confusion_matrix": state}})[0] for state in (one, two)]
    assert len(sent[0].values) == 4 + 1
    assert len(sent[1].values) == 9 + 1
    outline = union([numbers.outline for numbers in sent])
    totals = [sum(numbers.values.get(name, 0) for numbers in sent) for name in outline.names]
    found = metrics_in(outline, totals)["validate"]["confusion_matrix"]
    assert found == add(one, two)
    assert found["n"] - sum(count for *_, count in found["cells"]) == 4  # rare errors of the second node


def test_a_matrix_of_many_labels_stays_where_only_sums_leave() -> None:
    state = state_of(MAX_MATRIX + 1, {(label, label): 1 for label in range(MAX_MATRIX + 1)})
    assert numbers_of_metrics({"validate": {"confusion_matrix": state}})[1] == ["validate.confusion_matrix"]
