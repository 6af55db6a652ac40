"""The memory of a plan's optimizer is known before it trains, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fedjob import TorchPlan
from fedjob.training_plans.state.optimizer_memory import OptimizerMemory, optimizer_memory

Make = Callable[[torch.nn.Module], torch.optim.Optimizer]


class Plan(TorchPlan):
    """A model of several shapes, with the optimizer that is given."""

    make: Make

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 40, 4), torch.nn.Linear(60, 50), torch.nn.Linear(50, 1))

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return self.make(model)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        raise NotImplementedError

    def training_step(self, model: torch.nn.Module, batch: Any) -> Any:
        raise NotImplementedError


class Kronecker(torch.optim.Optimizer):
    """An optimizer of somebody's own, which keeps a matrix of the first size squared and a flat copy."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            wide = parameter.grad.reshape(len(parameter), -1)
            self.state[parameter].update(left=wide @ wide.T, flat=parameter.grad.flatten().clone())


def plan_with(make: Make) -> Plan:
    plan = Plan()
    plan.make = make
    plan.build({}, {"num_updates": 1})
    return plan


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)


def state_after_a_step(plan: Plan, *, sparse: bool) -> int:
    optimizer = plan.make(plan.model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = torch.ones_like(parameter)
            parameter.grad = gradient.to_sparse(1) if sparse else gradient
    optimizer.step()
    items = [item for state in optimizer.state.values() for item in state.values()]
    return sum(one.numel() * one.element_size() for item in items for one in tensors(item))


def every_optimizer() -> dict[str, Make]:
    kinds = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    others = ("Optimizer", "LBFGS")
    found: dict[str, Make] = {
        name: (
            lambda model, kind=kind, flat=name == "Muon": kind(
                [p for p in model.parameters() if p.ndim == 2 or not flat], lr=0.1
            )
        )
        for name, kind in kinds.items()
        if name not in others
    }
    found["momentum"] = lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found["amsgrad"] = lambda model: torch.optim.Adam(model.parameters(), amsgrad=True)
    found["some parameters"] = lambda model: torch.optim.Adam(model[1].parameters())
    found["two groups"] = lambda model: torch.optim.RMSprop(
        [{"params": [*model[0].parameters()]}, {"params": [*model[2].parameters()], "lr": 1.0}], centered=True
    )
    found["somebody's own"] = lambda model: Kronecker(model.parameters())
    return found


@pytest.mark.parametrize(("name", "make"), every_optimizer().items(), ids=every_optimizer())
def test_it_is_that_of_the_state_after_a_step(name: str, make: Make) -> None:
    plan = plan_with(make)
    before = {key: tensor.clone() for key, tensor in plan.model.state_dict().items()}
    found = optimizer_memory(plan)
    assert found is not None
    assert all(torch.equal(before[key], tensor) for key, tensor in plan.model.state_dict().items())
    assert all(parameter.grad is None for parameter in plan.model.parameters())
    assert found.state == state_after_a_step(plan, sparse=name == "SparseAdam")


def test_what_a_step_holds_for_a_while_is_known_too() -> None:
    adam = optimizer_memory(plan_with(lambda model: torch.optim.Adam(model.parameters(), foreach=False)))
    plain = optimizer_memory(plan_with(lambda model: torch.optim.SGD(model.parameters(), lr=0.1)))
    largest = 4 * 50 * 60
    assert adam is not None
    assert largest <= adam.step <= 3 * largest
    assert plain == OptimizerMemory()


def test_that_of_lbfgs_is_that_of_its_whole_history() -> None:
    plan = plan_with(lambda model: torch.optim.LBFGS(model.parameters(), history_size=5))
    model = sum(parameter.numel() * 4 for parameter in plan.model.parameters())
    found = optimizer_memory(plan)
    assert found is not None
    assert 10 * model <= found.state <= 14 * model


def test_a_model_without_parameters_to_train_needs_none() -> None:
    plan = plan_with(lambda model: torch.optim.Adam(model.parameters()))
    for parameter in plan.model.parameters():
        parameter.requires_grad_(requires_grad=False)
    assert optimizer_memory(plan) == OptimizerMemory()


def unruly(model: torch.nn.Module) -> torch.optim.Optimizer:
    raise ValueError(model)


@pytest.mark.parametrize(
    "make", [unruly, lambda model: torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)]
)
def test_of_one_that_does_not_work_on_the_copy_nothing_is_said(make: Make) -> None:
    assert optimizer_memory(plan_with(make)) is None


def test_parameters_that_modules_share_count_once() -> None:
    class Tied(Plan):
        def init_model(self, model_args: Any) -> torch.nn.Module:
            model = torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.Linear(30, 30))
            model[1].weight = model[0].weight
            return model

    plan = Tied()
    plan.make = lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    plan.build({}, {"num_updates": 1})
    found = optimizer_memory(plan)
    assert found is not None
    assert found.state == 4 * (30 * 30 + 2 * 30)
