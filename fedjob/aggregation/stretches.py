"""The total of named tensors, a stretch of their numbers at a time.

An aggregator that is `elementwise` needs no more than a stretch of the contributions for a stretch of the total. So
the total of files that are mapped into memory takes the memory of a stretch, however large the model and however many
the nodes, and what is done of it can be written and sent while the rest is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.parameters.auxiliary import PREFIX
from fedjob.parameters.files import FileParams
from fedjob.parameters.safetensors_header import Schema, names_in_order, num_bytes_of

if TYPE_CHECKING:
    import torch

STRETCH = 1 << 18
"""Numbers of the total at a time: few enough that those of a model's usual dtypes stay in a processor's cache until they
are written."""

LEAST_BYTES = 1 << 20
"""Of a total that is worth it: a smaller one is computed sooner as a whole."""


@dataclass(frozen=True, slots=True)
class StretchedTotal:
    """Named tensors that an aggregator has not computed yet.

    Args:
        schema: that all contributions have.
    """

    rule: Aggregator
    contributions: Sequence[Contribution]
    schema: Schema

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Compute the total; yield its numbers in the order in which they lie in a file, as tensors of one axis.

        Raises:
            SpecError: the aggregator can't compute with the contributions.
        """
        for name in names_in_order(self.schema):
            flats = [one.value[name].reshape(-1) for one in self.contributions]
            for start in range(0, flats[0].numel(), STRETCH):
                part = slice(start, start + STRETCH)
                parts = [
                    replace(one, value={name: flat[part]}, metrics={})
                    for one, flat in zip(self.contributions, flats, strict=True)
                ]
                yield self.rule.aggregate(parts).value[name].reshape(-1)


def stretched(rule: Aggregator, contributions: Sequence[Contribution]) -> Contribution | None:
    """Return the total of contributions that lie in files, with its tensors yet to be computed: a `StretchedTotal`.

    Returns:
        None where the total is computed as a whole: by an aggregator that is not elementwise, where it is small, or where
        a contribution is something else than a file of parameters, or has other tensors than the first one.
    """
    if not vars(type(rule)).get("elementwise", False) or not contributions:
        return None
    values = [one.value for one in contributions]  # of a file's tensors the header alone has been read
    if not all(isinstance(value, FileParams) for value in values):
        return None
    schema = values[0].schema
    if num_bytes_of(schema) < LEAST_BYTES or any(value.schema != schema for value in values):
        return None
    if any(name.startswith(PREFIX) for name in schema) or any(one.aux for one in contributions):
        return None
    rest: Mapping[str, Any] = {"value": StretchedTotal(rule, tuple(contributions), schema)}
    return replace(rule.aggregate([replace(one, value=None) for one in contributions]), **rest)
