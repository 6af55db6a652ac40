from __future__ import annotations

import dataclasses
import math
import random
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fedjob import FedAvg, Job
from fedjob.common.errors import NodeFailure, PlanError, SpecError
from fedjob.metrics.states import value, values
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.batches import (
    DatasetExamples,
    Examples,
    ExampleStream,
    as_tensor,
    examples_of,
    to_device,
)
from fedjob.training_plans.context import Context
from fedjob.training_plans.plan_checks import check_plan_class
from fedjob.training_plans.source.compilation import compile_plan
from fedjob.training_plans.torch import TorchPlan
from fedjob.training_plans.training_args import Arguments

RNG = np.random.default_rng(5)
INPUTS = RNG.normal(size=(50, 3)).astype(np.float32)
TARGETS = (INPUTS @ np.array([1.0, -2.0, 0.5], dtype=np.float32) + 0.3)[:, None]
DATA = (INPUTS, TARGETS)
ARGS: dict[str, Any] = {"lr": 0.05, "batch_size": 8, "epochs": 1}


class Line(TorchPlan):
    """A straight line, by SGD with momentum."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(3, 1)

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=training_args["lr"], momentum=training_args.get("momentum", 0)
        )

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


class Net(Line):
    """Everything that has a memory or draws random numbers: momentum, dropout, batch norm, augmentation, ctx.state."""

    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(3, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 1)
        )

    def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=training_args["lr"])

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        self.ctx.state["calls"] = self.ctx.state.get("calls", 0) + 1
        noise = float(np.random.normal()) + random.random()
        return torch.nn.functional.mse_loss(model(batch[0] + 0.01 * noise), batch[1])


def built(
    cls: type[TorchPlan] = Line, args: dict[str, Any] | None = None, data: Any = DATA, **ctx: Any
) -> Any:
    plan = check_plan_class(cls)()
    plan.ctx = Context(**{"node": "a", "round": 1, "job_seed": 3, "seed": 11, **ctx})
    plan.build(None, ARGS if args is None else args)
    plan.load_data(data)
    return plan


def step(plan: Any, params: Any, state: Any, round_: int, args: dict[str, Any]) -> tuple[Any, Any]:
    """Do what a node does in a round."""
    plan.ctx.round, plan.ctx.seed = round_, 100 + round_
    plan.start_step(args)
    plan.set_state(state)
    plan.set_params(params)
    plan.train_locally()
    return plan.get_params(), plan.get_state()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_update_by_hand() -> None:
    plan = built(args={"lr": 0.1, "batch_size": 50, "num_updates": 1})
    weight, bias = (tensor.double().numpy() for tensor in plan.get_params().values())
    errors = INPUTS @ weight.T + bias - TARGETS
    outcome = plan.train_locally()
    after = plan.get_params()
    assert outcome.num_examples == 50
    assert outcome.num_updates == 1
    assert outcome.loss == pytest.approx(float((errors**2).mean()), rel=1e-5)
    np.testing.assert_allclose(after["weight"], weight - 0.1 * 2 * (errors * INPUTS).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(after["bias"], bias - 0.1 * 2 * errors.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_a_fresh_plan_and_a_warm_one_train_to_the_same_bytes(share: bool) -> None:
    args = {**ARGS, "test_ratio": 0.2, "share_persistent_buffers": share}
    warm = built(Net, args)
    x = y = warm.get_params()
    state_x = state_y = None
    for round_ in (1, 2, 3):
        torch.manual_seed(round_)  # whatever the program around does
        x, state_x = step(warm, x, state_x, round_, {**args, "lr": 0.05 / round_})
        warm.validate()
        y, state_y = step(built(Net, args, job_seed=3), y, state_y, round_, {**args, "lr": 0.05 / round_})
        assert same(x, y)
        assert state_x["user"] == state_y["user"] == {"calls": 5 * round_}


def test_momentum_continues_across_rounds() -> None:
    args = {"lr": 0.01, "momentum": 0.9, "batch_size": 50, "num_updates": 1}
    plan = built(args=args)
    params, state = step(plan, plan.get_params(), None, 1, args)
    velocity = {name: state["optimizer"]["parameters"][name]["momentum_buffer"] for name in params}
    go_on, _ = step(built(args=args), params, state, 2, args)
    forget, _ = step(built(args=args), params, None, 2, args)
    for name, tensor in params.items():
        # with v2 = 0.9 v1 + g and without v2 = g, the steps differ by lr * 0.9 * v1
        torch.testing.assert_close(
            go_on[name] - forget[name], -0.01 * 0.9 * velocity[name], rtol=1e-3, atol=1e-6
        )
        assert not torch.equal(go_on[name], tensor)


def test_the_learning_rate_of_the_round_counts_and_momentum_stays() -> None:
    args = {"lr": 0.01, "momentum": 0.9, "batch_size": 50, "num_updates": 1}
    plan = built(args=args)
    params, state = step(plan, plan.get_params(), None, 1, args)
    small, _ = step(plan, params, state, 2, {**args, "lr": 0.001})
    large, _ = step(plan, params, state, 2, args)
    for name, tensor in params.items():
        torch.testing.assert_close(10 * (small[name] - tensor), large[name] - tensor, rtol=1e-2, atol=1e-6)


def test_a_state_shares_nothing_with_the_plan() -> None:
    plan = built(Net)
    plan.train_locally()
    state = plan.get_state()
    before = state["optimizer"]["parameters"]["0.weight"]["exp_avg"].clone()
    plan.set_state(state)
    plan.train_locally()
    assert torch.equal(state["optimizer"]["parameters"]["0.weight"]["exp_avg"], before)


def test_a_state_of_another_model_is_refused() -> None:
    memory = {"kind": "SGD", "parameters": {"weight": {"momentum_buffer": torch.zeros(2, 2)}}}
    plan = built()
    plan.set_state({"optimizer": memory})
    with pytest.raises(NodeFailure, match=r"state_mismatch.*momentum_buffer of weight has the shape"):
        plan.train_locally()


@pytest.mark.parametrize("kept", [np.zeros(3), {1: 2}, object(), {"a": [lambda: 1]}])
def test_what_can_not_be_kept_is_named(kept: Any) -> None:
    plan = built()
    plan.ctx.state["kept"] = kept
    with pytest.raises(PlanError, match=r"self\.ctx\.state\['kept'\]"):
        plan.get_state()


def test_first_parameters_depend_on_the_jobs_seed_alone() -> None:
    torch.manual_seed(1)
    a = built(Net, node="a", seed=1).get_params()
    torch.manual_seed(2)
    assert same(a, built(Net, node="b", seed=2).get_params())
    assert not same(a, built(Net, job_seed=4).get_params())


def test_the_generators_of_the_program_are_given_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(1))

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    built(Net).train_locally()
    assert draw() == expected


def test_the_split_stays_the_same_over_rounds_and_differs_between_nodes() -> None:
    args = {**ARGS, "test_ratio": 0.2}
    plan = built(args=args)
    rows = [plan._test_rows.tolist()]
    for round_ in (2, 3):
        step(plan, plan.get_params(), None, round_, {**args, "lr": 0.01})
        rows.append(plan._test_rows.tolist())
    rows.append(built(args=args, round=7, seed=99)._test_rows.tolist())
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert len(rows[0]) == 10
    assert sorted([*rows[0], *plan._train_rows.tolist()]) == list(range(50))
    assert built(args=args, node="b")._test_rows.tolist() != rows[0]


class Recording(Line):
    """Notes which rows it trains on."""

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        self.seen = [*getattr(self, "seen", []), [int(row) for row in batch[0][:, 0]]]
        return model(batch[0]).sum() * 0


NUMBERED = (np.stack([np.arange(10), np.zeros(10), np.zeros(10)], axis=1), np.zeros((10, 1)))


@pytest.mark.parametrize(
    ("args", "sizes"),
    [
        ({"epochs": 2}, [4, 4, 2, 4, 4, 2]),
        ({"num_updates": 5}, [4, 4, 2, 4, 4]),
        ({"num_updates": 1}, [4]),
        ({"epochs": 2, "dry_run": True}, [4]),
        ({"num_updates": 9, "dry_run": True}, [4]),
        ({"epochs": 2, "batch_maxnum": 1}, [4, 4]),
        ({"num_updates": 3, "batch_maxnum": 2}, [4, 4, 4]),
        ({"epochs": 1, "drop_last": True}, [4, 4]),
        ({"epochs": 1, "batch_size": 100, "drop_last": True}, [10]),
        ({"epochs": 1, "test_ratio": 0.5}, [4, 1]),
    ],
)
def test_batches_are_as_many_and_as_large_as_told(args: dict[str, Any], sizes: list[int]) -> None:
    plan = built(Recording, {"lr": 0.1, "batch_size": 4, **args}, NUMBERED)
    outcome = plan.train_locally()
    assert [len(rows) for rows in plan.seen] == sizes
    assert outcome.num_updates == len(sizes)
    assert outcome.num_examples == (5 if "test_ratio" in args else 10)


def test_every_epoch_has_each_row_once_in_an_order_of_its_own() -> None:
    plan = built(Recording, {"lr": 0.1, "batch_size": 5, "epochs": 2}, NUMBERED)
    plan.train_locally()
    first, second = [*plan.seen[0], *plan.seen[1]], [*plan.seen[2], *plan.seen[3]]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    again = built(Recording, {"lr": 0.1, "batch_size": 5, "epochs": 2}, NUMBERED)
    again.train_locally()
    assert again.seen == plan.seen
    other = built(Recording, {"lr": 0.1, "batch_size": 5, "epochs": 2}, NUMBERED, round=2, seed=12)
    other.train_locally()
    assert other.seen != plan.seen


def test_random_seed_takes_the_place_of_the_jobs() -> None:
    args = {"lr": 0.1, "batch_size": 5, "random_seed": 4}
    plans = [built(Recording, args, NUMBERED, job_seed=seed, seed=seed) for seed in (1, 2)]
    for plan in plans:
        plan.train_locally()
    assert plans[0].seen == plans[1].seen


def _tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(NUMBERED[0]).float(), torch.zeros(10, 1)


class Counting(IterableDataset[Any]):
    def __iter__(self) -> Any:
        inputs, targets = _tensors()
        return iter([(inputs[:6], targets[:6]), (inputs[6:], targets[6:])])


DATA_FORMS = {
    "arrays": (lambda: NUMBERED, 4, True),
    "tensors": (_tensors, 4, True),
    "list": (lambda: list(_tensors()), 4, True),
    "dataset": (lambda: TensorDataset(*_tensors()), 4, True),
    "loader": (lambda: DataLoader(TensorDataset(*_tensors()), batch_size=3), 3, True),
    "shuffling loader": (lambda: DataLoader(TensorDataset(*_tensors()), batch_size=3, shuffle=True), 3, True),
    "weighted loader": (
        lambda: DataLoader(
            TensorDataset(*_tensors()), batch_size=5, sampler=WeightedRandomSampler([1.0] * 10, 10)
        ),
        5,
        False,
    ),
    "iterable": (lambda: Counting(), 6, False),
}


@pytest.mark.parametrize(("make", "size", "splits"), DATA_FORMS.values(), ids=DATA_FORMS)
def test_every_form_of_data_trains_and_splits(make: Any, size: int, splits: bool) -> None:
    plan = built(Recording, {"lr": 0.1, "batch_size": 4, "epochs": 2}, make())
    outcome = plan.train_locally()
    assert len(plan.seen[0]) == size
    assert sum(map(len, plan.seen)) == 20
    assert outcome.num_examples == 10
    if splits:
        half = built(Recording, {"lr": 0.1, "batch_size": 4, "test_ratio": 0.5}, make())
        assert half.train_locally().num_examples == 5
        assert value(half.validate()["loss"]) == 0
    else:
        with pytest.raises(PlanError, match="can't be split"):
            built(Recording, {"lr": 0.1, "test_ratio": 0.5}, make())


class Rows(IterableDataset[Any]):
    """Single examples of a stream, with a text first."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter([{"id": f"p{n}", "x": torch.ones(3), "y": torch.zeros(1)} for n in range(self.count)])


