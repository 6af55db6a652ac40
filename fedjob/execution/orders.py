"""The order that a worker computes by and the result that it gives, as plain data and paths.

Also the ways from a task to its order and from a result to what a node answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.codec import in_order
from fedjob.common.items import Items
from fedjob.common.types import Ref
from fedjob.messaging.messages import Result, Task, WorkSettings
from fedjob.parameters.model_files import ModelFile
from fedjob.training_plans.child_tasks import ChildOrder
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.training_args import merged_args

CHILD_STEP = "child"
KEPT_NAME = "kept"
"""Folder, in a work's output, of files that stay at the node for its owner."""

Emit = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder(WorkSettings):
    """The order for one computation, as plain data.

    Args:
        key: the work's name, see `messages.work_key`.
        plan_text: the approved bytes, decoded; empty for a protocol without a plan.
        entry: the plan's class.
        dataset: `{name, path, reader, tags, options}` for the reader; empty for work without data.
        values: the instruction's plain values.
        params: name -> path of a safetensors file.
        state_path: the node state to start from; empty for a fresh one.
        output_path: an existing, empty folder for what comes out.
        scratch_path: a folder that lives as long as the warm worker.
        props: the job's free properties.
        child: the place of a child task among its parent's, `0` or `0/2`; empty for a task of the job's own.
        limits: what the owner limits, by name, see `Local`.
        releases_path: file of the record of what was released about the dataset; empty for none.
        items: which items of the dataset, and how.
        known_path: file of what the node remembers of earlier work; empty where that does not matter.
        split: how a `Plan` divides its items, see `training_plans.step_plan.check_split`.
        secrets: that the owner lets this plan use; never written to disk, and never sent on.
        artifacts: name -> file that the job sends along.
        models: name -> file of parameters that this side has.
        noise: the terms of differential privacy, see `privacy.dp.terms`, or a stretch of tree noise, see
            `privacy.dp.tree_terms`; empty for none.
        compress: how parameters came and how the answer leaves, see `compressed_work`; empty for as they are.
        gpu_share: of the memory of each device that the job holds; 0 where it holds none.
    """

    key: str
    job: str
    round: int
    step: str
    node: str
    protocol: str
    plan_text: str = ""
    entry: str = ""
    dataset: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    state_path: str = ""
    output_path: str = ""
    scratch_path: str = ""
    props: dict[str, Any] = field(default_factory=dict)
    child: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    releases_path: str = ""
    items: Items = field(default_factory=Items)
    known_path: str = ""
    split: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    artifacts: dict[str, str] = field(default_factory=dict)
    models: dict[str, ModelFile] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict, repr=False)
    compress: dict[str, Any] = field(default_factory=dict)
    gpu_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """The result of one computation.

    Args:
        reason: empty when `ok`; else one word.
        detail: what a researcher may see by default: the class of the error and
            the line numbers inside the plan's own text.
        message: the error's own words; for the node's log, or where the owner allows more.
        trace: the full traceback, for the node's log only.
        params_path, state_path: files in the order's output folder; empty when there are none.
        timing: seconds: setup, train, validate, total.
        items: how many were `processed` and `failed`, in how many `batches`; empty where there are no batches.
        items_path: file in the output folder of the items that the node is to remember; empty for none.
        report: items that failed, and why; for the node's log only.
        optimizer_args: what the optimizer of a training plan used, such as its learning rate.
        used: resource -> how much of it was wanted.
        overrun: what of that is beyond what the owner allows: then it is not `ok`, and `value` is of the rest.
        rows: of the dataset: `registered`, `read` and `used`, see `Result`.
    """

    key: str
    ok: bool
    reason: str = ""
    detail: str = ""
    message: str = ""
    trace: str = ""
    value: Any = None
    params_path: str = ""
    state_path: str = ""
    weight: float = 0.0
    num_examples: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    threads: int = 0
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    items_path: str = ""
    report: str = ""
    used: dict[str, int] = field(default_factory=dict)
    overrun: int = 0
    rows: dict[str, int] = field(default_factory=dict)


def work_order_of(
    task: Task,
    *,
    key: str,
    job: str,
    round_: int,
    step: str,
    node: str,
    plan_text: str,
    dataset: Mapping[str, Any],
    path_of: Callable[[Ref], object],
    value_of: Callable[[str, Ref], Any],
    state_path: str,
    output_path: str,
) -> WorkOrder:
    """Return the order for the work that a task asks of a node.

    What a grant binds has the keys of its maps in order, since the binding does not see their order and a plan would.

    Args:
        dataset: what the data are opened by; empty for work without data.
        path_of: returns the file of an object that the task names.
        value_of: returns a named value that was too large for the message.
    """
    params = {name: str(path_of(ref)) for name, ref in task.params.items()}
    large = {name: value_of(name, ref) for name, ref in task.blobs.items()}
    return WorkOrder(
        key=key,
        job=job,
        round=round_,
        step=step,
        node=node,
        protocol=task.protocol,
        config=in_order(task.config) if plan_text else task.config,
        plan_text=plan_text,
        entry=task.entry,
        dataset=dict(dataset),
        values={**task.values, **large},
        params=params,
        model_args=in_order(task.model_args),
        training_args=in_order(at_round(merged_args(task.training_args, task.round_args), round_)),
        seed=task.seed,
        state_path=state_path,
        output_path=output_path,
        props=in_order(task.props),
        items=task.items,
        split=in_order(task.split),
        project=task.project,
        artifacts={name: str(path_of(task.artifacts[name])) for name in sorted(task.artifacts)},
        compress=task.compress,
    )


def child_place(parent: str, number: int) -> str:
    """Return the place of a child task among all of a task of the job's own: `0`, or `0/2`.

    Args:
        parent: the place of its parent; empty for a task of the job's own.
    """
    return f"{parent}/{number}" if parent else str(number)


def child_fields(wanted: ChildOrder) -> dict[str, Any]:
    """Return what a child has of its own in a task or an order, where all else is its parent's."""
    return {
        "protocol": "function",
        "config": {},
        "entry": wanted.entry,
        "params": {},
        "model_args": {},
        "training_args": wanted.args,
    }


def result_of(done: WorkResult, *, params: Ref | None, state: str | None) -> Result:
    """Return what a node answers of work that is done; `of`, the message that it answers, is still empty.

    Args:
        params: where its parameters are.
        state: id of the node state that it leaves.
    """
    return Result(
        of="",
        key=done.key,
        ok=done.ok,
        reason=done.reason,
        detail=done.detail,
        value=done.value,
        params=params,
        weight=done.weight,
        num_examples=done.num_examples,
        metrics=done.metrics,
        timing=done.timing,
        state=state,
        threads=done.threads,
        optimizer_args=done.optimizer_args,
        items=done.items,
        rows=done.rows,
        used=[{"resource": name, "amount": amount} for name, amount in done.used.items()],
    )
