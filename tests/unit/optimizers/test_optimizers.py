"""Server optimizers: the formulas of their papers, by hand, and what the interface promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedjob import FedAdagrad, FedAdam, FedAvgM, FedYogi, SpecError
from fedjob.common.errors import MessageError
from fedjob.optimizers import OPTIMIZERS
from fedjob.optimizers.base import ServerOptimizer

START = {"w": torch.tensor([1.0, -2.0, 0.5])}
DELTAS = [{"w": torch.tensor(values)} for values in ([0.5, -0.25, 0.0], [-1.0, 0.125, 2.0])]
ALL = [FedAvgM(), FedAdam(), FedYogi(), FedAdagrad()]


def steps(optimizer: ServerOptimizer) -> list[list[float]]:
    """Return the parameters after each of the two deltas."""
    params, state, found = START, {}, []
    for delta in DELTAS:
        params, state = optimizer.step(params, delta, state)
        found.append(params["w"].tolist())
    return found


def test_momentum_at_the_server_by_hand() -> None:
    assert steps(FedAvgM(lr=0.5, momentum=0.5)) == [
        [1.0 + 0.25, -2.0 - 0.125, 0.5],  # m = delta
        [1.25 - 0.375, -2.125 + 0.0, 0.5 + 1.0],  # m = 0.5 * m + delta = -0.75, 0, 2
    ]


def test_adam_at_the_server_by_hand() -> None:
    found = steps(FedAdam(lr=1.0, tau=1.0, betas=(0.5, 0.5)))
    m, v = 0.25, 0.5 * 1.0 + 0.5 * 0.25  # v begins with tau squared
    first = 1.0 + m / (math.sqrt(v) + 1.0)
    m, v = 0.5 * m - 0.5, 0.5 * v + 0.5
    assert found[0][0] == pytest.approx(first)
    assert found[1][0] == pytest.approx(first + m / (math.sqrt(v) + 1.0))


def test_yogi_moves_its_second_moment_by_the_sign() -> None:
    found = steps(FedYogi(lr=1.0, tau=1.0, betas=(0.0, 0.5)))
    v = 1.0 - 0.5 * 0.25  # above delta squared: down
    first = 1.0 + 0.5 / (math.sqrt(v) + 1.0)
    v = v + 0.5 * 1.0  # below: up
    assert found[0][0] == pytest.approx(first)
    assert found[1][0] == pytest.approx(first - 1.0 / (math.sqrt(v) + 1.0))


def test_adagrad_adds_up_squares() -> None:
    found = steps(FedAdagrad(lr=2.0, tau=0.5, betas=(0.0, 0.9), first_v=0.0))
    first = 1.0 + 2.0 * 0.5 / (0.5 + 0.5)
    assert found[0][0] == pytest.approx(first)
    assert found[1][0] == pytest.approx(first - 2.0 / (math.sqrt(0.25 + 1.0) + 0.5))


def flamby(kind: str, lr: float) -> list[list[float]]:
    """Return the steps as the code of FLamby's benchmark computes them, with its settings."""
    w, m, v = np.array(START["w"].numpy(), dtype=np.float64), np.zeros(3), np.zeros(3)
    found = []
    for delta in (d["w"].numpy().astype(np.float64) for d in DELTAS):
        m = 0.9 * m + (1 - 0.9) * delta
        v = {
            "fedadam": 0.999 * v + (1 - 0.999) * delta * delta,
            "fedyogi": v - (1 - 0.999) * delta * delta * np.sign(v - delta * delta),
            "fedadagrad": v + delta * delta,
        }[kind]
        w = w + lr * m / (np.sqrt(v) + 1e-8)
        found.append(w.tolist())
    return found


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi", "fedadagrad"])
def test_the_settings_of_the_flamby_benchmark_give_its_steps(kind: str) -> None:
    settings = {"lr": 0.01, "tau": 1e-8, "betas": [0.9, 0.999], "first_v": 0.0}
    np.testing.assert_allclose(steps(OPTIMIZERS.build(kind, settings)), flamby(kind, 0.01), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ALL, ids=lambda one: one.name)
class TestEveryOptimizer:
    def test_it_is_built_again_from_its_configuration(self, optimizer: ServerOptimizer) -> None:
        assert OPTIMIZERS.build(*OPTIMIZERS.config_of(optimizer)) == optimizer

    def test_what_goes_in_stays_as_it_was(self, optimizer: ServerOptimizer) -> None:
        params, state = optimizer.step(START, DELTAS[0], {})
        kept = {slot: tensors["w"].clone() for slot, tensors in state.items()}
        before = params["w"].clone()
        optimizer.step(params, DELTAS[1], state)
        optimizer.step(
            {"w": params["w"].double()}, DELTAS[1], {s: {"w": t.double()} for s, t in kept.items()}
        )
        assert params["w"].equal(before)
        assert all(state[slot]["w"].equal(tensor) for slot, tensor in kept.items())
        assert set(state) == set(optimizer.slots)

    def test_a_large_tensor_is_the_same_as_its_elements(self, optimizer: ServerOptimizer) -> None:
        generator = torch.Generator().manual_seed(3)
        param, delta = torch.randn((2, 3, 100_003), generator=generator).unbind(0)
        whole, _ = optimizer.step({"w": param}, {"w": delta}, {})
        part, _ = optimizer.step({"w": param[:, -7:]}, {"w": delta[:, -7:]}, {})
        assert whole["w"][:, -7:].equal(part["w"])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FedAdam(lr=0), "FedAdam(lr=...) is a number above 0, not 0"),
        (lambda: FedYogi(tau=-1.0), "FedYogi(tau=...)"),
        (lambda: FedAdagrad(betas=(0.9, 1.0)), "from 0 to below 1, not 1.0"),
        (lambda: FedAdam(betas=0.9), "two numbers"),  # type: ignore[arg-type]
        (lambda: FedAdam(first_v=-1.0), "0 or more"),
        (lambda: FedAvgM(momentum=1.0), "FedAvgM(momentum=...)"),
        (lambda: FedAvgM(lr=float("nan")), "FedAvgM(lr=...)"),
    ],
    ids=["lr", "tau", "beta", "betas", "first_v", "momentum", "nan"],
)
def test_wrong_settings_name_the_range(make, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError) as caught:
        make()
    assert says in str(caught.value)


def test_a_name_or_a_setting_that_there_is_not_is_an_error() -> None:
    with pytest.raises(SpecError, match="did you mean 'fedadam'"):
        OPTIMIZERS.build("fedadams", {})
    with pytest.raises(MessageError, match="above 0"):
        OPTIMIZERS.build("fedadam", {"lr": -1.0})
