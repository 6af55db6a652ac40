"""The contract tests of aggregators, which make one total of the nodes' contributions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.elementwise import CHUNK
from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.metrics.states import mean_state, num_examples, value
from fedjob.parameters.files import FileParams, hash_params, save_params, schema_of

NUM_NODES = 11


class AggregatorContract:
    """The tests that every aggregator of named tensors passes, whatever its rule."""

    stays_in_box = True
    """True if each element of the total lies within the range of the nodes' and the origin's elements."""

    any_order = True
    """True if the order of the contributions makes no difference, up to rounding."""

    @pytest.fixture
    def aggregator(self) -> Aggregator:
        """Return the aggregator, with settings for `NUM_NODES` nodes or fewer."""
        raise NotImplementedError

    @pytest.fixture
    def given(self, aggregator: Aggregator) -> list[Contribution]:
        """Return contributions that hold more than one chunk, several dtypes, and metrics."""
        assert aggregator.min_nodes <= NUM_NODES
        return [_contribution(k) for k in range(NUM_NODES)]

    def test_plain_data_describes_it(self, aggregator: Aggregator) -> None:
        assert from_plain(type(aggregator), unpack(pack(to_plain(aggregator)))) == aggregator

    def test_names_types_and_shapes_are_kept_and_weights_and_metrics_add(
        self, aggregator: Aggregator, given: list[Contribution]
    ) -> None:
        total = aggregator.aggregate(given, _origin())
        assert schema_of(total.value) == schema_of(given[0].value)
        assert total.weight == sum(c.weight for c in given)
        assert num_examples(total.metrics["train"]["loss"]) == sum(10 + k for k in range(NUM_NODES))
        without = aggregator.aggregate([Contribution(None, c.weight, c.metrics) for c in given])
        assert without.value is None
        assert value(without.metrics["train"]["loss"]) == value(total.metrics["train"]["loss"])

    def test_the_same_contributions_give_the_same_bytes_and_stay_as_they_are(
        self, aggregator: Aggregator, given: list[Contribution]
    ) -> None:
        before = [hash_params(c.value) for c in given]
        totals = [hash_params(aggregator.aggregate(given, _origin()).value) for _ in range(2)]
        assert totals[0] == totals[1]
        assert [hash_params(c.value) for c in given] == before

    def test_mapped_files_give_the_bytes_of_tensors_in_memory(
        self, aggregator: Aggregator, given: list[Contribution], tmp_path: Path
    ) -> None:
        mapped = []
        for k, contribution in enumerate(given):
            save_params(contribution.value, tmp_path / str(k))
            mapped.append(Contribution(FileParams(tmp_path / str(k)), contribution.weight))
        total = aggregator.aggregate(given, _origin())
        assert hash_params(aggregator.aggregate(mapped, _origin()).value) == hash_params(total.value)

    def test_one_that_is_elementwise_gives_each_stretch_the_bytes_that_it_has_in_the_whole(
        self, aggregator: Aggregator, given: list[Contribution]
    ) -> None:
        whole = aggregator.aggregate(given, _origin()).value["w"]
        found = []
        for part in (slice(0, 5), slice(5, CHUNK), slice(CHUNK, None)):
            cut = [Contribution({"w": c.value["w"][part]}, c.weight, staleness=c.staleness) for c in given]
            found.append(aggregator.aggregate(cut).value["w"])
        says_so = vars(type(aggregator)).get("elementwise", False)
        assert torch.equal(torch.cat(found), whole) or not says_so

    def test_the_order_of_contributions_does_not_matter(
        self, aggregator: Aggregator, given: list[Contribution]
    ) -> None:
        if not self.any_order:
            return
        total = aggregator.aggregate(given, _origin()).value
        random.Random(7).shuffle(given)
        again = aggregator.aggregate(given, _origin()).value
        for name in total:
            torch.testing.assert_close(again[name], total[name])

    def test_every_number_stays_between_those_of_the_nodes(
        self, aggregator: Aggregator, given: list[Contribution]
    ) -> None:
        if not self.stays_in_box:
            return
        total, origin = aggregator.aggregate(given, _origin()).value, _origin()
        for name in total:
            column = torch.stack([origin[name], *(c.value[name] for c in given)]).double()
            slack = 1e-6 * column.abs().amax(0)
            assert (total[name].double() >= column.amin(0) - slack).all()
            assert (total[name].double() <= column.amax(0) + slack).all()


def _contribution(k: int) -> Contribution:
    noise = torch.Generator().manual_seed(k)
    params = {
        "w": torch.randn(CHUNK + 3, generator=noise),
        "b": torch.randn(2, 3, generator=noise, dtype=torch.float64),
        "steps": torch.tensor(100 + k),
    }
    return Contribution(params, 10.0 + k, {"train": {"loss": mean_state(float(k), 10 + k)}})


def _origin() -> Mapping[str, Any]:
    return {
        "w": torch.zeros(CHUNK + 3),
        "b": torch.zeros(2, 3, dtype=torch.float64),
        "steps": torch.tensor(100),
    }
