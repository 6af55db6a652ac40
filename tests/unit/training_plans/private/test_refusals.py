"""What can't be private is refused by name before anything leaves, with what to use instead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from fedjob import TorchPlan
from fedjob.common.errors import NotPrivate, SpecError
from fedjob.training_plans.plan_checks import check_driven
from fedjob.training_plans.private_terms import check_training_args
from fedjob.training_plans.training_args import TrainingArgs
from tests.private_training import Rows, built, points


class Classes(TorchPlan):
    """Three classes of points; what its tests change is one method each."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


def ready(plan: TorchPlan, **changes: Any) -> Any:
    return built(plan, points(classes=3), **changes)


# --- models and optimizers ------------------------------------------------------------------------------


def with_layer(layer: Any) -> type[Classes]:
    class Layered(Classes):
        def init_model(self, model_args: Any) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Linear(3, 8), layer(), torch.nn.Linear(8, 3))

    return Layered


def with_optimizer(make: Any) -> type[Classes]:
    class Optimized(Classes):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            found: torch.optim.Optimizer = make(model)
            return found

    return Optimized


class ComplexLayer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = torch.nn.Parameter(torch.ones(8, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.turn).real


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (with_layer(lambda: torch.nn.BatchNorm1d(8)), r"BatchNorm1d.*GroupNorm or LayerNorm"),
        (with_layer(lambda: torch.nn.SyncBatchNorm(8)), r"SyncBatchNorm.*GroupNorm or LayerNorm"),
        (
            with_layer(lambda: torch.nn.InstanceNorm1d(8, track_running_stats=True)),
            "track_running_stats=False",
        ),
        (with_layer(ComplexLayer), "is complex"),
        (with_optimizer(lambda model: torch.optim.LBFGS(model.parameters())), "use SGD or Adam"),
        (with_optimizer(lambda model: torch.optim.SparseAdam(list(model.parameters()))), "use Adam"),
        (
            with_optimizer(lambda model: torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)),
            "no parameter of the model",
        ),
    ],
)
def test_a_model_or_an_optimizer_that_cant_be_private_is_refused_when_it_is_built(
    plan: type[Classes], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        ready(plan(), load=False).check_private()


class Cells(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.long = torch.nn.LSTM(8, 8, batch_first=True)
        self.short = torch.nn.GRU(8, 8, batch_first=True)
        self.mix = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.short(self.long(x[:, None])[0])[0]
        found: torch.Tensor = self.mix(out, out, out)[0][:, 0]
        return found


@pytest.mark.parametrize(
    "layer",
    [
        Cells,
        lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 8)),
        lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.LayerNorm(8)),
    ],
    ids=["recurrent cells and attention", "weight norm", "transformer", "dropout and layer norm"],
)
def test_layers_that_keep_nothing_of_records_are_taken(layer: Any) -> None:
    class Layered(Classes):
        def init_model(self, model_args: Any) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Linear(3, 8), layer(), torch.nn.Linear(8, 3))

        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            x = model[0](batch[0])  # type: ignore[index]
            x = (
                model[1](x[:, None])[:, 0]
                if isinstance(model[1], torch.nn.TransformerEncoderLayer)
                else model[1](x)
            )  # type: ignore[index]
            return F.cross_entropy(model[2](x), batch[1])  # type: ignore[index]

    assert ready(Layered()).train_locally().num_updates == 3


# --- plans that take the place of what adds the noise -----------------------------------------------------


class OwnUpdate(Classes):
    def _update(self, batch: Any, adjust: Any) -> float:
        return 0.0


class OwnParams(Classes):
    def get_params(self, *, copy: bool = True) -> Any:
        return super().get_params(copy=copy)


class OwnState(Classes):
    def get_state(self) -> Any:
        return {}


class OwnSteps(Classes):
    def _take_private_steps(self, private: Any, adjust: Any) -> None:
        return


class OwnCheck(Classes):
    def check_private(self) -> None:
        return


class OwnTrain(Classes):
    def train_locally(self, adjust: Any = None) -> Any:
        return super().train_locally(adjust)


class Hidden(Classes):
    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


class OwnLoop(Classes):
    _each_update = None  # type: ignore[assignment]


class WithChildren(Classes):
    launches = (len,)


@pytest.mark.parametrize(
    "plan",
    [OwnUpdate, OwnParams, OwnState, OwnSteps, OwnCheck, OwnTrain, Hidden, OwnLoop, WithChildren],
    ids=lambda plan: plan.__name__,
)
def test_a_plan_with_a_part_of_its_own_in_the_place_of_fedjobs_is_refused(plan: type[Classes]) -> None:
    with pytest.raises(NotPrivate, match=r"under differential privacy|without noise"):
        check_driven(plan)


