"""Settings count or are refused by name: training arguments that nothing reads, clipping, a GPU that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import FedAvg, Job, QFedAvg, TorchPlan
from fedjob.common.errors import NoTestingStep, PlanError, SpecError
from fedjob.training_plans.context import Context
from fedjob.training_plans.plan_checks import check_plan_class
from fedjob.training_plans.source.used_args import unread_args

ARRAYS = (np.ones((8, 2), dtype=np.float32), np.full((8, 1), 100.0, dtype=np.float32))


class Fixed(TorchPlan):
    """Reads no argument."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.0)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays() if hasattr(dataset, "arrays") else dataset

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1].reshape(-1, 1).float())


class Adaptive(Fixed):
    """Reads its learning rate, and has a memory."""

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=training_args["lr"])


class Empty(Fixed):
    """Has a model without parameters."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        class Sums(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.sum(1, keepdim=True)

        return Sums()


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    np.savez(tmp_path / "d.npz", x=ARRAYS[0], y=ARRAYS[1][:, 0])
    return {"a": str(tmp_path / "d.npz")}


def job(data: dict[str, str], home: Path, plan: type = Fixed, protocol: Any = None, **more: Any) -> Job:
    return Job(
        protocol or FedAvg(), training_plan=plan, data=data, nodes="local", rounds=1, home=home, **more
    )


def built(cls: type[TorchPlan], args: dict[str, Any], events: list[Any] | None = None, **ctx: Any) -> Any:
    plan = cls()
    send = (
        (lambda type_, body: events.append((type_, body))) if events is not None else lambda type_, body: None
    )
    plan.ctx = Context(node="a", round=1, job_seed=3, seed=11, send=send, **ctx)
    plan.build(None, args)
    plan.load_data(ARRAYS)
    return plan


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum", "optimizer", "gamma"])
def test_an_argument_that_nothing_reads_is_refused_when_the_job_is_made(
    data: dict[str, str], tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match=f"'{name}' would have no effect, because Fixed never reads it"):
        job(data, tmp_path, training_args={name: "adam" if name == "optimizer" else 0.1})
    with pytest.raises(SpecError, match=f"'{name}' would have no effect"):
        job(data, tmp_path, each={"a": {name: "adam" if name == "optimizer" else 0.1}})


def test_an_argument_counts_as_read_where_the_plan_or_the_protocol_reads_it(
    data: dict[str, str], tmp_path: Path
) -> None:
    job(data, tmp_path, Adaptive, training_args={"lr": 0.1, "clip_norm": 1.0})
    job(data, tmp_path, protocol=QFedAvg(q=1.0), training_args={"lr": 0.1})


READS = {
    "subscript": 'def init_optimizer(self, model, training_args):\n    return training_args["lr"]\n',
    "another name": 'def init_optimizer(self, model, args):\n    return args.get("lr", 1)\n',
    "the attribute": 'def training_step(self, model, batch):\n    return self.training_args["lr"]\n',
    "all of them": "def init_optimizer(self, model, args):\n    return SGD(**args)\n",
    "handed on": "def init_optimizer(self, model, training_args):\n    return make(model, training_args)\n",
    "by a loop": 'def init_optimizer(self, model, a):\n    return [a[n] for n in ("l" + "r", "b")]\n',
}


@pytest.mark.parametrize("text", READS.values(), ids=READS)
def test_every_way_to_read_an_argument_counts(text: str) -> None:
    assert unread_args(text, ["lr"]) == []


def test_a_keyword_or_a_read_of_others_is_no_read() -> None:
    text = 'def init_optimizer(self, model, args):\n    return SGD(lr=0.1, x=args["eps"], y=args.get("b"))\n'
    assert unread_args(text, ["lr", "eps"]) == ["lr"]
    assert unread_args("def f(self):\n    return self.training_args.epochs\n", ["lr"]) == ["lr"]


def test_metrics_without_a_testing_step_are_refused_when_the_job_is_made(
    data: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(NoTestingStep, match="asks for accuracy, and Fixed measures the loss alone"):
        job(data, tmp_path, training_args={"test_metric": "accuracy", "test_ratio": 0.5})


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ("training_routine", "training_step"),
        ("testing_routine", "testing_step"),
        ("init_dependencies", "imports stand at the top"),
        ("after_training_params", "the protocol or the aggregator"),
    ],
)
def test_a_method_that_would_never_be_called_is_not_ignored(method: str, advice: str) -> None:
    routine = type("Routine", (Fixed,), {method: lambda self: None})
    with pytest.raises(PlanError, match=rf"{method} would never be called: .*{advice}"):
        check_plan_class(routine)


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    moved = []
    for args in ({}, {"clip_norm": 0.5}):
        plan = built(Fixed, {**args, "batch_size": 8})
        before = torch.cat([p.detach().clone().ravel() for p in plan.model.parameters()])
        plan.train_locally()
        moved.append(
            (torch.cat([p.detach().ravel() for p in plan.model.parameters()]) - before).norm().item()
        )
    assert moved[0] > 1
    assert moved[1] == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_a_gpu_that_is_not_there_is_noted() -> None:
    events: list[Any] = []
    built(Fixed, {"use_gpu": True}, events, gpu_share=0.0).train_locally()
    assert (
        "note",
        {
            "text": "use_gpu=True, but the job holds no GPU of this node: ask for one with resources={'gpus': 1}, if its "
            "owner lends any: training on the CPU",
            "of_result": True,
        },
    ) in events
    events.clear()
    built(Fixed, {}, events).train_locally()
    assert not [type_ for type_, _ in events if type_ == "note"]


@pytest.mark.feature("FB-64", "FB-67")
def test_what_the_optimizer_used_is_reported_per_group() -> None:
    class Two(Fixed):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            weight, bias = model.parameters()
            return torch.optim.Adam([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2}])

    plan = built(Two, {})
    assert plan.optimizer_args == {}
    plan.train_locally()
    found = plan.optimizer_args
    assert (found["optimizer"], found["device"]) == ("Adam", "cpu")
    assert [(group["lr"], group["betas"]) for group in found["groups"]] == [
        (0.1, [0.9, 0.999]),
        (0.2, [0.9, 0.999]),
    ]


@pytest.mark.feature("FB-57")
def test_the_same_round_with_and_without_its_state_differ() -> None:
    plan = built(Adaptive, {"lr": 0.1, "batch_size": 2})
    plan.train_locally()
    params, state = plan.get_params(), plan.get_state()

    def second_round(kept: Any) -> Any:
        plan.ctx.round = 2
        plan.start_step({"lr": 0.1, "batch_size": 2})
        plan.set_state(kept)
        plan.set_params(params)
        plan.train_locally()
        return plan.get_params()

    with_state, without = second_round(state), second_round(None)
    assert torch.equal(second_round(state)["weight"], with_state["weight"])
    assert not torch.equal(with_state["weight"], without["weight"])


@pytest.mark.feature("FB-73")
@pytest.mark.parametrize("init", [None, {}])
def test_a_plan_without_parameters_is_a_valid_job_that_trains_nothing(
    data: dict[str, str], tmp_path: Path, init: Any
) -> None:
    made = job(
        data, tmp_path, Empty, init=init, training_args={"test_ratio": 0.5, "test_on_local_updates": True}
    )
    result = made.run(progress=False)
    assert made.state == "completed"
    assert list(result.value) == []
    assert {"train", "after"} <= set(result.history.phase)


def test_a_plan_that_can_not_be_built_names_the_users_own_line(data: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom fedjob import TorchPlan\n# a remark\n\nUNUSED = 1\n\n\nclass Mine(TorchPlan):\n"
        "    def init_model(self, model_args):\n        return torch.nn.Linear(model_args['width'], 1)\n"
        "    def init_optimizer(self, model, training_args): ...\n"
        "    def training_data(self, dataset, training_args): ...\n"
        "    def training_step(self, model, batch): ...\n"
    )
    with pytest.raises(PlanError, match=rf"KeyError at {path}, line 10"):
        job(data, tmp_path, f"{path}:Mine")  # type: ignore[arg-type]
