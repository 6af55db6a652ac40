"""The checks and steps of a job's life: what has to hold before it is handed over, run, or begun again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import check_count, shown
from fedjob.common.errors import (
    JobError,
    NotFinished,
    NotPermitted,
    RepositoryError,
    SpecError,
    SubmitError,
    TransportError,
)
from fedjob.common.lifecycle import HISTORY, PENDING, State
from fedjob.identity.membership import MEMBERSHIP_NAME
from fedjob.researcher.connection.home import home_path, take_home
from fedjob.researcher.connection.opening import default_connection, default_home
from fedjob.researcher.definition.draft import move_draft
from fedjob.researcher.definition.job_definition import travels
from fedjob.researcher.definition.operation import read_args_of
from fedjob.researcher.jobs.trust import own_or_trusted
from fedjob.researcher.runner.submission import check_connected
from fedjob.researcher.storage.breakpoints import (
    Admit,
    adopt,
    find_breakpoint,
    list_breakpoints,
    load_breakpoint,
    round_of,
)
from fedjob.researcher.storage.folder import LET_GO_S, job_folder
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.spec import load_spec
from fedjob.researcher.storage.submissions import seal_job
from fedjob.researcher.storage.transitions import walk
from fedjob.training_plans.training_args import merged_args

if TYPE_CHECKING:
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.position import Position
    from fedjob.researcher.storage.spec import JobSpec


# -- the home ---------------------------------------------------------------------


def check_session(session: Any) -> None:
    """Check that a session, where one is given, is what `connect` returns.

    Raises:
        SpecError: it is something else.
    """
    if session is not None and not isinstance(getattr(session, "home", None), Path):
        raise SpecError(f"session is what fedjob.connect() returned, not {shown(session)}")


def home_of_draft(home: str | Path | None, session: Connection | None) -> Path:
    """Return the home of a new job: the one that is given, else that of the session in use, else the default one.

    Raises:
        SpecError: another home is given than that of the session.
        ConfigError, NoSpace: nobody can work there, see `take_home`.
    """
    check_session(session)
    where = home_path(home) if home is not None else session.home if session is not None else default_home()
    where = home_path(None) if where is None else where
    if session is not None and where != session.home:
        raise SpecError(
            f"home={str(home)!r} is another home than that of session=, {session.home}: give one of both"
        )
    take_home(where)
    return where


def belongs_somewhere(folder: JobFolder) -> bool:
    """True if the home of a job's folder has joined a federation."""
    return (folder.path.parent.parent / MEMBERSHIP_NAME).exists()


def reach_home(folder: JobFolder, session: Connection | None, *, is_anywhere: bool) -> Connection:
    """Return the connection of a job's home, which reaches its hub.

    Args:
        session: the one that was given; None to find one.
        is_anywhere: nobody chose the home that the job lies in; the connection that was opened last will do.

    Raises:
        ConfigError: the home belongs to no federation.
    """
    if session is None:
        return default_connection(None if is_anywhere else folder.path.parent.parent)
    session.reach()
    return session


def at_home(folder: JobFolder, session: Connection, *, is_anywhere: bool) -> JobFolder:
    """Return the folder of a draft in the home of its connection; where nobody chose another, it is moved there.

    Raises:
        SpecError: the home that was chosen is not that of the session.
    """
    home = folder.path.parent.parent
    if home == session.home:
        return folder
    if not is_anywhere:
        raise SpecError(
            f"{folder.path.name} lies in {home}, and the session is of {session.home}: open a session of its home"
        )
    return move_draft(folder, job_folder(session.home, folder.path.name))


# -- begin ------------------------------------------------------------------------


def check_travel(hooks: Iterable[Hook]) -> None:
    """Refuse hooks that a job's runner, which is another process, could not have.

    Raises:
        SpecError: names the first of them.
    """
    stay = [hook for hook in hooks if not travels(hook)]
    if stay:
        raise SpecError(
            f"the hook {type(stay[0]).__name__} lives in this process only, so job.submit() can't take it "
            "along: use job.run(), or one of fedjob's own hooks"
        )


