"""Steps with tree noise: each record once in a pass, in a block that follows from it alone, with the noise of its step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import SGDRegressor
from torch.nn import functional as F

from fedjob import SklearnPlan, TorchPlan
from fedjob.privacy.dp.tree_noise import TreeNoise
from fedjob.privacy.dp.tree_terms import TreeStretch, TreeTerms
from fedjob.training_plans.context import Context
from fedjob.training_plans.private.step_draws import TreeSteps
from fedjob.training_plans.private.training import PrivateTraining
from tests.private_training import Rows, points

SEED = bytes(32)


class Line(TorchPlan):
    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(3, 1)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.inputs)

    def __getitem__(self, number: int) -> Any:
        return self.rows.inputs[number], self.rows.targets[number]


class Lazy(Line):
    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return Items(dataset)


class Linear(SklearnPlan):
    def init_estimator(self, model_args: Any) -> Any:
        return SGDRegressor(learning_rate="constant", eta0=0.1, penalty=None)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        inputs, targets = dataset.arrays()
        return inputs, targets.ravel()


def stretch(first: int = 0, **changes: Any) -> TreeStretch:
    settings = {"epsilon": 4.0, "delta": 1e-4, "noise": 0.8, "blocks": 4, "steps": 4, "rounds": 2}
    agreed = TreeTerms(**{**settings, "max_grad_norm": 0.7, "num_rows": 80, **changes})
    return TreeStretch(terms=agreed, seed=SEED, first=first)


def trained(plan: Any, wanted: TreeStretch, data: Rows | None = None) -> Any:
    plan.ctx = Context(private=PrivateTraining(terms=wanted.terms, stretch=wanted))
    sklearn = isinstance(plan, SklearnPlan)
    plan.build({"num_features": 3} if sklearn else {}, {"batch_size": 20} | ({} if sklearn else {"lr": 0.1}))
    plan.load_data(points() if data is None else data)
    for tensor in plan.get_params().values():
        assert tensor.isfinite().all()
    start = {name: tensor.clone() for name, tensor in plan.get_params().items()}
    outcome = plan.train_locally()
    assert (outcome.num_examples, outcome.num_updates) == (80, wanted.terms.steps)
    return start, plan.get_params()


def rows_of(wanted: TreeStretch, data: Rows, steps: int, lazy: bool = False) -> list[np.ndarray]:
    draws = TreeSteps(wanted, np.arange(len(data.inputs)), lambda: None if lazy else data.arrays())
    return [draws.chosen() for _ in range(steps)]


def by_hand(start: np.ndarray, wanted: TreeStretch, lazy: bool = False) -> np.ndarray:
    """Return what a line comes to by the formulas: the gradient of each block, bounded record by record, and its noise."""
    data, agreed, point = points(), wanted.terms, start.astype(np.float64)
    noise = TreeNoise(SEED, agreed.blocks, wanted.first, 4)
    inputs = np.column_stack([data.inputs, np.ones(80)]).astype(np.float64)
    for rows in rows_of(wanted, data, agreed.steps, lazy):
        slopes = 2 * (inputs[rows] @ point - data.targets[rows, 0])
        gradients = slopes[:, None] * inputs[rows]
        norms = np.linalg.norm(gradients, axis=1)
        bounded = gradients * np.minimum(1.0, 0.7 / np.maximum(norms, 1e-12))[:, None]
        total = bounded.sum(0) + 0.8 * 0.7 * noise.step()
        point = point - 0.1 * total / 20
    return point


def flat(params: Any) -> np.ndarray:
    return np.concatenate([np.asarray(params[name]).ravel() for name in ("weight", "bias")])


@pytest.mark.parametrize("first", [0, 2, 9])
@pytest.mark.parametrize("kind", [Line, Lazy])
def test_a_training_is_what_the_formulas_give(kind: type[Line], first: int) -> None:
    wanted = stretch(first)
    start, end = trained(kind(), wanted)
    assert np.allclose(flat(end), by_hand(flat(start), wanted, kind is Lazy), atol=1e-5)


def test_a_linear_model_has_the_same_noise_and_blocks() -> None:
    wanted = stretch(5, noise=1e-9)
    _, quiet = trained(Linear(), wanted)
    _, loud = trained(Linear(), stretch(5, noise=3.0))
    noise = TreeNoise(SEED, 4, 5, 4)
    moved = -0.1 * 3.0 * 0.7 / 20 * sum(noise.step() for _ in range(4))
    difference = np.concatenate([(loud[name] - quiet[name]).numpy().ravel() for name in sorted(loud)])
    assert np.corrcoef(difference, moved)[0, 1] > 0.8, "the rest is what other points make of other gradients"


@pytest.mark.parametrize("lazy", [False, True])
def test_each_record_is_in_one_step_of_every_pass_and_always_in_the_same(lazy: bool) -> None:
    found = rows_of(stretch(3), points(), 13, lazy)
    assert sorted(np.concatenate(found[1:5])) == list(range(80))
    assert all(np.array_equal(found[step], found[step + 4]) for step in range(9))
    assert all(0 < len(rows) < 80 for rows in found[:4])
    whole = rows_of(stretch(0), points(), 20, lazy)
    assert all(np.array_equal(a, b) for a, b in zip(found, whole[3:], strict=False))


def test_no_record_less_or_in_another_order_moves_another_record_to_another_step() -> None:
    data = points()
    order = np.random.default_rng(1).permutation(80)[:79]  # one is missing, and all lie elsewhere
    other = Rows(data.inputs[order], data.targets[order])
    for rows, elsewhere in zip(rows_of(stretch(), data, 4), rows_of(stretch(), other, 4), strict=True):
        assert set(order[elsewhere]) == set(rows) & set(order)


def test_a_repeated_training_of_the_same_steps_is_the_same_and_other_steps_are_others() -> None:
    found = []
    for first in (0, 0, 4):
        torch.manual_seed(3)
        found.append(flat(trained(Line(), stretch(first))[1]))
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_no_records_at_all_is_noise_alone() -> None:
    data = points()
    start, end = trained(Line(), stretch(2), Rows(data.inputs[:0], data.targets[:0]))
    noise = TreeNoise(SEED, 4, 2, 4)
    expected = flat(start) - 0.1 * 0.8 * 0.7 / 20 * sum(noise.step() for _ in range(4))
    assert np.allclose(flat(end), expected, atol=1e-6)
