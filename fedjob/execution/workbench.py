"""One node's share of one ask, from plain data to files: what a worker process does.

A daemon writes a work order and reads a work result; both are plain data and
paths, so that the process between them needs no network and no database. Local
jobs call `perform` in their own process and get the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import DecodeError, EncodeError, NodeFailure, PreparationError
from fedjob.common.files import make_folder, private
from fedjob.common.seeds import seed_for
from fedjob.data.item_choice import ITEMS_NAME, save_remembered
from fedjob.data.preprocessing.learning import LEARN, LEARNED
from fedjob.execution.compressed_work import KEPT, PARAMS, CompressedWork, compressed_work
from fedjob.execution.failures import failed
from fedjob.execution.orders import (
    CHILD_STEP,
    KEPT_NAME,
    Emit,
    WorkOrder,
    WorkResult,
    child_fields,
    child_place,
)
from fedjob.execution.row_counts import row_counts
from fedjob.metrics.event import naming
from fedjob.training_plans.child_tasks import ChildLauncher, ChildOrder, ChildOutcome, ChildRunner
from fedjob.training_plans.randomness import seed_everything
from fedjob.training_plans.state.warm_plan import NotSetBack

if TYPE_CHECKING:
    import torch

    from fedjob.aggregation.contribution import Contribution
    from fedjob.data.row_limit import RowLimit
    from fedjob.privacy.release_book import ReleaseBook
    from fedjob.protocols.base import Local
    from fedjob.training_plans.context import Context
    from fedjob.training_plans.private.training import PrivateTraining


Together = Callable[[Any], Iterable[tuple[int, float]]]
"""Trains the nodes of a simulation at once, see `training_plans.context.Context`."""


class Workbench:
    """The built plan with its data, kept in memory between the steps of one job on one dataset.

    Every step sets parameters, node state and all seeds anew, so a warm bench and
    a fresh one compute the same bytes.

    Args:
        borrow: entered with the path of the record of releases while it is used, see `ReleaseBook`; None where the
            record lies there already.
        one_plan: whether a training plan goes on from node to node, as it was built: for a simulation, in which one
            process computes for many nodes and has one model in memory. Contributions are not made durable then:
            they can be computed again, and live for a round.
    """

    def __init__(
        self, borrow: Callable[[str], AbstractContextManager[None]] | None = None, *, one_plan: bool = False
    ) -> None:
        self.together: Together | None = None
        """What trains this node with others of a simulation; None for this node by itself."""
        self._borrow = borrow
        self._one_plan = one_plan
        self._built_of: tuple[Any, ...] | None = None
        self._kept: Any = None
        self._plan: Any = None
        self._data: Any = None
        self._made_of: tuple[Any, ...] | None = None
        self._limit: RowLimit | None = None

    def perform(self, order: WorkOrder, emit: Emit, runner: ChildRunner | None = None) -> WorkResult:
        """Do the work; whatever user code raises becomes a result that says so.

        Args:
            runner: where child tasks run; None for this process.
        """
        try:
            return self.compute(order, emit, runner)
        except (Exception, SystemExit) as error:  # user code may raise anything; the node must answer
            return failed(order, error)

    def compute(self, order: WorkOrder, emit: Emit, runner: ChildRunner | None = None) -> WorkResult:
        """Do the work; what user code raises comes through, for a debugger.

        Raises:
            NodeFailure: the work itself can't count, such as a loss that is not finite.
        """
        started = time.perf_counter()
        order = _with_learned(order)
        if order.step == LEARN:
            return _measured(order, _releases(order, self._borrow))
        import torch

        from fedjob.execution.batches import work
        from fedjob.execution.released_work import private_training, released
        from fedjob.parameters.tree import load_tree
        from fedjob.protocols import PROTOCOLS
        from fedjob.protocols.base import Instruction

        protocol = PROTOCOLS.build(order.protocol, order.config)
        terms, emit = private_training(order, protocol, naming(emit, order.entry or type(protocol).__name__))
        state = load_tree(Path(order.state_path)) if order.state_path else {}
        seed = seed_for(order.seed, order.round, order.node, f"child {order.child}" if order.child else "")
        runner = runner or InlineChildRunner(order, emit)
        begin = partial(_begin_step, order, seed, state, emit, runner, terms, self.together)
        plan, first = self._begun(partial(self._bench, order, protocol, emit, terms), begin)
        setup_s = _since(started)
        local = _local_of(order, plan, self._data, seed, state, emit, _releases(order, self._borrow))
        local.rows = self._limit
        compressed = compressed_work(order, state, plan)
        values = {**order.values, **_tensors_of(order, compressed)}
        instruction = Instruction(step=order.step, round=order.round, values=values)
        setup_seed = seed_for(order.seed, 0, order.node, "setup") if first else None
        worked = work(protocol, instruction, local, order.items, setup_seed=setup_seed)

        contribution, output = worked.contribution, Path(order.output_path)
        durable = not self._one_plan
        value, params_path = _saved_params(contribution, order.node, output, compressed, durable=durable)
        state_path = _saved_state(order, plan, local, output, compressed)
        done = WorkResult(
            key=order.key,
            ok=True,
            value=to_plain(value),
            params_path=params_path,
            state_path=state_path,
            weight=_capped(protocol, order, float(contribution.weight)),
            num_examples=int(contribution.weight),
            metrics=to_plain({phase: dict(states) for phase, states in contribution.metrics.items()}),
            timing={"setup": setup_s, **_stages(plan), "total": _since(started)},
            threads=torch.get_num_threads(),
            optimizer_args=to_plain(getattr(plan, "optimizer_args", {})),
            items=worked.counts,
            items_path=_save_items(worked, output),
            report=worked.report,
            used=dict(local.used),
            rows=row_counts(
                order.dataset,
                self._data,
                plan,
                num_examples=int(contribution.weight),
                min_rows=int(order.limits.get("min_rows") or 0),
            ),
        )
        return released(done, order, terms)

    def _begun(self, bench: Callable[[], tuple[Any, bool]], begin: Callable[[Any], None]) -> tuple[Any, bool]:
        """Return the plan at the beginning of a step, and whether it is new; one that can't be set back is built anew."""
        plan, first = bench()
        if plan is None:
            return None, first
        try:
            begin(plan)
        except NotSetBack:
            self._made_of = None
            plan, first = bench()
            begin(plan)
        return plan, first

    def _bench(
        self, order: WorkOrder, protocol: Any, emit: Emit, terms: PrivateTraining | None
    ) -> tuple[Any, bool]:
        """Return the built plan with its data, and whether it is new.

        A training plan that is given its data batch by batch does not load them all, and is made anew next time.
        """
        from fedjob.data.item_choice import Known, chosen_data, load_known
        from fedjob.data.loader import open_dataset
        from fedjob.data.row_limit import RowLimit
        from fedjob.execution.batches import streams
        from fedjob.training_plans.base import TrainingPlan
        from fedjob.training_plans.pipeline import Pipeline

        releases = _releases(order, self._borrow)
        made_of: tuple[Any, ...] = (
            *(order.plan_text, order.entry, order.dataset, order.model_args, order.seed, order.node),
            *(order.items, 0 if releases is None else releases.min_rows, terms is None),
        )
        data = None
        if order.items.uses_ledger and order.dataset:  # there may be new items by now
            data, found = chosen_data(
                open_dataset(order.dataset), order.items, load_known(order.known_path), order.node
            )
            made_of += (found,)
        if self._made_of == made_of and (self._plan is None or self._plan.is_as_loaded()):
            if self._limit is not None and releases is not None:
                self._limit.book = releases
            return self._plan, False
        self._plan, self._data, self._made_of, self._limit = None, None, None, None
        if data is None and order.dataset:
            data, _ = chosen_data(open_dataset(order.dataset), order.items, Known(), order.node)
        if not order.plan_text:
            self._data, self._made_of = data, made_of
            return None, True
        if releases is not None and data is not None:
            self._limit = RowLimit(order.node, releases, data)
        plan = self._built(order, emit, terms)
        seed_everything(seed_for(order.seed, 0, order.node, "data"))
        self._plan, self._data, self._made_of = plan, data, made_of
        if streams(protocol, order.step, order.items) and not isinstance(plan, Pipeline):
            self._made_of = self._built_of = None
        else:
            plan.load_data(data)
            if isinstance(plan, TrainingPlan) and not self._one_plan:  # which begins as built for every node
                plan.note_loaded()
        return plan, True

    def _built(self, order: WorkOrder, emit: Emit, terms: PrivateTraining | None) -> Any:
        """Return the plan of an order as it is built, before it has loaded data: made anew, or set back to that."""
        from fedjob.execution.released_work import check_as_private
        from fedjob.parameters.frozen import FROZEN
        from fedjob.training_plans.base import TrainingPlan
        from fedjob.training_plans.source.compilation import make_plan

        built_of = (
            *(order.plan_text, order.entry, order.model_args, order.seed, order.noise != {}),
            *(order.models, order.artifacts.get(FROZEN)),
        )
        again = self._one_plan and self._built_of == built_of and self._kept.is_as_built()
        plan = self._kept if again else make_plan(order.plan_text, order.entry)
        plan.ctx = _context_of(plan, order, emit, self._limit, terms)
        if again:
            return plan
        seed_everything(seed_for(order.seed, 0, "", "init"))
        plan.build(order.model_args, order.training_args)
        check_as_private(plan, terms)
        if isinstance(plan, TrainingPlan):
            plan.note_built()
            if self._one_plan:
                self._kept, self._built_of = plan, built_of
        return plan


