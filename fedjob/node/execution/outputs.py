"""The output of a task, moved from the spool to the repository and put into the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import EncodeError, ObjectTooLarge
from fedjob.common.reasons import REASONS
from fedjob.common.types import Ref, contacts_text
from fedjob.execution.orders import WorkResult, result_of
from fedjob.messaging.messages import (
    MAX_ATTACHED_BYTES,
    MAX_INLINE_BYTES,
    Result,
    may_attach,
    named_params,
)
from fedjob.metrics.states import num_examples
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.data.item_ledger import read_items
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import failure, task_of
from fedjob.node.storage.spool import SmallOutput, Spool
from fedjob.privacy.protect import dp_of, is_noised
from fedjob.privacy.secagg.steps import HeldContribution, held_contribution
from fedjob.protocols.usage import INFERENCES, Usage, capped
from fedjob.repository.base import Repository
from fedjob.repository.parts import ref_of

LARGE_BYTES = 1 << 20
"""Results from this size on are removed from the hub as soon as they are not needed; others at the job's end."""

MAX_METRICS_BYTES = 1 << 20
MAX_TRACE_CHARS = 8000
MAX_DETAIL_CHARS = 4000
MAX_LOGGED_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished result is in the repository (or was a failure): what to answer.

    Args:
        state: id of the node state that it proposes; empty for none.
        trace, report: for the node's log.
        items: that it worked on, for the ledger; None where they are not remembered.
        left: something of it may have left the node.
        attached: sha256 -> bytes, of the parameters that are attached to the answer.
    """

    key: str
    run: int
    result: Result
    state: str = ""
    message: str = ""
    trace: str = ""
    report: str = ""
    items: dict[str, list[list[Any]]] | None = None
    left: bool = True
    attached: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The places that a task's output goes to.

    Args:
        config: the owner's settings at this moment.
        large: key -> the task's job and its large object in the repository; it is added to.
    """

    home: NodeHome
    config: NodeConfig
    spool: Spool
    repository: Repository
    large: dict[str, tuple[str, Ref]]


def store(row: TaskRow, run: int, found: WorkResult, min_rows: int, to: Destination) -> StoredResult:
    """Put a finished result where the researcher can fetch it, and return what to answer.

    Args:
        run: tells this attempt from earlier ones at the same task.
        min_rows: a result that was computed from fewer examples never leaves, nor does a metric that was.

    Raises:
        RepositoryError: it could not be put there.
        EncodeError: its metrics take too much.
        ObjectTooLarge: it is larger than the owner allows.
    """
    if refused := _refused(row, run, found, min_rows, to.config):
        return refused
    if min_rows > 1:
        found = replace(found, metrics=_about_enough(found.metrics, min_rows))
    kept = to.home.outputs_of(row.job, row.dataset, row.round)
    to.spool.keep_files(row.key, kept, limit_bytes=to.config.result_mb << 20)
    if row.parent:  # its value stays here, for the parent
        done = Result(of="", key=row.key, ok=True, num_examples=found.num_examples, timing=found.timing)
        return StoredResult(row.key, run, done)
    if len(pack(found.metrics)) > MAX_METRICS_BYTES:
        raise EncodeError(f"a reply's metrics take at most {MAX_METRICS_BYTES} bytes")
    is_held = "secagg" in task_of(row).protect
    blob = None if is_held else _put_values(row, found, to)
    state = ""
    if found.state_path:
        state = row.key[:32]  # the same work proposes the same state
        to.spool.keep_state(row.key, row.job, state)
    attached: dict[str, bytes] = {}
    if is_held:
        result = _held_back(row, found, state, to)
    else:
        result, attached = _with_params(_result(row, found, blob, state), row, found, to)
    items = read_items(to.home.result_of(row.key)) if found.items_path else None
    report = found.report[-MAX_LOGGED_CHARS:]
    return StoredResult(row.key, run, result, state, report=report, items=items, attached=attached)


def store_small(
    row: TaskRow, run: int, small: SmallOutput, min_rows: int, config: NodeConfig
) -> StoredResult:
    """Return what to answer of a finished result that fits into its answer: nothing is fetched, written or waited for.

    Args:
        run: tells this attempt from earlier ones at the same task.
        min_rows: a result that was computed from fewer examples never leaves, nor does a metric that was.
    """
    found = small.result
    if refused := _refused(row, run, found, min_rows, config):
        return refused
    if min_rows > 1:
        found = replace(found, metrics=_about_enough(found.metrics, min_rows))
    result = _result(row, found, None, "")
    attached: dict[str, bytes] = {}
    if small.params is not None:
        result, attached = _attached_to(result, small.params)
    return StoredResult(row.key, run, result, report=found.report[-MAX_LOGGED_CHARS:], attached=attached)