class Once(IterableDataset[Any]):
    """A stream that can be read once."""

    def __init__(self, count: int) -> None:
        self.left = iter([(torch.ones(4, 3), torch.zeros(4, 1))] * count)

    def __iter__(self) -> Any:
        return self.left


class Streaming(Line):
    """Makes its stream from a number of examples or batches; keeps the loss of each batch apart."""

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        self.asked = getattr(self, "asked", 0) + 1
        return dataset() if callable(dataset) else dataset

    def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        inputs, targets = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


def batches() -> Any:
    for size in (4, 4, 2):
        yield torch.ones(size, 3), torch.zeros(size, 1)


STREAMS = {
    "a loader of dictionaries": (lambda: DataLoader(Rows(20), batch_size=8), 20),
    "a loader with workers": (lambda: DataLoader(Rows(20), batch_size=8, num_workers=1), 20),
    "single examples": (lambda: Rows(7), 7),
    "a loader of single examples": (lambda: DataLoader(Rows(7), batch_size=None), 7),
    "batches of its own": (lambda: Counting(), 10),
    "a generator": (batches, 10),
    "a stream that can be read once": (lambda: Once(3), 12),
}


@pytest.mark.parametrize(("make", "expected"), STREAMS.values(), ids=STREAMS)
def test_a_stream_weighs_as_many_examples_as_one_pass_over_it_has(make: Any, expected: int) -> None:
    plan = built(Streaming, {"lr": 0.01, "epochs": 2}, make)
    outcome = plan.train_locally()
    assert outcome.num_examples == expected
    assert outcome.metrics["loss"]["weight"] == 2 * expected
    for round_ in (2, 3):
        plan.ctx.round = round_
        plan.start_step({"lr": 0.01, "epochs": 1})
        assert plan.train_locally().num_examples == expected


