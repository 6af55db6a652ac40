"""One ask, from the protocol's wish to one total: select, send, guard, fold, record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common.auxiliary import split
from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.contribution import Contribution
from fedjob.common.errors import QuorumNotReached
from fedjob.common.folds import FOLDS
from fedjob.common.folds.base import Fold as FoldRule
from fedjob.common.folds.base import Origin, check_nodes
from fedjob.common.folds.by_function import ByFunction
from fedjob.common.guard import Guard
from fedjob.common.messages import MAX_INLINE_BYTES, Task
from fedjob.common.params import FileParams, hash_params, is_params, save_params
from fedjob.common.preprocess.learning import LEARN, LEARNED
from fedjob.common.protocols.base import LOSS, MEASURING, VALIDATE, Ask, Gathered
from fedjob.common.repository.parts import ref_of
from fedjob.common.types import Ref
from fedjob.common.values import decode, encode
from fedjob.researcher.answers import contribution_of, reply_of
from fedjob.researcher.breakpoints import chain, states_at
from fedjob.researcher.bringing import BROUGHT
from fedjob.researcher.deployment import Code
from fedjob.researcher.eachargs import training_args_of
from fedjob.researcher.event_log import EventLog
from fedjob.researcher.federation import Federation, Place
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.guarding import Gate, origin_of
from fedjob.researcher.history import OVERALL, Measurement, measurements
from fedjob.researcher.learning import learned
from fedjob.researcher.overtime import Overtime
from fedjob.researcher.position import Fold, Position
from fedjob.researcher.reply_files import Arrival, keep_replies
from fedjob.researcher.selecting import addressed
from fedjob.researcher.selectors.base import Candidates, Selector
from fedjob.researcher.sofar import RoundSoFar
from fedjob.researcher.spec import JobSpec, resources_of

ASIDE = (LEARN, LOSS)
"""Steps that only prepare a round: they are no part of what it measures and who took part in it."""


@dataclass(kw_only=True)
class Gatherer:
    """Asks the nodes on behalf of a protocol.

    Args:
        selector: returns who chooses the nodes of asks that leave it open.
        fold: in place of the protocol's own in asks that complete a round, where it is given.
        code: node -> the plan that it runs, in the repository; empty for a protocol without one.
        files: what the researcher brings, published.
        artifacts: name -> file that the job sends along, published.
        named_states: returns node -> ids of the node states that kept breakpoints name.
    """

    spec: JobSpec
    federation: Federation
    folder: JobFolder
    events: EventLog
    selector: Callable[[], Selector]
    fold: FoldRule | None
    code: Mapping[str, Code]
    named_states: Callable[[], Mapping[str, Collection[str]]]
    files: Ref | None = None
    artifacts: Mapping[str, Ref] = field(default_factory=dict)
    replies: dict[int, dict[str, Arrival]] = field(default_factory=dict)
    so_far: RoundSoFar = RoundSoFar()  # noqa: RUF009  (frozen)
    _published: list[Ref] = field(default_factory=list)
    overtime: Overtime = field(init=False)

    def __post_init__(self) -> None:
        self.overtime = Overtime(self.folder, self.federation, self.publish)

    def __call__(self, ask: Ask, position: Position) -> tuple[Gathered, Position]:
        """Carry out one ask.

        Raises:
            QuorumNotReached: too few nodes answered in a way that counts.
            SpecError: the selection or the ask names nodes that the job does not have, or too few for the fold.
        """
        if ask.step != LEARN:
            position = learned(self.spec, position, self)
        if position.learned:
            ask = replace(ask, shared={**ask.shared, LEARNED: list(position.learned)})
        round_ = position.round + 1
        waiting = self.overtime.waited_for(ask, position)
        place = Place(
            job=self.spec.id,
            round=round_,
            step=ask.step,
            spool=self.folder.make_spool(round_),
            asked={node: work.round for node, work in waiting.items()},
            keep=ask.late == "keep",
        )
        candidates = Candidates(
            round=round_,
            nodes=tuple(sorted(self.federation.num_rows)),
            seed=self.spec.seed,
            num_rows=self.federation.num_rows,
        )
        quorum = self.spec.the_quorum
        nodes, until, position = addressed(ask, position, self.selector(), candidates, quorum, self)
        rule = self.fold if self.fold is not None and ask.commit else ask.fold
        num_asked = len({*nodes, *waiting})
        check_nodes(rule, num_asked, f"round {round_} asks {num_asked}")
        quorum = quorum if ask.to is None else quorum.among(nodes)
        quorum = replace(quorum, min_nodes=max(quorum.min_nodes, rule.min_nodes))
        if ask.step in MEASURING:
            ask = self._only_the_model(ask, round_)
        idle = tuple(node for node in nodes if node not in waiting)
        tasks = self._tasks(ask, position, idle, place.spool) | self.overtime.asked_again(
            waiting, self.named_states()
        )
        self.events.add("ask", round_=round_, step=ask.step, nodes=sorted(tasks))
        try:
            collected = self.federation.collect(
                tasks,
                place,
                quorum,
                until,
                self._gate(ask, rule, position).refusal,
            )
        except QuorumNotReached as error:
            keep_replies(self.folder, round_, ask.step, error.arrivals)
            raise
        for node, reason in sorted(collected.left_out.items()):
            self.events.add("error", round_=round_, node=node, reason=reason)
        arrivals = {node: collected.arrivals[node] for node in sorted(collected.arrivals)}
        self.replies = {r: a for r, a in self.replies.items() if r >= round_ - 1}
        keep_replies(self.folder, round_, ask.step, {**collected.parts, **arrivals})
        total = self._fold(
            rule, [contribution_of(arrival, place) for arrival in arrivals.values()], origin_of(ask)
        )
        total, output_hash = self._spool_total(total, place, ask)
        gathered = Gathered(
            total=total,
            replies={node: reply_of(arrival, place) for node, arrival in arrivals.items()},
            left_out=dict(collected.left_out),
            busy=collected.busy,
            num_nodes=len(self.federation.num_rows),
        )
        arrived = [[node, place.round_of(node)] for node in collected.order] if until is not None else []
        after = self._advance(position, ask, rule, gathered, output_hash, arrived)
        after = replace(after, under_way=self.overtime.goes_on(place, tasks, collected, position))
        if ask.step in ASIDE:
            return gathered, after
        ended = position.round >= self.spec.rounds or bool(position.stop)
        between_rounds = not ask.commit and (ask.step == VALIDATE or ended)
        if not between_rounds:
            self.so_far = self.so_far.then(round_, arrivals, gathered, completes=ask.commit)
        self.replies[round_] = arrivals if between_rounds else dict(self.so_far.arrivals)
        rows = self._measured(position, gathered, between_rounds=between_rounds)
        return gathered, replace(after, rows=rows)

    def _gate(self, ask: Ask, rule: FoldRule, position: Position) -> Gate:
        return Gate(
            ask=ask,
            fold=rule,
            guard=from_plain(Guard, self.spec.guard),
            # the number of rows that a node tells is its private data's, whatever its mock has
            num_rows=self.federation.num_rows if self.spec.use == "private" else {},
            had_state=position.node_states,
        )

    def _fold(self, rule: FoldRule, contributions: list[Contribution], origin: Origin | None) -> Contribution:
        """Fold; a fold of the job's own sees the values that nodes returned, not how they travelled."""
        if rule is not self.fold:
            return rule.fold(contributions, origin)
        total = rule.fold([replace(c, value=decode(c.value)) for c in contributions], origin)
        return total if is_params(total.value) else replace(total, value=encode(total.value, "the total"))

    def _spool_total(self, total: Contribution, place: Place, ask: Ask) -> tuple[Contribution, str]:
        """Return a total and its hash; tensors that go on as they are lie in a file that is linked and sent.

        A total that the protocol makes something else of stays in memory, as auxiliary variables do.
        """
        if is_params(total.value):
            params, aux = split(total.value)
            total = replace(total, value=params or None, aux=aux)
        if total.value is None:
            return total, ""
        if not is_params(total.value):
            return total, hashlib.sha256(pack(to_plain(total.value))).hexdigest()
        if not ask.sends_total:
            return total, self._hash_again(total.value)
        path = place.spool / f"total_{place.step}.safetensors"
        path.unlink(missing_ok=True)  # of an earlier try at this round; a breakpoint may still link its bytes
        save_params(total.value, path)
        value = FileParams(path)
        # what the next round begins with is published at once, so that it is hashed only once
        if ask.commit and place.round < self.spec.rounds:
            value.ref = self.publish(path)
        return replace(total, value=value), (value.ref or ref_of(path)).sha256

    def _hash_again(self, tensors: Mapping[str, Any]) -> str:
        """Return the hash to which `verify` holds a fold; replies that are not kept can't be folded again."""
        return hash_params(tensors) if self.spec.keep else ""

    def _advance(
        self,
        position: Position,
        ask: Ask,
        rule: FoldRule,
        gathered: Gathered,
        output_hash: str,
        arrived: list[list[Any]],
    ) -> Position:
        states = dict(position.node_states)
        states.update({node: reply.state for node, reply in gathered.replies.items() if reply.state})
        by_function = isinstance(rule, ByFunction)  # its text stands in the spec
        fold_name, fold_config = (rule.name, {}) if by_function else FOLDS.config_of(rule)
        record = Fold(
            round=position.round + 1,
            step=ask.step,
            fold=fold_name,
            fold_config=fold_config,
            inputs=[[node, reply.params_hash, reply.weight] for node, reply in gathered.replies.items()],
            arrived=arrived,
            output_hash=output_hash,
            aux_hashes={module: self._hash_again(tensors) for module, tensors in gathered.total.aux.items()},
            left_out=dict(gathered.left_out),
        )
        return replace(
            position,
            node_states=states,
            ledger=chain(position.ledger, record),
        )

    def _measured(
        self, position: Position, gathered: Gathered, *, between_rounds: bool
    ) -> tuple[Measurement, ...]:
        """Return the rows of all rounds, those of this ask among them.

        A validation between two rounds, and what follows the last one, measures what the round before came to.
        """
        if between_rounds:
            return position.rows + tuple(
                measurements(position.round, gathered.replies, gathered.total.metrics)
            )
        round_ = position.round + 1
        # an ask before this one in the same round: its nodes' rows stay, what all measured together is new
        before = tuple(row for row in position.rows if (row.round, row.node) != (round_, OVERALL))
        return before + tuple(measurements(round_, gathered.replies, self.so_far.metrics))

    def _tasks(self, ask: Ask, position: Position, nodes: tuple[str, ...], spool: Path) -> dict[str, Task]:
        values, blobs, params = self._split(ask.shared, spool, None)
        limits = [s for s in (self.spec.the_quorum.deadline_s, self.spec.round_timeout_s) if s is not None]
        base = Task(
            dataset="",
            protocol=self.spec.protocol.name,
            config=self.spec.protocol.config,
            use=self.spec.use,
            project=self.spec.project,
            owner=dict(self.spec.owner),
            props=self.spec.props,
            launches=sorted(self.spec.launches),
            model_args=self.spec.model_args,
            seed=self.spec.seed,
            items=self.spec.items,
            split=self.spec.split,
            artifacts=dict(self.artifacts),
            limit_s=min(limits) if limits and ask.late == "drop" else None,
        )
        tasks = {}
        named = self.named_states()
        for node in nodes:
            own_values, own_blobs, own_params = self._split(ask.each.get(node, {}), spool, node)
            code = self.code.get(node)
            tasks[node] = replace(
                base,
                training_args=training_args_of(self.spec, position, ask, node),
                dataset=str(self.spec.datasets[node]["name"]),
                plan=None if code is None else code.ref,
                entry="" if code is None else code.entry,
                resources=resources_of(self.spec, node),
                values={**values, **own_values},
                blobs={**blobs, **own_blobs},
                params={**params, **own_params},
                state=position.node_states.get(node),
                preprocess=self.spec.datasets[node].get("preprocess", []),
                files=self.files if BROUGHT in self.spec.datasets[node] else None,
                keep_states=states_at(named, node),
            )
        return tasks

    def _split(
        self, values: Mapping[str, Any], spool: Path, node: str | None
    ) -> tuple[dict[str, Any], dict[str, Ref], dict[str, Ref]]:
        """Divide an instruction into small values, large ones and named tensors; publish the latter two."""
        small: dict[str, Any] = {}
        blobs: dict[str, Ref] = {}
        params: dict[str, Ref] = {}
        for name, value in values.items():
            if isinstance(value, FileParams):
                if value.ref is None or node is not None:
                    value.ref = self.publish(value.path, node)
                params[name] = value.ref
                self.overtime.sources[value.ref] = value.path
            elif is_params(value):
                place = "shared" if node is None else f"for_{node}"
                path = spool / f"{place}_{name}.safetensors"
                path.unlink(missing_ok=True)
                save_params(value, path, durable=False)  # published now, and never linked
                params[name] = self.publish(path, node)
            else:
                packed = pack(to_plain(value))
                if len(packed) > MAX_INLINE_BYTES // 2:
                    blobs[name] = self.publish(packed, node)
                else:
                    small[name] = value
        return small, blobs, params

    def _only_the_model(self, ask: Ask, round_: int) -> Ask:
        """Leave out tensors beside the parameters: a validation has no optimizer that could use them."""
        kept = {name: value for name, value in ask.shared.items() if name == "params" or not is_params(value)}
        each = {
            node: {name: value for name, value in own.items() if not is_params(value)}
            for node, own in ask.each.items()
        }
        dropped = {*ask.shared} - {*kept}
        dropped |= {name for node, own in ask.each.items() for name in {*own} - {*each[node]}}
        if dropped:
            self.events.add(
                "note",
                round_=round_,
                text=f"auxiliary variables are not sent with a validation: {', '.join(sorted(dropped))}",
            )
        return replace(ask, shared=kept, each=each)

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        """Make bytes available to all nodes, or to one, until the round after next is complete."""
        ref = self.federation.publish(source, node)
        self._published.append(ref)
        self.overtime.sources[ref] = source
        return ref

    def take_published(self) -> list[Ref]:
        """Return what was published since the last call."""
        taken, self._published = self._published, []
        return taken
