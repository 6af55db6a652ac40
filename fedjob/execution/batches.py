"""The node's half of one step: on all items at once, or in batches with a retry of failed ones item by item.

The events of a step that is computed in batches, in their order:

    batch   {of: null}                         batches follow, their number unknown; `of: 1` for a single one
    batch   {n: 1, state: "started"}           once for each, in order; the last one has `last: true`
    result  {n: 1, num_rows: 4, value}         its value, where one batch's value may leave the node
    batch   {state: "all-done", ok, failed}    all batches were tried
    batch   {state: "retrying", items}         the items of failed batches are tried one by one
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import LimitsExceeded, NodeFailure
from fedjob.common.items import Items
from fedjob.common.reasons import FATAL
from fedjob.common.seeds import seed_for
from fedjob.data.readers.base import ItemIdentity
from fedjob.execution.spill import Spill
from fedjob.protocols.base import FederatedProtocol, Instruction, Local
from fedjob.protocols.inference import Inference
from fedjob.protocols.own import OwnProtocol
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.pipeline import Pipeline
from fedjob.training_plans.randomness import seed_everything

if TYPE_CHECKING:
    from fedjob.data.row_limit import RowLimit

_MOST = "all items but those that failed"

MAX_RESULT_BYTES = 8 * 1024
"""A larger value of a batch is not sent with its event, but in the reply only."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item on which the computation failed.

    Args:
        place: index among the items of the step.
        error: class and message of the error, for the node's own log.
    """

    place: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """The outcome of a step at a node.

    Args:
        num_items: number of items of the step, the `failed` ones included.
        num_batches: 0 if the step was not computed in batches.
        identities: of the items, if the node is to remember them; else empty.
    """

    contribution: Contribution
    num_items: int = 0
    num_batches: int = 0
    failed: tuple[FailedItem, ...] = ()
    identities: Sequence[ItemIdentity] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of items and batches that are reported to the researcher; empty without batches."""
        if not self.num_batches:
            return {}
        lost = len(self.failed)
        return {"processed": self.num_items - lost, "failed": lost, "batches": self.num_batches}

    @property
    def processed(self) -> list[ItemIdentity]:
        """The identities of the items that the node remembers as processed."""
        lost = {failed.place for failed in self.failed}
        return [identity for place, identity in enumerate(self.identities) if place not in lost]

    @property
    def report(self) -> str:
        """The failed items and their errors as CSV, for the log that stays at the node; empty for none."""
        if not self.failed:
            return ""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["item", "error"])
        for lost in self.failed:
            writer.writerow([self.identities[lost.place].id if self.identities else lost.place, lost.error])
        return text.getvalue()


def work(
    protocol: FederatedProtocol,
    instruction: Instruction,
    local: Local,
    items: Items,
    *,
    setup_seed: int | None,
) -> StepOutcome:
    """Compute a node's contribution to a step.

    Args:
        setup_seed: of a worker process that runs its first task of the job, so that `setup` has to run, in whichever round;
            None for another.

    Raises:
        NodeFailure: more batches failed than `items` tolerates, or all did: `batch_failures`.
    """
    if setup_seed is not None:
        seed_everything(setup_seed)
        protocol.setup(local)
    seed_everything(local.seed)
    _check_rows(protocol, local)
    if instruction.step not in protocol.batched_steps:
        contribution = protocol.contribute(instruction, local)
        return StepOutcome(contribution=protocol.reduce(contribution, local))
    batches = _Batches(protocol, instruction, local, items)
    try:
        return batches.run()
    finally:
        batches.close()