STREAMED = """
import torch
from torch.utils.data import DataLoader, IterableDataset

from fedjob import TorchPlan


class Rows(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(3), torch.zeros(1))] * 6)


class Streams(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(3, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=0.01)

    def training_data(self, dataset, training_args):
        return DataLoader(Rows(), batch_size=2, num_workers=2)

    def training_step(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()
"""
DIVIDED = STREAMED.replace(
    "return iter([(torch.ones(3), torch.zeros(1))] * 6)",
    "return iter([(torch.ones(3), torch.zeros(1))] * (6 // torch.utils.data.get_worker_info().num_workers))",
)


@pytest.mark.parametrize(
    ("text", "examples", "noted"),
    [
        (STREAMED, 12, True),
        (DIVIDED, 6, False),
        (STREAMED.replace("num_workers=2", "num_workers=1"), 6, False),
    ],
    ids=["each reads all", "divided", "one"],
)
def test_a_stream_that_each_worker_of_its_loader_reads_is_noted(
    text: str, examples: int, noted: bool
) -> None:
    plan: Any = compile_plan(text, "Streams")()
    notes: list[str] = []
    send = lambda type_, body: notes.append(body["text"]) if type_ == "note" else None  # noqa: E731
    plan.ctx = Context(node="a", round=1, job_seed=3, seed=11, send=send)
    plan.build({}, {})
    plan.load_data(None)
    assert plan.train_locally().num_examples == examples
    assert [("train and count 2 times" in text, "get_worker_info()" in text) for text in notes] == [
        (True, True)
    ] * noted


@pytest.mark.parametrize(
    ("args", "expected"),
    [({"num_updates": 2}, 8), ({"num_updates": 7}, 12), ({"epochs": 2, "batch_maxnum": 1}, 4)],
)
def test_a_stream_that_is_not_read_to_its_end_weighs_what_was_seen_of_it(
    args: dict[str, int], expected: int
) -> None:
    outcome = built(Streaming, {"lr": 0.01, **args}, lambda: Once(3)).train_locally()
    assert outcome.num_examples == expected
    assert outcome.num_updates == args.get("num_updates", 2)


