"""Simulated nodes that are trained at once end where they end one by one, and what can't be is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedjob import (
    Dirichlet,
    Ditto,
    FedAvg,
    FedBuff,
    FedProx,
    Fraction,
    Job,
    JobFailed,
    Protect,
    RecordDP,
    Scaffold,
    SpecError,
    Statistics,
    TorchPlan,
    simulate,
)
from fedjob.execution.allocator import give_back_freed_memory
from fedjob.researcher.simulation.opening import GROUP_BYTES, at_once
from fedjob.researcher.simulation.vectorisable import gains_nothing
from fedjob.researcher.simulation.vectorised import MAX_TOGETHER
from fedjob.training_plans.context import Context
from fedjob.training_plans.together.trial import StepCost, try_step
from tests.plans import Linear, Tiny

NUM_NODES = 7


class Perceptron(TorchPlan):
    """Two layers, one of them also used frozen, and an optimizer by name."""

    aux_modules = ("scaffold",)
    extra_args = ("kind",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
        model[0].bias.requires_grad_(not model_args.get("frozen", False))
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        kind, lr = training_args["kind"], training_args["lr"]
        if kind == "momentum":
            return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.05, nesterov=True)
        if kind == "groups":
            groups = [
                {"params": model[0].parameters(), "lr": lr},
                {"params": model[2].parameters(), "lr": lr / 2},
            ]
            return torch.optim.SGD(groups, lr=lr)
        return getattr(torch.optim, kind)(model.parameters(), lr=lr)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs).float(), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


class Convolutions(Perceptron):
    """A small CNN on the same numbers, as images of 1 x 2 x 2."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 2, 2)),
            torch.nn.Conv2d(1, 4, 2, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 2),
        )


class Augmented(Perceptron):
    """Draws random numbers for each example, from all three generators."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = super().training_data(dataset, training_args)
        return Noisy(inputs, targets)


class Noisy(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Examples with noise."""

    def __init__(self, inputs, targets):  # type: ignore[no-untyped-def]
        self.inputs, self.targets = inputs, targets

    def __len__(self):  # type: ignore[no-untyped-def]
        return len(self.targets)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        import random

        import numpy

        noise = torch.randn(4) * random.random() * numpy.random.rand()
        return self.inputs[place] + noise.float(), self.targets[place]


def pooled(num_rows: int = 150) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return inputs, (inputs.sum(axis=1) > 0).astype(np.int64)


def job_of(home: Path, operation: Any = "fedavg", *, vectorize: bool = True, **given: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Perceptron,
        "data": pooled(),
        "training_args": {"lr": 0.1, "epochs": 2, "batch_size": 8, "kind": "momentum"},
        "rounds": 3,
        "seed": 7,
        "selector": Fraction(0.7),
    }
    nodes = simulate(
        NUM_NODES, split=Dirichlet(1.0), workers=None if vectorize else 0, vectorize=vectorize, drop=0.1
    )
    return Job(operation, **{**arguments, "nodes": nodes, "home": home, **given})


def end_of(job: Job) -> dict[str, torch.Tensor]:
    job.run(progress=False)
    return load_file(job.folder / "result" / "params.safetensors")


def args(**more: Any) -> dict[str, Any]:
    return {"training_args": {"lr": 0.1, "epochs": 2, "batch_size": 8, "kind": "SGD", **more}}


EQUAL: dict[str, dict[str, Any]] = {
    "momentum and decay": {},
    "plain SGD": args(),
    "Adam": args(kind="Adam", lr=0.01),
    "AdamW": args(kind="AdamW", lr=0.01),
    "RMSprop": args(kind="RMSprop", lr=0.01),
    "Adagrad": args(kind="Adagrad", lr=0.01),
    "groups of parameters": args(kind="groups"),
    "clipping": args(clip_norm=0.3),
    "updates instead of epochs": {
        "training_args": {"lr": 0.1, "num_updates": 5, "batch_size": 8, "kind": "Adam"}
    },
    "a frozen layer": {"model_args": {"frozen": True}},
    "convolutions": {"training_plan": Convolutions, **args(lr=0.05)},
    "augmentation": {"training_plan": Augmented},
    "FedProx": {"operation": FedProx(mu=0.5)},
    "SCAFFOLD, option I": {"operation": Scaffold(option="I"), **args()},
    "SCAFFOLD, option II": {"operation": Scaffold(), **args()},
    "Ditto, which trains twice": {"operation": Ditto(), **args()},
    "a buffer": {"operation": FedBuff(k=2)},
    "validation": args(test_ratio=0.2, test_on_local_updates=True),
    "arguments of one node": {"each": {"node-0002": {"lr": 0.01}}},
}


@pytest.mark.parametrize("name", EQUAL)
def test_nodes_that_are_trained_at_once_end_where_they_end_one_by_one(name: str, tmp_path: Path) -> None:
    given = EQUAL[name]
    at_once_, one_by_one = (end_of(job_of(tmp_path, vectorize=way, **given)) for way in (True, False))
    assert at_once_.keys() == one_by_one.keys()
    for key, tensor in one_by_one.items():
        assert (at_once_[key] - tensor).abs().max() < 1e-5, key


