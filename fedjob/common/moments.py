"""The named moments of a task's life that hooks subscribe to, equal at nodes and at the researcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjob.common.lifecycle import HISTORY, State

STARTED = "task.started"
FINISHED = "task.finished"
BATCH = "batch.done"
MOMENTS = (STARTED, FINISHED, BATCH)


def moment_of(type_: str, body: Mapping[str, Any]) -> str:
    """Return the moment that an event about a task marks; empty for none.

    Args:
        type_, body: of an event about a task, not about the job as a whole.
    """
    state = body.get("state")
    if type_ == "state" and state == State.RUNNING:
        return STARTED
    if type_ == "state" and state in HISTORY:
        return FINISHED
    return BATCH if type_ == "result" and "n" in body else ""