def test_a_stream_that_never_begins_anew_ends_the_round_with_a_reason() -> None:
    stream = Once(3)
    with pytest.raises(PlanError, match="nothing in pass 2: return a stream that begins anew"):
        built(Streaming, {"lr": 0.01, "epochs": 2}, stream).train_locally()


def test_a_stream_that_is_read_once_validates_as_often_as_a_round_asks() -> None:
    class Tested(Streaming):
        def testing_data(self, dataset: Any, training_args: Any) -> Any:
            return Once(2)

    plan = built(Tested, {"lr": 0.01}, batches)
    counted = [plan.validate()["loss"]["weight"] for _ in range(3)]
    assert counted == [8, 8, 8]


def test_a_plan_counts_the_batches_that_only_it_knows() -> None:
    class Scan:
        def __init__(self) -> None:
            self.x, self.y = torch.ones(5, 3), torch.zeros(5, 1)

    class Own(Streaming):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return torch.nn.functional.mse_loss(model(batch.x), batch.y)

    class Counted(Own):
        def num_examples(self, batch: Any) -> int:
            return len(batch.x)

    class Wrong(Own):
        def num_examples(self, batch: Any) -> Any:
            return 2.5

    def scans() -> Any:
        yield from [Scan(), Scan()]

    assert built(Counted, {"lr": 0.01}, scans).train_locally().num_examples == 10
    with pytest.raises(PlanError, match=r"part of type .*Scan.* write num_examples"):
        built(Own, {"lr": 0.01}, scans).train_locally()
    with pytest.raises(PlanError, match=r"num_examples returned 2\.5"):
        built(Wrong, {"lr": 0.01}, scans).train_locally()


