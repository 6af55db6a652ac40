"""The secure sum of an ask's contributions: the researcher's side, step by step; see `privacy.secagg.node_session`.

The nodes compute first and hold back what comes out. Then an attempt at their sum takes five steps, each an ask of its own. An
attempt that too few complete shows nothing, and another one follows with those that are left; nobody computes twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fedjob.aggregation.base import Aggregator, totalled
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.elementwise import CHUNK
from fedjob.aggregation.guard import Guard, check_tensors
from fedjob.aggregation.mean import BufferedMean, PlainMean, WeightedMean, mean_of
from fedjob.aggregation.robust.median import Median
from fedjob.aggregation.robust.trimmed_mean import TrimmedMean
from fedjob.aggregation.sum import Sum
from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, FedjobError, QuorumNotReached, SpecError
from fedjob.common.quorum import Quorum, too_few
from fedjob.common.types import party_of
from fedjob.messaging.messages import Result, Task, shared_inputs
from fedjob.parameters.files import dtype_of
from fedjob.parameters.safetensors_header import MAX_HEADER_BYTES, Schema, num_bytes_of
from fedjob.privacy.protect import NodeDP, SecAgg, protect_of
from fedjob.privacy.secagg.contribution_numbers import summed
from fedjob.privacy.secagg.key_agreement import SumKeys, plain_keys, read_keys
from fedjob.privacy.secagg.masked_vector import (
    added_up,
    float_names,
    is_exact,
    length_of,
    on_threads,
    vector_schema,
)
from fedjob.privacy.secagg.neighbours import Neighbours
from fedjob.privacy.secagg.node_noise import NoiseTerms, noise_terms
from fedjob.privacy.secagg.node_session import Mask, graphs_of, is_drawn
from fedjob.privacy.secagg.sum_recovery import Revealed, few_holders, masks_left
from fedjob.privacy.secagg.terms import MIN_GROUPS, Terms
from fedjob.privacy.secagg.vector import Outline, union
from fedjob.protocols.base import MEASURING, Ask, Buffered
from fedjob.researcher.federation.base import AskContext, Collected, Federation, ReplySizes
from fedjob.researcher.rounds.arrival_checks import check_facts, expected_schema, origin_of
from fedjob.researcher.rounds.noised_sums import check_noised, promise_in_words
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.replies import Arrival
from fedjob.researcher.storage.spec import JobSpec

if TYPE_CHECKING:
    import torch

MAX_ATTEMPTS = 5

STEP_BYTES = 4 << 20
"""The most bytes of a node's answer to a step: shares for a thousand nodes are 150 kB."""

RULES: Mapping[type[Aggregator], str] = {WeightedMean: "weighted", PlainMean: "plain", Sum: "sum"}
"""The aggregators whose total is a sum."""

COMPARED = (Median, TrimmedMean)
"""The aggregators that may have the means of groups in place of single contributions."""


class _AttemptFailed(FedjobError):
    """Too few nodes completed an attempt; those of `left` may make another."""

    def __init__(self, why: str, left: list[str], lost: Mapping[str, str]) -> None:
        super().__init__(why)
        self.left = left
        self.lost = dict(lost)


