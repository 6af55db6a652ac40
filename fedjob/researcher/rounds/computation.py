"""The computation of an ask's outcome: of the contributions that came, and without those that it can't be computed with.

Each contribution has passed the guard by itself. What only shows beside the others is found here: a weight out of
proportion, a metric of another kind, a value of another structure, a total that is not finite. Such a contribution is
left out with its reason, as if it had been refused when it came, and the ask goes on by its quorum. A computation that
fails in any other way is tried without each contribution in turn; where that names one, it is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.guard import Guard, check_decoded, not_finite
from fedjob.aggregation.mean import BufferedMean, PlainMean, WeightedMean
from fedjob.aggregation.shares import capped, out_of_proportion
from fedjob.aggregation.stretches import stretched
from fedjob.aggregation.sum import Sum
from fedjob.common.errors import (
    DecodeError,
    EncodeError,
    FedjobError,
    JobFailed,
    NodeFailure,
    SpecError,
)
from fedjob.common.quorum import Quorum, Verdict, too_few
from fedjob.common.values import decode, encode
from fedjob.metrics.state_checks import settings_of
from fedjob.parameters.files import is_params
from fedjob.protocols.base import Ask, Gathered, State
from fedjob.researcher.federation.base import AskContext, Collected
from fedjob.researcher.rounds.arrival_checks import origin_of
from fedjob.researcher.rounds.arrivals import contribution_of, reply_of
from fedjob.researcher.storage.replies import Arrival

Finish = Callable[[Gathered], State]
"""The protocol's state after an ask, from its outcome."""

Spool = Callable[[Contribution], tuple[Contribution, str]]
"""Return a total as it goes on, and its hash; of a `StretchedTotal` it computes the tensors."""

TakeBack = Callable[[Contribution], None]
"""Remove what `Spool` stored of a total that does not count after all."""

BLAMELESS = (SpecError, DecodeError, EncodeError, NodeFailure)
"""Errors of fedjob's own that somebody's contribution may cause; all others, such as a full disk, are passed on."""

MAX_TRIES = 100
"""Contributions without which a computation is tried that failed with all of them."""


