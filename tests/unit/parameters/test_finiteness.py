"""NaN and infinity are found in named tensors, whether these are looked through together or one by one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fedjob.parameters.files import FileParams, save_params
from fedjob.parameters.finiteness import CHUNK, MOST_TOGETHER, SMALL, first_not_finite

FEW = {"a": torch.zeros(3, 2), "b": torch.ones(5), "steps": torch.tensor(7)}


def test_finite_numbers_are_finite() -> None:
    assert first_not_finite(FEW) is None
    assert first_not_finite({}) is None
    assert first_not_finite({"none": torch.zeros(0)}) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_first_tensor_that_holds_none_is_named(bad: float, dtype: torch.dtype) -> None:
    params = {**FEW, "c": torch.ones(4, dtype=dtype), "d": torch.full((2,), bad)}
    params["c"][3] = bad
    assert first_not_finite(params) == "c"


@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, MOST_TOGETHER + 5])
def test_it_is_found_at_any_place_of_a_large_tensor(place: int) -> None:
    large = torch.zeros(MOST_TOGETHER + CHUNK)
    assert first_not_finite({"small": torch.ones(2), "large": large}) is None
    large[place] = math.nan
    assert first_not_finite({"small": torch.ones(2), "large": large}) == "large"


def test_of_small_and_large_tensors_the_first_in_their_order_is_named() -> None:
    bad, good = torch.full((3,), math.nan), torch.ones(SMALL + 1)
    assert first_not_finite({"large": good, "small": bad, "later": bad}) == "small"
    assert first_not_finite({"large": good * math.inf, "small": bad}) == "large"


def test_numbers_whose_sum_is_infinite_are_finite() -> None:
    assert first_not_finite({"w": torch.full((9,), 3e38)}) is None
    assert first_not_finite({"w": torch.full((9,), 6e4, dtype=torch.float16)}) is None


def test_infinities_that_cancel_out_are_found() -> None:
    assert first_not_finite({"w": torch.tensor([math.inf, 0.0, -math.inf])}) == "w"


def test_any_order_of_numbers_in_memory_is_looked_through() -> None:
    images = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert first_not_finite({"w": images, "b": torch.ones(4).expand(3, 4)}) is None
    images[1, 2, 3, 3] = math.nan
    assert first_not_finite({"w": images, "b": torch.ones(4).expand(3, 4)}) == "w"


def test_parameters_that_need_gradients_keep_none_of_it() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert first_not_finite({"w": weight}) is None
    assert weight.grad is None
    assert weight.grad_fn is None


def test_a_file_is_looked_through_as_it_lies(tmp_path: Path) -> None:
    save_params({**FEW, "late": torch.tensor([1.0, math.nan])}, tmp_path / "bad", durable=False)
    save_params(FEW, tmp_path / "good", durable=False)
    assert first_not_finite(FileParams(tmp_path / "bad")) == "late"
    assert first_not_finite(FileParams(tmp_path / "good")) is None


def test_large_tensors_of_a_file_are_looked_through_where_they_are_mapped(tmp_path: Path) -> None:
    large = {"a": torch.zeros(3 * SMALL), "b": torch.ones(5)}
    save_params(large, tmp_path / "good", durable=False)
    large["a"][-1] = math.inf
    save_params(large, tmp_path / "bad", durable=False)
    assert first_not_finite(FileParams(tmp_path / "good")) is None
    assert first_not_finite(FileParams(tmp_path / "bad")) == "a"
