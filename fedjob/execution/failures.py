"""The answer of a node whose work failed: words without data for the researcher, everything for its own log."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.errors import (
    EmptyData,
    FedjobError,
    LimitsExceeded,
    NodeFailure,
    PlanError,
    PreparationError,
    UnreadableData,
)
from fedjob.common.notebooks.short_traceback import wants_whole
from fedjob.data.item_choice import ITEMS_NAME, save_remembered
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.training_plans.source.locations import where

OF_USER_CODE = ("exception", "out_of_memory")
"""The reasons for what code of others raised: a plan's own, or a library that it calls."""

_OF_DATA = {
    EmptyData.reason: "the dataset has no rows",
    UnreadableData.reason: "the node can't read the data as their owner registered them; the owner's log says why",
}
"""Reason -> what a researcher reads; the error itself names files."""


def failed(order: WorkOrder, error: BaseException) -> WorkResult:
    """Return what came of work in which something was raised."""
    if order.noise:
        return _private_failure(order, error)
    match error:
        case LimitsExceeded():
            return _allowed_part(order, error)
        case NodeFailure():
            return _failed(order, error, error.reason, error.detail)
        case UnreadableData():
            return _failed(order, error, error.reason, _OF_DATA[error.reason])
        case PreparationError():
            return _failed(order, error, error.reason, str(error))
        case PlanError():
            return _failed(order, error, error.reason, _our_words(error, str(error)) or where(error))
        case FedjobError():
            return _failed(order, error, error.reason, where(error))
    if _ran_out_of_memory(error):
        return _failed(order, error, "out_of_memory", f"{where(error)}: a worker may have no more here")
    return _failed(order, error, "exception", where(error))


def _private_failure(order: WorkOrder, error: BaseException) -> WorkResult:
    """Return what came of work under differential privacy: no number of it, and no word of the plan's own code."""
    if not isinstance(error, FedjobError):
        reason = "out_of_memory" if _ran_out_of_memory(error) else "exception"
        return _failed(order, error, reason, where(error))
    if isinstance(error, UnreadableData):
        return _failed(order, error, error.reason, _OF_DATA[error.reason])
    words = error.detail if isinstance(error, NodeFailure) else str(error)
    plain = isinstance(error, (NodeFailure, PlanError, PreparationError))
    return _failed(order, error, error.reason, (_our_words(error, words) if plain else "") or where(error))


def _our_words(error: BaseException, words: str) -> str:
    """Return what fedjob itself says of a plan, which names types, shapes and counts but no values.

    Nothing for an error that the plan's own code raised.
    """
    from fedjob.training_plans.source.plan_source import PLAN_FILENAME

    raised = traceback.extract_tb(error.__traceback__)[-1]
    return "" if raised.filename.startswith(PLAN_FILENAME) else words[:1000]


def _ran_out_of_memory(error: BaseException) -> bool:
    """True if memory could not be had: torch has no class of its own for that on a CPU."""
    words = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words)
    )


def _allowed_part(order: WorkOrder, exceeded: LimitsExceeded) -> WorkResult:
    """Return what came of work that was for more than the owner allows."""
    answer = exceeded.partial
    return WorkResult(
        key=order.key,
        ok=False,
        reason=exceeded.reason,
        detail=exceeded.detail,
        value=to_plain(answer.value),
        weight=float(answer.weight),
        num_examples=int(answer.weight),
        used=exceeded.used,
        overrun=exceeded.overrun,
        items_path=_save_processed(exceeded.items, Path(order.output_path)),
    )


def _save_processed(items: list[Any], output: Path) -> str:
    """Write items that were worked on though the rest was over a limit, and return the file's path."""
    if not items:
        return ""
    save_remembered(output / ITEMS_NAME, items, [])
    return str(output / ITEMS_NAME)


def _failed(order: WorkOrder, error: BaseException, reason: str, detail: str) -> WorkResult:
    return WorkResult(
        key=order.key,
        ok=False,
        reason=reason,
        detail=detail,
        message=f"{type(error).__name__}: {error}"[:4000],
        trace=_trace(error)[-20_000:],
    )


def _trace(error: BaseException) -> str:
    """Return a traceback that begins with the plan's own line, where it was in the plan; else the whole one."""
    from fedjob.training_plans.source.plan_source import PLAN_FILENAME

    whole = traceback.TracebackException.from_exception(error)
    parts = [] if wants_whole() else [whole]
    while parts:
        part = parts.pop()
        own = [place for place, frame in enumerate(part.stack) if frame.filename.startswith(PLAN_FILENAME)]
        del part.stack[: own[0] if own else 0]
        parts.extend(filter(None, (part.__cause__, part.__context__)))
    return "".join(whole.format())