def _context_of(
    plan: Any, order: WorkOrder, emit: Emit, limit: RowLimit | None, terms: PrivateTraining | None
) -> Context:
    """Return the context of a plan that is to be built."""
    from fedjob.parameters.frozen import FROZEN
    from fedjob.training_plans.context import Context
    from fedjob.training_plans.pipeline import Pipeline
    from fedjob.training_plans.step_plan import StepContext

    about = StepContext if isinstance(plan, Pipeline) else Context
    return about(
        node=order.node,
        round=order.round,
        job_seed=order.seed,
        seed=order.seed,
        send=emit,
        props=order.props,  # what loads the data may go by them
        rows=limit,
        private=terms,
        models=order.models,
        frozen=Path(order.artifacts[FROZEN]) if FROZEN in order.artifacts else None,
    )


def _stages(plan: Any) -> Mapping[str, float]:
    """Return the seconds that a plan took, by stage; empty for none."""
    return getattr(plan, "timing", {})


def _since(started: float) -> float:
    return time.perf_counter() - started


def _capped(protocol: Any, order: WorkOrder, weight: float) -> float:
    """Return the weight of a contribution, within what the dataset's owner lets it weigh in training."""
    from fedjob.protocols.training.base import TrainingProtocol

    cap = int(order.dataset.get("max_weight") or 0) if order.dataset else 0
    return min(weight, float(cap)) if cap and isinstance(protocol, TrainingProtocol) else weight


