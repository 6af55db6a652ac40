"""The resumption of a job from a breakpoint: its position, and the folder that it continues in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.checks import check_count, check_path
from fedjob.common.errors import SpecError
from fedjob.common.files import write_atomic
from fedjob.common.lifecycle import HISTORY, PENDING, State
from fedjob.common.types import new_job_id
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.home import home_path, take_home
from fedjob.researcher.connection.opening import default_connection
from fedjob.researcher.definition.arguments import LOCAL
from fedjob.researcher.definition.components import to_part
from fedjob.researcher.definition.data import SCHEMA, resolve_local, resolve_simulated, take_data
from fedjob.researcher.definition.operation import read_args_of
from fedjob.researcher.definition.preprocessing import attach
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.jobs.lifecycle import check_has_ended, check_session, take_next_attempt
from fedjob.researcher.jobs.trust import own_homes, own_or_trusted
from fedjob.researcher.runner.launch import start_runner
from fedjob.researcher.runner.submission import hand_over
from fedjob.researcher.storage.breakpoints import Breakpoint, adopt, find_breakpoint, save_breakpoint
from fedjob.researcher.storage.deployment import restore_plans
from fedjob.researcher.storage.folder import LET_GO_S, LOCK_S, JobFolder, job_folder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.record import load_record, utc_now
from fedjob.researcher.storage.spec import JobSpec, load_spec, spec_from_plain
from fedjob.researcher.storage.transitions import notice
from fedjob.training_plans.training_args import merged_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The breakpoint, position and folder that a resumed job continues with.

    Args:
        found: the breakpoint.
        position: of it, as the job begins there now.
        folder: that the job goes on in.
        session: None for a local job.
    """

    found: Breakpoint
    spec: JobSpec
    position: Position
    folder: JobFolder
    session: Connection | None


def resume_at(
    path: str | Path,
    *,
    rounds: int | None,
    session: Connection | None,
    home: str | Path | None,
    data: Any,
    trust: str | None = None,
) -> Resumed:
    """Return what a job goes on with from a breakpoint; see `Job.resume`.

    Raises:
        BreakpointMissing, BreakpointCorrupt, BreakpointIncompatible: it can't be used.
        BreakpointForeign: another home wrote it, or nobody knows who; nothing of it was used.
        SpecError: it is of a later round than `rounds`.
    """
    place = check_path("path", path).resolve()
    check_session(session)
    if home is not None:
        take_home(home_path(home))
    homes = own_homes(home, None if session is None else session.home)
    found = find_breakpoint(place, own_or_trusted(homes, trust, f"Job.resume({str(path)!r}, trust="))
    spec, position = spec_from_plain(found.spec), found.position
    if rounds is not None:
        if rounds < position.round:
            raise SpecError(f"the breakpoint is of round {position.round}; rounds={rounds} lies before it")
        spec = replace(spec, rounds=check_count("rounds", rounds, 1))
        position = replace(position, stop="")
        _check_further_rounds(found, spec, position)
    if not spec.local:
        session = session or default_connection(None if home is None else home_path(home))
        if session.identity.public_key_hex != spec.owner_key:
            spec, position = _for_another_owner(spec, position, session)
    folder = _owning_folder(found, spec, homes) if home is None else None
    if folder is None:
        base = session.home if session is not None and home is None else home_path(home)
        folder = job_folder(base, spec.id)
    if data is not None:
        as_node = next(iter(spec.datasets), LOCAL)
        moved: Mapping[str, dict[str, Any]]
        if spec.simulation:
            moved, spec = resolve_simulated(spec, take_data(spec, data, folder), None, folder)
        else:
            moved = resolve_local(data, as_node, folder, use=spec.use)
        for info in moved.values():
            info.pop(SCHEMA, None)
        spec = replace(spec, datasets=attach(spec.preprocess, data, moved))
    return Resumed(found=found, spec=spec, position=position, folder=folder, session=session)


def _check_further_rounds(found: Breakpoint, spec: JobSpec, position: Position) -> None:
    """Check the training arguments in the rounds that are to come."""
    if spec.rounds <= position.round:
        return
    for own in ({}, *spec.each.values()):
        args = merged_args(position.training_args, own)
        read_args_of(found.plan_text, spec.plan_entry, args, spec.rounds, first=position.round + 1)


def begin_at(resumed: Resumed) -> tuple[Position, dict[str, Path]]:
    """Make the folder hold what the job goes on with.

    Returns:
        The position, and the breakpoint's further files by name, both in the job's own spool.
    """
    folder, found, spec = resumed.folder, resumed.found, resumed.spec
    folder.create()
    has_ended = notice(folder).state in HISTORY
    with folder.locked(LET_GO_S if has_ended else LOCK_S):  # whoever runs it has these files in use
        write_atomic(folder.plan, found.plan_text.encode())
        spec.save(folder.spec)
        # the next breakpoints push this one out; what the position maps must stay readable until the end
        position, extras = adopt(found, resumed.position, folder)
        restore_plans(spec, folder, extras)
        record = load_record(folder.record)
        if not record.created:
            record = replace(record, created=utc_now())
        replace(record, rounds=spec.rounds).save(folder.record)
    return position, extras


def hand_over_resumed(
    resumed: Resumed,
    position: Position,
    extras: Mapping[str, Path],
    hooks: Sequence[Hook],
    prepare: Callable[[JobFolder], JobFolder],
) -> JobSpec:
    """Give a resumed job to a runner of its own, which begins at its breakpoint; return its spec.

    Args:
        position, extras: what `begin_at` returned.
        hooks: of the resumed job, all of which can be built from data.
        prepare: see `hand_over`.

    Raises:
        NotFinished: the job runs.
        SubmitError: hub or broker can't be reached, or no runner can be started.
    """
    folder, found = resumed.folder, resumed.found
    record = notice(folder)
    if record.state not in PENDING | {State.DRAFT}:
        check_has_ended(resumed.spec.id, record)

    def find_begin() -> str:
        parts = [to_part(HOOKS, hook) for hook in hooks]
        if parts != (spec := load_spec(folder.spec)).hooks:
            replace(spec, hooks=parts).save(folder.spec)
        if found.path.parent.resolve() == folder.breakpoints.resolve():
            return found.path.name if found.path.exists() else ""
        return save_breakpoint(folder, position, extras=extras).name

    if record.state == State.DRAFT:  # it came to this home as a breakpoint alone
        with folder.locked():
            replace(record, begin=find_begin()).save(folder.record)
        hand_over(folder, "", prepare)
        return load_spec(folder.spec)
    further = position.stop != found.position.stop
    spec, lock = take_next_attempt(folder, find_begin, None, further=further)
    start_runner(folder, lock)
    return spec


def _for_another_owner(spec: JobSpec, position: Position, session: Connection) -> tuple[JobSpec, Position]:
    """Return a new job of the session's owner: nodes know nothing of it, and keep no states for it."""
    spec = replace(
        spec,
        id=new_job_id(),
        cloned_from=spec.id,
        researcher=session.party,
        owner_key=session.identity.public_key_hex,
        federation=session.federation,
    )
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    state = protocol.without_node_states(position.state)
    return spec, replace(position, state=state, node_states={}, under_way={})


def _owning_folder(found: Breakpoint, spec: JobSpec, homes: list[Path]) -> JobFolder | None:
    """Return the job's folder in one of these homes that a breakpoint lies in; None for one that was moved."""
    owning = found.path.parent.parent
    inside = owning.name == spec.id and found.path.parent.name == "breakpoints"
    inside = inside and owning.parent.name == "jobs" and owning.parent.parent in homes
    return JobFolder(owning) if inside else None
