"""A total that is computed stretch by stretch: the bytes of the whole, whatever the aggregator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator, Origin
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.mean import BufferedMean, PlainMean, WeightedMean
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
from fedjob.aggregation.stretches import LEAST_BYTES, STRETCH, StretchedTotal, stretched
from fedjob.aggregation.sum import Sum
from fedjob.metrics.states import mean_state
from fedjob.parameters.files import FileParams, Params, save_params
from fedjob.parameters.params_writer import ParamsWriter

BY_STRETCHES: list[Aggregator] = [
    WeightedMean(), PlainMean(), BufferedMean(), BufferedMean(weighted=True), Median(), TrimmedMean(), Sum(),
]  # fmt: skip


def model(seed: int) -> Params:
    """Return tensors of many dtypes and shapes, some empty, some of one number, one of several stretches."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "z.weight": torch.randn(700, 1013, generator=draw),
        "a": torch.randn(STRETCH + 1, generator=draw).to(torch.bfloat16),
        "batches": torch.randint(0, 99, (), generator=draw),
        "half": torch.randn(3, 5, generator=draw).half(),
        "empty": torch.zeros(0, 3),
        "double": torch.randn(99, dtype=torch.float64, generator=draw),
        "small": torch.randint(-5, 5, (7,), dtype=torch.int8, generator=draw),
    }


def contributions(folder: Path, models: Sequence[Params], weights: Sequence[float]) -> list[Contribution]:
    found = []
    for number, (each, weight) in enumerate(zip(models, weights, strict=True)):
        path = folder / f"{number}.safetensors"
        save_params(each, path, durable=False)
        metrics = {"train": {"loss": mean_state(float(number), 10)}}
        found.append(Contribution(FileParams(path), weight, metrics, staleness=number))
    return found


def written(total: Contribution, path: Path) -> bytes:
    assert isinstance(total.value, StretchedTotal)
    with ParamsWriter(path, total.value.schema) as writer:
        for stretch in total.value:
            assert stretch.numel() <= STRETCH
            writer.write(stretch)
    return path.read_bytes()


@pytest.mark.parametrize("weights", [(1.0, 20.0, 3.0, 40.0), (0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("rule", BY_STRETCHES, ids=repr)
def test_a_total_in_stretches_has_the_bytes_weight_and_metrics_of_the_whole(
    rule: Aggregator, weights: tuple[float, ...], tmp_path: Path
) -> None:
    given = contributions(tmp_path, [model(seed) for seed in range(4)], weights)
    whole, total = rule.aggregate(given), stretched(rule, given)
    assert total is not None
    save_params(whole.value, tmp_path / "whole", durable=False)
    assert written(total, tmp_path / "stretched") == (tmp_path / "whole").read_bytes()
    assert (total.weight, total.metrics) == (whole.weight, whole.metrics)


def test_every_aggregator_that_says_so_is_tested() -> None:
    said = {name for name, kind in AGGREGATORS.items() if vars(kind).get("elementwise")}
    assert said == {rule.name for rule in BY_STRETCHES}


@dataclass(frozen=True, slots=True)
class Halved(WeightedMean):
    """A mean that looks at the whole tensor, by somebody who derived it from one that does not."""

    def aggregate(self, contributions: Sequence[Contribution], origin: Origin | None = None) -> Contribution:
        return WeightedMean.aggregate(self, contributions, origin)


def test_what_can_not_be_divided_is_computed_as_a_whole(tmp_path: Path) -> None:
    given = contributions(tmp_path, [model(1), model(2)], (1.0, 1.0))
    assert stretched(WeightedMean(), given) is not None
    assert stretched(Halved(), given) is None, "a subclass may do anything"
    assert stretched(WeightedMean(), []) is None
    in_memory = [Contribution(model(1), 1.0), Contribution(model(2), 1.0)]
    assert stretched(WeightedMean(), in_memory) is None
    other = tmp_path / "other"
    other.mkdir()
    [longer] = contributions(other, [{**model(3), "one.more": torch.zeros(3)}], (1.0,))
    assert stretched(WeightedMean(), [*given, longer]) is None
    for name in ("small", "auxiliary"):
        (tmp_path / name).mkdir()
    small = [{"w": torch.zeros(LEAST_BYTES // 4 - 1)}] * 2
    assert stretched(WeightedMean(), contributions(tmp_path / "small", small, (1.0, 1.0))) is None
    aux = [{**model(1), "aux--scaffold.w": torch.zeros(3)}] * 2
    assert stretched(WeightedMean(), contributions(tmp_path / "auxiliary", aux, (1.0, 1.0))) is None