def test_methods_and_attributes_of_other_names_are_the_plans_own_affair() -> None:
    class More(Classes):
        extra_args = ("margin",)
        requires = ("numpy",)
        weights = (1.0, 2.0, 3.0)

        def __init__(self) -> None:
            self.anything = 3

        def helper(self) -> int:
            return 1

        def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
            return model(batch[0]).argmax(1), batch[1]

    assert ready(More()).train_locally().num_updates == 3


# --- losses of batches of one ------------------------------------------------------------


def with_loss(loss: Any) -> type[Classes]:
    class Lossy(Classes):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            found: torch.Tensor = loss(model(batch[0]), batch[1])
            return found

    return Lossy


def by_share(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weights = 1 / torch.bincount(labels, minlength=3).clamp(min=1)
    return (F.cross_entropy(scores, labels, reduction="none") * weights[labels]).sum()


COUPLED = {
    "weights that are divided by their sum": lambda s, y: F.cross_entropy(
        s, y, weight=torch.tensor([1.0, 5, 9])
    ),
    "shares of labels in the batch": by_share,
    "the largest loss": lambda s, y: F.cross_entropy(s, y, reduction="none").max() * 3 + s.sum() * 0,
    "a norm of all losses": lambda s, y: F.cross_entropy(s, y, reduction="none").norm(),
    "a contrast of pairs": lambda s, y: F.cross_entropy(s @ s.T / 3, torch.arange(len(s))),
    "scores less their mean": lambda s, y: F.cross_entropy(s - s.mean(0), y),
    "a loss by the mean loss": lambda s, y: F.cross_entropy(s, y) ** 2 * 50,
}


@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_that_would_couple_records_sees_one_at_a_time_and_nobody_is_told(name: str) -> None:
    """A check of it would look at losses, and its outcome would tell of them."""
    seen = []

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> Any:
        seen.append(len(labels))
        return COUPLED[name](scores, labels)

    assert ready(with_loss(loss)()).train_locally().num_updates == 3
    assert set(seen) == {1}


ALONE = {
    "mean": lambda s, y: F.cross_entropy(s, y),
    "sum": lambda s, y: F.cross_entropy(s, y, reduction="sum"),
    "known weights": lambda s, y: (
        F.cross_entropy(s, y, reduction="none") * torch.tensor([1.0, 5, 9])[y]
    ).mean(),
    "two terms": lambda s, y: F.cross_entropy(s, y) + 0.1 * s.square().mean(),
    "zero": lambda s, y: (s * 0).sum(),
    "random": lambda s, y: F.cross_entropy(s + torch.randn_like(s), y),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_loss_of_single_records_is_taken(name: str) -> None:
    assert ready(with_loss(ALONE[name])()).train_locally().num_updates == 3


def test_a_loss_that_couples_records_in_training_alone_still_moves_by_the_bound() -> None:
    """Records are computed one by one, so what the check can't see can't break the bound."""

    class Sly(Classes):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
            assert len(losses) == 1 or not model.training
            return losses.max() if model.training else losses.mean()

    assert ready(Sly()).train_locally().num_updates == 3


def test_a_step_that_cant_take_one_record_raises_its_own_error() -> None:
    class Squeezed(Classes):
        def init_model(self, model_args: Any) -> torch.nn.Module:
            return torch.nn.Linear(3, 1)

        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(), batch[1].float())

    with pytest.raises(ValueError, match="size"):
        ready(Squeezed()).train_locally()


def test_an_error_of_the_plans_own_comes_through() -> None:
    class Broken(Classes):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ready(Broken()).train_locally()


# --- what would carry records past the noise --------------------------------------------------------------


class WritesParameter(Classes):
    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        model[0].weight.data[0, 0] = batch[0].mean()
        return super().training_step(model, batch)


class WritesBuffer(Classes):
    def init_model(self, model_args: Any) -> torch.nn.Module:
        model = super().init_model(model_args)
        model.register_buffer("seen", torch.zeros(()))
        return model

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        model.seen += batch[0].sum().detach()
        return super().training_step(model, batch)


class KeepsNumber(Classes):
    calls = 0.0

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.calls += 1.0
        return super().training_step(model, batch)


class KeepsList(Classes):
    def __init__(self) -> None:
        self.losses: list[Any] = []

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        loss = super().training_step(model, batch)
        self.losses.append(loss.detach())
        return loss


class KeepsArray(Classes):
    def __init__(self) -> None:
        self.sums = np.zeros(3)

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.sums += batch[0].sum(0).numpy()
        return super().training_step(model, batch)


class KeepsTensor(Classes):
    def __init__(self) -> None:
        self.centre = torch.zeros(3)

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.centre += batch[0].mean(0)
        return super().training_step(model, (batch[0] - self.centre, batch[1]))


class KeepsState(Classes):
    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.ctx.state["worst"] = 1.0
        return super().training_step(model, batch)


class Remembers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.before = torch.nn.Linear(3, 3), 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.before = self.before + 1.0
        found: torch.Tensor = self.layer(x)
        return found


class KeepsInModel(Classes):
    def init_model(self, model_args: Any) -> torch.nn.Module:
        return Remembers()


class KeepsInTorchsLayer(Classes):
    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        model[0].seen = getattr(model[0], "seen", 0) + 1
        return super().training_step(model, batch)


class KeepsInClass(Classes):
    count = 0

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        type(self).count += 1
        return super().training_step(model, batch)


SEEN: dict[str, float] = {}


class KeepsInItsModule(Classes):
    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        SEEN["calls"] = SEEN.get("calls", 0.0) + 1.0
        return super().training_step(model, batch)


class Memory:
    def __init__(self) -> None:
        self.calls, self.last = 0, deque([0.0], maxlen=1)


class KeepsInAnObject(Classes):
    def __init__(self) -> None:
        self.memory = Memory()

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.memory.calls += 1
        return super().training_step(model, batch)


class KeepsInAQueue(Classes):
    def __init__(self) -> None:
        self.memory = Memory()

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.memory.last.append(self.memory.last[0] + 1.0)
        return super().training_step(model, batch)


class KeepsInOtherTensor(Classes):
    def __init__(self) -> None:
        self.centre = torch.zeros(3)

    def training_step(self, model: Any, batch: Any) -> torch.Tensor:
        self.centre.data.add_(1.0)  # counts no version
        return super().training_step(model, batch)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (WritesParameter, "0.weight of the model"),
        (WritesBuffer, "seen of the model"),
        (KeepsNumber, r"self\.calls"),
        (KeepsList, r"self\.losses"),
        (KeepsArray, r"self\.sums"),
        (KeepsTensor, r"self\.centre"),
        (KeepsState, r"self\.ctx\.state\['worst'\]"),
        (KeepsInModel, r"model\.before"),
        (KeepsInTorchsLayer, r"model\.0\.seen"),
        (KeepsInClass, r".*KeepsInClass\.count"),
        (KeepsInItsModule, r".*\.SEEN"),
        (KeepsInAnObject, r"self\.memory"),
        (KeepsInAQueue, r"self\.memory"),
        (KeepsInOtherTensor, r"self\.centre"),
    ],
)
def test_a_step_that_keeps_something_of_a_record_is_refused(plan: type[Classes], words: str) -> None:
    with pytest.raises(NotPrivate, match=f"changes {words}"):
        ready(plan()).train_locally()