@dataclass(kw_only=True)
class SecureSum:
    """The collection and addition of one ask's contributions.

    Args:
        rule: the aggregator of the ask.
        num_rows: node -> registered size of its dataset, where it is known.
        until: the number of contributions with which an ask goes on while others go on with their work; None to wait for all.
    """

    spec: JobSpec
    federation: Federation
    events: EventLog
    ask: Ask
    place: AskContext
    rule: Aggregator
    quorum: Quorum
    guard: Guard
    num_rows: Mapping[str, int | None]
    until: Buffered | None = None
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> SecAgg:
        """The job's settings."""
        found = protect_of(self.spec.protect).secagg
        assert isinstance(found, SecAgg)
        return found

    @property
    def noise(self) -> NodeDP | None:
        """The noise of whole nodes on the sum; None for none."""
        found = protect_of(self.spec.protect).dp
        return found if isinstance(found, NodeDP) else None

    @property
    def groups(self) -> int:
        """The number of sums that the rule compares; 1 where it is a sum itself."""
        return self.settings.groups if isinstance(self.rule, COMPARED) else 1

    def collect(self, tasks: Mapping[str, Task]) -> tuple[Collected, Contribution]:
        """Have the nodes compute, and add up what comes out.

        Raises:
            QuorumNotReached: too few are left for a sum; nothing of their contributions is known then.
            SpecError: what is asked does not add.
        """
        if self.until is not None and self.place.keep:
            return _Cohorts(of=self, tasks=tasks, num_wanted=self.until.k).collect()
        check_summable(self.rule, tasks, self.settings.groups)
        if self.noise is not None:
            check_noised(self.rule, self._schema(), self._origin(), self.ask)
            if self.place.round <= 1:
                text = promise_in_words(self.noise, self.spec.rounds)
                self.events.add("note", round_=self.place.round, text=text)
        needed = max(self.quorum.min_nodes, self.groups * self.settings.min_nodes)
        if self.groups > 1 and len(tasks) < needed:
            raise SpecError(
                f"{self.groups} groups of {self.settings.min_nodes} nodes or more take {needed} nodes, and "
                f"{len(tasks)} are asked"
            )
        quorum = replace(self.quorum, min_nodes=needed)
        sizes = ReplySizes(params=0, value=self.place.sizes.value)
        place = replace(self.place, sizes=sizes)
        ahead = self._terms(1, sorted(tasks), tasks)
        asked = {node: replace(task, ahead=to_plain(ahead)) for node, task in tasks.items()}
        collected = self.federation.collect(asked, place, quorum, None, _outline_problem)
        self.lost |= collected.left_out
        self._note_staying(collected.arrivals)
        members = sorted(collected.arrivals)
        keys = _keys_ahead(collected.arrivals, ahead)
        summed_ = self.added(members, tasks, collected.arrivals, needed, (ahead, keys) if keys else None)
        if summed_ is None:
            raise too_few(quorum, self.place.round, members, self.lost)
        survivors, total = summed_
        arrivals = {node: collected.arrivals[node] for node in survivors}
        lost = {node: self.lost.get(node, "not in the sum") for node in tasks if node not in arrivals}
        return replace(collected, arrivals=arrivals, left_out=lost, order=tuple(survivors)), total

    def added(
        self,
        members: list[str],
        tasks: Mapping[str, Task],
        computed: Mapping[str, Arrival],
        needed: int,
        ahead: tuple[Terms, Mapping[str, SumKeys]] | None = None,
    ) -> tuple[list[str], Contribution] | None:
        """Return who is in the sum of members' contributions, and the total; None where too few are left for one.

        Args:
            needed: a sum is of so many nodes.
            ahead: the terms that were said ahead, and everybody's keys for them.
        """
        first = 1 if ahead else 2  # the first attempt is the one that was said ahead
        for attempt in range(first, first + MAX_ATTEMPTS):
            terms, keys = ahead or (self._terms(attempt, members, tasks), {})
            try:
                return self._attempt(terms, members, tasks, computed, keys)
            except _AttemptFailed as failed:
                self.lost |= {
                    node: failed.lost.get(node, str(failed)) for node in members if node not in failed.left
                }
                self.events.add(
                    "note",
                    round_=self.place.round,
                    text=f"attempt {attempt} at a secure sum failed and showed nothing: {failed}",
                )
                members, ahead = failed.left, None
                if len(members) < needed or not set(self.required) <= set(members):
                    break
        return None

    @property
    def required(self) -> tuple[str, ...]:
        """The nodes that have to be in the sum."""
        return self.quorum.required if not isinstance(self.quorum.required, str) else ()

    # -- one attempt ----------------------------------------------------------------

    def _attempt(
        self,
        terms: Terms,
        members: list[str],
        tasks: Mapping[str, Task],
        computed: Mapping[str, Arrival],
        keys: Mapping[str, SumKeys],
    ) -> tuple[list[str], Contribution]:
        """Add up the contributions of members; `keys` are theirs, or none where these are to be asked for."""
        outlines = [Outline.unpacked(computed[node].result.value["outline"]) for node in members]
        outline = union(outlines, sorted(set(self._origin()) & set(self._names())))
        node_of = {party_of(node): node for node in members}
        attempt = _Attempt(
            of=self,
            terms=terms,
            node_of=node_of,
            tasks={party: tasks[node] for party, node in node_of.items()},
            work={party: computed[node].result.key for party, node in node_of.items()},
            outline=outline,
        )
        schema = self._schema()
        sums = attempt.run(keys, schema)
        totals = [self._total(one, outline, terms, schema) for one in sums]
        survivors = sorted(node_of[node] for one in sums for node in one.vectors)
        return survivors, totals[0] if terms.groups == 1 else self.rule.aggregate(totals)

    def _terms(self, attempt: int, members: list[str], tasks: Mapping[str, Task]) -> Terms:
        settings = self.settings
        return Terms(
            federation=self.spec.federation,
            job=self.spec.id,
            round=self.place.round_of(members[0]),
            step=self.place.step,
            attempt=attempt,
            shared=shared_inputs(tasks[members[0]]),
            threshold=settings.threshold_of(len(members)),
            clip=float(settings.clip),  # a whole number would be other bytes in the terms
            bits=settings.bits,
            colluding=settings.colluding,
            dropouts=settings.dropouts,
            num_nodes=len(members),
            max_weight=float(self._max_weight(members)) if self.noise is None else 1.0,
            rule=RULES.get(type(self.rule), "plain") if self.noise is None else "plain",
            groups=self.groups,
            noise=self._noise_terms(len(members)),
        )

    def _noise_terms(self, num_nodes: int) -> NoiseTerms | None:
        """Return the noise of a sum of so many nodes; None for none.

        Raises:
            SpecError: the fixed point is too coarse for it.
        """
        if self.noise is None:
            return None
        settings = self.settings
        return noise_terms(
            epsilon=self.noise.epsilon,
            delta=self.noise.delta,
            clip_norm=self.noise.clip_norm,
            rounds=self.spec.rounds,
            length=length_of(self._schema(), noised=True),
            num_nodes=num_nodes,
            threshold=settings.threshold_of(num_nodes),
            clip=settings.clip,
            bits=settings.bits,
        )

    def _max_weight(self, members: list[str]) -> float:
        if self.settings.max_weight is not None:
            return self.settings.max_weight
        rows = [self.num_rows.get(node) for node in members]
        if any(number is None for number in rows):
            raise SpecError(
                "how many rows the nodes have is not known, so that a sum can't be kept from overflowing: say it, "
                "SecAgg(max_weight=...) with the largest number of examples of a node"
            )
        return float(max(1, *(number or 0 for number in rows)) * (self.guard.max_examples_per_row or 1))

    # -- the total --------------------------------------------------------------------

    def _schema(self) -> Schema:
        return expected_schema(self.ask) or {} if self.ask.step not in MEASURING else {}

    def _names(self) -> list[str]:
        return float_names(self._schema(), noised=self.noise is not None)

    def _origin(self) -> Mapping[str, Any]:
        """Return the parameters that nodes measure changes from, as far as the ask measures from them."""
        params, origin = self.ask.shared.get("params"), origin_of(self.ask)
        if params is None or origin is None or type(self.rule) is Sum:
            return {}
        return {name: params[name] for name in origin if name in params and origin[name] is params[name]}

    def _total(self, one: _MaskedSum, outline: Outline, terms: Terms, schema: Schema) -> Contribution:
        num_nodes = len(one.vectors)
        paths = [arrival.params.path for arrival in one.vectors.values() if arrival.params is not None]
        length = length_of(schema, noised=self.noise is not None)
        whole, numbers = added_up(paths, one.masks, terms.fixed_point, length)
        found = summed(outline, numbers, terms.rule, num_nodes)
        self._note_clipped(found.clipped)
        if not schema:
            return Contribution(found.value, found.weight, found.metrics)
        share = {"weighted": terms.max_weight / found.weight, "plain": 1 / num_nodes, "sum": 1.0}[terms.rule]
        tensors = self._tensors(whole, share, terms, schema)
        if terms.noise is None:
            tensors |= _exact_tensors(found.tensors, schema)
        else:  # whole numbers, such as counts of batches, stay at the nodes
            params = self.ask.shared["params"]
            tensors |= {name: params[name] for name in schema if name not in tensors}
        return Contribution(tensors, found.weight, found.metrics)

    def _tensors(self, whole: Any, share: float, terms: Terms, schema: Schema) -> dict[str, torch.Tensor]:
        import torch

        origin = self._origin()
        found, at = {}, 0
        stretches: list[tuple[torch.Tensor, torch.Tensor | None, Any]] = []
        for name in self._names():
            dtype, shape = schema[name]
            size = math.prod(shape)
            tensor = torch.empty(size, dtype=dtype_of(dtype))
            before = origin[name].reshape(-1) if name in origin else None
            for start in range(0, size, CHUNK):  # what lies between stays in a processor's cache
                end = min(start + CHUNK, size)
                began = None if before is None else before[start:end]
                stretches.append((tensor[start:end], began, whole[at + start : at + end]))
            at += size
            found[name] = tensor.reshape(shape)

        def restore(some: Sequence[tuple[torch.Tensor, torch.Tensor | None, Any]]) -> None:
            for tensor, before, sums in some:
                change = torch.from_numpy(terms.fixed_point.restored(sums)).mul_(share)
                if before is not None:
                    change.add_(before.to(torch.float64))
                tensor.copy_(change)

        on_threads(restore, stretches)
        return found

    # -- what people should know ----------------------------------------------------------

    def _note_staying(self, arrivals: Mapping[str, Arrival]) -> None:
        names = sorted(
            {
                str(name)[:200]
                for one in arrivals.values()
                for name in one.result.value.get("staying", [])[:50]
            }
        )
        if names and self.place.round <= 1:
            self.events.add(
                "note",
                round_=self.place.round,
                text=f"under secure aggregation these metrics stay at the nodes, for they do not add: {', '.join(names)}",
            )

    def _note_clipped(self, number: int) -> None:
        if number:
            self.events.add(
                "note",
                round_=self.place.round,
                text=f"{number} parameters, of all nodes together, changed by more than SecAgg(clip={self.settings.clip:g}) "
                "and count as if by so much",
            )