class _TotalNotFinite(SpecError):
    """A total holds NaN or infinity, though no contribution does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskComputation:
    """The computation of one ask.

    Args:
        rule: the aggregator; `is_own` if it is the job's own, which sees the values that nodes returned and not how
            they travelled.
        num_rows: node -> registered size of its dataset, where it is known.
        num_nodes: of the job.
        finish: returns the protocol's next state; None where no protocol waits for the outcome.
        spool: stores the total.
        take_back: removes what was stored of a total with which nothing can be begun.
    """

    ask: Ask
    place: AskContext
    rule: Aggregator
    is_own: bool
    quorum: Quorum
    guard: Guard
    num_rows: Mapping[str, int | None]
    num_nodes: int
    finish: Finish | None
    spool: Spool
    take_back: TakeBack

    def outcome(self, collected: Collected) -> tuple[Collected, Gathered, str, State | None]:
        """Return the contributions that count, their outcome, the hash of the total and the protocol's next state.

        Raises:
            QuorumNotReached: too few contributions can be computed with.
            FedjobError: what is no contribution's fault.
        """
        collected = self._without(collected, self._odd(collected.arrivals))
        while True:
            counted = self._within_shares(collected)
            try:
                return (counted, *self._stored(counted))
            except BLAMELESS as error:
                failure: Exception = error
            except FedjobError:
                raise
            except (
                Exception
            ) as error:  # of arithmetic on what somebody else sent, or of a researcher's own function
                failure = error
            collected = self._without(collected, self._culprits(counted, failure))

    def _within_shares(self, collected: Collected) -> Collected:
        """Return the contributions with the weights that the guard lets them have."""
        if self.guard.max_share is None or not self.ask.commit or len(collected.arrivals) < 2:
            return collected
        weights = {node: arrival.result.weight for node, arrival in collected.arrivals.items()}
        lowered = capped(weights, self.guard.max_share)
        arrivals = {
            node: arrival
            if lowered[node] == weights[node]
            else replace(arrival, result=replace(arrival.result, weight=lowered[node]))
            for node, arrival in collected.arrivals.items()
        }
        return replace(collected, arrivals=arrivals)

    def _stored(self, collected: Collected) -> tuple[Gathered, str, State | None]:
        """Return the outcome of contributions, its total stored; where it can't be computed nothing is left of that."""
        stretched = self._stretched(collected.arrivals)
        total, output_hash = self.spool(self._total(collected.arrivals) if stretched is None else stretched)
        try:
            if stretched is not None:
                self._check_finite(total)
            return self._outcome_of(total, output_hash, collected)
        except BaseException:
            self.take_back(total)
            raise

    def _outcome_of(
        self, total: Contribution, output_hash: str, collected: Collected
    ) -> tuple[Gathered, str, State | None]:
        gathered = Gathered(
            total=total,
            replies={node: reply_of(arrival, self.place) for node, arrival in collected.arrivals.items()},
            left_out=dict(collected.left_out),
            busy=collected.busy,
            num_nodes=self.num_nodes,
        )
        state = None if self.finish is None else self.finish(gathered)
        if state is not None and self.ask.commit and not self.ask.sends_total:
            params = state.get("params")
            if params is not None and is_params(params) and (problem := not_finite(params)):
                raise _TotalNotFinite(f"after the round {problem.partition(': ')[2]}")
        return gathered, output_hash, state

    def _stretched(self, arrivals: Mapping[str, Arrival]) -> Contribution | None:
        """Return a total that is computed while it is stored; None where it has to be there as a whole."""
        if not self.ask.sends_total:  # its protocol reads it from memory
            return None
        return stretched(self.rule, [contribution_of(arrival, self.place) for arrival in arrivals.values()])

    def _total(self, arrivals: Mapping[str, Arrival]) -> Contribution:
        contributions = [contribution_of(arrival, self.place) for arrival in arrivals.values()]
        if self.is_own:
            contributions = [replace(one, value=decode(one.value)) for one in contributions]
        total = self.rule.aggregate(contributions, origin_of(self.ask))
        self._check_finite(total)
        if self.is_own and not is_params(total.value):
            total = replace(total, value=encode(total.value, "the total"))
        return total

    def _check_finite(self, total: Contribution) -> None:
        """Refuse a total that is not finite; means of finite tensors are finite."""
        if not self.rule.arithmetic or total.value is None:
            return
        if is_params(total.value):
            if isinstance(self.rule, (WeightedMean, PlainMean, BufferedMean)):
                return
            problem = not_finite(total.value)
        else:
            problem = check_decoded(total.value)
        if problem:
            raise _TotalNotFinite(f"of the total, {problem.partition(': ')[2]}")

    # -- which contributions it can't be computed with ------------------------------

    def _odd(self, arrivals: Mapping[str, Arrival]) -> dict[str, str]:
        """Return node -> reason, for contributions that are odd beside the others."""
        odd = odd_metrics(arrivals)
        if self.rule.arithmetic and not isinstance(self.rule, Sum):  # of a sum, nothing is zero
            without = [n for n, a in arrivals.items() if a.params is None and a.result.value is None]
            if len(without) < len(arrivals):
                odd |= dict.fromkeys(
                    without, "bad_value: expected a value or tensors, as the others sent; found none"
                )
        if self.rule.arithmetic and self.guard.max_examples_per_row is None:
            claimed = {n: max(a.result.num_examples, a.result.weight) for n, a in arrivals.items()}
            odd = {**out_of_proportion(claimed, self.num_rows), **odd}
        return odd

    def _culprits(self, collected: Collected, failure: Exception) -> dict[str, str]:
        """Return node -> reason, for the contributions that a computation failed for.

        Raises:
            Exception: the failure itself, where no contribution can be named.
        """
        arrivals = collected.arrivals
        words = f"{type(failure).__name__}: {str(failure)[:300]}"
        if self.rule.arithmetic:
            values = {
                node: arrival.result.value for node, arrival in arrivals.items() if arrival.params is None
            }
            if odd := odd_structures(values):
                return odd
        alone = [node for node in list(arrivals)[:MAX_TRIES] if self._works(collected, without=(node,))]
        if len(alone) == 1:
            reason = "not_finite" if isinstance(failure, _TotalNotFinite) else "bad_value"
            return {alone[0]: f"{reason}: nothing can be computed with it, but with all others ({words})"}
        if isinstance(failure, _TotalNotFinite):
            if node := _largest(arrivals):
                return {node: f"not_finite: its numbers are so large that {failure}"}
            raise JobFailed(
                f"{failure}, with every node's contribution: a step or a learning rate is too large",
                reason="not_finite",
            ) from failure
        if not alone and self.rule.min_nodes == 1:
            failing = [n for n in list(arrivals)[:MAX_TRIES] if not self._works(collected, only=(n,))]
            if 0 < len(failing) < len(arrivals):
                return dict.fromkeys(failing, f"bad_value: nothing can be computed with it ({words})")
        raise failure

    def _works(self, collected: Collected, *, without: Iterable[str] = (), only: Iterable[str] = ()) -> bool:
        """Return whether the outcome can be computed of some contributions."""
        left, chosen = set(without), set(only)
        arrivals = {
            n: a for n, a in collected.arrivals.items() if n not in left and (not chosen or n in chosen)
        }
        if len(arrivals) < self.rule.min_nodes:
            return False
        try:
            within = self._within_shares(replace(collected, arrivals=arrivals))
            self._outcome_of(self._total(within.arrivals), "", within)
        except Exception:  # whatever it is, it does not work
            return False
        return True

    def _without(self, collected: Collected, odd: Mapping[str, str]) -> Collected:
        """Return what is left without some contributions.

        Raises:
            QuorumNotReached: that is too few.
        """
        if not odd:
            return collected
        arrivals = {node: arrival for node, arrival in collected.arrivals.items() if node not in odd}
        left_out = {**collected.left_out, **odd}
        verdict = self.quorum.decide([*arrivals, *left_out], arrivals, left_out)
        if verdict is not Verdict.MET or not arrivals:
            raise too_few(
                self.quorum, self.place.round, arrivals, left_out, {**collected.parts, **collected.arrivals}
            )
        order = tuple(node for node in collected.order if node not in odd)
        return replace(collected, arrivals=arrivals, left_out=left_out, order=order)