# --- data that depend on each other -----------------------------------------------------------------------


def with_data(make: Any) -> type[Classes]:
    class Loaded(Classes):
        def training_data(self, dataset: Any, training_args: Any) -> Any:
            return make(self, *dataset.arrays())

    return Loaded


class Lazy(Dataset[Any]):
    def __init__(self, inputs: Any, targets: Any, *, centred: bool = False) -> None:
        self.inputs, self.targets = inputs - (inputs.mean(0) if centred else 0), targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> Any:
        return torch.as_tensor(self.inputs[place]), int(self.targets[place])


class Flowing(IterableDataset[Any]):
    def __init__(self, inputs: Any, targets: Any) -> None:
        self.pairs = list(zip(inputs, targets, strict=True))

    def __iter__(self) -> Iterator[Any]:
        yield from ((torch.as_tensor(x)[None], torch.as_tensor([int(y)])) for x, y in self.pairs)


def keeping(change: Any) -> Any:
    """Return data as they are, after a change of the plan."""

    def load(plan: Any, x: Any, y: Any) -> Any:
        change(plan, x, y)
        return x, y

    return load


def keeping_object(plan: Any, x: Any, y: Any) -> Any:
    from sklearn.preprocessing import StandardScaler

    plan.scaler = StandardScaler().fit(x)
    return x, y


def kept_in_a_function(plan: Any, x: Any, y: Any) -> None:
    mean = x.mean(0)
    plan.centred = lambda inputs: inputs - mean