@dataclass(kw_only=True)
class _Cohorts:
    """The sums of an ask that goes on as soon as enough have answered: one of each cohort.

    A cohort are the nodes that began with the same parameters. Only their contributions are added: who has a model of its own
    would be known by it. So a sum waits for the rest of a cohort that would be too few by themselves.

    Args:
        num_wanted: contributions with which the ask goes on.
    """

    of: SecureSum
    tasks: Mapping[str, Task]
    num_wanted: int
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    busy: tuple[str, ...] = ()

    def collect(self) -> tuple[Collected, Contribution]:
        """See `SecureSum.collect`; nodes that are still at work, or whose cohort is, are `busy`."""
        of, rule = self.of, self.of.rule
        if not isinstance(rule, BufferedMean):
            raise SpecError(
                f"under secure aggregation cohorts are added, and not by {rule.name}: leave aggregator out"
            )
        quorum = Quorum(min_nodes=self._least, deadline_s=of.quorum.deadline_s)
        asked = {node: self.tasks[node] for cohort in self._cohorts() for node in cohort}
        of.lost |= dict.fromkeys(
            set(self.tasks) - set(asked),
            f"fewer than {self._least} nodes begin with these parameters: it waits for others",
        )
        if not asked:
            raise too_few(quorum, of.place.round, [], of.lost)
        collected = self._come(asked, quorum)
        inner = replace(
            of,
            place=replace(of.place, at_work=frozenset(self.tasks)),
            rule=WeightedMean() if rule.weighted else PlainMean(),
            quorum=quorum,
            until=None,
        )
        members: dict[str, Contribution] = {}
        sums: list[tuple[list[str], Contribution]] = []
        for cohort in self._ready():
            found = inner.added(cohort, self.tasks, self.arrivals, self._least)
            if found is not None:
                sums.append(found)
                members |= dict.fromkeys(found[0], found[1])
        if not sums:
            raise too_few(quorum, of.place.round, self.arrivals, of.lost)
        waiting = {node for cohort in self._that_wait() for node in cohort} - set(members)
        arrivals = {node: self._weighing(node, members[node], sums) for node in sorted(members)}
        lost = {
            node: of.lost.get(node, "too few are left that began with the same parameters")
            for node in self.tasks
            if node not in arrivals and node not in waiting
        }
        collected = replace(
            collected,
            arrivals=arrivals,
            left_out=lost,
            order=tuple(arrivals),
            busy=tuple(sorted(waiting)),
        )
        return collected, self._total(rule, sums)

    @property
    def _least(self) -> int:
        return self.of.settings.min_nodes

    def _cohorts(self) -> list[list[str]]:
        """Return the cohorts that can have a sum, earlier ones first."""
        found: dict[tuple[int, str], list[str]] = {}
        for node in sorted(self.tasks):
            found.setdefault((self.of.place.round_of(node), shared_inputs(self.tasks[node])), []).append(node)
        return [nodes for _, nodes in sorted(found.items()) if len(nodes) >= self._least]

    def _come(self, asked: Mapping[str, Task], quorum: Quorum) -> Collected:
        """Wait until enough contributions are of cohorts that can be added."""
        of = self.of
        place = replace(of.place, sizes=ReplySizes(params=0, value=of.place.sizes.value))
        collected = of.federation.collect(asked, place, quorum, Buffered(self.num_wanted), _outline_problem)
        while True:
            self.arrivals |= collected.arrivals
            self.busy = tuple(collected.busy)
            of.lost |= collected.left_out
            if not self.busy or sum(map(len, self._ready())) >= self.num_wanted:
                return collected
            rest = {node: asked[node] for node in self.busy}
            try:
                collected = of.federation.collect(
                    rest, place, replace(quorum, min_nodes=1), Buffered(1), _outline_problem
                )
            except QuorumNotReached as error:  # nobody else comes
                collected = replace(collected, arrivals={}, left_out=error.left_out, busy=())

    def _ready(self) -> list[list[str]]:
        """Return who can be added now, of each cohort: enough, and whoever is left of it is nobody or enough."""
        found = []
        for cohort in self._cohorts():
            there = [node for node in cohort if node in self.arrivals]
            at_work = sum(node in self.busy for node in cohort)
            if len(there) >= self._least and (not at_work or at_work >= self._least):
                found.append(there)
        return found

    def _that_wait(self) -> list[list[str]]:
        """Return who goes on, of each cohort: those at work, and who waits for them to be enough."""
        ready, found = {node for cohort in self._ready() for node in cohort}, []
        for cohort in self._cohorts():
            left = [n for n in cohort if n not in ready and (n in self.busy or n in self.arrivals)]
            if len(left) >= self._least:
                found.append(left)
        return found

    def _weighing(
        self, node: str, total: Contribution, sums: Sequence[tuple[list[str], Contribution]]
    ) -> Arrival:
        """Return a node's arrival with the mean weight of its cohort: its own is not known."""
        size = next(len(names) for names, one in sums if one is total)
        arrival = self.arrivals[node]
        return replace(arrival, result=replace(arrival.result, weight=total.weight / size))

    def _total(self, rule: BufferedMean, sums: Sequence[tuple[list[str], Contribution]]) -> Contribution:
        """Return the discounted mean of all contributions, of the means of the cohorts."""
        place = self.of.place
        weights = [total.weight / len(names) for names, total in sums for _ in names]
        staleness = [place.round - place.round_of(node) for names, _ in sums for node in names]
        each = iter(rule.shares(weights, staleness))
        shares = [sum(next(each) for _ in names) for names, _ in sums]
        totals = [total for _, total in sums]
        return totalled(mean_of([total.value for total in totals], shares), totals)