def fits_in_answer(found: WorkResult, params_bytes: int | None) -> bool:
    """Tell whether all of a result fits into the message that answers its task.

    Args:
        params_bytes: size of its parameters; None where it has none.
    """
    if not found.ok and not found.overrun:  # nothing of it leaves but words, which have limits
        return params_bytes is None and len(pack(to_plain(found))) <= MAX_INLINE_BYTES
    if len(pack({"value": found.value, "metrics": found.metrics})) > MAX_INLINE_BYTES:
        return False
    params = None if params_bytes is None else Ref("0" * 64, params_bytes)
    return may_attach(result_of(found, params=params, state=None))


def _refused(
    row: TaskRow, run: int, found: WorkResult, min_rows: int, config: NodeConfig
) -> StoredResult | None:
    """Return what to answer where nothing of a result may leave; None where it may."""
    if not found.ok and not found.overrun:
        return _failed(row, run, found, config)
    if found.num_examples < min_rows:
        detail = f"computed on fewer rows than the owner's minimum of {min_rows}{_ask(config)}"
        failed = failure(row.key, *withheld(row, "min_rows", detail))
        return StoredResult(row.key, run, failed, message=detail, left=_is_private(row))
    return None


def held_of(row: TaskRow, min_rows: int, spool: Spool, config: NodeConfig) -> HeldContribution:
    """Return what a finished task would contribute to a secure sum.

    Args:
        min_rows: no metric of fewer examples is a part of it.

    Raises:
        FedjobError: it can't be added.
    """
    found = spool.result(row.key)
    if min_rows > 1:
        found = replace(found, metrics=_about_enough(found.metrics, min_rows))
    return _held(row, found, spool, config)


def _held(row: TaskRow, found: WorkResult, spool: Spool, config: NodeConfig) -> HeldContribution:
    tensors = spool.params_of(row.key, limit_bytes=config.result_mb << 20) if found.params_path else None
    noised = is_noised(task_of(row).protect)
    return held_contribution(found.value, found.weight, found.metrics, tensors, noised=noised)


def _held_back(row: TaskRow, found: WorkResult, state: str, to: Destination) -> Result:
    """Return what to answer of a contribution that leaves inside a secure sum only: that it is there, and its outline."""
    held = _held(row, found, to.spool, to.config)
    return Result(
        of="",
        key=row.key,
        ok=True,
        value={"outline": held.numbers.outline.packed, "staying": held.staying},
        num_examples=found.num_examples,  # for the owner's own limits; `concealed` before it leaves
        state=state or None,
        timing=found.timing,
        threads=found.threads,
    )


def concealed(result: Result, protect: Mapping[str, Any]) -> Result:
    """Return the answer to a task whose contribution is held back, without what it was computed from.

    Args:
        protect: the job's protections; under NodeDP the seconds of each stage tell how many rows there are, too.
    """
    return replace(result, num_examples=0, timing={} if is_noised(protect) else result.timing)


def _about_enough(metrics: dict[str, Any], min_rows: int) -> dict[str, Any]:
    """Return the metrics, by phase, without those that say themselves that they are about fewer examples."""
    kept: dict[str, Any] = {}
    for phase, states in metrics.items():
        if not isinstance(states, Mapping):
            continue
        enough = {name: state for name, state in states.items() if _count_of(state) >= min_rows}
        if enough:
            kept[phase] = enough
    return kept


