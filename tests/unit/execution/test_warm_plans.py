"""Plans that keep something beside their state: a warm worker, a new one and one that goes from node to node compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import fedjob
from fedjob import FedAvg, Plan, TorchPlan
from fedjob.execution.workbench import Workbench
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.function import Function
from fedjob.protocols.steps import Steps
from tests.hospital import Hospital


class Plain(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 2))

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD([item for item in model.parameters() if item.requires_grad], lr=0.1)

    def training_data(self, dataset, training_args):
        table = dataset.frame()
        return torch.tensor(table[["a", "b"]].to_numpy("float32")), torch.tensor(table["y"].to_numpy())

    def training_step(self, model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


class GradientsLeft(Plain):
    def train(self, model, data, training_args):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number, batch in enumerate(data):
            loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
            yield loss


class Counting(Plain):
    def init_model(self, model_args):
        self.losses = []
        return super().init_model(model_args)

    def training_step(self, model, batch):
        self.losses.append(1)
        model[1].p = min(0.9, model[1].p + 0.1)
        return super().training_step(model, batch) * len(self.losses)


class Freezing(Plain):
    def init_optimizer(self, model, training_args):
        model[0].weight.requires_grad_(self.ctx.round > 1)
        model[2].register_forward_hook(lambda layer, given, found: found * 0.5)
        return super().init_optimizer(model, training_args)


class Unsaved(Plain):
    def init_model(self, model_args):
        model = super().init_model(model_args)
        model.register_buffer("seen", torch.zeros(()), persistent=False)
        return model

    def training_step(self, model, batch):
        model.seen += 1
        return super().training_step(model, batch) * model.seen


class DataInPlace(Plain):
    def training_data(self, dataset, training_args):
        self.inputs, targets = super().training_data(dataset, training_args)
        return self.inputs, targets

    def training_step(self, model, batch):
        self.inputs.mul_(0.9)
        return super().training_step(model, batch)


class LargeInPlace(DataInPlace):
    def init_model(self, model_args):
        self.table = torch.ones(40_000)
        return super().init_model(model_args)

    def training_step(self, model, batch):
        self.table.mul_(1.5)
        return super().training_step(model, batch) * self.table[0]


class LargeInPlaceWithData(Plain):
    def init_model(self, model_args):
        self.table = torch.ones(40_000)
        return super().init_model(model_args)

    def training_data(self, dataset, training_args):
        self.table.mul_(1.5)
        return super().training_data(dataset, training_args)

    def training_step(self, model, batch):
        return super().training_step(model, batch) * self.table[0]


class Graph(Plain):
    def init_model(self, model_args):
        self.edges = torch.eye(4).to_sparse()
        return super().init_model(model_args)


class Noisy(Plain):
    def training_data(self, dataset, training_args):
        inputs, targets = super().training_data(dataset, training_args)

        class Augmented(torch.utils.data.Dataset):
            def __init__(self):
                self.rng = np.random.default_rng(0)

            def __len__(self):
                return len(inputs)

            def __getitem__(self, place):
                return inputs[place] + float(self.rng.normal()), targets[place]

        return Augmented()


class OwnOptimizer(Plain):
    def init_model(self, model_args):
        model = super().init_model(model_args)
        self.adam = torch.optim.Adam(model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.adam, 1, 0.5)
        return model

    def train(self, model, data, training_args):
        for batch in data:
            self.adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            self.adam.step()
            self.schedule.step()
            yield loss


class Around(Plain):
    def init_model(self, model_args):
        steps = 0

        def count():
            nonlocal steps
            steps += 1
            return steps

        self.count = count
        return super().init_model(model_args)

    def training_step(self, model, batch):
        return super().training_step(model, batch) * self.count()


class Default(Plain):
    def training_step(self, model, batch, seen=[]):  # noqa: B006 - what is kept so is set back, too
        seen.append(1)
        return super().training_step(model, batch) * len(seen)


CALLS: list[int] = []


class Keeping(Plan):
    """Keeps something on itself, on its class, among its globals, in a default and in the context."""

    totals: ClassVar[list[int]] = []

    def setup(self, ctx):
        self.drawn, self.seen, self.table = np.random.random(), [], ctx.data.frame()

    def step(self, ctx, calls=[]):  # noqa: B006
        for kept in (CALLS, calls, self.seen, self.totals):
            kept.append(1)
        self.more = ctx.more = getattr(self, "more", 0) + 1
        self.table["a"] += 1
        sizes = [len(CALLS), len(calls), len(self.seen), len(self.totals), self.more]
        return [*sizes, self.drawn, np.random.random(), float(self.table["a"].sum())]


class Failing(Plan):
    def setup(self, ctx):
        if ctx.args["fails"]:
            raise RuntimeError("the model is being written")
        self.state = "ready"

    def step(self, ctx):
        return self.state


class Sequential(Plan):
    steps = (Keeping, Keeping)


@fedjob.function
def keeping(dataset, ctx, calls=[]):  # noqa: B006
    CALLS.append(1)
    calls.append(1)
    ctx.more = getattr(ctx, "more", 0) + 1
    return [len(CALLS), len(calls), ctx.more, np.random.random()]


PLANS = (
    Default,
    Graph,
    Noisy,
    OwnOptimizer,
    Around,
    Plain,
    GradientsLeft,
    Counting,
    Freezing,
    Unsaved,
    DataInPlace,
    LargeInPlace,
    LargeInPlaceWithData,
)


def _hospital(folder: Path, seed: int) -> Hospital:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(40, 2)), columns=["a", "b"])
    return Hospital(folder, table.assign(y=(table["a"] > 0).astype(int)), 0)


def _rounds(hospital: Hospital, plan: type, bench: Workbench | None, **args: Any) -> dict[str, torch.Tensor]:
    params = hospital.first(plan, {}, {})
    for number in (1, 2, 3):
        given = {
            "num_updates": 3,
            "batch_size": 8,
            **{name: values[number - 1] for name, values in args.items()},
        }
        left = hospital.ask(FedAvg(), plan=plan, params=params, args=given, round_=number, bench=bench)
        assert left.params is not None
        params = {name: left.params[name].clone() for name in left.params}
    return params


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("args", [{}, {"batch_size": [8, 4, 8]}], ids=["", "data loaded anew"])
def test_a_warm_worker_and_a_new_one_for_each_round_end_in_the_same_bytes(
    plan: type, args: dict[str, Any], tmp_path: Path
) -> None:
    hospital = _hospital(tmp_path, 1)
    assert _same(_rounds(hospital, plan, None, **args), _rounds(hospital, plan, Workbench(), **args))


@pytest.mark.parametrize("plan", PLANS)
def test_what_a_plan_keeps_of_one_node_reaches_no_other_of_a_simulation(plan: type, tmp_path: Path) -> None:
    hospitals = [_hospital(tmp_path / name, seed) for seed, name in enumerate(("north", "south"))]
    bench = Workbench(one_plan=True)
    for hospital in (*hospitals, *hospitals):
        assert _same(_rounds(hospital, plan, None), _rounds(hospital, plan, bench))


OTHERS: dict[str, tuple[FederatedProtocol, str, Any]] = {
    "a plan of steps": (Steps(), "step", Keeping),
    "several of them": (Steps(), "step", Sequential),
    "a function": (Function(), "call", keeping),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_plan_of_another_kind_begins_each_step_as_its_first_one(kind: str, tmp_path: Path) -> None:
    protocol, step, plan = OTHERS[kind]
    hospital, bench = _hospital(tmp_path, 1), Workbench()
    for number in (1, 2, 3):
        warm, new = (
            hospital.ask(protocol, step, plan=plan, round_=number, bench=used)
            for used in (bench, Workbench())
        )
        assert warm.value is not None
        assert warm.value == new.value


BROUGHT = """
CALLS = []