def test_every_kind_of_batch_is_moved_to_the_device() -> None:
    @dataclasses.dataclass(frozen=True)
    class Pair:
        x: torch.Tensor
        name: str

    there = torch.device("meta")
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2, 1)])
    given = UserDict(x=torch.ones(2), names=["a", "b"])
    moved = to_device(
        {"own": given, "pair": Pair(torch.ones(2), "n"), "packed": packed, "list": [torch.ones(1)]}, there
    )
    assert type(moved["own"]) is UserDict
    assert moved["own"]["x"].device == there
    assert moved["own"]["names"] == ["a", "b"]
    assert given["x"].device.type == "cpu"
    assert moved["pair"].x.device == there
    assert moved["pair"].name == "n"
    assert moved["packed"].data.device == there
    assert moved["list"][0].device == there


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, r"training_data returned nothing \(None\)"),
        (3, "returned a int"),
        ((np.zeros((3, 2)), np.zeros(4)), "3, 4 rows"),
        ((np.array(["a"]), np.zeros(1)), "numbers are needed"),
        ((np.float64(3), np.zeros(1)), "rows are needed"),
        ((np.ma.masked_less(np.arange(3.0), 2), np.zeros(3)), "masked in part"),
        ((np.array([2**63], "u8"), np.zeros(1)), r"over 2\*\*63"),
    ],
)
def test_data_of_another_form_is_refused(data: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        built(data=data)


@pytest.mark.parametrize("dtype", [">i8", ">i2", ">u2", "u2", "u4", "u8", ">f8", "f2", "?"])
def test_arrays_of_every_byte_order_and_width_become_tensors(dtype: str) -> None:
    given = np.array([1, 0, 1], dtype=dtype)
    found = as_tensor(given[::-1], "here")
    assert found.tolist() == [1, 0, 1]
    assert found.dtype in (torch.int64, torch.int32, torch.int16, torch.float32, torch.bool)


def test_columns_of_pandas_own_whole_numbers_become_tensors() -> None:
    import pandas

    assert as_tensor(pandas.Series([1, 2], dtype="Int64"), "here").tolist() == [1, 2]


@pytest.mark.parametrize(
    "wrap", [lambda x, y: (x, y), lambda x, y: {"x": x, "y": y}, lambda x, y: ({"x": [x]}, y)]
)
@pytest.mark.parametrize(("number", "words"), [(math.nan, "missing values"), (math.inf, "infinite values")])
def test_what_is_missing_in_the_inputs_is_named_before_the_learning_rate(
    wrap: Any, number: float, words: str
) -> None:
    class Wrapped(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return (model(torch.ones(1, 3)) * number).mean()

        def training_data(self, dataset: Any, training_args: Any) -> Any:
            inputs = torch.ones(4, 3)
            inputs[1, 2] = number
            return DataLoader(
                TensorDataset(inputs),
                batch_size=4,
                collate_fn=lambda rows: wrap(torch.stack([r[0] for r in rows]), 1),
            )

    plan = built(Wrapped)
    with pytest.raises(NodeFailure, match=words) as caught:
        plan.train_locally()
    assert caught.value.reason == "not_finite"
    assert "learning rate" not in str(caught.value)


def test_a_missing_value_of_the_test_data_is_named() -> None:
    class Tested(Line):
        def testing_data(self, dataset: Any, training_args: Any) -> Any:
            return torch.full((4, 3), math.nan), torch.zeros(4, 1)

    class Predicting(Tested):
        def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
            return model(batch[0]), batch[1]

    for cls in (Tested, Predicting):
        with pytest.raises(NodeFailure, match=r"test data.*the inputs hold missing values"):
            built(cls).validate()


def test_no_data_is_a_failure_of_the_node() -> None:
    with pytest.raises(NodeFailure) as caught:
        built(data=(np.zeros((0, 3)), np.zeros((0, 1)))).train_locally()
    assert (caught.value.node, caught.value.reason) == ("a", "no_data")


@pytest.mark.parametrize(("name", "value"), [("test_ratio", 1.0), ("test_fold", (2, 2))])
def test_a_split_that_leaves_nothing_to_train_on_is_named(name: str, value: Any) -> None:
    with pytest.raises(NodeFailure, match=rf"{name}=.* keeps every example to validate on: none is left"):
        built(args={**ARGS, name: value}, data=(np.zeros((1, 3)), np.zeros((1, 1)))).train_locally()


@pytest.mark.feature("FB-92")
def test_a_metrics_event_comes_with_every_interval() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    plan = built(
        args={"lr": 0.01, "num_updates": 25, "batch_size": 10, "log_interval": 10},
        send=lambda type_, body: events.append((type_, body)),
    )
    plan.train_locally()
    metrics = [body for type_, body in events if type_ == "metrics"]
    assert [body["iteration"] for body in metrics] == [10, 20, 25]
    assert [body["samples"] for body in metrics] == [100, 200, 250]
    assert [body["epoch"] for body in metrics] == [2, 4, 5]
    assert all(math.isfinite(body["loss"]) and body["num_updates"] == 25 for body in metrics)
    assert [body["done"] for type_, body in events if type_ == "progress"] == [10, 20, 25]


def test_validation_measures_and_says_so() -> None:
    class Classes(Line):
        def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
            assert not model.training
            assert not torch.is_grad_enabled()
            return torch.sigmoid(model(batch[0])), (batch[1] > 0).long()

    events: list[Any] = []
    args = {**ARGS, "test_ratio": 0.4, "test_metric": ["accuracy", "roc_auc", "f1"]}
    plan = built(Classes, args, send=lambda type_, body: events.append((type_, body)))
    states = plan.validate()
    logits = (
        INPUTS[plan._test_rows] @ plan.get_params()["weight"].numpy().T + plan.get_params()["bias"].numpy()
    )
    truth = TARGETS[plan._test_rows] > 0
    assert value(states["accuracy"]) == pytest.approx(((logits > 0) == truth).mean())
    assert states["accuracy"]["n"] == 20
    assert events[-1][1].items() >= values(states).items()
    assert plan.model.training


def test_without_a_testing_step_the_loss_is_measured() -> None:
    plan = built(args={**ARGS, "test_ratio": 0.4, "batch_size": 7})
    rows = plan._test_rows
    weight, bias = (tensor.numpy() for tensor in plan.get_params().values())
    errors = INPUTS[rows] @ weight.T + bias - TARGETS[rows]
    assert value(plan.validate()["loss"]) == pytest.approx(float((errors**2).mean()), rel=1e-5)


def test_a_metric_of_the_plans_own_is_weighted_by_examples() -> None:
    class Own(Line):
        def testing_data(self, dataset: Any, training_args: Any) -> Any:
            return NUMBERED

        def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
            return {"first": batch[0][:, 0].mean()}

    plan = built(Own, {**ARGS, "batch_size": 4})
    assert value(plan.validate()["first"]) == pytest.approx(4.5)
    assert plan.train_locally().num_examples == 50


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"a": float("nan")}, "not_finite"),
        ({"a": "high"}, "plan"),
        (None, "plan"),
        (torch.zeros(3), "plan"),
        ((torch.tensor([float("nan")]), torch.tensor([1.0])), "not_finite"),
    ],
)
def test_a_wrong_answer_of_testing_step_is_named(found: Any, reason: str) -> None:
    class Wrong(Line):
        def testing_step(self, model: torch.nn.Module, batch: Any) -> Any:
            return found

    with pytest.raises(NodeFailure) as caught:
        built(Wrong, {**ARGS, "test_ratio": 0.5}).validate()
    assert caught.value.reason == reason


