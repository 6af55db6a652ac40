"""Folds: hand-computed numbers, and the same bytes however they are fed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.elementwise import CHUNK
from fedjob.aggregation.guard import not_finite
from fedjob.aggregation.mean import WeightedMean, mean_of
from fedjob.metrics.states import measure, value
from fedjob.parameters.files import FileParams, save_params
from fedjob.testing.aggregation import AggregatorContract


@pytest.mark.feature("FB-68")
def test_hundred_and_three_hundred_examples_weigh_a_quarter_and_three_quarters() -> None:
    a = Contribution({"w": torch.tensor([1.0, 0.0, 8.0])}, 100)
    b = Contribution({"w": torch.tensor([5.0, 4.0, 0.0])}, 300)
    total = WeightedMean().aggregate([a, b])
    assert total.value["w"].tolist() == [4.0, 3.0, 2.0]
    assert total.weight == 400


def test_zero_weights_give_the_plain_mean() -> None:
    total = WeightedMean().aggregate(
        [Contribution({"w": torch.tensor([1.0])}), Contribution({"w": torch.tensor([3.0])})]
    )
    assert total.value["w"].tolist() == [2.0]


def test_integer_tensors_keep_their_type_and_are_rounded() -> None:
    counts = [Contribution({"n": torch.tensor(v)}, 1) for v in (10, 11, 11)]
    total = WeightedMean().aggregate(counts).value["n"]
    assert total.dtype == torch.int64
    assert total.item() == 11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_mean_of_many_chunks_has_the_bits_of_one_sum_and_leaves_the_contributions_as_they_are(
    size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(size)
    tensors = [torch.randn(size, generator=generator).mul(100).to(dtype) for _ in range(3)]
    before, shares = [tensor.clone() for tensor in tensors], [0.2, 0.3, 0.5]
    total = tensors[0].double() * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        total = total + tensor.double() * share
    expected = total if dtype.is_floating_point else total.round()
    assert torch.equal(mean_of(tensors, shares), expected.to(dtype))
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, 2 * CHUNK])
def test_a_number_that_is_not_finite_is_found_in_every_chunk(place: int, number: float) -> None:
    tensor = torch.zeros(2 * CHUNK + 1)
    tensor[0], tensor[1] = 3.4e38, -3.4e38  # their difference is no float32
    assert not_finite({"w": tensor, "count": torch.ones(3, dtype=torch.int64)}) == ""
    tensor[place] = number
    assert not_finite({"w": tensor}) == "not_finite: w holds NaN or infinity"
    assert not_finite({"w": tensor.double().reshape(1, -1)}) == "not_finite: w holds NaN or infinity"


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 1000)), min_size=1, max_size=8))
def test_the_mean_is_the_exact_rational_mean_to_the_last_bits_and_inside_the_hull(
    pairs: list[tuple[float, int]],
) -> None:
    total = (
        WeightedMean()
        .aggregate([Contribution({"w": torch.tensor([v])}, w) for v, w in pairs])
        .value["w"]
        .item()
    )
    exact = sum(Fraction(v) * w for v, w in pairs) / sum(w for _, w in pairs)
    assert total == pytest.approx(float(exact), rel=1e-6, abs=1e-4)
    low, high = min(v for v, _ in pairs), max(v for v, _ in pairs)
    assert low - abs(low) * 1e-6 - 1e-9 <= total <= high + abs(high) * 1e-6 + 1e-9


def test_mapped_files_and_tensors_in_memory_aggregate_to_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sets = [{"w": torch.randn(1000, 700), "b": torch.randn(3)} for _ in range(3)]
    files = []
    for index, params in enumerate(sets):
        save_params(params, tmp_path / str(index))
        files.append(FileParams(tmp_path / str(index)))
    shares = [0.2, 0.3, 0.5]
    in_memory, mapped = mean_of(sets, shares), mean_of(files, shares)
    assert all(torch.equal(in_memory[name], mapped[name]) for name in in_memory)


def test_metrics_combine_exactly_and_not_as_a_mean_of_ratios() -> None:
    small = measure(["accuracy"], [1, 1], [1, 0])
    large = measure(["accuracy"], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1])
    total = WeightedMean().aggregate(
        [Contribution(None, 1, {"after": small}), Contribution(None, 1, {"after": large})]
    )
    assert value(total.metrics["after"]["accuracy"]) == pytest.approx(7 / 8)


def test_contributions_add_in_any_grouping() -> None:
    parts = [Contribution({"sum": k, "list": [k, 1]}, k) for k in range(1, 5)]
    groupings = [((0, 1), (2, 3)), ((0, 2), (1, 3))]
    totals = [(parts[i] + parts[j]) + (parts[k] + parts[m]) for (i, j), (k, m) in groupings]
    assert totals[0] == totals[1]
    assert totals[0].value == {"sum": 10, "list": [10, 4]}


class TestAggregatorsOfTheRegistry(AggregatorContract):
    """Every fold that makes one set of tensors of several."""

    @pytest.fixture(params=[name for name in AGGREGATORS.names() if name != "collect"])
    def aggregator(self, request: pytest.FixtureRequest) -> Aggregator:
        found = AGGREGATORS.build(request.param, {})
        assert AGGREGATORS.build(*AGGREGATORS.config_of(found)) == found
        self.stays_in_box = request.param != "sum"
        return found


@pytest.mark.parametrize("name", AGGREGATORS.names())
def test_every_aggregator_takes_plain_numbers_in_maps_and_lists(name: str) -> None:
    contributions = [Contribution({"rows": [float(k), k / 3]}, k + 1) for k in range(8)]
    total = AGGREGATORS.build(name, {}).aggregate(contributions)
    found = total.value if name == "collect" else [total.value]
    assert all(len(part["rows"]) == 2 and isinstance(part["rows"][0], float) for part in found)
