"""The runner of one attempt at a job: it holds the folder's lock and drives the round loop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import BreakpointIncompatible, JobFailed, JobStopped, QuorumNotReached, SpecError
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.data.node_names import in_order
from fedjob.data.shares import SharedDatasets
from fedjob.parameters.files import FileParams
from fedjob.privacy.protect import RecordDP, dp_of
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import Ask, FederatedProtocol, Gathered, View
from fedjob.protocols.base import State as ProtocolState
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.end_messages import forget_end_messages
from fedjob.researcher.definition.artifacts import publish_artifacts
from fedjob.researcher.definition.components import aggregator_of, selector_of
from fedjob.researcher.federation.base import Federation
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.results.result_folder import keep_result
from fedjob.researcher.rounds.coordination import Coordinate, run_coordinated
from fedjob.researcher.rounds.gatherer import Gatherer
from fedjob.researcher.rounds.loop import Finish, run_rounds
from fedjob.researcher.rounds.round_timing import OWNER_STOPPED, RoundTimer
from fedjob.researcher.rounds.state_files import spool_state, unpublished
from fedjob.researcher.rounds.tasks import TaskBuilder
from fedjob.researcher.rounds.unfinished_tasks import restore_held
from fedjob.researcher.runner.attempt import AttemptRecord, MakeHooks, Release, no_nodes
from fedjob.researcher.runner.persistence import Persistence
from fedjob.researcher.runner.traffic_estimate import write_cost
from fedjob.researcher.selection.base import Selector
from fedjob.researcher.simulation.opening import open_simulation
from fedjob.researcher.storage import inbox
from fedjob.researcher.storage.breakpoints import drop_unfinished
from fedjob.researcher.storage.deployment import deployment, model_files, publish_code
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import newest_rows
from fedjob.researcher.storage.position import Position, first_position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import JobSpec
from fedjob.researcher.storage.transitions import reason_of_quorum


class Runner:
    """One attempt at a job whose nodes are ready for its next round; made by `open`."""

    def __init__(
        self,
        attempt: AttemptRecord,
        protocol: FederatedProtocol,
        federation: Federation,
        gatherer: Gatherer,
        persistence: Persistence,
        coordinate: Coordinate | None,
        stack: ExitStack,
    ) -> None:
        self.spec = attempt.spec
        self.protocol = protocol
        self.gatherer = gatherer
        self.persistence = persistence
        self.events = attempt.events
        self._attempt = attempt
        self._federation = federation
        self._drive = (
            run_rounds if coordinate is None else partial(run_coordinated, coordinate, id=self.spec.id)
        )
        self._pace = RoundTimer(
            self.spec.every_s,
            rest=federation.rest,
            is_stopped=lambda: inbox.stop_asked(attempt.folder),
            tell=lambda text: self.events.add("note", round_=self.position.round, text=text),
        )
        self._stack = stack
        self._round_began = time.monotonic()
        self._step = ""

    @classmethod
    def open(
        cls,
        spec: JobSpec,
        plan_text: str,
        folder: JobFolder,
        *,
        position: Position | None,
        session: Connection | None,
        hooks: MakeHooks,
        keep_files: Path | None = None,
        extras: Mapping[str, Path] | None = None,
        coordinate: Coordinate | None = None,
        lock: int | None = None,
    ) -> Runner:
        """Take the lock, start the hooks, and wait until the nodes are ready.

        Args:
            position: where to begin; None for the start.
            session: for remote jobs.
            keep_files: folder into which plan, parameters and replies are linked.
            extras: name -> file that a breakpoint held for a hook, a node or a task.
            coordinate: of the plan, in place of the protocol's own order of asks.
            lock: what `folder.take` returned, where this process has it already; it goes with the attempt.

        Raises:
            JobError: another process runs this job.
            JobFailed: too few nodes may or can take part.
        """
        extras = dict(extras or {})
        protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
        selector = selector_of(spec.selector)
        begins = position or first_position(spec, protocol.start(FileParams(folder.initial_params)))
        begins = replace(begins, state=unpublished(begins.state))
        stack = ExitStack()
        stack.callback(os.close, folder.take() if lock is None else lock)
        try:
            keep_result(folder)
            drop_unfinished(folder)
            attempt = AttemptRecord(folder, spec, begins, hooks)
        except BaseException:
            with stack:
                inbox.clear(folder)
            raise
        stack.callback(attempt.close)
        release: Release = no_nodes
        try:
            attempt.begin(detached=lock is not None)
            for hook in attempt.hooks:
                hook.start(folder, spec.rounds, begins, extras)
            restore_held(folder, extras)
            federation = _join(attempt, session, extras)
            persistence = Persistence(attempt, federation, plan_text, keep_files)
            release = persistence.release
            gatherer = _prepare(attempt, federation, persistence, selector)
        except BaseException as error:
            with stack:
                ended = attempt.fail(error, attempt.reason_of(error), release)
            if ended is error:
                raise
            raise ended from error
        return cls(attempt, protocol, federation, gatherer, persistence, coordinate, stack)

    @property
    def position(self) -> Position:
        """The last committed round, with what was gathered since."""
        return self._attempt.position

    @position.setter
    def position(self, position: Position) -> None:
        self._attempt.position = position

    @property
    def record(self) -> JobRecord:
        """The job's record as it stands."""
        return self._attempt.record

    @property
    def selector(self) -> Selector:
        """The selector of the nodes, for asks that name none."""
        return self.gatherer.selector()

    @selector.setter
    def selector(self, selector: Selector) -> None:
        self.gatherer.selector = lambda: selector

    def close(self, outcome: str) -> None:
        """Record the outcome, release the nodes and the lock.

        Raises:
            JobFailed: the record can't be written.
        """
        with self._stack:
            self._attempt.end(outcome, release=self.persistence.release)
        if (unsaved := self._attempt.unsaved) is not None:
            raise JobFailed(
                f"the job's record can't be written: {unsaved}. Free some space, then restart the job",
                reason="no_space",
                outcome="lost",
            ) from unsaved

    def _ended_by(self, error: BaseException) -> BaseException:
        """Close the job because of `error`; return what to raise."""
        reason = self._attempt.reason_of(error)
        if isinstance(error, QuorumNotReached) and error.reason == "quorum_lost":
            reason = reason_of_quorum(
                error.left_out,
                first=self.position.round == 0,
                step=self._step,
                required=self.spec.the_quorum.required,
            )
        with self._stack:
            return self._attempt.fail(error, reason, self.persistence.release)

    # -- rounds -----------------------------------------------------------------

    def run(self) -> Any:
        """Run to the protocol's end and return its result.

        Raises:
            JobFailed: names the reason; the last committed round stands and can be resumed from.
        """
        try:
            value, self.position = self._run_rounds()
            self.persistence.save_result(value)
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
        """Return the part of the job that the protocol may see."""
        return View(
            rounds=position.round if position.stop else self.spec.rounds,
            nodes=in_order(self._federation.num_rows),
            last=gathered,
            seed=self.spec.seed,
            validate_at_end=self.spec.validate_at_end,
            private=isinstance(dp_of(self.spec.protect), RecordDP),
        )

    def gather(self, ask: Ask, position: Position, finish: Finish) -> tuple[Gathered, Position]:
        """Carry out one ask and keep the position after it, should the next one fail."""
        self._step = ask.step
        reports: dict[str, Mapping[str, Any]] = {}

        def finish_and_report(outcome: Gathered) -> ProtocolState:
            after = finish(outcome)
            reports.clear()
            reports.update(self.protocol.report(outcome))
            return after

        gathered, after = self._pace.gather(
            lambda asked, before: self.gatherer(asked, before, finish_and_report), ask, position
        )
        self.position = replace(after, state=position.state)
        for node, report in reports.items():
            self.events.add("result", round_=position.round + 1, node=node, gathered=time.time(), **report)
        return gathered, after

    def commit(self, position: Position, gathered: Gathered, *, tidy_now: bool = False) -> Position:
        """Call the hooks with a completed round and make it durable.

        Args:
            tidy_now: remove at once what only earlier rounds needed; else while nodes are at work on the next one.
        """
        folder, now = self._attempt.folder, time.monotonic()
        so_far = self.gatherer.so_far
        answered, left_out = (
            (list(so_far.arrivals), so_far.left_out)
            if so_far.round == position.round
            else (list(gathered.replies), gathered.left_out)  # parameters that were given by hand
        )
        newest = newest_rows(position.rows, position.round)
        report = RoundReport(
            round=position.round,
            rounds=self.spec.rounds,
            position=position,
            rows=tuple(row for row in position.rows[newest:] if row.round == position.round),
            left_out=left_out,
            seconds=now - self._round_began,
        )
        self._round_began = now
        stops = [stop for hook in self._attempt.hooks if (stop := hook.round_done(report))]
        stops += [OWNER_STOPPED] if inbox.stop_asked(folder) else []
        last = position.round == self.spec.rounds or bool(stops)
        saved = position.round % self.spec.breakpoint_every == 0 or last
        spool = folder.make_spool(position.round)
        state = spool_state(position.state, spool, self._federation.moved, saved=saved)
        position = replace(position, state=state, stop=stops[0] if stops else "")
        if stops:
            self.events.add("note", round_=position.round, text=f"ending here: {stops[0]}")
        if saved:
            self.persistence.save_breakpoint(position)
        self.persistence.keep_files(position, self.gatherer.replies.get(position.round, {}))
        self.events.add(
            "round",
            round_=position.round,
            nodes=sorted(answered),
            left_out=dict(left_out),
            seconds=round(report.seconds, 4),
        )
        took_part = {**self.record.participants, **dict.fromkeys(answered, ""), **left_out}
        rows = {**self.record.rows, **so_far.rows}
        sandboxes = {**self.record.sandboxes, **so_far.sandboxes}
        privacy = {**self.record.privacy, **so_far.privacy}
        known = (self.record.participants, self.record.rows, self.record.sandboxes, self.record.privacy)
        if (took_part, rows, sandboxes, privacy) != known:
            self._attempt.update(participants=took_part, rows=rows, sandboxes=sandboxes, privacy=privacy)
        self.position = position
        tidy = partial(self.persistence.tidy, position, self.gatherer.tasks.take_published())
        if tidy_now:
            tidy()
        else:
            self._federation.when_asked(tidy)
        return position