def odd_metrics(arrivals: Mapping[str, Arrival]) -> dict[str, str]:
    """Return node -> reason, for those whose metric is of another kind, or has other settings, than that of most nodes.

    Where as many nodes have one as the other, all are left out: nobody can say which is right.
    """
    found: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}
    for node, arrival in arrivals.items():
        for phase, states in arrival.result.metrics.items():
            for name, state in states.items():
                found.setdefault((phase, name), {})[node] = settings_of(state)
    odd: dict[str, str] = {}
    for (phase, name), settings in sorted(found.items()):
        for node in _minority(settings):
            kind = " ".join(str(part)[:40] for part in settings[node] if part is not None)
            odd[node] = f"bad_metrics: {name} ({phase}) is a metric of another kind than the others' ({kind})"
    return odd


def odd_structures(values: Mapping[str, Any]) -> dict[str, str]:
    """Return node -> reason, for those whose value has another structure than that of most nodes at some place."""
    found: dict[str, dict[str, str]] = {}
    for node, value in values.items():
        for place, kind in _kinds(value, ""):
            found.setdefault(place, {})[node] = kind
    odd: dict[str, str] = {}
    for place, kinds in found.items():
        for node in _minority(kinds):
            where = place[:200] or "its value"
            odd.setdefault(
                node, f"bad_value: {where} is {kinds[node]}, but something else at the other nodes"
            )
    return odd


def _minority(kinds: Mapping[str, Any]) -> list[str]:
    """Return the nodes that are not among the most with one kind; all, where no kind has most."""
    counts = Counter(kinds.values()).most_common()
    if len(counts) < 2:
        return []
    usual = None if counts[0][1] == counts[1][1] else counts[0][0]
    return [node for node, kind in kinds.items() if kind != usual]


def _kinds(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the places of a value and what stands there."""
    if isinstance(value, Mapping):
        yield place, "a map"
        for name, item in value.items():
            yield from _kinds(item, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list):
        yield place, f"a list of {len(value)}"
        for number, item in enumerate(value):
            yield from _kinds(item, f"{place}[{number}]")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        yield place, "nothing" if value is None else f"a {type(value).__name__}"
    else:
        yield place, "a number"


def _largest(arrivals: Mapping[str, Arrival]) -> str:
    """Return the node with the largest number of all, where there are several nodes."""
    sizes = {node: _size(arrival) for node, arrival in arrivals.items()}
    return (
        max(sizes, key=lambda node: (sizes[node], node)) if len(sizes) > 1 and max(sizes.values()) > 0 else ""
    )


def _size(arrival: Arrival) -> float:
    import torch

    if arrival.params is None:
        numbers = (abs(float(number)) for number in _numbers(arrival.result.value))
        return max(numbers, default=0.0)
    largest = 0.0
    for name in arrival.params:
        tensor = arrival.params[name]
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            largest = max(largest, abs(float(low)), abs(float(high)))
    return largest


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)
    elif type(value) in (int, float):
        yield min(max(value, -1e308), 1e308)
