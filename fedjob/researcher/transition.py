"""One step of a job's life, as its record tells it: pure."""

from __future__ import annotations

from dataclasses import replace

from fedjob.common.lifecycle import HISTORY, PENDING, State, advance
from fedjob.researcher.record import Attempt, JobRecord


def moved(record: JobRecord, to: State | str, *, now: str, reason: str = "", detail: str = "") -> JobRecord:
    """Return the record after a step of the life cycle.

    A step to `waiting` from a draft or an end begins an attempt; the one before is kept in `past`.

    Args:
        now: the time, as `record.utc_now` writes it.

    Raises:
        IllegalTransition: the life-cycle table has no such step.
    """
    here = State(record.state)
    there = advance(here, to)
    before, record = record, replace(record, state=there.value, reason=reason, detail=detail)
    if there == State.WAITING and here not in PENDING:
        record = replace(
            record,
            past=[*record.past, _ended(before)] if here in HISTORY else record.past,
            attempt=record.attempt + 1,
            submitted=record.submitted or now,
            started="",
            finished="",
            tries=0,
        )
    if there == State.RUNNING:
        return replace(record, started=now)
    return replace(record, finished=now) if there in HISTORY else record


def _ended(record: JobRecord) -> Attempt:
    return Attempt(
        attempt=record.attempt,
        state=record.state,
        reason=record.reason,
        started=record.started,
        finished=record.finished,
    )