@dataclass(frozen=True, kw_only=True)
class _MaskedSum:
    """The sum of one group, which is plain when its masks are applied: party -> its masked vector."""

    vectors: Mapping[str, Arrival]
    masks: list[Mask]


@dataclass(kw_only=True)
class _Attempt:
    """One attempt at a sum, or at one for each group.

    Args:
        node_of: party -> node, of those that take part.
        tasks, work: party -> its computation, and the key of that.
    """

    of: SecureSum
    terms: Terms
    node_of: Mapping[str, str]
    tasks: Mapping[str, Task]
    work: Mapping[str, str]
    outline: Outline

    def run(self, keys: Mapping[str, SumKeys], schema: Schema) -> list[_MaskedSum]:
        """Take all steps; of several groups some may be lost.

        Args:
            keys: of all parties; none where they are to be asked for.

        Raises:
            _AttemptFailed: too few completed a step.
        """
        terms = self.terms
        if not keys:
            keys = self._step("keys", {party: {} for party in self.node_of}, _read_keys)
        body: dict[str, Any] = {"keys": plain_keys(keys)}
        if is_drawn(terms, len(keys)):
            body = {"lots": self._step("draw", dict.fromkeys(keys, body), _read_lot)}
        graphs = graphs_of(terms, keys, body.get("lots", {}))
        shares = self._step(
            "shares", dict.fromkeys(keys, body), partial(_read_shares, _neighbours_in(graphs))
        )
        taking_part = self._left(graphs, shares, "shares")
        bodies = {
            node: {
                "of": self.work[node],
                "outline": self.outline.packed,
                "taking_part": names,
                "sealed": {other: shares[other][0][node] for other in names if node in shares[other][0]},
            }
            for names in taking_part.values()
            for node in names
        }
        length = length_of(schema, noised=terms.noise is not None)
        vector = vector_schema(length, len(self.outline.names), terms.fixed_point)
        masked = self._step("mask", bodies, _read_vector, vector)
        survivors = self._left(graphs, masked, "mask")
        self._check_required(survivors)
        bodies = {}
        for names in survivors.values():
            body = {"survivors": names, "masked": {node: _read_signature(masked[node]) for node in names}}
            bodies |= dict.fromkeys(names, body)
        signatures = self._step("agree", bodies, _read_signature)
        open_ = self._that_open(taking_part, survivors, signatures)
        bodies = {}
        for names in open_.values():
            body = {"signatures": {node: signatures[node] for node in names if node in signatures}}
            bodies |= dict.fromkeys(body["signatures"], body)
        revealed = self._step("reveal", bodies, _read_revealed)
        commitments = {node: one[1] for node, one in shares.items()}
        return [
            _MaskedSum(
                vectors={node: masked[node] for node in names},
                masks=masks_left(terms, keys, commitments, taking_part[graph], names, revealed, graph),
            )
            for graph, names in self._that_open(taking_part, open_, revealed).items()
        ]

    @property
    def _least_sums(self) -> int:
        """How many groups have to be left."""
        return 1 if self.terms.groups == 1 else max(MIN_GROUPS, self.of.rule.min_nodes)

    def _left(
        self, graphs: Iterable[Neighbours], there: Collection[str], step: str
    ) -> dict[Neighbours, list[str]]:
        """Return the groups that can go on, with those of their nodes that have neighbours enough among them."""
        cores = {graph: graph.core(set(there).intersection(graph.members)) for graph in graphs}
        least = self.of.settings.min_nodes
        found = {graph: names for graph, names in cores.items() if len(names) >= max(graph.quorum, least)}
        if len(found) < self._least_sums:
            (few, needed), *_ = [(len(cores[g]), max(g.quorum, least)) for g in cores if g not in found]
            raise self._failed(
                f"{few} nodes with enough neighbours completed the step {step}, {needed} are needed", there
            )
        return found

    def _that_open(
        self,
        taking_part: Mapping[Neighbours, list[str]],
        survivors: Mapping[Neighbours, list[str]],
        there: Collection[str],
    ) -> dict[Neighbours, list[str]]:
        """Return the groups in which those who are there can reveal the sum."""
        found = {
            graph: names
            for graph, names in survivors.items()
            if len(set(there).intersection(names)) >= graph.quorum
            and not few_holders(graph, taking_part[graph], names, there)
        }
        if len(found) < self._least_sums:
            raise self._failed("too few nodes are left who hold shares of the masks", there)
        return found

    def _check_required(self, survivors: Mapping[Neighbours, list[str]]) -> None:
        there = [node for names in survivors.values() for node in names]
        if missing := sorted(set(self.of.required) - {self.node_of[node] for node in there}):
            raise self._failed(f"{', '.join(missing)} must be part of it", there)

    def _failed(self, why: str, there: Iterable[str]) -> _AttemptFailed:
        return _AttemptFailed(why, [self.node_of[node] for node in sorted(there)], {})

    def _step(
        self,
        name: str,
        bodies: Mapping[str, Mapping[str, Any]],
        read: Callable[[Arrival], Any],
        schema: Schema | None = None,
    ) -> dict[str, Any]:
        """Ask the parties of bodies for one step; return party -> what it answered, as `read` returns it.

        Raises:
            _AttemptFailed: fewer answered than are needed for a sum.
        """
        base = {"step": name, "terms": to_plain(self.terms)}
        asked = {
            self.node_of[party]: replace(self.tasks[party], sum={**base, **body})
            for party, body in bodies.items()
        }
        most = 0 if schema is None else num_bytes_of(schema) + MAX_HEADER_BYTES
        place = replace(self.of.place, sizes=ReplySizes(params=most, value=STEP_BYTES))
        least = self.of.settings.min_nodes
        needed = self._least_sums * least if self.terms.groups > 1 else max(self.terms.threshold, least)
        if name == "draw":  # without the lot of one node nobody knows the neighbours
            needed = len(asked)
        quorum = Quorum(min_nodes=needed, deadline_s=self.of.quorum.deadline_s)

        def problem(arrival: Arrival) -> str:
            try:
                if schema is not None:
                    if arrival.params is None:
                        return "no_params: expected a masked vector, found none"
                    if odd := check_tensors(arrival.params, schema):
                        return odd
                read(arrival)
            except (FedjobError, KeyError, TypeError, ValueError, AttributeError) as error:
                return f"decode: not an answer to the step {name} of a secure sum ({type(error).__name__}: {error})"
            return ""

        try:
            collected = self.of.federation.collect(asked, place, quorum, None, problem)
        except QuorumNotReached as error:
            left = [node for node in asked if node in error.received]
            raise _AttemptFailed(
                f"{len(left)} of {len(asked)} nodes completed the step {name}, {quorum.min_nodes} are needed",
                left,
                error.left_out,
            ) from error
        self.of.lost |= collected.left_out
        return {party_of(node): read(arrival) for node, arrival in collected.arrivals.items()}