def test_more_nodes_than_are_trained_at_once_end_in_the_same(tmp_path: Path) -> None:
    num_nodes = MAX_TOGETHER + 6
    given: dict[str, Any] = {"selector": "all", "rounds": 2, **args(epochs=1)}
    nodes = [simulate(num_nodes, vectorize=True), simulate(num_nodes, workers=0)]
    found, expected = (end_of(job_of(tmp_path, nodes=where, **given)) for where in nodes)
    assert all((found[key] - expected[key]).abs().max() < 1e-5 for key in expected)


class Drops(Perceptron):
    """Has dropout."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))


class DropsInItsStep(Perceptron):
    """Has dropout without a layer."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs = torch.nn.functional.dropout(batch[0], 0.5)
        return torch.nn.functional.cross_entropy(model(inputs), batch[1])


class DrawsByNumpy(Perceptron):
    """Draws outside of torch."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        import numpy

        return super().training_step(model, batch) * float(numpy.random.rand())


class Decides(Perceptron):
    """Has a step that goes by the values."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        loss = super().training_step(model, batch)
        return loss * 2 if loss > 0.1 else loss


class Counts(Perceptron):
    """Has a step that counts."""

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        self.steps = 0
        return super().init_optimizer(model, training_args)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        self.steps += 1
        return super().training_step(model, batch)


class Weighs(Perceptron):
    """Keeps something of a node's data."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        self.share = float(dataset.arrays()[1].mean())
        return super().training_data(dataset, training_args)


class KnowsItsNode(Perceptron):
    """Has a step that depends on the node."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return super().training_step(model, batch) * (1 + self.num_train)


class Remembers(Perceptron):
    """Has a step that depends on the node's own state."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return super().training_step(model, batch) * self.ctx.state.get("factor", 1)


class OwnLoop(Perceptron):
    """Trains in a loop of its own."""

    def train_locally(self, adjust=None):  # type: ignore[no-untyped-def]
        return super().train_locally(adjust)


class Lbfgs(Perceptron):
    """Has an optimizer that looks at all parameters."""

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.LBFGS(model.parameters())


class Renormed(Perceptron):
    """Has a layer that shortens the rows that it looks up, though none is too long yet."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        words = torch.nn.Embedding(10, 4, max_norm=100.0)
        return torch.nn.Sequential(words, torch.nn.Flatten(), torch.nn.Linear(16, 2))

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = super().training_data(dataset, training_args)
        return inputs.round().clamp(-4, 4).long() + 4, targets


class DecidesAfterTheFirst(Decides):
    """Can't load the data of the first node."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        if self.ctx.node == "node-0001":
            raise ValueError("this node is broken")
        return super().training_data(dataset, training_args)


class Detached(Perceptron):
    """Has a step that stands still at a copy of the parameters."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        first = model[0].weight.data
        return super().training_step(model, batch) + (first * model[0].weight).sum()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"training_plan": Drops}, r"layer 1 \(Dropout\) draws random numbers.*probability to 0"),
    "dropout in the step": ({"training_plan": DropsInItsStep}, "training_step draws random numbers"),
    "numpy in the step": ({"training_plan": DrawsByNumpy}, "training_step draws random numbers"),
    "batch norm": (
        {"training_plan": Tiny, "training_args": {"lr": 0.1, "num_updates": 2}},
        r"layer 1 \(BatchNorm1d\) keeps running means.*GroupNorm",
    ),
    "decisions": ({"training_plan": Decides}, r"by the values of tensors.*torch\.where"),
    "decisions, where the first node has no data": (
        {"training_plan": DecidesAfterTheFirst},
        "by the values of tensors",
    ),
    "counting": ({"training_plan": Counts}, r"training_step changes self\.steps"),
    "writing to a parameter": (
        {"training_plan": Renormed},
        r"training_step writes to .* parameter 0\.weight",
    ),
    "what loading keeps": ({"training_plan": Weighs}, r"training_data changes self\.share"),
    "numbers of the node": (
        {"training_plan": KnowsItsNode},
        "training_step reads self.dataset or self.num_train",
    ),
    "state of the node": ({"training_plan": Remembers}, r"training_step reads self\.ctx\.state"),
    "a loop": ({"training_plan": OwnLoop}, r"OwnLoop\.train_locally is a loop"),
    "L-BFGS": ({"training_plan": Lbfgs}, "its optimizer, LBFGS.*SGD"),
    "privacy of records": (
        {
            "training_plan": Linear,
            "training_args": {"lr": 0.1, "num_updates": 2},
            "protect": Protect(dp=RecordDP(epsilon=8.0, delta=1e-3, max_grad_norm=1.0)),
        },
        "privacy of records",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_trained_at_once_is_refused_before_the_first_round(name: str, tmp_path: Path) -> None:
    given, words = REFUSED[name]
    job = job_of(tmp_path, **given)
    with pytest.raises(JobFailed, match=words) as found:
        job.run(progress=False)
    assert "leave vectorize=True out" in str(found.value)
    assert job.record.participants == {}


def test_a_job_without_a_plan_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"age": range(20)})
    job = Job(Statistics(mean="age"), data=table, nodes=simulate(3, vectorize=True), home=tmp_path)
    with pytest.raises(JobFailed, match="jobs that train a TorchPlan"):
        job.run(progress=False)