def _count_of(state: Any) -> float:
    """Return how many examples a metric says that it is about; 0 where it says nothing readable."""
    try:
        number = num_examples(state)
    except (AttributeError, KeyError, TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


UNTOLD = (
    "the work failed at the node, and why is in the node's log alone: under differential privacy nothing leaves but what has "
    "noise. Try the plan on the node's mock (use='mock'), or on data of your own (nodes='local')"
)

PUBLIC_REASONS = ("columns", "min_rows", "privacy")
"""Reasons of a private work without a plan that follow from what is registered of a dataset, and from the question."""


def withheld(row: TaskRow, reason: str, detail: str) -> tuple[str, str]:
    """Return the reason and the words of a failure as they may leave once a worker has seen records.

    Under differential privacy all failures are alike: how a worker ended, what it held, and how long it took may come
    from single records, by chance or by a plan that was written so.
    """
    return ("privacy", UNTOLD) if _is_private(row) else (reason, detail)


def _is_private(row: TaskRow) -> bool:
    """Tell whether a task computes on records under differential privacy; a mock has none."""
    return dp_of(task_of(row).protect) is not None and task_of(row).use != "mock"


def _ask(config: NodeConfig) -> str:
    return f"; ask {whom}" if (whom := contacts_text(config.contacts)) else ""


def _failed(row: TaskRow, run: int, found: WorkResult, config: NodeConfig) -> StoredResult:
    """Return what to answer where the plan failed: as much of the error as the owner allows.

    The words are the worker's, so that they have a limit here, too, and its reason counts only if there is such a one.
    Where a plan has seen records under differential privacy, neither leaves, whatever the worker calls it; that it
    failed is known, so the task is paid for.
    """
    found = replace(
        found,
        reason=found.reason if found.reason in REASONS else "exception",
        detail=found.detail[:MAX_DETAIL_CHARS],
        message=found.message[:MAX_DETAIL_CHARS],
        trace=found.trace[-MAX_LOGGED_CHARS:],
    )
    detail = found.detail
    is_mock = task_of(row).use == "mock"  # then nothing in the words can be of private data
    is_private = _is_private(row)
    if found.message and (is_mock or (config.errors == "full" and not is_private)):
        detail = f"{detail}: {found.message}"
    if found.reason == "min_rows":
        detail += _ask(config)
    failed = failure(row.key, found.reason, detail)
    is_public = found.reason in PUBLIC_REASONS and task_of(row).plan is None
    if is_private and (not is_public or is_noised(task_of(row).protect)):
        failed = failure(row.key, "privacy", UNTOLD)
    failed = replace(failed, trace=found.trace[-MAX_TRACE_CHARS:] if is_mock else "")
    return StoredResult(row.key, run, failed, message=found.message, trace=found.trace, left=is_private)


def _with_params(
    result: Result, row: TaskRow, found: WorkResult, to: Destination
) -> tuple[Result, dict[str, bytes]]:
    """Return a result with its parameters: few are attached to the answer when it is sent, others are put into the repository.

    Returns:
        The result, and the bytes that are attached to it, by their sha256.
    """
    if not found.params_path:
        return result, {}
    path = to.spool.params_of(row.key, limit_bytes=to.config.result_mb << 20)
    size_bytes = path.stat().st_size
    if size_bytes <= MAX_ATTACHED_BYTES and may_attach(replace(result, params=Ref("0" * 64, size_bytes))):
        return _attached_to(result, path.read_bytes())
    return replace(result, params=_put_params(path, row, to)), {}


def _attached_to(result: Result, params: bytes) -> tuple[Result, dict[str, bytes]]:
    """Return a result with parameters that will be attached to it, and their bytes by sha256."""
    named = replace(result, params=ref_of(params))
    attached = dict.fromkeys(named_params(named), params)
    return replace(named, attached=dict.fromkeys(attached, b"")), attached


def _put_params(path: Path, row: TaskRow, to: Destination) -> Ref:
    ref = to.repository.put(path, job=row.job, readers=[row.researcher])
    if ref.size_bytes >= LARGE_BYTES:
        to.large[row.key] = row.job, ref
    return ref


def _put_values(row: TaskRow, found: WorkResult, to: Destination) -> Ref | None:
    """Put value and metrics into the repository if they are too large for a message."""
    packed = pack({"value": found.value, "metrics": found.metrics})
    if len(packed) <= MAX_INLINE_BYTES:
        return None
    if len(packed) > to.config.result_mb << 20:
        raise ObjectTooLarge(f"a result has at most {to.config.result_mb} MB here")
    return to.repository.put(packed, job=row.job, readers=[row.researcher])


def _result(row: TaskRow, found: WorkResult, blob: Ref | None, state: str) -> Result:
    usage = _usage_of(found)
    result = result_of(found, params=None, state=state or None)
    if blob is not None:
        result = replace(result, value=None, metrics={}, blob=blob)
    used = capped(result.used, INFERENCES, usage)
    return replace(result, key=row.key, used=used, usage=None if usage is None else list(usage))


def _usage_of(found: WorkResult) -> Usage | None:
    """Return what of a work's predictions was over a limit; None where nothing was."""
    wanted = found.used.get(INFERENCES, 0)
    return Usage(found.overrun, wanted - found.overrun) if found.overrun else None
