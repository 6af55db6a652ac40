"""Runs a job in this process: holds its folder's lock, its federation, and the round loop between them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedjob.common.config import load_config
from fedjob.common.durable import link_or_copy
from fedjob.common.errors import (
    BreakpointIncompatible,
    FedjobError,
    JobFailed,
    JobStopped,
    NoSpace,
    QuorumNotReached,
    SpecError,
)
from fedjob.common.lifecycle import ACTIVE, HISTORY, PENDING, State
from fedjob.common.params import FileParams
from fedjob.common.protocols import PROTOCOLS
from fedjob.common.protocols.base import Ask, Gathered, View
from fedjob.common.types import Ref
from fedjob.researcher import inbox
from fedjob.researcher.breakpoints import (
    drop_breakpoints,
    list_breakpoints,
    note_elsewhere,
    save_breakpoint,
    saved_elsewhere,
    states_of,
)
from fedjob.researcher.components import fold_of, selector_of
from fedjob.researcher.connection import Connection
from fedjob.researcher.coordination import Coordinate, run_coordinated
from fedjob.researcher.deployment import deployment, plan_files, publish_code
from fedjob.researcher.ending import reason_of_quorum, route
from fedjob.researcher.event import JobEvent
from fedjob.researcher.event_log import EventLog
from fedjob.researcher.federation import Federation
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.gathering import Gatherer
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.researcher.journal import read_journal
from fedjob.researcher.pacing import OWNER_STOPPED, Pace
from fedjob.researcher.position import Position, first_position
from fedjob.researcher.record import JobRecord, load_record, utc_now
from fedjob.researcher.release import forget_goodbyes
from fedjob.researcher.result_folder import primary_of, save_result
from fedjob.researcher.rounds import run_rounds
from fedjob.researcher.sending import publish_artifacts
from fedjob.researcher.settings import ResearcherConfig
from fedjob.researcher.slots import Ticket
from fedjob.researcher.spec import JobSpec
from fedjob.researcher.spooling import spool_state
from fedjob.researcher.transition import moved
from fedjob.researcher.underway import held_files, refs_of, restore_held
from fedjob.researcher.watchman import Watchman

REFUSALS = ("rejected", "revoked")
"""Reasons that mean: an owner said no."""

SLOT_S = 0.25
"""Between two looks whether a slot of the home is free."""

FORGET_BYTES = 64 << 20
"""Stale objects of a running job that the hub is left with; the job's end removes them all."""