def _begin_step(
    order: WorkOrder,
    seed: int,
    state: Mapping[str, Any],
    emit: Emit,
    runner: ChildRunner,
    terms: PrivateTraining | None,
    together: Any,
    plan: Any,
) -> None:
    """Have a plan, new or warm, begin the step of an order from the node's state."""
    from fedjob.training_plans.function import declared
    from fedjob.training_plans.pipeline import Pipeline

    plan.ctx.round, plan.ctx.seed, plan.ctx.send = order.round, seed, emit
    plan.ctx.props, plan.ctx.private = order.props, terms
    plan.ctx.gpu_share, plan.ctx.together = order.gpu_share, together
    names = tuple(launched.function.__name__ for launched in declared(plan.launches))
    plan.ctx.launcher = ChildLauncher(order.node, names, runner) if terms is None else None
    if isinstance(plan, Pipeline):
        plan.attend(order)
    plan.start_step(order.training_args)
    plan.set_state(state.get("plan"))


def _local_of(
    order: WorkOrder,
    plan: Any,
    data: Any,
    seed: int,
    state: Mapping[str, Any],
    emit: Emit,
    releases: ReleaseBook | None,
) -> Local:
    """Return what a protocol's half at the node is given."""
    from fedjob.protocols.base import Local

    return Local(
        node=order.node,
        round=order.round,
        seed=seed,
        plan=plan,
        data=data,
        args=None if plan is None else plan.training_args,
        state=dict(state.get("protocol") or {}),
        emit=emit,
        progress=lambda done, total: emit("progress", {"done": done, "total": total}),
        scratch=Path(order.scratch_path),
        limits=order.limits,
        releases=releases,
        keep=partial(_keep, Path(order.output_path)),
        noise=order.noise,
    )


