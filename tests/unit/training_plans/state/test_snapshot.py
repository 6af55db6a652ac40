"""Plans that keep something from step to step: a warm one is set back, or says that it has to be built anew."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from fedjob.training_plans.state.snapshot import PlanSnapshot


class Holder:
    """An object of a plan's own."""

    def __init__(self) -> None:
        self.count = 0


class Pair(NamedTuple):
    numbers: list[int]
    tensor: torch.Tensor


class Settings(dict[str, int]):
    """A dictionary of a plan's own."""


class Drawing:
    """Data that draw for each example."""

    def __init__(self) -> None:
        self.transforms, self.calls = [np.random.default_rng(1)], 0

    def __getitem__(self, place: int) -> float:
        return float(self.transforms[0].random())


class Kept:
    """Whatever a plan keeps something in."""

    shared: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.ctx = Holder()
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.5), torch.nn.GRU(3, 3))
        self.model.register_buffer("mask", torch.zeros(3), persistent=False)
        self.model.register_buffer("table", torch.zeros(40_000), persistent=False)
        self.count, self.names, self.found = 0, [], {"a": [1]}
        self.queue, self.places = deque([1], maxlen=4), {1}
        self.own, self.array = Holder(), np.zeros(3)
        self.draws = [random.Random(1), np.random.default_rng(1), np.random.RandomState(1), torch.Generator()]
        self.many, self.big = list(range(5000)), torch.zeros(40_000)
        self.pair, self.settings, self.images = Pair([1], torch.ones(1)), Settings(a=1), Drawing()
        self.frame, self.large = pd.DataFrame({"a": [1.0, 2.0]}), np.ones(40_000)
        self.adam = torch.optim.Adam(self.model.parameters())
        self.nested = ([0], {"deep": {"deeper": [0]}})