class Runner:
    """One attempt at a job, from the lock to the end.

    Args:
        position: where to begin; None for the start.
        session: for remote jobs.
        coordinate: of the plan, in place of the protocol's own order of asks.
        keep_files: folder that plan, parameters and replies are linked into.
    """

    def __init__(
        self,
        spec: JobSpec,
        plan_text: str,
        folder: JobFolder,
        *,
        position: Position | None,
        session: Connection | None,
        hooks: Sequence[Hook],
        keep_files: Path | None = None,
        extras: Mapping[str, Path] | None = None,
        coordinate: Coordinate | None = None,
    ) -> None:
        self._drive = run_rounds if coordinate is None else partial(run_coordinated, coordinate, id=spec.id)
        self.spec = spec
        self.folder = folder
        self.hooks = tuple(hooks)
        self.protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
        self.position = position or self._start()
        self.record: JobRecord
        self.gatherer: Gatherer
        self.federation: Federation
        self._plan_text = plan_text
        self._session = session
        self._keep_files = keep_files
        self._extras = dict(extras or {})
        self._stack = ExitStack()
        self._round_began = 0.0
        self._step = ""
        self._states_of: dict[Path, dict[str, str]] = {}
        self._stale: list[Ref] = []
        self._forgotten: list[Ref] = []
        self._unsaid: Exception | None = None
        self._ticket: Ticket | None = None
        self._max_jobs = load_config(ResearcherConfig, folder.path.parent.parent).max_jobs
        self.selector = selector_of(spec.selector)

    def _start(self) -> Position:
        params = FileParams(self.folder.initial_params)
        return first_position(self.spec, self.protocol.start(params))

    # -- life -------------------------------------------------------------------

    def open(self, *, lock: int | None = None) -> None:
        """Take the lock, tell the hooks, reach the nodes.

        Args:
            lock: what `folder.take` returned, where this process has it already; it goes with the attempt.

        Raises:
            JobError: another process runs this job.
            JobFailed: too few nodes may or can take part.
        """
        self._stack.callback(os.close, self.folder.take() if lock is None else lock)
        self._stack.callback(self.leave_slot)
        try:
            self.events = EventLog(self.folder.events, self.spec.id, (self._tell,))
            self._stack.callback(self._close_events)
            self._begin(load_record(self.folder.record))
            self._watchman = Watchman(self.folder)
            self._stack.callback(self._watchman.close)
            for hook in self.hooks:
                hook.start(self.folder, self.spec.rounds, self.position, self._extras)
            restore_held(self.folder, self._extras)
            self.federation = self._join()
            code = publish_code(self.spec, self.folder, self.federation.publish)
            self.update(deployment=deployment(self.spec))
            self.gatherer = Gatherer(
                spec=self.spec,
                federation=self.federation,
                folder=self.folder,
                events=self.events,
                selector=lambda: self.selector,
                fold=fold_of(self.spec.fold),
                code=code,
                files=self._publish_brought(),
                artifacts=publish_artifacts(self.spec, self.folder, self.federation.publish),
                named_states=self._named_states,
            )
            self.pace = Pace(
                self.spec.every_s,
                rest=self.federation.rest,
                is_stopped=lambda: inbox.stop_asked(self.folder),
                tell=lambda text: self.events.add("note", round_=self.position.round, text=text),
            )
            self.federation.prepare(code, self)
            self.enter(State.STARTING)
            self.enter(State.RUNNING)
            self._round_began = time.monotonic()
        except BaseException as error:
            if (ended := self._ended_by(error)) is error:
                raise
            raise ended from error

    def _publish_brought(self) -> Ref | None:
        if not self.spec.files:
            return None
        if not self.folder.brought.exists():
            raise BreakpointIncompatible(
                f"the data that job {self.spec.id} brings are not in {self.folder.path}: go on in the folder that "
                "the job was made in"
            )
        return self.federation.publish(self.folder.brought)

    def _begin(self, before: JobRecord) -> None:
        """Take over the record: a new attempt, or one that waited when its runner was gone."""
        # an epoch that grows with time too: a breakpoint moved to a new home must outdo the old runner
        self.record = replace(before, epoch=max(before.epoch + 1, int(time.time())), rounds=self.spec.rounds)
        if before.state in ACTIVE:
            self.enter(State.LOST, "runner_died", "the process that ran it is gone")
        if self.record.state in PENDING:
            self.record.save(self.folder.record)
            return
        self.enter(State.WAITING)

    def close(self, outcome: str, error: BaseException | None = None) -> None:
        """Say how it ended, release the nodes and the lock."""
        with self._stack:
            if hasattr(self, "_watchman"):
                self._watchman.close()
            reason, detail = "", ""
            if error is not None:
                reason, detail = self._reason_of(error), str(error)
            inbox.clear(self.folder)
            if hasattr(self, "record"):
                *before, last = route(self.record.state, outcome)
                for state in before:
                    self._try_to_enter(state, reason, detail)
                outcome = last
            if hasattr(self, "federation"):
                self.federation.end(outcome, self._states_to_keep())
            if hasattr(self, "record") and self.record.state not in HISTORY:
                self._try_to_enter(State(outcome), reason, detail)
            for hook in self.hooks:
                hook.end(outcome)
        if self._unsaid is not None and error is None:
            raise JobFailed(
                f"the job's record can't be written: {self._unsaid}. Free some space, then restart the job",
                reason="no_space",
                outcome="lost",
            ) from self._unsaid

    def _try_to_enter(self, state: State, reason: str, detail: str) -> None:
        """Enter a state at the job's end; on a full disk the nodes are let go all the same."""
        try:
            self.enter(state, reason, detail)
        except (OSError, NoSpace) as error:  # the record says less than is true: whoever looks calls it lost
            self._unsaid = error

    def _close_events(self) -> None:
        with suppress(OSError):  # a full disk: what could not be written before can't be now
            self.events.close()

    def _reason_of(self, error: BaseException) -> str:
        if isinstance(error, KeyboardInterrupt):
            return "killed" if inbox.asked(self.folder) == inbox.KILL else "interrupted"
        if isinstance(error, QuorumNotReached) and error.reason == "quorum_lost":
            return reason_of_quorum(
                error.left_out,
                first=self.position.round == 0,
                step=self._step,
                required=self.spec.the_quorum.required,
            )
        return str(getattr(error, "reason", "exception"))

    def _ended_by(self, error: BaseException) -> BaseException:
        """Close the job because of `error`; return what to raise."""
        if isinstance(error, (KeyboardInterrupt, JobStopped)):
            self.close("killed", error)
        else:
            self.close("rejected" if getattr(error, "reason", "") in REFUSALS else "failed", error)
        outcome = self.record.state if hasattr(self, "record") else "failed"
        if isinstance(error, JobFailed):
            error.outcome = outcome
        if isinstance(error, JobFailed) or not isinstance(error, FedjobError) or not hasattr(self, "record"):
            return error
        reason = self._reason_of(error)
        return JobFailed(f"{error}{self._resume_hint()}", reason=reason, outcome=outcome)

    def _join(self) -> Federation:
        if self.spec.local:
            from fedjob.researcher.simulation.local import LocalFederation

            return LocalFederation(self.spec.datasets, self.folder.local, self.events, self._extras)
        from fedjob.researcher.remote import RemoteFederation

        if self._session is None:
            raise SpecError("a job with remote nodes needs a session: fedjob.connect(hub=...)")
        forget_goodbyes(self._session.home, self.spec.id)
        return RemoteFederation(
            self._session, self.spec, self.events, epoch=self.record.epoch, attempt=self.record.attempt
        )

    # -- rounds -----------------------------------------------------------------

    def run(self) -> Any:
        """Run to the protocol's end and return its result.

        Raises:
            JobFailed: names the reason; the last committed round stands and can be resumed from.
        """
        try:
            value, self.position = self._run_rounds()
            self.save_result(value)
        except BaseException as error:
            if (ended := self._ended_by(error)) is error:
                raise
            raise ended from error
        self.close("completed")
        return value

    def _run_rounds(self) -> tuple[Any, Position]:
        try:
            return self._drive(self.protocol, self.position, self.look, self.gather, self.commit)
        except JobStopped as stopped:
            if stopped.verb != inbox.STOP:
                raise
            ended = replace(self.position, stop=OWNER_STOPPED)
            return self._drive(self.protocol, ended, self.look, self.gather, self.commit)

    def look(self, position: Position, gathered: Gathered | None) -> View:
        """Return what the protocol may see."""
        return View(
            rounds=position.round if position.stop else self.spec.rounds,
            nodes=tuple(sorted(self.federation.num_rows)),
            last=gathered,
            seed=self.spec.seed,
            validate_at_end=self.spec.validate_at_end,
        )

    def gather(self, ask: Ask, position: Position) -> tuple[Gathered, Position]:
        """Carry out one ask; remember where it led, should the next one fail."""
        self._step = ask.step
        gathered, self.position = self.pace.gather(self.gatherer, ask, position)
        for node, told in self.protocol.report(gathered).items():
            self.events.add("result", round_=position.round + 1, node=node, gathered=time.time(), **told)
        return gathered, self.position

    def commit(self, position: Position, gathered: Gathered) -> Position:
        """Tell the hooks of a completed round and make it durable."""
        now = time.monotonic()
        so_far = self.gatherer.so_far
        answered, left_out = (
            (list(so_far.arrivals), so_far.left_out)
            if so_far.round == position.round
            else (list(gathered.replies), gathered.left_out)  # parameters that were given by hand
        )
        report = RoundReport(
            round=position.round,
            rounds=self.spec.rounds,
            position=position,
            rows=tuple(row for row in position.rows if row.round == position.round),
            left_out=left_out,
            seconds=now - self._round_began,
        )
        self._round_began = now
        stops = [stop for hook in self.hooks if (stop := hook.round_done(report))]
        stops += [OWNER_STOPPED] if inbox.stop_asked(self.folder) else []
        last = position.round == self.spec.rounds or bool(stops)
        saved = position.round % self.spec.breakpoint_every == 0 or last
        state = spool_state(position.state, self.folder.make_spool(position.round), saved=saved)
        position = replace(position, state=state, stop=stops[0] if stops else "")
        if stops:
            self.events.add("note", round_=position.round, text=f"ending here: {stops[0]}")
        if saved:
            self.save_breakpoint(position)
        self._keep(position)
        self.events.add(
            "round",
            round_=position.round,
            nodes=sorted(answered),
            left_out=dict(left_out),
            seconds=round(report.seconds, 4),
        )
        took_part = {**self.record.participants, **dict.fromkeys(answered, ""), **left_out}
        if took_part != self.record.participants:
            self.update(participants=took_part)
        self.position = position
        self._tidy(position)
        return position

    def save_breakpoint(self, position: Position, path: Path | None = None) -> Path:
        """Write a breakpoint of `position`; the oldest beyond `keep_breakpoints` go."""
        files = self.federation.state_files(position.node_states) | plan_files(self.spec, self.folder)
        files |= held_files(self.folder, position.under_way.values())
        for hook in self.hooks:
            files |= hook.files()
        saved = save_breakpoint(self.folder, position, path, files)
        self._states_of[saved] = dict(position.node_states)
        if path is None:
            drop_breakpoints(self.folder, self.spec.keep_breakpoints)
        else:
            note_elsewhere(self.folder, saved)
        self.events.add("breakpoint", round_=position.round, path=str(saved))
        return saved

    def save_result(self, value: Any) -> None:
        """Put the result into the job's result folder: what is completed can be fetched."""
        files = save_result(
            self.folder,
            value,
            rounds=self.position.round,
            rows=self.position.rows,
            num_nodes=len(self.spec.datasets),
            learned=self.position.learned,
            primary=primary_of(self.spec, self._plan_text),
        )
        self.events.add("result", files=sorted(files), path=str(self.folder.result))

    def _tidy(self, position: Position) -> None:
        """Drop what only rounds before needed, here and at the hub."""
        current = {value.ref for value in position.state.values() if isinstance(value, FileParams)}
        current |= refs_of(position.under_way.values())
        self.federation.keep_states(self._named_states())
        if not self.spec.keep:
            self._forget([ref for ref in self._stale if ref not in current])
            self.folder.drop_spool(before_round=position.round)
        self._stale = [ref for ref in self._stale if ref in current] + self.gatherer.take_published()

    def _forget(self, refs: Sequence[Ref]) -> None:
        """Take published bytes back once there are enough of them to be worth the requests."""
        self._forgotten += refs
        if sum(ref.size_bytes for ref in self._forgotten) >= FORGET_BYTES:
            self.federation.forget(self._forgotten)
            self._forgotten = []

    def _named_states(self) -> dict[str, set[str]]:
        """Return node -> ids of the node states that kept breakpoints, or the next task, name."""
        paths = list_breakpoints(self.folder.breakpoints)
        paths += saved_elsewhere(self.folder)
        for path in paths:
            if path not in self._states_of:  # of a run before this one
                self._states_of[path] = states_of(path)
        self._states_of = {path: self._states_of[path] for path in paths}
        named: dict[str, set[str]] = {node: {state} for node, state in self.position.node_states.items()}
        for states in self._states_of.values():
            for node, state in states.items():
                named.setdefault(node, set()).add(state)
        return named

    def _states_to_keep(self) -> dict[str, set[str]]:
        """Return the named states, and those that journaled replies of an uncommitted round propose.

        A resumed run takes these replies up without asking again.
        """
        named = self._named_states()
        for record in read_journal(self.folder.spool(self.position.round + 1) / "journal"):
            if state := record["result"].get("state"):
                named.setdefault(record["node"], set()).add(state)
        return named

    def _keep(self, position: Position) -> None:
        if self._keep_files is None:
            return
        self._keep_files.mkdir(parents=True, exist_ok=True)
        if self._plan_text:
            _link(self.folder.plan, self._keep_files / "plan.py")
        params = position.state.get("params")
        if isinstance(params, FileParams):
            _link(params.path, self._keep_files / f"round_{position.round:04d}_params.safetensors")
        for node, arrival in self.gatherer.replies.get(position.round, {}).items():
            if arrival.params is not None:
                _link(
                    arrival.params.path, self._keep_files / f"round_{position.round:04d}_{node}.safetensors"
                )

    # -- gates ------------------------------------------------------------------

    def enter(self, state: State, reason: str = "", detail: str = "") -> None:
        """Put the job into a state: the record and an event say so.

        Raises:
            IllegalTransition: it can't follow the one that the job is in.
        """
        self.record = moved(self.record, state, now=utc_now(), reason=reason, detail=detail)
        self.record.save(self.folder.record)
        self.events.add(
            "state", round_=self.position.round, state=self.record.state, reason=reason, detail=detail[:500]
        )

    def update(self, **changes: Any) -> None:
        """Change other fields of the record."""
        self.record = replace(self.record, **changes)
        self.record.save(self.folder.record)

    def await_slot(self) -> None:
        """Wait until this job is one of those that may run on this home; at once if it is already.

        Raises:
            JobStopped: somebody asked for its end meanwhile.
        """
        if self._ticket is None:
            home = self.folder.path.parent.parent
            self._ticket = Ticket(home, self.spec.id, self.record.submitted)
        if self._ticket.runs:
            return
        self.check()
        if not self._ticket.take(self._max_jobs):
            self.events.add("note", text="queued: as many jobs run on this home as its max_jobs allows")
            while not self._ticket.take(self._max_jobs):
                time.sleep(SLOT_S)
                self.check()

    def leave_slot(self) -> None:
        """Let another job of this home run while this one can't."""
        if self._ticket is not None:
            self._ticket.close()
            self._ticket = None

    def check(self) -> None:
        """Raise what ends the job, if somebody asked for its end.

        Raises:
            JobStopped: cancelled before it began, or killed.
        """
        verb = inbox.asked(self.folder)
        if verb == inbox.KILL or (verb == inbox.CANCEL and self.record.state in PENDING):
            raise JobStopped(verb)
        if verb:
            inbox.clear(self.folder, verb)  # it has begun: too late to cancel

    # -- small ------------------------------------------------------------------

    def _tell(self, event: JobEvent) -> None:
        for hook in self.hooks:
            hook.event(event)

    def _resume_hint(self) -> str:
        kept = list_breakpoints(self.folder.breakpoints)
        return (
            f". Go on from round {int(kept[-1].name[6:])} with Job.resume({str(kept[-1])!r})" if kept else ""
        )


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    link_or_copy(source, target)
