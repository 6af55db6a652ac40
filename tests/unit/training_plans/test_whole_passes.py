"""Where an owner sets a minimum of rows, passes are whole, and the rows of parts are drawn by their keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedjob.training_plans.example_order import (
    drawn_by_key,
    num_updates,
    training_batches,
    whole_passes,
)
from fedjob.training_plans.training_args import TrainingArgs

ROWS = np.arange(70)
KEYS = np.random.default_rng(2).random(70)


@pytest.mark.parametrize("args", [{}, {"epochs": 3}, {"batch_size": 7, "epochs": 2}, {"batch_size": 100}])
def test_whole_passes_are_those_of_training_without_a_minimum(args: dict[str, Any]) -> None:
    parsed = TrainingArgs.parse(args)
    passes = whole_passes(ROWS, KEYS, parsed)
    assert passes.total == num_updates(70, parsed)
    pairs = zip(passes.batches(9), training_batches(ROWS, parsed, 9), strict=True)
    assert all((one == other).all() for one, other in pairs)


@pytest.mark.parametrize(
    ("args", "rows", "total"),
    [
        ({"num_updates": 1, "batch_size": 10}, 10, 1),
        ({"num_updates": 3, "batch_size": 10}, 30, 3),
        ({"num_updates": 7, "batch_size": 10}, 70, 7),
        ({"num_updates": 20, "batch_size": 10}, 70, 14),
        ({"epochs": 2, "batch_maxnum": 2, "batch_size": 10}, 20, 4),
        ({"dry_run": True, "batch_size": 10}, 10, 1),
        ({"drop_last": True, "batch_size": 16}, 70, 4),
        ({"drop_last": True, "batch_size": 100}, 70, 1),
        ({"num_updates": 2, "drop_last": True, "batch_size": 16}, 32, 2),
    ],
)
def test_parts_of_a_pass_are_the_rows_with_the_lowest_keys(
    args: dict[str, Any], rows: int, total: int
) -> None:
    passes = whole_passes(ROWS, KEYS, TrainingArgs.parse(args))
    assert set(passes.rows.tolist()) == set(np.argsort(KEYS)[:rows].tolist())
    batches = list(passes.batches(3))
    assert len(batches) == total == passes.total
    every = passes.total // passes.updates
    assert np.bincount(np.concatenate(batches), minlength=70)[passes.rows].tolist() == [every] * rows


def test_a_split_by_key_never_moves_a_row() -> None:
    train, test = drawn_by_key(KEYS, TrainingArgs.parse({"test_ratio": 0.3}))
    assert sorted([*train, *test]) == ROWS.tolist()
    more = np.concatenate([KEYS, np.random.default_rng(3).random(30)])
    _, later = drawn_by_key(more, TrainingArgs.parse({"test_ratio": 0.3}))
    assert set(test) == {place for place in later if place < 70}
    folds = [drawn_by_key(KEYS, TrainingArgs.parse({"test_fold": [part, 3]}))[1] for part in (1, 2, 3)]
    assert sorted(np.concatenate(folds)) == ROWS.tolist()


def test_no_rows_are_no_passes() -> None:
    passes = whole_passes(ROWS[:0], KEYS[:0], TrainingArgs.parse({}))
    assert (passes.total, list(passes.batches(1))) == (0, [])
