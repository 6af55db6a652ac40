"""The steps of a private training of torch models: what DP-SGD says, from the same draws, and no record beyond its bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedjob import TorchPlan
from fedjob.common.errors import NodeFailure
from fedjob.privacy.dp.secure_draws import SecureDraws
from fedjob.training_plans.private.record_gradients import RecordGradients
from tests.private_training import Rows, built, points, same_bytes, terms


class Line(TorchPlan):
    """A line by least squares, of which every gradient is a formula."""

    reduction = "mean"
    kind: Any = torch.optim.SGD
    settings: dict[str, Any] = {}  # noqa: RUF012

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(3, 1)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        found: torch.optim.Optimizer = self.kind(model.parameters(), lr=training_args["lr"], **self.settings)
        return found

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset.arrays()

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1], reduction=self.reduction)


class Summed(Line):
    reduction = "sum"


class Momentum(Line):
    settings = {"momentum": 0.9}  # noqa: RUF012


class Adam(Line):
    kind = torch.optim.Adam
    settings = {"betas": (0.8, 0.95), "eps": 1e-6}  # noqa: RUF012


def by_hand(data: Rows, start: dict[str, np.ndarray], draws: SecureDraws) -> Any:
    """Yield the noisy gradient of each step at the point that is sent back, by the formulas alone."""
    agreed, point = terms(), {name: array.astype(np.float64) for name, array in start.items()}
    samples = [draws.chosen(np.arange(len(data.inputs)), agreed.rate) for _ in range(agreed.steps)]
    for sample in samples:
        sums = {"weight": np.zeros((1, 3)), "bias": np.zeros(1)}
        for row in sample:
            x, y = data.inputs[row].astype(np.float64), float(data.targets[row, 0])
            slope = 2 * (float(point["weight"][0] @ x + point["bias"][0]) - y)
            gradient = {"weight": slope * x[None, :], "bias": np.array([slope])}
            norm = math.sqrt(sum(float((part**2).sum()) for part in gradient.values()))
            for name, part in gradient.items():
                sums[name] += part * min(1.0, agreed.max_grad_norm / norm)
        deviation = agreed.noise * agreed.max_grad_norm
        divisor = agreed.rate * agreed.num_rows
        noisy = {
            name: draws.noisy(part.ravel(), deviation).reshape(part.shape) for name, part in sums.items()
        }
        point = yield {name: part / divisor for name, part in noisy.items()}


def stepped(
    kind: str, point: dict[str, Any], gradient: dict[str, Any], memory: dict[str, Any], number: int
) -> Any:
    """Return what one step of an optimizer makes of a point, by its textbook formula, with a rate of 0.1."""
    if kind in ("Line", "Summed"):
        return {name: point[name] - 0.1 * gradient[name] for name in point}
    if kind == "Momentum":
        for name in point:
            memory[name] = gradient[name] if number == 1 else 0.9 * memory[name] + gradient[name]
        return {name: point[name] - 0.1 * memory[name] for name in point}
    found = {}
    for name in point:
        mean, square = memory.get(name, (0.0, 0.0))
        mean, square = 0.8 * mean + 0.2 * gradient[name], 0.95 * square + 0.05 * gradient[name] ** 2
        memory[name] = mean, square
        top, below = mean / (1 - 0.8**number), np.sqrt(square / (1 - 0.95**number)) + 1e-6
        found[name] = point[name] - 0.1 * top / below
    return found


@pytest.mark.parametrize("kind", [Line, Summed, Momentum, Adam])
def test_a_training_is_what_the_formulas_give_with_the_same_draws(kind: type[Line]) -> None:
    data, plan = points(), built(kind(), points())
    point = {name: tensor.numpy().astype(np.float64) for name, tensor in plan.get_params().items()}
    draws = SecureDraws(same_bytes("a"))
    draws.chosen(np.arange(80), 0.5)  # half of the records are loaded apart
    draws.seed()  # of what the plan's own code draws
    outcome = plan.train_locally()
    steps, memory = by_hand(data, point, draws), {}  # type: ignore[var-annotated]
    gradient = next(steps)
    for number in range(1, 4):
        point = stepped(kind.__name__, point, gradient, memory, number)
        if number < 3:
            gradient = steps.send(point)
    for name, tensor in plan.get_params().items():
        assert np.allclose(tensor.numpy(), point[name], atol=2e-5)
    assert (outcome.num_examples, outcome.num_updates, outcome.metrics) == (80, 3, {})
    assert math.isnan(outcome.loss)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_size_of_the_noise_is_the_same_whatever_the_losses_are(reduction: str) -> None:
    class Masked(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            losses = model(batch[0]) * batch[1]
            return losses.sum() if reduction == "sum" else losses.mean()

    found = []
    for targets in (0.0, 1.0):
        data = points()
        plan = built(Masked(), Rows(data.inputs, np.full_like(data.targets, targets)), noise=1000.0)
        plan.train_locally()
        found.append(torch.cat([tensor.flatten() for tensor in plan.get_params().values()]))
    assert (found[0] - found[1]).abs().max() < 0.5  # of the records; one by the noise would be above 10


def test_losses_whose_sum_is_too_large_for_a_float_train_like_others() -> None:
    plan = built(Summed(), points())
    plan.set_params({"weight": torch.full((1, 3), 8e18), "bias": torch.zeros(1)})
    assert plan.train_locally().num_updates == 3


def test_a_tiny_gradient_is_bounded_too() -> None:
    model = torch.nn.Linear(3, 1).double()
    inputs, targets = torch.full((2, 3), 1e-165, dtype=torch.float64), torch.ones(2, 1).double()

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        found: torch.Tensor = (model(batch[0]) - batch[1]).sum()
        return found

    trained = {"weight": model.weight}
    for records in ([0], [0, 1]):
        gradients = RecordGradients(model, trained, loss, 1e-200)
        found = gradients.total(iter([records_of(inputs, targets)[row] for row in records]), len(records))
        assert found["weight"].abs().max() * math.sqrt(3) <= 1e-200 * len(records) * (1 + 1e-9)
        assert found["weight"].abs().max() > 0


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    plan = built(Line(), points(), rate=1e-12, steps=2)
    before = plan.get_params()
    plan.train_locally()
    moved = torch.cat([(plan.get_params()[name] - before[name]).flatten() for name in before])
    assert (moved != 0).all()
    assert moved.isfinite().all()


def test_the_same_job_draws_other_noise_each_time() -> None:
    found = []
    for _ in range(2):
        plan = built(Line(), points(), seed=None)
        plan.train_locally()
        found.append(plan.get_params()["weight"])
    assert not torch.equal(*found)


def test_what_a_protocol_adds_comes_after_the_noise() -> None:
    seen: list[torch.Tensor] = []

    def adjust(model: torch.nn.Module) -> None:
        assert model.bias.grad is not None
        seen.append(model.bias.grad.clone())
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()

    plan = built(Line(), points())
    before = plan.get_params()
    plan.train_locally(adjust)
    assert len(seen) == 3
    assert all(torch.equal(plan.get_params()[name], before[name]) for name in before)


class Conv(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.ReLU(), torch.nn.Flatten()
        )
        self.head = torch.nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layers(x))
        return out


class Words(torch.nn.Module):
    """An embedding, something recurrent, and weights that are used twice."""

    def __init__(self, cell: Any = torch.nn.LSTM) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(9, 6)
        self.cell = cell(6, 6, batch_first=True)
        self.head = torch.nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cell(self.words(x))[0][:, -1])
        return out


class Attends(torch.nn.Module):
    """A transformer, with positions that have no batch, on which hooks of layers fail."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = torch.nn.Embedding(9, 8), torch.nn.Embedding(5, 8)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layer(self.words(x) + self.places(torch.arange(5))).mean(1))
        return out