class Large(Kept):
    """The same with more that is large."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = pd.DataFrame({"a": np.zeros(40_000), "b": np.arange(40_000), "c": ["x"] * 40_000})
        self.column, self.numbers = pd.Series(np.zeros(40_000)), np.arange(40_000)
        self.in_columns = np.asfortranarray(np.zeros((200, 201)))


def _train(plan: Kept) -> None:
    plan.model(torch.ones(1, 2))[0].sum().backward()


def _draw(plan: Kept) -> None:
    plan.draws[0].random(), plan.draws[1].random(), plan.draws[2].random()
    torch.rand(1, generator=plan.draws[3])


CHANGES: dict[str, Callable[[Kept], Any]] = {
    "a number": lambda plan: setattr(plan, "count", 1),
    "an attribute that is new": lambda plan: setattr(plan, "anchor", torch.ones(2)),
    "an attribute that is gone": lambda plan: delattr(plan, "count"),
    "an attribute of the context": lambda plan: setattr(plan.ctx, "seen", 1),
    "an empty list": lambda plan: plan.names.append(1),
    "what is in a dictionary": lambda plan: plan.found["a"].append(2),
    "what is deep within": lambda plan: plan.nested[1]["deep"]["deeper"].append(1),
    "a deque": lambda plan: plan.queue.append(2),
    "a set": lambda plan: plan.places.add(2),
    "an object": lambda plan: setattr(plan.own, "count", 3),
    "an array": lambda plan: plan.array.__iadd__(1),
    "generators of randomness": _draw,
    "a setting of a layer": lambda plan: setattr(plan.model[1], "p", 0.9),
    "a state of a layer": lambda plan: setattr(plan.model[2], "hidden", torch.ones(3)),
    "a buffer that is not saved": lambda plan: plan.model.mask.add_(1),
    "a buffer that is replaced": lambda plan: setattr(plan.model, "mask", torch.ones(5)),
    "what is written past the count of versions": lambda plan: plan.model.mask.data.add_(1),
    "gradients": _train,
    "what learns": lambda plan: plan.model[0].weight.requires_grad_(False),
    "a parameter that is replaced": lambda plan: setattr(
        plan.model[0], "weight", torch.nn.Parameter(torch.ones(3, 2))
    ),
    "hooks": lambda plan: plan.model[0].register_forward_hook(lambda layer, given, found: found * 0),
    "training or not": lambda plan: plan.model.eval(),
    "a named tuple": lambda plan: (plan.pair.numbers.append(1), plan.pair.tensor.add_(1)),
    "an optimizer": lambda plan: plan.adam.param_groups[0].update(lr=0.5),
    "what an optimizer remembers": lambda plan: plan.adam.state.update({plan.big: {"step": 1}}),
    "an attribute of the class": lambda plan: setattr(type(plan), "calls", 1),
    "a list of the class": lambda plan: plan.shared.append(1),
}

NOTICED: dict[str, Callable[[Large], Any]] = {
    "a long list": lambda plan: plan.many.append(1),
    "a large tensor": lambda plan: plan.big.add_(1),
    "a large buffer": lambda plan: plan.model.table.add_(1),
    "what is written past the count of versions": lambda plan: plan.big.data.add_(1),
    "a large array": lambda plan: plan.large.__imul__(2),
    "one value of a large array": lambda plan: plan.large.__setitem__(20_001, 2),
    "one value of a large array in columns": lambda plan: plan.in_columns.__setitem__((7, 133), 2),
    "two values of a large array": lambda plan: plan.numbers.__setitem__([3, 4], plan.numbers[[4, 3]]),
    "one value of a large tensor through its array": lambda plan: plan.big.numpy().__setitem__(20_001, 2),
    "one value of a large tensor past the count of versions": lambda plan: plan.big.data[20_001:20_002].add_(
        1
    ),
    "one value of a long table": lambda plan: plan.rows.loc.__setitem__((20_001, "b"), 0),
    "one value of a long column": lambda plan: plan.column.__setitem__(20_001, 2.0),
    "a column of a table": lambda plan: plan.frame.insert(0, "b", 1),
    "the values of a table": lambda plan: plan.frame.__iadd__(1),
    "a container of a class of its own": lambda plan: plan.settings.update(a=2),
    "what data count": lambda plan: setattr(plan.images, "calls", 1),
    "the dtype of the model": lambda plan: plan.model.double(),
    "a hook of a tensor": lambda plan: plan.model[0].weight.register_hook(lambda grad: grad * 0),
}


def _snapshot(plan: Kept) -> PlanSnapshot:
    return PlanSnapshot(plan, apart=("ctx",), given=plan.model.parameters())


def _seen(value: Any, depth: int = 6) -> Any:
    """Return what a plan holds, as values that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist(), value.requires_grad, value.grad is None
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, dict):
        return {key: _seen(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [_seen(item, depth - 1) for item in value]
    if depth and hasattr(value, "__dict__") and not callable(getattr(value, "__code__", None)):
        return _seen(vars(value), depth - 1)
    return repr(value)


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_step_left_is_set_back(change: str) -> None:
    plan = Kept()
    before, own = _seen(plan), (list(Kept.shared), "calls" in vars(Kept))
    snapshot = _snapshot(plan)
    for _ in range(2):
        CHANGES[change](plan)
        assert (_seen(plan), (list(Kept.shared), "calls" in vars(Kept))) != (before, own)
        assert snapshot.set_back()
        assert (_seen(plan), (list(Kept.shared), "calls" in vars(Kept))) == (before, own)


@pytest.mark.parametrize("change", NOTICED)
def test_what_can_not_be_set_back_is_noticed(change: str) -> None:
    plan = Large()
    snapshot = _snapshot(plan)
    assert snapshot.set_back()
    NOTICED[change](plan)
    assert not snapshot.set_back()


def test_what_gives_one_item_after_the_other_has_to_be_made_anew() -> None:
    plan = Kept()
    plan.numbers = itertools.count()
    assert not _snapshot(plan).set_back()


def test_values_that_every_step_is_given_are_left_as_they_are() -> None:
    plan = Kept()
    snapshot = _snapshot(plan)
    with torch.no_grad():
        plan.model[0].weight.fill_(3)
    assert snapshot.set_back()
    assert plan.model[0].weight.eq(3).all()


def test_what_data_draw_begins_anew() -> None:
    plan = Kept()
    snapshot = _snapshot(plan)
    drawn = plan.images[0]
    assert snapshot.set_back()
    assert plan.images[0] == drawn


def test_a_file_that_is_read_is_set_back_to_its_place(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        plan = Kept()
        plan.file = file
        snapshot = _snapshot(plan)
        assert file.readline() == "one\n"
        assert snapshot.set_back()
        assert file.readline() == "one\n"


def test_a_model_is_covered_whatever_else_the_plan_holds() -> None:
    plan = Kept()
    plan.lists = [[str(number) for number in range(1000)] for _ in range(30)]
    vars(plan)["model"] = vars(plan).pop("model")  # it comes last
    snapshot = _snapshot(plan)
    plan.model[1].p = 0.9
    plan.model[0].weight.requires_grad_(False)
    assert snapshot.set_back()
    assert plan.model[1].p == 0.5
    assert plan.model[0].weight.requires_grad


def _inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(3)


ODD_TENSORS = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "compressed": lambda: torch.eye(4).to_sparse_csr(),
    "without values": lambda: torch.ones(4, device="meta"),
    "of inference": _inference,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "of 8 bits": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "large, of 8 bits": lambda: torch.ones(70_000).to(torch.float8_e4m3fn),
    "large, of truth values": lambda: torch.ones(70_000, dtype=torch.bool),
    "large and complex": lambda: torch.ones(40_000, dtype=torch.complex64),
    "large and conjugate": lambda: torch.ones(40_000, dtype=torch.complex64).conj(),
    "large and negative": lambda: torch.ones(40_000, dtype=torch.complex64).conj().imag,
    "large and quantized": lambda: torch.quantize_per_tensor(torch.ones(70_000), 0.1, 0, torch.qint8),
    "large and sparse": lambda: torch.ones(40_000).to_sparse(),
    "large, in other steps": lambda: torch.ones(200, 400).t(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_a_tensor_of_another_kind_is_left_alone(kind: str) -> None:
    plan = Kept()
    plan.odd = ODD_TENSORS[kind]()
    assert _snapshot(plan).set_back()


ODD_TABLES = {
    "without columns": lambda: pd.DataFrame(index=range(5000)),
    "of texts": lambda: pd.DataFrame({"a": ["x", "y"] * 3000}),
    "of kinds of its own": lambda: pd.DataFrame({"a": pd.Categorical(["x", "y"] * 3000), "b": [1, 2] * 3000}),
    "of times": lambda: pd.DataFrame({"a": pd.date_range("2020", periods=5000), "b": range(5000)}),
    "of columns of one name": lambda: pd.DataFrame(np.zeros((5000, 2)), columns=["a", "a"]),
}


@pytest.mark.parametrize("kind", ODD_TABLES)
def test_a_table_of_any_kind_is_as_it_was_unless_it_is_changed(kind: str) -> None:
    plan = Kept()
    plan.odd = ODD_TABLES[kind]()
    assert _snapshot(plan).set_back()


def test_what_can_not_be_written_back_has_to_be_made_anew() -> None:
    plan = Kept()
    plan.odd = torch.ones(1).expand(3)
    snapshot = _snapshot(plan)
    plan.odd.data[0] += 1
    assert not snapshot.set_back()


def test_what_refuses_to_be_looked_at_has_to_be_made_anew() -> None:
    plan = Kept()
    plan.lazy = torch.nn.LazyLinear(3)  # its parameters have no shape yet
    assert not _snapshot(plan).set_back()


def test_small_tensors_are_copied_up_to_a_limit_in_all() -> None:
    plan = Kept()
    plan.many_tensors = [torch.zeros(1 << 14) for _ in range(500)]
    snapshot = _snapshot(plan)
    assert snapshot.set_back()
    plan.many_tensors[-1].add_(1)
    assert not snapshot.set_back()


def test_data_are_not_entered_for_what_they_remember_of_their_files() -> None:
    class Images:
        def __init__(self) -> None:
            self.cache: dict[int, int] = {}

        def __getitem__(self, place: int) -> int:
            return self.cache.setdefault(place, place)

    plan = Kept()
    plan.images = Images()
    snapshot = _snapshot(plan)
    assert plan.images[3] == 3
    assert snapshot.set_back()
    assert plan.images.cache == {3: 3}
