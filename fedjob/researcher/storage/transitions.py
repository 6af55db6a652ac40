"""The legal steps of a job from one state to another, and the ways to its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fedjob.common.errors import JobError
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State, advance
from fedjob.protocols.steps import SETUP
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord, PastAttempt, load_record, utc_now

_TOO_LATE = frozenset({"late", "quorum_lost", "silent"})
"""The reason of a node that is left out because it had not answered in time."""

SETUP_REASONS = frozenset({"plan", "missing_packages", "launcher", "no_dataset", "no_model", "resources"})
"""The reasons of nodes that could not begin at all: the words before the colon."""

SHARED_REASONS = frozenset(
    {
        "batch_failures",
        "budget",
        "limits_exceeded",
        "min_rows",
        "no_data",
        "no_new_data",
        "no_test_data",
        "out_of_memory",
        "privacy",
    }
)
"""The reasons that name a job's failure where all of its nodes failed for them: they say more than that too few are left."""


def reason_of_quorum(
    left_out: Mapping[str, str], *, first: bool, step: str, required: Collection[str] = ()
) -> str:
    """Return why a job ends whose quorum can't be met.

    Args:
        left_out: node -> reason, of the ask that failed.
        first: no round was committed before.
        step: of that ask.
        required: nodes that the quorum can't do without: where code raised at one, that says it.
    """
    words = {reason.partition(":")[0] for reason in left_out.values()}
    if step == SETUP and words <= _TOO_LATE:
        return "start_timeout"
    if len(words) == 1 and words <= SHARED_REASONS:
        return words.pop()
    if any(left_out.get(node, "").partition(":")[0] == "exception" for node in required):
        return "exception"
    return "start" if first and words & SETUP_REASONS else "quorum_lost"


_BEGUN = (State.STARTING, State.RUNNING, State.STOPPING)


def route(state: State | str, outcome: str) -> list[State]:
    """Return the states that a job walks through to end, the last one terminal.

    What never ran was not killed but cancelled, and did not fail but could not be
    scheduled; what is ended while it runs is stopping first. A job that has ended
    stays as it is.

    Args:
        outcome: `completed`, `failed`, `killed`, `rejected` or `lost`, as the end came about.
    """
    here = State(state)
    if here in HISTORY:
        return [here]
    if here in _BEGUN:
        return _end_of_begun(here, outcome)
    if outcome == "killed":
        return [State.CANCELLED]
    if outcome == "rejected":
        return [State.REJECTED]
    return [State.UNSCHEDULABLE] if here == State.QUEUED else [State.QUEUED, State.UNSCHEDULABLE]


def _end_of_begun(here: State, outcome: str) -> list[State]:
    if outcome == "lost":
        return [State.LOST]
    if outcome == "killed" or here == State.STOPPING:
        return [State.KILLED] if here == State.STOPPING else [State.STOPPING, State.KILLED]
    if outcome == "completed":
        return [State.COMPLETED] if here == State.RUNNING else [State.RUNNING, State.COMPLETED]
    return [State.FAILED]


RUNNER_DIED = "runner_died"


def notice(folder: JobFolder) -> JobRecord:
    """Return the job's record; a job that nobody runs any more is `lost` from now on.

    A submitted job that still waits when its runner is gone lost nothing: it stays as it is, and
    `runner/revival.py` begins it again.
    """
    record = load_record(folder.record)
    if not _can_be_lost(record) or folder.is_held():
        return record
    try:
        with folder.locked(wait_s=0.0):
            record = load_record(folder.record)
            if _can_be_lost(record):
                record = walk(folder, record, [State.LOST], RUNNER_DIED, _lost_text(record))
    except JobError:  # somebody else notices, or runs it again
        record = load_record(folder.record)
    return record


def _can_be_lost(record: JobRecord) -> bool:
    return record.state in ACTIVE or (record.state in PENDING and not record.detached)


def _lost_text(record: JobRecord) -> str:
    if record.state in ACTIVE:
        return "the process that ran it is gone"
    return f"the process that ran it is gone, while it was {record.state}: job.restart() begins it again"


def walk(
    folder: JobFolder, record: JobRecord, states: Sequence[State], reason: str = "", detail: str = ""
) -> JobRecord:
    """Take a job through states, for the process that holds its lock and does not run it."""
    with EventLog(folder.events, folder.path.name) as events:
        for state in states:
            record = moved(record, state, now=utc_now(), reason=reason, detail=detail)
            record.save(folder.record)
            events.add("state", state=record.state, reason=reason, detail=detail[:500])
    return record


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
            begun_again=0.0,
        )
    if there == State.RUNNING:
        return replace(record, started=now)
    return replace(record, finished=now) if there in HISTORY else record


def _ended(record: JobRecord) -> PastAttempt:
    return PastAttempt(
        attempt=record.attempt,
        state=record.state,
        reason=record.reason,
        started=record.started,
        finished=record.finished,
    )