def connect_to_submit(connect: Callable[[], object]) -> None:
    """Connect a draft to its federation.

    Raises:
        SubmitError: hub or broker can't be reached, or refuse this party.
    """
    try:
        connect()
    except (TransportError, RepositoryError, NotPermitted) as error:
        refused = SubmitError(f"the job was not submitted and stays a draft: {error}")
        refused.reason = error.reason
        raise refused from error


def check_broker(session: Connection | None) -> Connection:
    """Return the session of a job once its broker is there."""
    if session is None:
        raise JobError("a local job has no session")
    check_connected(session.endpoint.connected, session.membership.broker_url)
    return session


def find_beginning(folder: JobFolder, record: JobRecord) -> tuple[Position, dict[str, Path]] | None:
    """Return the position and the further files that an attempt begins with; None for a job's very beginning."""
    if record.attempt <= 1 and not list_breakpoints(folder.breakpoints):
        return None  # of a first attempt, also one that could not be scheduled
    begin = folder.breakpoints / record.begin if record.begin else folder.path
    found = find_breakpoint(begin, _own(folder))
    position = replace(found.position, stop="") if record.further else found.position
    return adopt(found, position, folder)


# -- again --------------------------------------------------------------------------


def check_has_ended(id_: str, record: JobRecord) -> None:
    """Refuse to begin a job again that has not ended.

    Raises:
        JobError: it is a draft.
        NotFinished: it runs.
    """
    if record.state == State.DRAFT:
        raise JobError(f"{id_} is a draft: submit it")
    if record.state not in HISTORY:
        raise NotFinished(f"{id_} is {record.state}: kill it, or wait for it, then restart it")


def take_next_attempt(
    folder: JobFolder, find_begin: Callable[[], str], rounds: int | None, *, further: bool = False
) -> tuple[JobSpec, int]:
    """Take the lock of a job that nobody runs, and write what its next attempt begins with.

    Args:
        find_begin: returns the name of one of the job's breakpoints, empty for the newest.
        rounds: a new total.
        further: it goes on where a hook ended an earlier attempt.

    Returns:
        The job's spec, and the descriptor of the lock, for the runner.
    """
    lock = folder.take(LET_GO_S)
    try:
        return _write_next_attempt(folder, find_begin(), rounds, further=further), lock
    except BaseException:
        os.close(lock)
        raise


def _write_next_attempt(folder: JobFolder, begin: str, rounds: int | None, *, further: bool) -> JobSpec:
    record = load_record(folder.record)
    spec = load_spec(folder.spec)
    if rounds is not None:
        spec = replace(spec, rounds=check_count("rounds", rounds, 1))
        kept = list_breakpoints(folder.breakpoints)
        last = int(begin[6:]) if begin else max([0, *map(round_of, kept)])
        if rounds < last:
            raise SpecError(f"the breakpoint is of round {last}; rounds={rounds} lies before it")
        if rounds > last:
            text = folder.plan.read_bytes().decode()
            for own in ({}, *spec.each.values()):
                args = merged_args(spec.training_args, own)
                read_args_of(text, spec.plan_entry, args, rounds, first=last + 1)
        spec.save(folder.spec)
    seal_job(folder)
    further = further or rounds is not None
    record = replace(record, begin=begin, rounds=spec.rounds, further=further, detached=True)
    if record.state in PENDING:  # its runner died before it began: it is the same attempt
        record.save(folder.record)
    else:
        walk(folder, record, [State.WAITING])
    return spec


def name_of_breakpoint(folder: JobFolder, id_: str, given: str | Path | int) -> str:
    """Return the name of one of a job's own breakpoints, once it is known to be whole.

    Args:
        given: its path or name, or its round.

    Raises:
        SpecError: it is of another job.
        BreakpointMissing, BreakpointCorrupt: it can't be used.
    """
    path = folder.breakpoint(given) if isinstance(given, int) else Path(given).expanduser()
    if not path.is_absolute() and not path.exists():
        path = folder.breakpoints / path.name
    path = path.resolve()
    if path.parent != folder.breakpoints.resolve():
        raise SpecError(f"{path} is no breakpoint of {id_}: give one of job.breakpoints, or use Job.resume")
    load_breakpoint(path, _own(folder))
    return path.name


def _own(folder: JobFolder) -> Admit:
    """Return what admits the breakpoints of a job's own home."""
    return own_or_trusted([folder.path.parent.parent], None, f"Job.resume({str(folder.path)!r}, trust=")