def check_summable(rule: Aggregator, tasks: Mapping[str, Task], groups: int = 1) -> None:
    """Refuse what can't be added.

    Args:
        groups: of the job.

    Raises:
        SpecError: an aggregator that needs single contributions, other inputs for each node, or two datasets of one node.
    """
    if type(rule) not in RULES and not (groups > 1 and isinstance(rule, COMPARED)):
        raise SpecError(
            f"{rule.name} needs every node's contribution by itself, which secure aggregation does not show: use a "
            "weighted mean, a plain mean or a sum"
        )
    if len({shared_inputs(task) for task in tasks.values()}) > 1:
        raise SpecError(
            "what is sent to single nodes differs, and secure aggregation is about one model for all"
        )
    if len({party_of(node) for node in tasks}) < len(tasks):
        raise SpecError("two datasets of one node have no secure sum: choose one")


def _exact_tensors(found: Mapping[str, list[float]], schema: Schema) -> dict[str, torch.Tensor]:
    """Return the tensors that were added without rounding; means of whole numbers are rounded at last."""
    import torch

    tensors = {}
    for name, (dtype, shape) in schema.items():
        if is_exact(dtype, shape):
            flat = torch.tensor(found.get(name) or [], dtype=torch.float64).reshape(shape)
            tensors[name] = (flat if dtype == "F64" else flat.round()).to(dtype_of(dtype))
    return tensors