def test_nothing_to_validate_on_is_said() -> None:
    with pytest.raises(NodeFailure, match="set test_ratio above 0, or write testing_data"):
        built().validate()


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda model, batch: model(batch[0]).sum() * float("nan"), "not_finite"),
        (lambda model, batch: model(batch[0]).sum() * float("inf"), "not_finite"),
        (lambda model, batch: 0.5, "plan"),
        (lambda model, batch: model(batch[0]), "plan"),
        (lambda model, batch: torch.tensor(0.5), "plan"),
        (lambda model, batch: None, "plan"),
    ],
)
def test_a_wrong_loss_is_a_failure_with_a_reason(loss: Any, reason: str) -> None:
    class Wrong(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> Any:
            return loss(model, batch)

    with pytest.raises(NodeFailure) as caught:
        built(Wrong).train_locally()
    assert caught.value.reason == reason


def test_parameters_that_run_away_are_a_failure() -> None:
    class Wild(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return model(batch[0]).sum() * 1e38

    with pytest.raises(NodeFailure, match="not_finite"):
        built(Wild, {"lr": 1e30, "num_updates": 1}).train_locally()


def test_what_a_users_method_raises_comes_out_as_it_is() -> None:
    class Failing(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        built(Failing).train_locally()


def test_a_step_that_calls_backward_itself_is_told_to_return_the_loss() -> None:
    class Eager(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            loss = super().training_step(model, batch)
            loss.backward()
            return loss

    with pytest.raises(NodeFailure, match="training_step called backward itself: return the loss"):
        built(Eager).train_locally()


def test_what_torch_finds_wrong_in_a_graph_comes_out_as_it_is() -> None:
    class Kept(Line):
        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            loss = super().training_step(model, batch)
            torch.autograd.grad(loss, list(model.parameters()))
            return loss

    with pytest.raises(RuntimeError, match="second time"):
        built(Kept).train_locally()


def test_buffers_are_parameters_unless_they_stay() -> None:
    shared = built(Net).get_params()
    kept = built(Net, {**ARGS, "share_persistent_buffers": False})
    assert shared["1.num_batches_tracked"].dtype == torch.int64
    assert set(shared) - set(kept.get_params()) == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    kept.train_locally()
    state = kept.get_state()
    assert state["buffers"]["1.num_batches_tracked"] == 7
    fresh = built(Net, {**ARGS, "share_persistent_buffers": False})
    fresh.set_state(state)
    assert torch.equal(fresh.model[1].running_mean, kept.model[1].running_mean)
    fresh.set_state(None)
    assert fresh.model[1].num_batches_tracked == 0


def test_parameters_that_do_not_fit_are_refused_by_name() -> None:
    plan = built()
    params = plan.get_params()
    for wrong, words in (
        ({"weight": params["weight"]}, "lack bias"),
        ({**params, "extra": params["bias"]}, "unknown extra"),
        (
            {**params, "bias": torch.zeros(2)},
            r"bias: expected torch.float32 \[1\], found torch.float32 \[2\]",
        ),
        ({**params, "bias": params["bias"].double()}, "found torch.float64"),
    ):
        with pytest.raises(PlanError, match=words):
            plan.set_params(wrong)


def test_parameters_that_were_got_are_a_copy() -> None:
    plan = built()
    params = plan.get_params()
    before = params["weight"].clone()
    plan.train_locally()
    assert torch.equal(params["weight"], before)
    assert plan.get_params(copy=False)["weight"].data_ptr() == plan.model.weight.data_ptr()


def test_adjust_is_called_between_backward_and_step() -> None:
    def stop(model: torch.nn.Module) -> None:
        assert all(parameter.grad is not None for parameter in model.parameters())
        for parameter in model.parameters():
            parameter.grad.zero_()  # type: ignore[union-attr]

    plan = built()
    before = plan.get_params()
    plan.train_locally(stop)
    assert same(before, plan.get_params())


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.LBFGS, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_other_optimizers_go_on_from_their_state(make: Any) -> None:
    class Other(Line):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            return make(model.parameters(), lr=0.01)

    warm = built(Other)
    params, state = step(warm, warm.get_params(), None, 1, ARGS)
    a, _ = step(warm, params, state, 2, ARGS)
    b, _ = step(built(Other), params, state, 2, ARGS)
    assert same(a, b)


@pytest.mark.feature("FB-07")
def test_model_args_left_out_are_empty() -> None:
    class Noting(Line):
        def init_model(self, model_args: Any) -> torch.nn.Module:
            assert model_args == {}
            assert isinstance(model_args, Arguments)
            return torch.nn.Linear(3, 1)

    built(Noting)


def test_a_missing_model_arg_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="model_args has no 'width'; it has depth"):
        Arguments({"depth": 1}, what="model_args")["width"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("init_model", "expected a torch.nn.Module"), ("init_optimizer", "expected a torch.optim.Optimizer")],
)
def test_a_builder_that_returns_nothing_is_named(name: str, words: str) -> None:
    wrong = type("Wrong", (Line,), {name: lambda self, *args: None})
    with pytest.raises(PlanError, match=rf"{name} returned nothing \(None\); {words}"):
        built(wrong).train_locally()


def test_an_optimizer_with_a_scheduler_is_answered_by_where_each_of_them_goes() -> None:
    class Pair(Line):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> Any:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)

    with pytest.raises(PlanError, match=r"returned a tuple; .* a loop of your own, `train`; .* CosineDecay"):
        built(Pair).train_locally()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda optimizer: {"optimizer": optimizer}, "returned a dict; .* a loop of your own, `train`"),
        (type, r"returned the class SGD; expected a torch.optim.Optimizer: SGD\(model.parameters\(\), "),
        (lambda optimizer: None, r"returned nothing \(None\)"),
    ],
)
def test_what_is_no_optimizer_is_answered_by_what_one_is(wrong: Any, words: str) -> None:
    class Wrong(Line):
        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> Any:
            return wrong(super().init_optimizer(model, training_args))

    with pytest.raises(PlanError, match=words):
        built(Wrong).train_locally()


def test_an_unknown_training_arg_stops_the_build() -> None:
    with pytest.raises(SpecError, match="nearest known one is 'epochs'"):
        built(args={"epoch": 1})


def test_extra_args_of_the_plan_are_known() -> None:
    class Extra(Line):
        extra_args = ("temperature",)

    assert built(Extra, {**ARGS, "temperature": 3}).training_args.for_user()["temperature"] == 3


class Half(TorchPlan):
    def init_model(self, model_args: Any) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def training_data(self, dataset: Any, training_args: Any) -> Any:
        return dataset


class Needy(Line):
    def __init__(self, rate: float) -> None:
        self.rate = rate


class Misspelt(Line):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return batch