class FailsAtOne(Perceptron):
    """Has a target that is out of range at one node, and a number that is not finite at another."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = super().training_data(dataset, training_args)
        if self.ctx.node == "node-0002":
            targets = targets + 5
        if self.ctx.node == "node-0003":
            inputs = inputs * float("nan")
        return inputs, targets


def test_a_node_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    from fedjob import Quorum

    given = {"training_plan": FailsAtOne, "quorum": Quorum(min_nodes=2), "selector": "all", "rounds": 1}
    nodes = [simulate(NUM_NODES, vectorize=True), simulate(NUM_NODES, workers=0)]
    found, expected = (end_of(job_of(tmp_path, nodes=where, **given)) for where in nodes)
    assert all((found[key] - expected[key]).abs().max() < 1e-5 for key in expected)


def test_processes_and_clusters_are_not_for_it() -> None:
    with pytest.raises(SpecError, match="found workers=2"):
        simulate(4, vectorize=True, workers=2)
    with pytest.raises(SpecError, match="found backend='ray'"):
        simulate(4, vectorize=True, backend="ray")


def test_as_many_are_trained_at_once_as_memory_bears() -> None:
    assert at_once(10_000, 0, GROUP_BYTES) == MAX_TOGETHER
    assert at_once(1 << 20, 0, GROUP_BYTES) == 10
    assert at_once(1 << 20, 0, 64 << 30) == MAX_TOGETHER
    assert at_once(600_000, 3 << 20, GROUP_BYTES) == 6
    assert at_once(1 << 40, 0, 1 << 30) == 1


def test_a_job_says_where_worker_processes_would_be_quicker() -> None:
    slower = [StepCost(alone_s=0.008, together_s=0.0095)]
    words = gains_nothing(slower, 2)
    assert words.startswith(
        "vectorize=True is slower on this machine: a step takes 9.5 ms a node trained with others, 4 ms"
    )
    assert "in 2 worker processes. Leave vectorize=True out" in words
    assert gains_nothing([StepCost(alone_s=0.008, together_s=0.002)], 2) == ""
    assert gains_nothing([StepCost(device="cuda", alone_s=0.008, together_s=0.0095)], 2) == ""
    assert gains_nothing([], 2) == ""


class Pictures(TorchPlan):
    """A convolution, which is not quicker at many nodes at once."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 26 * 26, 2)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(model(inputs), labels)


def test_the_trial_finds_what_a_step_keeps_and_takes() -> None:
    plan = Pictures()
    plan.ctx = Context(node="node-1", round=1, job_seed=1, seed=1)
    plan.build({}, {"lr": 0.1, "batch_size": 10})
    inputs, labels = torch.zeros(20, 1, 28, 28), torch.zeros(20, dtype=torch.int64)
    before = {name: tensor.clone() for name, tensor in plan.model.state_dict().items()}
    plan.load_data(SimpleNamespace(arrays=lambda: (inputs, labels)))
    cost = try_step(plan)
    maps_bytes = 10 * 8 * 26 * 26 * 4  # what the convolution gives, which the linear layer keeps
    assert maps_bytes <= cost.saved_bytes < 2 * maps_bytes
    assert cost.alone_s > 0
    assert cost.together_s > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in plan.model.state_dict().items())


def test_the_profile_shares_the_time_of_a_group_out(tmp_path: Path) -> None:
    job = job_of(tmp_path, operation=FedAvg())
    profile = job.run(progress=False).profile.set_index("stage")["seconds"]
    assert 0 < profile["compute"] <= profile["wait"]


class Images(Perceptron):
    """A CNN, whose activations take more than its parameters."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        layers = torch.nn
        return layers.Sequential(
            layers.Conv2d(3, 32, 3),
            layers.ReLU(),
            layers.MaxPool2d(2),
            layers.Conv2d(32, 32, 3),
            layers.ReLU(),
            layers.MaxPool2d(2),
            layers.Flatten(),
            layers.Linear(1152, 10),
        )


def private_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def test_what_was_trained_at_once_leaves_little_memory_that_could_be_given_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(size=(140, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, size=140)
    given = {"data": data, "training_plan": Images, "rounds": 1, "selector": "all", **args(batch_size=20)}
    job_of(tmp_path, **given).run(progress=False)
    before = private_mb()
    give_back_freed_memory()
    assert before - private_mb() < 8