def _keys_ahead(arrivals: Mapping[str, Arrival], terms: Terms) -> dict[str, SumKeys]:
    """Return the keys that came with contributions, by party; none where they are not enough, or somebody's are missing."""
    if len(arrivals) < terms.threshold:
        return {}
    found = {}
    for node, arrival in arrivals.items():
        try:
            if _value(arrival)["terms"] != terms.digest:  # of an ask before the runner was started anew
                return {}
            keys = _read_keys(arrival)
        except (FedjobError, KeyError, TypeError, ValueError):
            return {}
        found[party_of(node)] = keys
    return found


def _outline_problem(arrival: Arrival) -> str:
    """Return why an answer to the computation itself does not count (`reason: detail`), or nothing."""
    result = arrival.result
    if arrival.params is not None or result.metrics or result.weight:
        return "bad_value: a contribution came back in the clear, though it was to be held back"
    try:
        Outline.unpacked(result.value["outline"])
    except (FedjobError, KeyError, TypeError) as error:
        return f"bad_value: not the outline of a contribution: {error}"
    return check_facts(result)


def _value(arrival: Arrival) -> Mapping[str, Any]:
    result: Result = arrival.result
    if not isinstance(result.value, Mapping):
        raise DecodeError("expected a map")
    return result.value


def _read_keys(arrival: Arrival) -> SumKeys:
    (found,) = read_keys([_value(arrival)["keys"]]).values()
    if found.node != party_of(arrival.node):
        raise DecodeError("these are another node's keys")
    return found