def _join(attempt: AttemptRecord, session: Connection | None, extras: Mapping[str, Path]) -> Federation:
    """Return the federation of a job: the nodes behind the hub, or sites in this process."""
    spec, record = attempt.spec, attempt.record
    if spec.simulation or spec.local:
        _note_resources(spec, attempt)
    if spec.simulation:
        return open_simulation(spec, attempt.folder, attempt.events, extras)
    if spec.local:
        from fedjob.researcher.federation.local import LocalFederation

        models = model_files(spec, attempt.folder)
        return LocalFederation(
            spec.datasets, attempt.folder.local, attempt.events, extras, spec.federation, models
        )
    from fedjob.researcher.federation.remote import RemoteFederation

    if session is None:
        raise SpecError("a job with remote nodes needs a session: fedjob.connect(hub=...)")
    forget_end_messages(session.home, spec.id)
    return RemoteFederation(
        session, spec, attempt.folder, attempt.events, epoch=record.epoch, attempt=record.attempt
    )


def _note_resources(spec: JobSpec, attempt: AttemptRecord) -> None:
    """Tell whoever follows the job that nothing is reserved for it on this machine."""
    if not spec.resources:
        return
    asks = "gpus" in str(spec.resources) and not spec.training_args.get("use_gpu")
    instead = ": to compute on a GPU, set training_args={'use_gpu': True}" if asks else ""
    text = (
        f"resources={shown(spec.resources)} are asked of nodes alone, and left aside on this machine{instead}"
    )
    attempt.events.add("note", text=text, of_result=True)