KEPT = {
    "shares": (
        lambda plan, x, y: setattr(plan, "weights", np.bincount(y, minlength=3) / len(y)),
        r"self\.weights",
    ),
    "fixed numbers": (lambda plan, x, y: setattr(plan, "weights", np.ones(3)), r"self\.weights"),
    "a number of rows": (lambda plan, x, y: setattr(plan, "rows", len(x)), r"self\.rows"),
    "a function that remembers": (kept_in_a_function, r"self\.centred"),
    "an attribute of the model": (lambda plan, x, y: setattr(plan.model, "mean", x.mean(0)), r"model\.mean"),
    "an attribute of torch's layer": (
        lambda plan, x, y: setattr(plan.model[0], "mean", x.mean(0)),
        r"model\.0\.mean",
    ),
    "a parameter": (
        lambda plan, x, y: plan.model[0].weight.data.copy_(torch.as_tensor(x[:8])),
        r"0\.weight of the model",
    ),
    "a new buffer": (
        lambda plan, x, y: plan.model.register_buffer("mean", torch.as_tensor(x.mean(0))),
        "mean|gives the model mean",
    ),
    "a hook": (
        lambda plan, x, y: plan.model[0].register_forward_pre_hook(
            lambda module, args: (args[0] - x.mean(),)
        ),
        r"model\.0\._forward_pre_hooks",
    ),
    "the state": (lambda plan, x, y: plan.ctx.state.update(mean=float(x.mean())), r"self\.ctx\.state"),
    "the context": (lambda plan, x, y: setattr(plan.ctx, "mean", float(x.mean())), r"self\.ctx\.mean"),
    "the class": (lambda plan, x, y: setattr(type(plan), "mean", x.mean(0)), r".*Loaded\.mean"),
    "the module": (lambda plan, x, y: SEEN.update(mean=float(x.mean())), r".*\.SEEN"),
}


@pytest.mark.parametrize("name", KEPT)
def test_training_data_changes_nothing_but_what_it_returns(name: str) -> None:
    change, words = KEPT[name]
    with pytest.raises(NotPrivate, match=f"training_data (changes|gives the model) ({words})"):
        ready(with_data(keeping(change))())


def test_a_dataset_of_several_tables_is_refused_before_the_plan_sees_it() -> None:
    class Joined(Classes):
        def training_data(self, dataset: Any, training_args: Any) -> Any:
            raise AssertionError("it reads the other table, whose rows have no epsilon")

    data: Any = points(classes=3)
    data.assets = {"patients": data, "visits": points(classes=3)}
    with pytest.raises(NotPrivate, match=r"dataset\.assets has no place.*patients, visits"):
        built(Joined(), data)


def sampled(plan: Any, x: Any, y: Any) -> Any:
    tensors = TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    return DataLoader(tensors, batch_size=20, sampler=WeightedRandomSampler([1.0] * len(x), len(x)))