def _read_lot(arrival: Arrival) -> bytes:
    return from_plain(bytes, _value(arrival)["lot"])


def _neighbours_in(graphs: Iterable[Neighbours]) -> dict[str, list[str]]:
    """Return the neighbours of each party, in the order of their names."""
    return {party: graph.of(party) for graph in graphs for party in graph.members}


def _read_shares(neighbours: Mapping[str, Sequence[str]], arrival: Arrival) -> tuple[dict[str, bytes], bytes]:
    """Return what a party sealed for each of its neighbours, and what commits it to its own mask."""
    value, others = _value(arrival), neighbours[party_of(arrival.node)]
    sealed = from_plain(list[bytes], value["sealed"])
    if len(sealed) != len(others):
        raise DecodeError(f"expected shares for {len(others)} neighbours, found {len(sealed)}")
    return dict(zip(others, sealed, strict=True)), from_plain(bytes, value["commitment"])


def _read_vector(arrival: Arrival) -> Arrival:
    _read_signature(arrival)
    return arrival


def _read_signature(arrival: Arrival) -> bytes:
    return from_plain(bytes, _value(arrival)["signature"])


def _read_revealed(arrival: Arrival) -> Revealed:
    value = _value(arrival)
    return Revealed(own_masks=_of_bytes(value["own_masks"]), mask_keys=_of_bytes(value["mask_keys"]))


def _of_bytes(plain: Any) -> dict[str, bytes]:
    if not isinstance(plain, Mapping) or not all(isinstance(one, bytes) for one in plain.values()):
        raise DecodeError("expected a map from nodes to bytes")
    return {str(node): one for node, one in plain.items()}
