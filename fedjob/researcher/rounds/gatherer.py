"""The gatherer, which carries out one ask in five steps: choose, build tasks, collect, aggregate, advance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.base import Aggregator as AggregationRule
from fedjob.aggregation.base import check_nodes
from fedjob.aggregation.by_function import FunctionAggregator
from fedjob.aggregation.contribution import Contribution
from fedjob.aggregation.guard import Guard
from fedjob.aggregation.stretches import StretchedTotal
from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.errors import QuorumNotReached
from fedjob.common.quorum import Quorum
from fedjob.data.node_names import in_order
from fedjob.data.preprocessing.learning import LEARN, LEARNED
from fedjob.messaging.messages import Task
from fedjob.parameters.auxiliary import split
from fedjob.parameters.files import FileParams, hash_params, is_params, save_params
from fedjob.protocols.base import LOSS, MEASURING, VALIDATE, Ask, Buffered, Gathered, State
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.base import AskContext, Collected, Federation
from fedjob.researcher.rounds.arrival_checks import ArrivalChecks, reply_sizes
from fedjob.researcher.rounds.arrivals import RoundArrivals, reply_of
from fedjob.researcher.rounds.computation import AskComputation, Finish
from fedjob.researcher.rounds.learned_values import learned
from fedjob.researcher.rounds.participants import addressed
from fedjob.researcher.rounds.secure_sum import SecureSum
from fedjob.researcher.rounds.tasks import TaskBuilder
from fedjob.researcher.selection.base import Candidates, Selector
from fedjob.researcher.storage.breakpoints import chain
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL, Measurement, measurements, newest_rows
from fedjob.researcher.storage.position import SECURE_SUM, AggregationRecord, Position, UnfinishedTask
from fedjob.researcher.storage.replies import Arrival, keep_replies, keep_summed
from fedjob.researcher.storage.spec import JobSpec

ASIDE = (LEARN, LOSS)
"""Steps that only prepare a round: its measurements and participants do not include them."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An ask with its nodes, its quorum and its aggregator.

    Args:
        nodes: the nodes that it goes to.
        waiting: node -> work of an earlier round that the ask waits for.
        until: the number of answers at which it may stop early.
        rule: the aggregator of its contributions.
    """

    ask: Ask
    place: AskContext
    nodes: tuple[str, ...]
    waiting: Mapping[str, UnfinishedTask]
    quorum: Quorum
    until: Buffered | None
    rule: AggregationRule


@dataclass(kw_only=True)
class Gatherer:
    """The part of a runner that asks the nodes on behalf of a protocol.

    Args:
        selector: returns the selector of the nodes, for asks that name none.
        aggregator: in place of the protocol's own in asks that complete a round, where it is given.
        tasks: makes the nodes' tasks.
        replies: round -> node -> its answer, of the last two rounds.
        so_far: the asks of the round up to now, as one.
    """

    spec: JobSpec
    federation: Federation
    folder: JobFolder
    events: EventLog
    selector: Callable[[], Selector]
    aggregator: AggregationRule | None
    tasks: TaskBuilder
    replies: dict[int, dict[str, Arrival]] = field(default_factory=dict)
    so_far: RoundArrivals = RoundArrivals()  # noqa: RUF009  (frozen)

    def __call__(
        self, ask: Ask, position: Position, finish: Finish | None = None
    ) -> tuple[Gathered, Position]:
        """Carry out one ask: choose, build tasks, collect, aggregate, advance.

        Args:
            finish: returns the state after the ask, which the position then has; where it fails for one node's
                contribution, that is left out. None leaves the state as it is.

        Raises:
            QuorumNotReached: too few nodes answered in a way that counts.
            SpecError: the selection or the ask names nodes that the job does not have, or too few for the aggregator.
        """
        chosen, position = self._choose(ask, position)
        tasks = self._build_tasks(chosen, position)
        if "secagg" in self.spec.protect:
            collected, gathered, output_hash, state = self._sum_securely(chosen, tasks, finish)
        else:
            collected = self._collect(chosen, tasks, position)
            collected, gathered, output_hash, state = self._aggregate(chosen, collected, finish)
        after = self._advance(chosen, tasks, collected, gathered, output_hash, position)
        if state is not None and self.tasks.compression is not None:
            state = self.tasks.compression.after(state, chosen.ask, gathered.replies)
        return gathered, after if state is None else replace(after, state=state)

    def _choose(self, ask: Ask, position: Position) -> tuple[_Chosen, Position]:
        """Return the ask with its nodes and aggregator, and the position after what had to be asked before."""
        if ask.step != LEARN:
            position = learned(self.spec, position, self)
        if position.learned:
            ask = replace(ask, shared={**ask.shared, LEARNED: list(position.learned)})
        round_ = position.round + 1
        waiting = self.tasks.unfinished.waited_for(ask, position)
        place = AskContext(
            job=self.spec.id,
            round=round_,
            step=ask.step,
            spool=self.folder.make_spool(round_),
            asked={node: work.round for node, work in waiting.items()},
            keep=ask.late == "keep",
        )
        candidates = Candidates(
            round=round_,
            nodes=in_order(self.federation.num_rows),
            seed=self.spec.seed,
            num_rows=self.federation.num_rows,
        )
        quorum = self.spec.the_quorum
        nodes, until, position = addressed(ask, position, self.selector(), candidates, quorum, self)
        rule = self.aggregator if self.aggregator is not None and ask.commit else ask.aggregator
        num_asked = len({*nodes, *waiting})
        check_nodes(rule, num_asked, f"round {round_} asks {num_asked}")
        quorum = quorum if ask.to is None else quorum.among(nodes)
        quorum = replace(quorum, min_nodes=max(quorum.min_nodes, rule.min_nodes))
        if ask.step in MEASURING:
            ask = self.tasks.only_the_model(ask, round_)
        place = replace(place, sizes=reply_sizes(ask, self._guard))
        return _Chosen(ask, place, nodes, waiting, quorum, until, rule), position

    def _build_tasks(self, chosen: _Chosen, position: Position) -> dict[str, Task]:
        idle = [node for node in chosen.nodes if node not in chosen.waiting]
        return self.tasks.build(chosen.ask, position, idle, chosen.waiting, chosen.place.spool)

    def _collect(self, chosen: _Chosen, tasks: Mapping[str, Task], position: Position) -> Collected:
        """Have the nodes do their tasks; keep the bodies of all replies, in the order of their nodes' names."""
        place = chosen.place
        self.events.add("ask", round_=place.round, step=place.step, nodes=sorted(tasks))
        checks = self._arrival_checks(chosen, position)
        try:
            collected = self.federation.collect(tasks, place, chosen.quorum, chosen.until, checks.refusal)
        except QuorumNotReached as error:
            keep_replies(self.folder, place.round, place.step, error.arrivals)
            raise
        for node, reason in sorted(collected.left_out.items()):
            self.events.add("error", round_=place.round, node=node, reason=reason)
        arrivals = {node: checks.counted(collected.arrivals[node]) for node in sorted(collected.arrivals)}
        keep_replies(self.folder, place.round, place.step, {**collected.parts, **arrivals})
        for node, arrival in arrivals.items() if chosen.ask.commit else ():
            result = arrival.result
            if result.ok and 0 < result.weight < result.num_examples:
                text = (
                    f"{node} counts as {result.weight:g} of its {result.num_examples} examples: the owner of its dataset "
                    "lets it weigh no more (--max-weight)"
                )
                self.events.add("note", round_=place.round, node=node, text=text)
        return replace(collected, arrivals=arrivals)

    def _aggregate(
        self, chosen: _Chosen, collected: Collected, finish: Finish | None
    ) -> tuple[Collected, Gathered, str, State | None]:
        """Return what counts, the total of an ask with the replies as its protocol may see them, its hash, the state."""
        place = chosen.place
        computation = AskComputation(
            ask=chosen.ask,
            place=place,
            rule=chosen.rule,
            is_own=chosen.rule is self.aggregator,
            quorum=chosen.quorum,
            guard=self._guard,
            num_rows=self._num_rows,
            num_nodes=len(self.federation.num_rows),
            finish=finish,
            spool=lambda total: self._spool_total(total, place, chosen.ask),
            take_back=self._take_back,
        )
        counted, gathered, output_hash, state = computation.outcome(collected)
        for node in sorted(counted.left_out.keys() - collected.left_out.keys()):
            self.events.add("error", round_=place.round, node=node, reason=counted.left_out[node])
        for node, arrival in counted.arrivals.items():
            claimed = collected.arrivals[node].result.weight
            if arrival.result.weight < claimed:
                text = (
                    f"{node} counts as {arrival.result.weight:g} instead of {claimed:g}: no node has more than "
                    f"{self._guard.max_share:g} of the weight (Guard(max_share=...))"
                )
                self.events.add("note", round_=place.round, node=node, text=text)
        return counted, gathered, output_hash, state

    def _sum_securely(
        self, chosen: _Chosen, tasks: Mapping[str, Task], finish: Finish | None
    ) -> tuple[Collected, Gathered, str, State | None]:
        """Return who is in the sum, the total as its protocol may see it, its hash, and the protocol's next state."""
        place = chosen.place
        self.events.add("ask", round_=place.round, step=place.step, nodes=sorted(tasks))
        secure = SecureSum(
            spec=self.spec,
            federation=self.federation,
            events=self.events,
            ask=chosen.ask,
            place=place,
            rule=chosen.rule,
            quorum=chosen.quorum,
            guard=self._guard,
            num_rows=self._num_rows,
            until=chosen.until,
        )
        collected, total = secure.collect(tasks)
        for node, reason in sorted(collected.left_out.items()):
            self.events.add("error", round_=place.round, node=node, reason=reason)
        keep_replies(self.folder, place.round, place.step, collected.arrivals)
        keep_summed(self.folder, place.round, place.step, total.metrics)
        total, output_hash = self._spool_total(total, place, chosen.ask)
        gathered = Gathered(
            total=total,
            replies={
                node: replace(reply_of(arrival, place), value=None)  # it says what there is, and not how much
                for node, arrival in collected.arrivals.items()
            },
            left_out=dict(collected.left_out),
            busy=tuple(collected.busy),
            num_nodes=len(self.federation.num_rows),
        )
        return collected, gathered, output_hash, None if finish is None else finish(gathered)

    def _advance(
        self,
        chosen: _Chosen,
        tasks: Mapping[str, Task],
        collected: Collected,
        gathered: Gathered,
        output_hash: str,
        position: Position,
    ) -> Position:
        """Return the position after an ask: node states, the ledger, unfinished tasks, and what was measured."""
        ask, place = chosen.ask, chosen.place
        states = {node: reply.state for node, reply in gathered.replies.items() if reply.state}
        arrived = [[n, place.round_of(n)] for n in collected.order] if chosen.until is not None else []
        record = self._aggregation_record(chosen, gathered, output_hash, arrived)
        after = replace(
            position,
            node_states={**position.node_states, **states},
            ledger=chain(position.ledger, record),
            under_way=self.tasks.unfinished.goes_on(place, tasks, collected, position),
        )
        dropped = [self.replies.pop(round_) for round_ in [*self.replies] if round_ < place.round - 1]
        self.federation.when_asked(dropped.clear)  # the system then frees the bytes of their files
        if ask.step in ASIDE:
            return after
        ended = position.round >= self.spec.rounds or bool(position.stop)
        between_rounds = not ask.commit and (ask.step == VALIDATE or ended)
        if not between_rounds:
            self.so_far = self.so_far.then(place.round, collected.arrivals, gathered, completes=ask.commit)
        self.replies[place.round] = dict(collected.arrivals if between_rounds else self.so_far.arrivals)
        return replace(after, rows=self._measured(position, gathered, between_rounds=between_rounds))

    def _arrival_checks(self, chosen: _Chosen, position: Position) -> ArrivalChecks:
        return ArrivalChecks(
            ask=chosen.ask,
            aggregator=chosen.rule,
            guard=self._guard,
            num_rows=self._num_rows,
            had_state=position.node_states,
            open_=partial(self._opened, chosen),
        )

    def _opened(self, chosen: _Chosen, arrival: Arrival) -> Arrival | str:
        """Return an arrival with its tensors as they count, or why it does not count."""
        compression = self.tasks.compression
        return (
            arrival
            if compression is None
            else compression.opened(arrival, chosen.ask, self._guard.value_bytes)
        )

    @property
    def _guard(self) -> Guard:
        return from_plain(Guard, self.spec.guard)

    @property
    def _num_rows(self) -> Mapping[str, int | None]:
        """The rows of each node's data; that a node publishes is the number of its private data, not of its mock."""
        return self.federation.num_rows if self.spec.use == "private" else {}

    def _spool_total(self, total: Contribution, place: AskContext, ask: Ask) -> tuple[Contribution, str]:
        """Return a total and its hash; tensors that go on as they are lie in a file that is linked and sent.

        A total that the protocol makes something else of stays in memory, as auxiliary variables do. What the next round
        begins with is published at once, so that it is hashed only once: nobody is told of it before the round counts.
        """
        path = place.spool / f"total_{place.step}.safetensors"
        publishes = ask.commit and place.round < self.spec.rounds and self.tasks.compression is None
        if isinstance(total.value, StretchedTotal):
            path.unlink(missing_ok=True)
            value = self.tasks.computed(total.value, path, publishes=publishes)
            return replace(total, value=value), (value.ref or ref_of(path)).sha256
        if is_params(total.value):
            params, aux = split(total.value)
            total = replace(total, value=params or None, aux=aux)
        if total.value is None:
            return total, ""
        if not is_params(total.value):
            return total, hashlib.sha256(pack(to_plain(total.value))).hexdigest()
        if not ask.sends_total:
            return total, self._hash_again(total.value)
        path.unlink(missing_ok=True)  # of an earlier try at this round; a breakpoint may still link its bytes
        save_params(total.value, path, durable=False)  # what links it for good makes it durable
        value = FileParams(path)
        if publishes:
            value.ref = self.tasks.attach(path)
        return replace(total, value=value), (value.ref or ref_of(path)).sha256

    def _take_back(self, total: Contribution) -> None:
        """Remove a published total that does not count."""
        if isinstance(total.value, FileParams) and total.value.ref is not None:
            self.tasks.take_back(total.value.ref)

    def _hash_again(self, tensors: Mapping[str, Any]) -> str:
        """Return the hash with which `verify` compares an aggregation; none if the job keeps no replies."""
        return hash_params(tensors) if self.spec.keep else ""

    def _aggregation_record(
        self, chosen: _Chosen, gathered: Gathered, output_hash: str, arrived: list[list[Any]]
    ) -> AggregationRecord:
        """Return the line of the ledger with which `verify` compares an ask."""
        rule = chosen.rule
        by_function = isinstance(rule, FunctionAggregator)  # its text stands in the spec
        aggregator_name, aggregator_config = (rule.name, {}) if by_function else AGGREGATORS.config_of(rule)
        if "secagg" in self.spec.protect:
            aggregator_name, aggregator_config = SECURE_SUM, {"of": aggregator_name}
        return AggregationRecord(
            round=chosen.place.round,
            step=chosen.place.step,
            aggregator=aggregator_name,
            aggregator_config=aggregator_config,
            inputs=[[node, reply.params_hash, reply.weight] for node, reply in gathered.replies.items()],
            arrived=arrived,
            output_hash=output_hash,
            aux_hashes={module: self._hash_again(tensors) for module, tensors in gathered.total.aux.items()},
            left_out=dict(gathered.left_out),
            compress=self._compressed(chosen),
        )

    def _compressed(self, chosen: _Chosen) -> dict[str, Any]:
        """Return how contributions travelled, for the ledger of a job that keeps them."""
        compression = self.tasks.compression
        if compression is None or not self.spec.keep:
            return {}
        return compression.record(chosen.ask, chosen.place.spool)

    def _measured(
        self, position: Position, gathered: Gathered, *, between_rounds: bool
    ) -> tuple[Measurement, ...]:
        """Return the rows of all rounds, those of this ask among them.

        A validation between two rounds, and what follows the last one, measures the model of the round before.
        """
        if between_rounds:
            return position.rows + tuple(
                measurements(position.round, gathered.replies, gathered.total.metrics)
            )
        round_ = position.round + 1
        # after an earlier ask of the same round: its nodes' rows stay, the overall rows are computed anew
        newest = newest_rows(position.rows, round_)
        before = position.rows[:newest] + tuple(
            row for row in position.rows[newest:] if (row.round, row.node) != (round_, OVERALL)
        )
        return before + tuple(measurements(round_, gathered.replies, self.so_far.metrics))
