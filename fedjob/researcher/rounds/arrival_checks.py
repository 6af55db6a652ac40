"""The checks that an arrival must pass before it counts in an ask; no node is trusted to have checked it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.guard import (
    Guard,
    check_decoded,
    check_metrics,
    check_norm,
    check_tensors,
    check_weight,
)
from fedjob.common.errors import DecodeError
from fedjob.common.values import decode
from fedjob.messaging.messages import Result
from fedjob.parameters.auxiliary import join_schemas, split
from fedjob.parameters.files import is_params, schema_of
from fedjob.parameters.safetensors_header import MAX_HEADER_BYTES, Schema, num_bytes_of
from fedjob.protocols.base import MEASURING, Ask
from fedjob.researcher.federation.base import ReplySizes
from fedjob.researcher.storage.replies import Arrival

MAX_FACTS = 200
"""Entries of each of a reply's maps of facts, such as its timing."""

MAX_NUMBER = 1e15

MAX_REASON = 600
"""Characters of a reason: it may quote what a node sent."""

_NAME = re.compile(r"[\w .:/@+-]{1,200}")
_STATE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalChecks:
    """The checks of the arrivals of one ask.

    Args:
        aggregator: the aggregator that the arrivals are for.
        num_rows: node -> size of its dataset; None where it is not known, or the node computes on other data.
        had_state: node -> id of the node state that it keeps.
        open_: returns an arrival with its tensors as they count, or why it does not (`reason: detail`); it raises
            DecodeError for what can't be read.
    """

    ask: Ask
    aggregator: Aggregator
    guard: Guard
    num_rows: Mapping[str, int | None]
    had_state: Mapping[str, str]
    open_: Callable[[Arrival], Arrival | str] = lambda arrival: arrival
    _opened: dict[str, Arrival] = field(default_factory=dict)

    def counted(self, arrival: Arrival) -> Arrival:
        """Return an arrival that was not refused, with its tensors as they count."""
        return self._opened.get(arrival.node, arrival)

    def refusal(self, arrival: Arrival) -> str:
        """Return why an arrival does not count (`reason: detail`), or nothing."""
        return self._refusal(arrival)[:MAX_REASON]

    def _refusal(self, arrival: Arrival) -> str:
        result = arrival.result
        # weights that no arithmetic uses may exceed the rows: data grow while a job looks for new ones
        num_rows = self.num_rows.get(arrival.node) if self.aggregator.arithmetic else None
        per_row = self.guard.max_examples_per_row
        problem = check_facts(result)
        problem = problem or check_weight(result.weight, result.num_examples, num_rows, per_row)
        problem = problem or check_metrics(result.metrics)
        problem = problem or self._check_value(result)
        if problem:
            return problem
        if self.ask.step in MEASURING:
            return "" if arrival.params is None else "bad_names: parameters came back from a validation"
        if result.ok and result.state is None and arrival.node in self.had_state:
            return "no_state: the reply names no node state, but the one before did"
        return self._check_params(arrival)

    def _check_value(self, result: Result) -> str:
        """Check the form of the plain value, and that it can be decoded: who reads the job's result must not fail."""
        if problem := self.ask.answer.problem(result.value):
            return f"bad_value: {problem}"
        try:
            found = decode(result.value)
        except DecodeError as error:
            return f"unreadable: {error}"
        return check_decoded(found) if self.aggregator.arithmetic else ""

    def _check_params(self, arrival: Arrival) -> str:
        expected = expected_schema(self.ask, arrival.node)
        if arrival.params is None:
            none_at_all = expected and arrival.result.value in (None, {})
            return "no_params: expected parameters, found none" if none_at_all else ""
        try:
            opened = self.open_(arrival)
            if isinstance(opened, str):
                return opened
            arrival = self._opened[arrival.node] = opened
            assert arrival.params is not None, "it had some"
            problem = "" if expected is None else check_tensors(arrival.params, expected)
            if problem or not self.ask.commit:
                return problem
            params = split(arrival.params)[0]
            return check_norm(params, origin_of(self.ask), self.guard.max_norm)
        except (DecodeError, OSError) as error:
            return f"unreadable: {error}"


def check_facts(result: Result) -> str:
    """Return which of the facts of a reply is none: what a node says of times, rows and items is shown and recorded."""
    if result.state is not None and not _STATE.fullmatch(result.state):
        return "bad_reply: the node state has a name that no node gives"
    if result.usage is not None and (len(result.usage) != 2 or not all(map(_is_count, result.usage))):
        return "bad_reply: usage is two whole numbers, those over a limit and those that it allows"
    if not 0 <= result.threads <= 1 << 20:
        return f"bad_reply: {result.threads:.6g} threads computed it"
    for what, numbers in (("timing", result.timing), ("items", result.items), ("rows", result.rows)):
        if len(numbers) > MAX_FACTS or not all(map(_NAME.fullmatch, numbers)):
            return f"bad_reply: {what} has more than {MAX_FACTS} names, or names that nobody gives"
        least = -MAX_NUMBER if what == "timing" else 0
        if odd := [name for name, number in numbers.items() if not least <= number <= MAX_NUMBER]:
            return f"bad_reply: {what} of {odd[0]} is {numbers[odd[0]]:g}"
    if len(result.used) > MAX_FACTS or len(result.optimizer_args) > MAX_FACTS:
        return f"bad_reply: more than {MAX_FACTS} facts about resources or the optimizer"
    for used in result.used:
        amount = used.get("amount")
        if not isinstance(used.get("resource"), str) or not _is_number(amount):
            return "bad_reply: a used resource is a name and a number"
    return ""


def reply_sizes(ask: Ask, guard: Guard) -> ReplySizes:
    """Return the most bytes that a node's answer to an ask may have."""
    value = guard.value_bytes if ask.value_bytes is None else ask.value_bytes
    if ask.step in MEASURING:
        return ReplySizes(params=0, value=value)
    expected = [expected_schema(ask, node) for node in ask.schemas or ("",)]
    if None in expected:
        return ReplySizes(params=value, value=value)
    most = max(num_bytes_of(schema) for schema in expected if schema is not None)
    return ReplySizes(params=most + MAX_HEADER_BYTES if any(expected) else 0, value=value)


def origin_of(ask: Ask) -> Mapping[str, Any] | None:
    """Return the tensors from which a contribution's norm is measured; None for zero."""
    if ask.origin is not None:
        return ask.origin or None
    params = ask.shared.get("params")
    return params if params is not None and is_params(params) else None


def expected_schema(ask: Ask, node: str = "") -> Schema | None:
    """Return the schema that the tensors of a node's contribution must have; None for any."""
    params = ask.shared.get("params")
    schema = ask.schemas.get(node, ask.schema)
    if schema is None and params is not None and is_params(params):
        schema = schema_of(params)
    return schema if schema is None else join_schemas(schema, ask.aux)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= MAX_NUMBER


def _is_number(number: Any) -> bool:
    return type(number) in (int, float) and math.isfinite(number) and abs(number) <= MAX_NUMBER