def _prepare(
    attempt: AttemptRecord, federation: Federation, persistence: Persistence, selector: Selector
) -> Gatherer:
    """Publish the nodes' code and files and wait until they are ready; return the gatherer."""
    spec, folder, events = attempt.spec, attempt.folder, attempt.events
    code = publish_code(spec, folder, federation.publish)
    if not isinstance(spec.datasets, SharedDatasets):  # whose plan is one, at all of them
        attempt.update(deployment=deployment(spec))
    tasks = TaskBuilder(
        spec=spec,
        federation=federation,
        folder=folder,
        events=events,
        code=code,
        named_states=persistence.named_states,
        files=_publish_brought(spec, folder, federation),
        artifacts=publish_artifacts(spec, folder, federation.publish),
    )
    gatherer = Gatherer(
        spec=spec,
        federation=federation,
        folder=folder,
        events=events,
        selector=lambda: selector,
        aggregator=aggregator_of(spec.aggregator),
        tasks=tasks,
    )
    write_cost(spec, folder)
    federation.prepare(code, attempt)
    attempt.enter(State.STARTING)
    attempt.enter(State.RUNNING)
    return gatherer


def _publish_brought(spec: JobSpec, folder: JobFolder, federation: Federation) -> Ref | None:
    if not spec.files:
        return None
    if not folder.brought.exists():
        raise BreakpointIncompatible(
            f"the data that {spec.id} brings are not in {folder.path}: go on in the folder that "
            "the job was made in"
        )
    return federation.publish(folder.brought)