class Attribute(Line):
    training_step = 3  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (
            Half,
            r"Half lacks init_optimizer\(self, model, training_args\), training_step\(self, model, batch\)",
        ),
        (TorchPlan, "TorchPlan lacks init_model"),
        (TrainingPlan, "derives from TrainingPlan itself"),
        (int, "int is not a training plan"),
        (3, "a training plan is a class"),
        (Needy, "__init__ needs arguments"),
        (Misspelt, r"training_step\(self, batch.*can't be called as training_step\(self, model, batch\)"),
        (Attribute, "training_step is a int, not a method"),
    ],
)
def test_an_incomplete_plan_is_refused_with_all_that_it_lacks(cls: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        check_plan_class(cls)


def written(*args: Any) -> Any:
    return None


class NoKind(TrainingPlan):
    """Writes everything but `get_params`."""

    build = start_step = set_params = load_data = train = validate = get_state = set_state = written
    num_train = property(written)


@pytest.mark.feature("BF-25")
def test_a_plan_without_a_method_is_a_type_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="NoKind derives from TrainingPlan itself and lacks get_params:"):
        check_plan_class(NoKind)
    with pytest.raises(TypeError, match="abstract method get_params"):
        NoKind()  # type: ignore[abstract]
    with pytest.raises(TypeError, match=r"Half lacks init_optimizer\(self, model, training_args\)"):
        Job(FedAvg(), training_plan=Half, data="x.npz", nodes="local", home=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_child_task_is_launched_at_a_node_alone() -> None:
    with pytest.raises(PlanError, match="while a node computes"):
        Context().launch("x")


class TestMemoryOfOptimizers:
    """What an optimizer remembers goes by the names of parameters."""

    class Layers(Line):
        """Two layers of one shape; self.trained names those that the optimizer has, in its order and groups."""

        trained: Any = (("0.weight", "1.weight"),)
        make: Any = staticmethod(lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9))

        def init_model(self, model_args: Any) -> torch.nn.Module:
            return torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False) for _ in range(2)))

        def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
            named = dict(model.named_parameters())
            groups = type(self).trained
            for name, parameter in named.items():
                parameter.requires_grad_(any(name in group for group in groups))
            return self.make([{"params": [named[name] for name in group]} for group in groups])  # type: ignore[no-any-return]

        def training_step(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            return torch.nn.functional.mse_loss(model(batch[0]).mean(1, keepdim=True), batch[1])

    def rounds(self, *trained: Any, make: Any = None) -> list[dict[str, Any]]:
        """Return name -> memory after a round for each of the given groups of parameters, each by a fresh plan."""
        args, state, found = {"batch_size": 50, "num_updates": 1}, None, []
        params = built(self.Layers, args).get_params()
        for number, groups in enumerate(trained):

            class Now(self.Layers):  # type: ignore[misc,name-defined]
                trained = groups

            if make is not None:
                Now.make = staticmethod(make[number] if isinstance(make, list) else make)
            params, state = step(built(Now, args), params, state, number + 1, args)
            found.append(state.get("optimizer", {}).get("parameters", {}))
        return found

    def test_a_layer_that_is_unfrozen_begins_without_and_the_other_keeps_its_own(self) -> None:
        head, all_ = (("1.weight",),), (("0.weight", "1.weight"),)
        one, two = self.rounds(head, all_)
        fresh = self.rounds(all_)[0]
        assert set(one) == {"1.weight"}
        assert set(two) == {"0.weight", "1.weight"}
        ratio = two["1.weight"]["momentum_buffer"].norm() / fresh["1.weight"]["momentum_buffer"].norm()
        assert 1.7 < ratio < 2.0, "0.9 v + g"
        ratio = two["0.weight"]["momentum_buffer"].norm() / fresh["0.weight"]["momentum_buffer"].norm()
        assert 0.9 < ratio < 1.1, "g"

    def test_the_order_and_the_groups_of_the_optimizer_do_not_matter(self) -> None:
        straight = self.rounds(*[(("0.weight", "1.weight"),)] * 2)[1]
        for second in ((("1.weight", "0.weight"),), (("1.weight",), ("0.weight",))):
            turned = self.rounds((("0.weight", "1.weight"),), second)[1]
            for name in straight:
                assert torch.equal(straight[name]["momentum_buffer"], turned[name]["momentum_buffer"])

    def test_a_frozen_layer_keeps_its_memory_for_later(self) -> None:
        all_, head = (("0.weight", "1.weight"),), (("1.weight",),)
        one, two, three = self.rounds(all_, head, all_)
        assert torch.equal(two["0.weight"]["momentum_buffer"], one["0.weight"]["momentum_buffer"])
        assert three["0.weight"]["momentum_buffer"].norm() > 1.5 * one["0.weight"]["momentum_buffer"].norm()

    def test_another_kind_of_optimizer_begins_anew(self) -> None:
        all_ = (("0.weight", "1.weight"),)
        adam = lambda groups: torch.optim.Adam(groups, lr=0.01)  # noqa: E731
        kinds = [self.Layers.make, adam, lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True)]
        one, two, three = self.rounds(all_, all_, all_, make=kinds)
        assert set(one["0.weight"]) == {"momentum_buffer"}
        assert two["0.weight"]["step"] == three["0.weight"]["step"] == 1

    def test_lbfgs_goes_on_with_the_same_parameters_and_begins_anew_with_others(self) -> None:
        def lbfgs(groups: Any) -> torch.optim.Optimizer:
            return torch.optim.LBFGS([p for group in groups for p in group["params"]], max_iter=2)

        all_, head = (("0.weight", "1.weight"),), (("1.weight",),)
        one, two, three = self.rounds(all_, all_, head, make=lbfgs)
        assert two["0.weight"]["n_iter"] == 2 * one["0.weight"]["n_iter"]
        assert three["1.weight"]["n_iter"] <= 2
        assert set(three) == {"1.weight"}

    def test_a_parameter_that_is_none_of_the_model_is_refused(self) -> None:
        class Stray(Line):
            def init_optimizer(self, model: torch.nn.Module, training_args: Any) -> torch.optim.Optimizer:
                scale = torch.nn.Parameter(torch.ones(7))
                return torch.optim.SGD([*model.parameters(), scale], lr=0.1)

        with pytest.raises(PlanError, match=r"a tensor of shape \[7\] that is no parameter of the model"):
            built(Stray).train_locally()