def _check_readable(value: Any) -> None:
    """Read a value as its receiver will, before the work counts as done.

    Raises:
        EncodeError: it could not be read again.
    """
    from fedjob.common.values import decode
    from fedjob.parameters.files import is_params

    if value is None or is_params(value):
        return
    try:
        decode(unpack(pack(to_plain(value))))
    except (DecodeError, RecursionError) as error:
        raise EncodeError(f"what was found here could not be read by its receiver: {error}") from error


def _tensors_of(order: WorkOrder, compressed: CompressedWork | None) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return name -> the named tensors that an order brings."""
    from fedjob.parameters.files import FileParams

    return {
        name: FileParams(Path(path))
        if compressed is None or name != PARAMS
        else compressed.received(Path(path))
        for name, path in order.params.items()
    }


def _saved_params(
    contribution: Contribution,
    node: str,
    output: Path,
    compressed: CompressedWork | None,
    *,
    durable: bool,
) -> tuple[Any, str]:
    """Save the parameters of a contribution and its auxiliary variables.

    Args:
        compressed: how they travel; None for as they are.

    Returns:
        What else it has as its value, and the path of the file; empty for none.

    Raises:
        NodeFailure: a number is not finite.
        EncodeError: what else it has could not be read again.
    """
    from fedjob.aggregation.guard import not_finite
    from fedjob.parameters.auxiliary import join
    from fedjob.parameters.files import is_params, save_params

    value = contribution.value
    _check_readable(value)
    if not is_params(value) and not contribution.aux:
        return value, ""
    tensors = join(value if is_params(value) else {}, contribution.aux)
    if problem := not_finite(tensors):
        raise NodeFailure(node, *problem.split(": ", 1))
    path = output / "params.safetensors"
    save_params(tensors if compressed is None else compressed.parcels(tensors), path, durable=durable)
    return None if is_params(value) else value, str(path)


def _saved_state(
    order: WorkOrder, plan: Any, local: Local, output: Path, compressed: CompressedWork | None
) -> str:
    """Save what stays at the node, and return the path of the file; empty where nothing does.

    Args:
        compressed: the compressed way of the work, of which something stays there, too; None for none.
    """
    from fedjob.parameters.tree import save_tree
    from fedjob.protocols.base import MEASURING

    kept = {"plan": None if plan is None else plan.get_state(), "protocol": local.state}
    if compressed is not None:
        kept[KEPT] = compressed.kept
    if order.step in MEASURING or not any(kept.values()):
        return ""
    path = output / "state.safetensors"
    save_tree(kept, path)
    return str(path)


def _with_learned(order: WorkOrder) -> WorkOrder:
    """Put what was found for the steps that prepare the data where the data are opened."""
    if LEARNED not in order.values or not order.dataset:
        return order
    values = {name: value for name, value in order.values.items() if name != LEARNED}
    return replace(order, values=values, dataset={**order.dataset, "learned": order.values[LEARNED]})


def _measured(order: WorkOrder, releases: ReleaseBook | None) -> WorkResult:
    """Return what a node reports for a step that finds values in the data of all nodes, see `preprocess.learning`."""
    from fedjob.data.learned_values import measured

    try:
        value, num_rows = measured(order.dataset, int(order.limits.get("min_rows", 0)), releases)
    except PreparationError as error:
        raise NodeFailure(order.node, error.reason, str(error)) from error
    return WorkResult(key=order.key, ok=True, value=value, weight=float(num_rows), num_examples=num_rows)


def _releases(
    order: WorkOrder, borrow: Callable[[str], AbstractContextManager[None]] | None
) -> ReleaseBook | None:
    if not order.releases_path or order.limits.get("min_rows", 0) <= 1:
        return None
    from fedjob.privacy.release_book import ReleaseBook

    path = order.releases_path
    return ReleaseBook(Path(path), int(order.limits["min_rows"]), borrow and partial(borrow, path))


def child_order(parent: WorkOrder, wanted: ChildOrder, values: Mapping[str, Any]) -> WorkOrder:
    """Return the order for a child task: the parent's text and data, another function of it.

    Args:
        values: argument -> encoded value, for those that are other children's values.
    """
    order = replace(
        parent,
        **child_fields(wanted),
        key=f"{parent.key}.{wanted.number}",
        step=CHILD_STEP,
        values={},
        state_path="",
        child=child_place(parent.child, wanted.number),
    )
    return replace(order, training_args={**order.training_args, **values})


class InlineChildRunner(ChildRunner):
    """Computes children at once, in the parent's own process: for local jobs."""

    def __init__(self, parent: WorkOrder, emit: Emit) -> None:
        self._parent = parent
        self._emit = emit
        self._outcomes: dict[int, ChildOutcome] = {}

    def launch(self, order: ChildOrder) -> None:
        inputs = {name: self._outcomes[number] for name, number in order.inputs.items()}
        failed = next((outcome for outcome in inputs.values() if not outcome.ok), None)
        if failed is not None:
            self._outcomes[order.number] = replace(failed, number=order.number)
            return
        work = child_order(self._parent, order, {name: outcome.value for name, outcome in inputs.items()})
        output = Path(self._parent.output_path) / f"child_{order.number}"
        output.mkdir(mode=0o700)
        done = Workbench().perform(replace(work, output_path=str(output)), self._emit)
        self._outcomes[order.number] = outcome_of(order.number, done)

    def wait(self, number: int) -> ChildOutcome:
        return self._outcomes[number]


def outcome_of(number: int, done: WorkResult) -> ChildOutcome:
    """Return the outcome of a child task that its parent receives."""
    return ChildOutcome(
        number=number, ok=done.ok, value=done.value, reason=done.reason, detail=done.message or done.detail
    )


def _save_items(worked: Any, output: Path) -> str:
    """Write the items that the node is to remember into the output folder, and return the file's path."""
    if not worked.identities:
        return ""
    path = output / ITEMS_NAME
    # the error's class alone: its words may hold data, or a secret
    failed = [(worked.identities[lost.place], lost.error.partition(":")[0]) for lost in worked.failed]
    save_remembered(path, worked.processed, failed)
    return str(path)


def _keep(output: Path, name: str, data: bytes) -> None:
    """Leave a file for the owner among what the work gives."""
    folder = output / KEPT_NAME
    make_folder(folder)
    path = folder / name.replace("/", "_").lstrip(".")  # a plan names its outputs
    with open(path, "wb", opener=private) as file:
        file.write(data)