DEPENDENT = {
    "a mean of all": (lambda plan, x, y: (x - x.mean(0), y), "depends|another example"),
    "a spread of all": (lambda plan, x, y: (x / x.std(0), y), "another example"),
    "a largest value": (lambda plan, x, y: (x / np.abs(x).max(), y), "another example"),
    "ranks": (lambda plan, x, y: (np.argsort(np.argsort(x, axis=0), axis=0) * 1.0, y), "another example"),
    "the row before": (
        lambda plan, x, y: (np.column_stack([x, np.roll(x, 1, 0)])[:, :3] + np.roll(x, 1, 0), y),
        "another",
    ),
    "one column for each value": (
        lambda plan, x, y: (np.equal.outer(x[:, 0], x[:, 0]) * 1.0, y),
        "another example",
    ),
    "labels by their share": (
        lambda plan, x, y: (x, (y == np.bincount(y).argmax()) * len(y)),
        "another example",
    ),
    "several examples of a row": (
        lambda plan, x, y: (np.repeat(x, 2, 0), np.repeat(y, 2)),
        "160 examples of 80",
    ),
    "an object that learned": (keeping_object, r"changes self\.scaler"),
    "a dataset that centres": (lambda plan, x, y: Lazy(x, y, centred=True), "another one"),
    "a dataset of pairs of rows": (
        lambda plan, x, y: Lazy(np.repeat(x, 2, 0), np.repeat(y, 2)),
        "160 examples",
    ),
    "a dataset that leaves out rows": (
        lambda plan, x, y: Lazy(x[x[:, 0] > 0], y[x[:, 0] > 0]),
        "one for each record",
    ),
    "a sampler": (sampled, "sampler of its own"),
    "a stream": (lambda plan, x, y: Flowing(x, y), "iterable dataset"),
    "a generator": (
        lambda plan, x, y: ((torch.as_tensor(x), torch.as_tensor(y)) for _ in range(3)),
        "generator",
    ),
    "batches of another size": (lambda plan, x, y: DataLoader(Lazy(x, y), batch_size=5), "batch_size=5"),
    "rows that have to be 80": (lambda plan, x, y: (x, y) if len(x) == 80 else 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_examples_that_depend_on_other_records_are_refused(name: str) -> None:
    make, words = DEPENDENT[name]
    with pytest.raises(NotPrivate, match=words):
        ready(with_data(make)())


def shuffled(plan: Any, x: Any, y: Any) -> Any:
    order = np.random.permutation(len(x))
    return x[order], y[order]


INDEPENDENT = {
    "as they are": lambda plan, x, y: (x, y),
    "fixed numbers": lambda plan, x, y: ((x - 0.3) / 1.7, y),
    "functions of a row": lambda plan, x, y: (np.exp(x) / (1 + (x**2).sum(1, keepdims=True)), y),
    "fewer rows": lambda plan, x, y: (x[x[:, 0] > 0], y[x[:, 0] > 0]),
    "another order": shuffled,
    "tensors": lambda plan, x, y: TensorDataset(torch.as_tensor(x), torch.as_tensor(y)),
    "a dataset": lambda plan, x, y: Lazy(x, y),
    "a loader": lambda plan, x, y: DataLoader(Lazy(x, y), batch_size=20, shuffle=True),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_examples_that_come_from_one_record_each_are_taken(name: str) -> None:
    plan = ready(with_data(INDEPENDENT[name])())
    assert plan.train_locally().num_updates == 3


def test_a_plan_without_a_dataset_has_no_records_to_protect() -> None:
    with pytest.raises(NotPrivate, match="records of a dataset"):
        built(Classes(), None)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_filter_that_leaves_one_record_or_none_is_trained_on_like_any_other(num_rows: int) -> None:
    few = points(1, classes=1)
    plan = built(Classes(), Rows(few.inputs[:num_rows], few.targets[:num_rows]))
    assert plan.train_locally().num_updates == 3


def test_test_data_are_not_even_loaded() -> None:
    class Tested(Classes):
        def testing_data(self, dataset: Any, training_args: Any) -> Any:
            raise AssertionError("nothing is measured")

    assert ready(Tested()).train_locally().num_updates == 3


@pytest.mark.parametrize("method", ["validate", "training_loss", "gradients", "predict_all"])
def test_what_is_measured_on_records_is_refused(method: str) -> None:
    plan = ready(Classes())
    with pytest.raises(NotPrivate, match="has no noise"):
        getattr(plan, method)()


# --- training arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"clip_norm": 1.0}, "max_grad_norm"),
        ({"test_ratio": 0.2}, "test_ratio has no place"),
        ({"test_fold": (1, 5)}, "test_fold has no place"),
        ({"test_on_global_updates": True}, "test_on_global_updates has no place"),
        ({"test_on_local_updates": True}, "test_on_local_updates has no place"),
    ],
)
def test_arguments_without_a_place_are_refused(args: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_training_args(args)
    with pytest.raises(SpecError, match=words):  # whatever a daemon let through
        ready(Classes(), args=args).train_locally()


@pytest.mark.parametrize("name", ["dp", "dp_args"])
def test_an_argument_of_other_frameworks_names_ours(name: str) -> None:
    with pytest.raises(SpecError, match=r"protect=RecordDP\("):
        TrainingArgs.parse({name: 1})


@pytest.mark.parametrize("where", ["step", "optimizer"])
def test_what_reads_all_records_outside_of_training_data_is_refused(where: str) -> None:
    class Reading(Classes):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            rate = 0.1 if where == "step" or self.dataset is None else 1 / len(self.dataset.inputs)
            return torch.optim.SGD(model.parameters(), lr=rate)

        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            by = self.dataset.inputs.mean() if where == "step" else 1.0
            return super().training_step(model, batch) * float(by)

    plan = built(Reading(), points(classes=3))
    plan.start_step({"lr": 0.1, "batch_size": 20})
    with pytest.raises(NotPrivate, match=r"self\.dataset was read outside of training_data"):
        plan.train_locally()


def test_the_number_of_examples_is_that_of_registered_rows() -> None:
    rows = points(classes=3)
    plan = built(Classes(), Rows(rows.inputs[:70], rows.targets[:70]))
    assert plan.num_train == 80