class Counter:
    made = []

    def __init__(self):
        self.made.append(1)
        self.count = 0


COUNTER = Counter()


def count(seen=[]):
    CALLS.append(1)
    seen.append(1)
    Counter()
    COUNTER.count += 1
    return [len(CALLS), len(seen), len(Counter.made), COUNTER.count]
"""
BRINGING = """
from fedjob import Plan
from helpers import count


class Bringing(Plan):
    def step(self, ctx):
        return count()
"""


def test_what_a_module_that_travels_with_the_plan_keeps_is_set_back(tmp_path: Path) -> None:
    hospital, bench = _hospital(tmp_path / "hospital", 1), Workbench()
    (tmp_path / "helpers.py").write_text(BROUGHT, encoding="utf-8")
    (tmp_path / "bringing.py").write_text(BRINGING, encoding="utf-8")
    plan = f"{tmp_path / 'bringing.py'}:Bringing"
    values = [hospital.ask(Steps(), "step", plan=plan, round_=number, bench=bench).value for number in (1, 2)]
    assert values == [[1, 1, 2, 1]] * 2


def test_a_plan_whose_setup_failed_is_set_up_when_it_is_asked_again(tmp_path: Path) -> None:
    hospital, bench = _hospital(tmp_path, 1), Workbench()
    with pytest.raises(RuntimeError, match="is being written"):
        hospital.ask(Steps(), "step", plan=Failing, args={"fails": True}, bench=bench)
    assert hospital.ask(Steps(), "step", plan=Failing, args={"fails": False}, bench=bench).value == "ready"