class Own(torch.nn.Module):
    """A parameter that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(x * self.scale)
        return out


MODELS: dict[str, tuple[Any, Any, bool]] = {
    "linear": (lambda: torch.nn.Linear(3, 3), lambda: torch.randn(12, 3), True),
    "own parameter": (Own, lambda: torch.randn(12, 3), True),
    "convolution": (Conv, lambda: torch.randn(12, 1, 6, 6), True),
    "embedding": (
        lambda: torch.nn.Sequential(torch.nn.Embedding(9, 6), torch.nn.Flatten(), torch.nn.Linear(30, 3)),
        lambda: torch.randint(0, 9, (12, 5)),
        True,
    ),
    "attention": (Attends, lambda: torch.randint(0, 9, (12, 5)), True),
    "lstm": (Words, lambda: torch.randint(0, 9, (12, 5)), True),
    "gru": (lambda: Words(torch.nn.GRU), lambda: torch.randint(0, 9, (12, 5)), False),
}


def records_of(inputs: torch.Tensor, targets: torch.Tensor) -> list[Any]:
    return [(inputs[row : row + 1], targets[row : row + 1]) for row in range(len(inputs))]


def norm_of(sums: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in sums.values()))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", MODELS)
def test_one_record_more_moves_the_sum_by_the_bound_at_most(name: str, reduction: str) -> None:
    torch.manual_seed(3)
    make, inputs_of, _ = MODELS[name]
    model, inputs = make(), inputs_of()
    targets = torch.randint(0, 3, (12,))
    inputs, targets = torch.cat([inputs, inputs[:1]]), torch.cat([targets, targets[:1]])
    if inputs.is_floating_point():
        inputs[-1] *= 1e4  # one record unlike the others
    bound = 0.3

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    gradients = RecordGradients(model, dict(model.named_parameters()), loss, bound)
    records = records_of(inputs, targets)
    whole, without = gradients.total(iter(records), 13), gradients.total(iter(records[:-1]), 12)
    assert norm_of({key: whole[key] - without[key] for key in whole}) <= bound * (1 + 1e-5)
    assert 0 < norm_of(without) <= 12 * bound


@pytest.mark.parametrize("name", MODELS)
def test_records_that_are_computed_together_are_those_that_are_computed_one_by_one(name: str) -> None:
    torch.manual_seed(4)
    make, inputs_of, together = MODELS[name]
    model, inputs, targets = make(), inputs_of(), torch.randint(0, 3, (12,))

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    parameters = dict(model.named_parameters())
    gradients = RecordGradients(model, parameters, loss, 1e6)
    found = gradients.total(iter(records_of(inputs, targets)), 12)
    assert gradients.vectorised is together
    (F.cross_entropy(model(inputs), targets) * 12).backward()
    for key, parameter in parameters.items():
        assert torch.allclose(found[key].float(), parameter.grad, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", ["linear", "convolution", "embedding"])
def test_gradients_of_records_are_those_of_opacus(name: str) -> None:
    import opacus

    torch.manual_seed(5)
    make, inputs_of, _ = MODELS[name]
    model, inputs, targets = make(), inputs_of(), torch.randint(0, 3, (12,))
    bound = 0.4

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    ours = RecordGradients(model, dict(model.named_parameters()), loss, bound)
    found = ours.total(iter(records_of(inputs, targets)), 12)
    watched = opacus.GradSampleModule(model, loss_reduction="mean")
    loss(watched, (inputs, targets)).backward()
    own = {
        key.removeprefix("_module."): parameter.grad_sample for key, parameter in watched.named_parameters()
    }
    norms = sum(part.flatten(1).square().sum(1) for part in own.values()).sqrt()
    factors = (bound / norms).clamp(max=1)
    for key, part in own.items():
        expected = torch.einsum("b,b...->...", factors, part)
        assert torch.allclose(found[key].float(), expected, atol=1e-5)


class Counts(torch.autograd.Function):
    """A derivative that torch.func can't take."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * 2