def _check_rows(protocol: FederatedProtocol, local: Local) -> None:
    """Refuse what a text computes of all rows that it is given, where the owner's minimum does not allow that.

    A training plan's own methods check which rows they train and measure on. Predictions are about single rows, which
    owners allow as such.

    Raises:
        NodeFailure: with reason `min_rows`.
    """
    if local.rows is None or isinstance(protocol, Inference):
        return
    plan = local.plan
    if isinstance(plan, TrainingPlan) and not isinstance(protocol, OwnProtocol):
        return
    data = plan.data if isinstance(plan, Pipeline) else local.data
    if data is not None:
        local.rows.need_data("what is computed of these rows", data)


def streams(protocol: FederatedProtocol, step: str, items: Items) -> bool:
    """Return whether a training plan receives the data batch by batch, and never all of them at once."""
    return items.batch is not None and step in protocol.batched_steps


@dataclass
class _Batches:
    protocol: FederatedProtocol
    instruction: Instruction
    local: Local
    items: Items
    failures: list[tuple[Sequence[int], Exception]] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.local.plan
        self.data = plan.data if isinstance(plan, Pipeline) else self.local.data
        self.num_items = 0 if self.data is None else int(self.data.num_rows)
        self.identities = self.data.identities() if self.remembers else []
        self.parts = Spill(self.local.scratch / ".fedjob_parts")
        self.in_a_row = 0
        self.loaded_less = False
        self.streams = streams(self.protocol, self.instruction.step, self.items)

    @property
    def remembers(self) -> bool:
        """True if the node is to remember the items; rows of a table only if the job asks for new ones."""
        if self.data is None or not self.protocol.remembers_items or self.items.limit is not None:
            return False
        return self.items.uses_ledger or self.data.of_files

    @property
    def limit(self) -> RowLimit | None:
        """The rule on rows for what leaves; None where there is none, and for predictions, which are about single rows."""
        return None if isinstance(self.protocol, Inference) else self.local.rows

    @property
    def tells_batches(self) -> bool:
        """True if what is computed of a batch leaves the node as it is."""
        plan = self.local.plan
        return isinstance(plan, Pipeline) and not plan.finishes

    def check_batches(
        self, starts: Sequence[int], ends: Sequence[int], limit: RowLimit
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return where batches begin and end, a last one of too few items joined to the one before.

        Raises:
            NodeFailure: with reason `min_rows`: a batch has fewer items than the owner allows, or differs from what was
                released in fewer.
        """
        if len(starts) > 1 and ends[-1] - starts[-1] < limit.min_rows:
            starts, ends = starts[:-1], [*ends[:-2], ends[-1]]
        for start, end in zip(starts, ends, strict=True):
            limit.need("a batch's value", limit.rows_of(self.data), np.arange(start, end))
        return starts, ends

    def close(self) -> None:
        self.parts.close()
        self.bind(None)

    def run(self) -> StepOutcome:
        size = self.items.batch or max(1, self.num_items)
        starts: Sequence[int] = range(0, max(1, self.num_items), size)
        ends: Sequence[int] = [min(start + size, self.num_items) for start in starts]
        if self.limit is not None and self.tells_batches:
            starts, ends = self.check_batches(starts, ends, self.limit)
        self.emit("batch", {"of": None if self.items.batch else 1})
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
            last = {"last": True} if number == len(starts) else {}
            self.emit("batch", {"n": number, "state": "started", **last})
            self.attempt(number, range(start, end))
            self.local.progress(number, len(starts))
        num_failed = len(self.failures)
        self.emit("batch", {"state": "all-done", "ok": len(starts) - num_failed, "failed": num_failed})
        lost = tuple(self.retry()) if self.failures else ()
        if not len(self.parts):
            raise self.too_many(f"none of {self.num_items} items could be processed")
        self.bind(None)
        if lost and self.limit is not None:
            places = np.setdiff1d(np.arange(self.num_items), [item.place for item in lost])
            self.limit.need(f"what is computed of {_MOST}", self.limit.rows_of(self.data), places)
        total = self.protocol.join(self.parts, self.local)
        worked = StepOutcome(
            contribution=total,
            num_items=self.num_items,
            num_batches=len(starts),
            failed=lost,
            identities=self.identities,
        )
        try:
            return replace(worked, contribution=self.protocol.reduce(total, self.local))
        except LimitsExceeded as exceeded:
            exceeded.items = worked.processed[: int(exceeded.partial.weight)]
            raise

    def attempt(self, number: int, places: Sequence[int]) -> None:
        """Compute one batch; if it fails and that is tolerated, keep its items for `retry`."""
        try:
            part = self.contribute(places, f"batch {number}")
        except Exception as error:
            if self.items.tolerate == 0 or not tolerable(error):
                raise
            self.failures.append((places, error))
            self.in_a_row += 1
            if self.items.tolerate is not None and self.in_a_row > self.items.tolerate:
                raise self.too_many(
                    f"{self.in_a_row} batches failed in a row; the job tolerates {self.items.tolerate}"
                ) from error
            return
        self.in_a_row = 0
        self.emit("result", {"n": number, "num_rows": len(places), **self.reported(part)})

    def retry(self) -> Iterator[FailedItem]:
        """Compute the items of failed batches one by one; yield those that fail again.

        Without `retry_single` nothing is computed again, and every item of a failed batch is yielded.
        """
        alone = self.limit is not None and self.tells_batches  # a value of one item would leave the node
        if self.items.retry_single is False or alone:
            for batch, error in self.failures:
                yield from (FailedItem(place, f"{type(error).__name__}: {error}") for place in batch)
            return
        places = [place for batch, _ in self.failures for place in batch]
        self.emit("batch", {"state": "retrying", "items": len(places)})
        for place in places:
            try:
                self.contribute([place], f"item {place}")
            except Exception as error:
                if not tolerable(error):
                    raise
                yield FailedItem(place, f"{type(error).__name__}: {error}")

    def contribute(self, places: Sequence[int], purpose: str) -> Contribution:
        self.bind(places if self.items.batch is not None or len(places) < self.num_items else None)
        seed_everything(seed_for(self.local.seed, self.local.round, self.local.node, purpose))
        part = self.protocol.contribute(self.instruction, self.local)
        self.parts.put(places[0] if len(places) else 0, part)
        return part

    def bind(self, places: Sequence[int] | None) -> None:
        """Give the protocol and the plan the items at these places; None for all."""
        plan = self.local.plan
        if isinstance(plan, Pipeline):
            plan.bind(places)
            self.local.data = plan.ctx.data
        elif self.data is not None:
            self.local.data = self.data if places is None else self.data.take(places)
            if plan is not None and (places is not None or (self.loaded_less and not self.streams)):
                plan.load_data(self.local.data)
                self.loaded_less = places is not None

    def reported(self, part: Contribution) -> Mapping[str, Any]:
        """Return the fields of a batch's event that hold its value.

        They are empty if the node combines all batches into one value, or if the batch has fewer
        rows than the owner allows.
        """
        value = part.value
        if not self.tells_batches or part.weight < int(self.local.limits.get("min_rows") or 0):
            return {}
        plain = to_plain(value)
        return {"value": plain} if len(pack(plain)) <= MAX_RESULT_BYTES else {"in_reply": True}

    def emit(self, type_: str, body: dict[str, Any]) -> None:
        trial = {"test": True} if self.items.limit is not None else {}
        self.local.emit(type_, {**body, **trial})

    def too_many(self, what: str) -> NodeFailure:
        """Return the error that ends a task whose batches fail; it names the first batch's error."""
        first = self.failures[0][1] if self.failures else None
        cause = "" if first is None else f"; the first: {type(first).__name__}"
        failure = NodeFailure(self.local.node, "batch_failures", f"{what}{cause}")
        failure.__cause__ = first
        return failure


def tolerable(error: Exception) -> bool:
    """Return whether other batches may still succeed: errors of some kinds end a task at once."""
    return not isinstance(error, MemoryError) and getattr(error, "reason", "") not in FATAL