class Marked(torch.utils.data.Dataset[Any]):
    """Numbers, with the mark that a worker's worker_init_fn sets."""

    mark = 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> Any:
        return torch.tensor([float(number)]), torch.tensor([float(self.mark)])


def mark_worker(number: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    info.dataset.mark = 7  # type: ignore[attr-defined]


def shout(examples: list[Any]) -> Any:
    return torch.stack([x for x, _ in examples]) + 100, torch.stack([y for _, y in examples])


class OwnPass(DataLoader[Any]):
    def __iter__(self) -> Any:
        yield from (("mine", batch) for batch in super().__iter__())


def loaded_batches(data: Any, count: int = 10) -> list[Any]:
    examples = examples_of(data, "training_data")
    assert isinstance(examples, Examples)
    return list(examples.batches([np.arange(count)]))


class TestSettingsOfALoader:
    """Every setting of a user's DataLoader is kept."""

    def test_worker_init_fn_is_called_in_each_worker(self) -> None:
        ((_, marks),) = loaded_batches(DataLoader(Marked(), num_workers=1, worker_init_fn=mark_worker))
        assert set(marks.flatten().tolist()) == {7.0}
        ((_, marks),) = loaded_batches(DataLoader(Marked(), num_workers=1))
        assert set(marks.flatten().tolist()) == {0.0}

    def test_the_others_reach_the_loader_that_draws_the_batches(self) -> None:
        given = DataLoader(
            Marked(),
            batch_size=4,
            shuffle=True,
            drop_last=True,
            collate_fn=shout,
            num_workers=1,
            worker_init_fn=mark_worker,
            timeout=30,
            prefetch_factor=5,
            persistent_workers=True,
            multiprocessing_context="fork",
            pin_memory=True,
        )
        found = examples_of(given, "training_data")
        assert isinstance(found, DatasetExamples)
        assert (found.batch_size, found.shuffle, found.drop_last, found.num_workers) == (4, True, True, 1)
        assert found.collate is shout
        assert found.settings == {
            "pin_memory": True,
            "timeout": 30,
            "prefetch_factor": 5,
            "multiprocessing_context": given.multiprocessing_context,
            "worker_init_fn": mark_worker,
        }
        plain = examples_of(DataLoader(Marked(), num_workers=2), "training_data")
        assert isinstance(plain, DatasetExamples)
        assert plain.settings == {}

    def test_a_collate_function_is_called(self) -> None:
        ((numbers, _),) = loaded_batches(DataLoader(Marked(), collate_fn=shout))
        assert numbers.flatten().tolist() == [100.0 + number for number in range(10)]

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_a_batch_sampler_of_torchs_own_says_size_and_order(self, shuffle: bool) -> None:
        order: Any = RandomSampler(Marked()) if shuffle else SequentialSampler(Marked())
        found = examples_of(DataLoader(Marked(), batch_sampler=BatchSampler(order, 3, True)), "x")
        assert isinstance(found, DatasetExamples)
        assert (found.batch_size, found.shuffle, found.drop_last) == (3, shuffle, True)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: DataLoader(Marked(), batch_size=5, sampler=WeightedRandomSampler([1.0] * 10, 10)),
            lambda: DataLoader(Marked(), batch_size=5, sampler=RandomSampler(Marked(), num_samples=4)),
            lambda: DataLoader(Marked(), batch_size=5, sampler=RandomSampler(Marked(), replacement=True)),
            lambda: DataLoader(Marked(), batch_size=5, sampler=SequentialSampler(range(6))),
            lambda: DataLoader(Marked(), batch_size=5, sampler=[3, 1]),
            lambda: DataLoader(Marked(), batch_sampler=[[1, 2, 3], [4]]),
            lambda: DataLoader(Marked(), batch_size=None),
            lambda: OwnPass(Marked(), batch_size=5),
        ],
    )
    def test_a_loader_with_an_order_or_a_pass_of_its_own_is_used_as_it_is(self, make: Any) -> None:
        loader = make()
        found = examples_of(loader, "training_data")
        assert isinstance(found, ExampleStream)
        assert found.loader is loader

    def test_the_seed_of_its_generator_counts_and_a_round_can_be_repeated(self) -> None:
        def seen(seed: int | None, round_: int = 1) -> list[float]:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            data = DataLoader(TensorDataset(*_tensors()), batch_size=10, shuffle=True, generator=generator)
            plan = built(Recording, {"lr": 0.1}, data, seed=50 + round_)
            plan.train_locally()
            return [float(number) for number in plan.seen[0]]

        assert seen(1) == seen(1)
        assert len({tuple(seen(seed)) for seed in (None, 1, 2)}) == 3
        assert seen(1) != seen(1, round_=2)
