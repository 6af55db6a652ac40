"""The checks that an arrival must pass before it counts in an ask; no node is trusted to have checked it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.guard import (
    Guard,
    check_metrics,
    check_norm,
    check_tensors,
    check_value,
    check_weight,
)
from fedjob.common.errors import DecodeError
from fedjob.parameters.auxiliary import join_schemas, split
from fedjob.parameters.files import Schema, is_params, schema_of
from fedjob.protocols.base import MEASURING, Ask
from fedjob.researcher.storage.replies import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalChecks:
    """The checks of the arrivals of one ask.

    Args:
        aggregator: the aggregator that the arrivals are for.
        num_rows: node -> size of its dataset; None where it is not known, or the node computes on other data.
        had_state: node -> id of the node state that it keeps.
    """

    ask: Ask
    aggregator: Aggregator
    guard: Guard
    num_rows: Mapping[str, int | None]
    had_state: Mapping[str, str]

    def refusal(self, arrival: Arrival) -> str:
        """Return why an arrival does not count (`reason: detail`), or nothing."""
        result = arrival.result
        # weights that no arithmetic uses may exceed the rows: data grow while a job looks for new ones
        num_rows = self.num_rows.get(arrival.node) if self.aggregator.arithmetic else None
        per_row = self.guard.max_examples_per_row
        problem = check_weight(result.weight, result.num_examples, num_rows, per_row)
        problem = problem or check_metrics(result.metrics)
        if problem:
            return problem
        if self.ask.step in MEASURING:
            return "" if arrival.params is None else "bad_names: parameters came back from a validation"
        if result.state is None and arrival.node in self.had_state:
            return "no_state: the reply names no node state, but the one before did"
        expected = _expected(self.ask)
        try:
            if self.aggregator.arithmetic and (problem := check_value(result.value)):
                return problem
            if arrival.params is None:
                return (
                    "no_params: expected parameters, found none" if expected and result.value is None else ""
                )
            problem = "" if expected is None else check_tensors(arrival.params, expected)
            if problem or not self.ask.commit:
                return problem
            params = split(arrival.params)[0]
            return check_norm(params, origin_of(self.ask), self.guard.max_norm)
        except (DecodeError, OSError) as error:
            return f"unreadable: {error}"


def origin_of(ask: Ask) -> Mapping[str, Any] | None:
    """Return the tensors from which a contribution's norm is measured; None for zero."""
    if ask.origin is not None:
        return ask.origin or None
    params = ask.shared.get("params")
    return params if params is not None and is_params(params) else None


def _expected(ask: Ask) -> Schema | None:
    """Return the schema that the tensors of a contribution must have; None for any."""
    params = ask.shared.get("params")
    schema = ask.schema
    if schema is None and params is not None and is_params(params):
        schema = schema_of(params)
    return schema if schema is None else join_schemas(schema, ask.aux)