def test_code_that_cant_be_vectorised_is_computed_record_by_record() -> None:
    class Odd(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            loss = super().training_step(model, (batch[0], batch[1]))
            if loss.item() > 1e9:  # looks at a number
                return loss * 0
            return Counts.apply(loss) / 2  # type: ignore[no-untyped-call,no-any-return]

    plain, odd = built(Line(), points()), built(Odd(), points())
    plain.train_locally()
    odd.train_locally()
    for name, tensor in plain.get_params().items():
        assert torch.allclose(tensor, odd.get_params()[name], atol=1e-6)


def test_large_samples_are_taken_in_parts_and_give_the_same_sum() -> None:
    torch.manual_seed(6)
    model, inputs, targets = torch.nn.Linear(3, 3), torch.randn(50, 3), torch.randint(0, 3, (50,))

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    whole = RecordGradients(model, dict(model.named_parameters()), loss, 0.5)
    parts = RecordGradients(model, dict(model.named_parameters()), loss, 0.5)
    parts._at_once = 7
    records = records_of(inputs, targets)
    one, other = whole.total(iter(records), 50), parts.total(iter(records), 50)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_record_whose_gradient_is_not_a_number_counts_as_zero() -> None:
    model = torch.nn.Linear(3, 1)

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    inputs, targets = torch.randn(4, 3), torch.randn(4, 1)
    inputs[1, 0], targets[2, 0] = math.nan, math.inf
    gradients = RecordGradients(model, dict(model.named_parameters()), loss, 1.0)
    found = gradients.total(iter(records_of(inputs, targets)), 4)
    left = gradients.total(iter([records_of(inputs, targets)[row] for row in (0, 3)]), 2)
    assert all(torch.allclose(found[name], left[name], atol=1e-6) for name in found)
    assert gradients.ignored == 2


def test_no_more_than_the_owners_minimum_of_rows_is_needed() -> None:
    class Few:
        min_rows = 81

        def examples(self, *given: Any) -> Any:
            raise AssertionError("a private training counts its rows and asks for no record of releases")

    plan = built(Line(), points())
    plan.ctx.rows = Few()
    with pytest.raises(NodeFailure, match="owner's minimum of rows"):
        plan.train_locally()
    plan.ctx.rows.min_rows = 80
    assert plan.train_locally().num_updates == 3


def test_parameters_that_the_optimizer_does_not_train_stay() -> None:
    class Head(Line):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD([model.bias], lr=0.1)  # type: ignore[list-item]

    plan = built(Head(), points())
    before = plan.get_params()
    plan.train_locally()
    assert torch.equal(plan.get_params()["weight"], before["weight"])
    assert not torch.equal(plan.get_params()["bias"], before["bias"])
