"""The researcher's handle on a job: define it, hand it over, look at it, end it, go on with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from fedjob.aggregation.base import Aggregator
from fedjob.aggregation.guard import Guard
from fedjob.common.checks import checked_methods
from fedjob.common.config import load_config
from fedjob.common.errors import JobError, NoSuchJob, SpecError
from fedjob.common.files import by_users_umask, write_atomic
from fedjob.common.items import Items
from fedjob.common.lifecycle import PENDING, State
from fedjob.common.notebooks.living_output import in_notebook
from fedjob.common.notebooks.shown_map import ShownMap
from fedjob.common.quorum import Quorum
from fedjob.parameters.compression.base import Compressor
from fedjob.parameters.model_files import ModelFile
from fedjob.privacy.protect import Protect, RecordDP, SecAgg
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.steps import Steps
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.connection.lines import LineLedger
from fedjob.researcher.definition.arguments import LOCAL, JobArguments, check_hook
from fedjob.researcher.definition.clone import NEW_PARAMS, define_clone
from fedjob.researcher.definition.components import from_part
from fedjob.researcher.definition.data import resolve_for
from fedjob.researcher.definition.draft import name_origin, write_draft
from fedjob.researcher.definition.job_definition import Defined, define
from fedjob.researcher.definition.job_file import open_definition
from fedjob.researcher.definition.job_file_text import job_json
from fedjob.researcher.estimates.line_checks import check_lines
from fedjob.researcher.estimates.optimizer_note import note_optimizer
from fedjob.researcher.estimates.time_trial import time_by_trying
from fedjob.researcher.federation.offers import Checks, warn_of_no_workers
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.hooks.event_handlers import EventHandlersHook
from fedjob.researcher.hooks.line_recording import LineRecording
from fedjob.researcher.hooks.plan_coordination import coordinators
from fedjob.researcher.hooks.publishing import Publishing
from fedjob.researcher.hooks.traffic import Counting
from fedjob.researcher.jobs.approval import (
    LastRequests,
    check_is_draft,
    check_nodes,
    check_plan_only,
    check_plans,
    missing_permissions,
    read_job_logs,
    refresh_grants,
    request_grants,
    time_plan_here,
    try_plan,
)
from fedjob.researcher.jobs.deletion import delete_job
from fedjob.researcher.jobs.estimate import (
    Estimate,
    Trials,
    estimate_job,
)
from fedjob.researcher.jobs.lifecycle import (
    at_home,
    belongs_somewhere,
    check_broker,
    check_has_ended,
    check_session,
    check_travel,
    connect_to_submit,
    find_beginning,
    home_of_draft,
    name_of_breakpoint,
    reach_home,
    take_next_attempt,
)
from fedjob.researcher.jobs.manual_rounds import ManualRounds
from fedjob.researcher.jobs.rehearsal import MAX_NOTE, Rehearsal, changes_for_mocks, rehearse
from fedjob.researcher.jobs.resume import Resumed, begin_at, hand_over_resumed, resume_at
from fedjob.researcher.jobs.view import JobView, RoundInfo
from fedjob.researcher.monitoring.display import attended, write_line
from fedjob.researcher.monitoring.logs import JobLogs
from fedjob.researcher.monitoring.notebook_display import NotebookDisplay
from fedjob.researcher.monitoring.plan_excerpt import excerpts_added
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.results.table import free_path
from fedjob.researcher.rounds.coordination import coordinate_of
from fedjob.researcher.runner.control import cancel, kill, stop
from fedjob.researcher.runner.launch import start_runner
from fedjob.researcher.runner.plan_trial import PlanChecks
from fedjob.researcher.runner.revival import begin_again
from fedjob.researcher.runner.runner import Runner
from fedjob.researcher.runner.submission import hand_over
from fedjob.researcher.runner.wait import wait_through
from fedjob.researcher.selection.base import Selector
from fedjob.researcher.selection.by_function import FunctionSelector
from fedjob.researcher.simulation.population import Simulation
from fedjob.researcher.storage.breakpoints import list_breakpoints
from fedjob.researcher.storage.deployment import frozen_file, model_files
from fedjob.researcher.storage.folder import JobFolder, job_folder
from fedjob.researcher.storage.record import JobRecord, load_record
from fedjob.researcher.storage.spec import JobSpec, load_spec
from fedjob.researcher.storage.transitions import notice
from fedjob.training_plans.source.compilation import built_plan
from fedjob.training_plans.source.plan_source import PlanSource

if TYPE_CHECKING:
    from fedjob.optimizers.base import ServerOptimizer
    from fedjob.researcher.results.artifact import Artifact
    from fedjob.training_plans.base import TrainingPlan
    from fedjob.training_plans.function import RemoteFunction
    from fedjob.training_plans.step_plan import Plan

__all__ = ["LOCAL", "Job", "RoundInfo"]

_log = logging.getLogger("fedjob")

MAX_HELD_BYTES = 32 << 20
"""Of parameters whose plan a job holds in memory from its definition on; a larger one is built anew when it is asked for."""


@checked_methods
class Job(ManualRounds, JobView):
    """One run of one protocol over nodes.

    The constructor checks everything that can be checked here, builds the plan
    from its own extracted text, and makes the job's folder; it either returns a
    complete job or raises and leaves nothing. Nothing is sent before `submit`,
    `run`, `check`, `estimate` or `request`.

    Args:
        operation: a protocol such as `FedAvg()`, or its name; a `Plan`; a `@fedjob.function`; or the result of a job
            that trained, to predict with.
        training_plan: a class, an instance, or "file.py:Class"; or a plan per node,
            `{"node-a": PlanA, "node-b": PlanB}`, see docs/scheduling.md.
        data: `{"tags": [...]}`, "node/name", a map from nodes to names, dataset handles, or a list of these,
            which may name several datasets of one node;
            for `nodes="local"` a path, `{"path": ..., "reader": ..., "options": ...}`,
            or a map from node names to these; for `nodes=simulate(...)` also (inputs, targets), a torch Dataset or a
            DataFrame.
        model_args: plain data for the plan's `init_model`.
        training_args: see `fedjob.training_plans.training_args`.
        each: node -> training arguments for it alone, such as `{"node-a": {"num_updates": 50}}`.
        rounds: how many rounds to train, 1 or more; None goes on until `job.stop()`, a hook's stop, or a kill.
        name: what people call it; need not be unique.
        note: to the nodes' owners.
        project: namespace; nodes that are not enrolled in it take no part.
        props: free properties, kept and never interpreted.
        seed: of everything random; None draws one, which `job.seed` holds.
        nodes: None for every node that has the data, a list of node ids, "local", or `simulate(...)`.
        as_node: the node that a local job plays.
        quorum: who must answer for a round to count, and how long to wait; `required="all"` wants every node.
        selector: who takes part in a round: a selector or a function `(round, nodes) -> nodes`.
        aggregator: in place of the protocol's own: an aggregator or its name, or a function `(values, weights) -> total`.
        guard: what contributions must be like beside what all must: `Guard(max_norm=..., max_share=...)`.
        protect: `Protect(secagg=True)` or `SecAgg(...)`: you get sums over nodes, and never one node's contribution.
        server_optimizer: such as `FedAdam(lr=0.01)`: with `FedAvg()` or `FedProx()` it makes `FedOpt`.
        hooks: what runs at the end of each round.
        preprocess: steps that nodes run before the plan sees the data, such as `[Select(["age"]), ...]`;
            or a list of such lists, one for each entry of `data`.
        items: which items of their datasets nodes work on, and how, see `Items`; None for all, in one batch.
        split: for a `Plan`: parts of the items, `{"test": 0.2, "seed": 0}` where the rest is `train`, or the
            name of a column whose values name the parts; the plan finds them in `ctx.split`.
        artifacts: name -> a file, an artifact of a result, or a result, for the plan's `ctx.fetch(name)`.
        models: name -> your copy of a safetensors file that nodes have, too, for the plan's `ctx.model(name)`; or
            the sha256 of one that only nodes have.
        share: `trainable`: parameters that `init_model` freezes (`requires_grad=False`) are sent once, and stay as
            they are; or `all`.
        compress: how parameters travel, both ways: `"bf16"`, `"fp16"`, `Int8()` or `TopK(0.01)`; None for as they are.
        resources: what a node must have to spare, `{"cpus": 2, "memory": "4G", "gpus": 1, ...}`,
            or a map from nodes (and `default`) to that.
        use: `private`, or `mock` for the stand-ins that owners give.
        watchers: parties that may follow the job.
        round_timeout_s: a round that takes longer ends the job, `failed (timeout)`.
        every_s: seconds from the beginning of a round to that of the next, at least; a round in which no node has
            anything new (`Items(only="new")`) is waited for then.
        max_tries: how often scheduling is tried; None for the home's setting.
        owner: how you describe yourself to node owners, `{"name", "org", "role"}`; the rest is the home's.
        init: first parameters: named tensors, a safetensors file, or a result.
        validate_at_end: validate the last shared parameters once more at every node.
        breakpoint_every: rounds between breakpoints.
        keep_breakpoints: how many of the newest to keep.
        keep: keep every contribution in the job's folder, so that `fedjob verify` can aggregate them again.
        keep_files_dir: folder that plan, parameters and replies of every round are put into.
        session: None for the default session.
        home: for local jobs; others live in the session's home.

    Raises:
        SpecError: a wrong argument: what was expected, what was found.
        PlanError: the plan can't be extracted, compiled or built.
    """

    def __init__(
        self,
        operation: FederatedProtocol
        | Plan
        | type[Plan]
        | RemoteFunction
        | JobResult
        | Artifact
        | str = "fedavg",
        *,
        training_plan: Any = None,
        data: Any = None,
        model_args: Mapping[str, Any] | None = None,
        training_args: Mapping[str, Any] | None = None,
        each: Mapping[str, Mapping[str, Any]] | None = None,
        rounds: int | None = 1,
        name: str = "",
        note: str = "",
        project: str = "",
        props: Mapping[str, Any] | None = None,
        seed: int | None = None,
        nodes: Sequence[str] | str | Simulation | None = None,
        as_node: str = LOCAL,
        quorum: Quorum | None = None,
        selector: Selector | Callable[[int, list[str]], Sequence[str]] | str = "all",
        aggregator: Aggregator | Callable[[list[Any], list[float]], Any] | str | None = None,
        guard: Guard | None = None,
        protect: Protect | SecAgg | RecordDP | None = None,
        server_optimizer: ServerOptimizer | str | None = None,
        hooks: Sequence[Hook] = (),
        preprocess: Sequence[Any] | None = None,
        items: Items | None = None,
        split: Mapping[str, Any] | str | None = None,
        artifacts: Mapping[str, Any] | None = None,
        models: Mapping[str, Any] | None = None,
        share: str = "trainable",
        compress: Compressor | str | None = None,
        resources: Mapping[str, Any] | None = None,
        use: str = "private",
        watchers: Sequence[str] = (),
        round_timeout_s: float | None = None,
        every_s: float | None = None,
        max_tries: int | None = None,
        owner: Mapping[str, str] | None = None,
        init: Any = None,
        validate_at_end: bool = False,
        breakpoint_every: int = 1,
        keep_breakpoints: int = 3,
        keep: bool = False,
        keep_files_dir: str | Path | None = None,
        session: Connection | None = None,
        home: str | Path | None = None,
    ) -> None:
        arguments = JobArguments(**{name: value for name, value in locals().items() if name != "self"})
        where = home_of_draft(home, session)
        defined = define(arguments, load_config(ResearcherConfig, where))
        self._draft(defined, where, session)
        self._is_anywhere = home is None and session is None

    def _draft(
        self,
        defined: Defined,
        home: Path,
        session: Connection | None,
        origin: JobFolder | None = None,
        *,
        same_params: bool = False,
    ) -> None:
        """Be the new job that is defined, and write its folder; see `write_draft`."""
        folder = job_folder(home, defined.spec.id)
        self._take(
            folder,
            defined.spec,
            defined.source,
            defined.hooks,
            session=session,
            data=defined.data,
            nodes=defined.nodes,
            as_node=defined.arguments.as_node,
        )
        self._built = self._build(defined.models, defined.frozen)
        self._spec = write_draft(folder, defined, lambda: self._plan, origin, same_params=same_params)
        if folder.initial_params.stat().st_size > MAX_HELD_BYTES:
            if not self._spec.local:  # later, its model would be built once more for that
                self._note_optimizer()
            del self._built

    def _take(
        self,
        folder: JobFolder,
        spec: JobSpec,
        source: PlanSource,
        hooks: tuple[Hook, ...],
        *,
        session: Connection | None,
        data: Any,
        nodes: Any,
        as_node: str,
    ) -> None:
        """Hold what makes this job; it has not run in this process."""
        self._folder, self._spec, self._source, self._hooks = folder, spec, source, hooks
        self._session = session
        self._data, self._nodes_asked, self._as_node = data, nodes, as_node
        self._position, self._extras, self._runner = None, {}, None
        self._resumed: Resumed | None = None
        self._is_anywhere = False
        self._last_requests = LastRequests()

    @cached_property
    def _built(self) -> TrainingPlan:
        return self._build(model_files(self._spec, self._folder), frozen_file(self._spec, self._folder))

    def _build(self, models: Mapping[str, ModelFile], frozen: Path | None) -> TrainingPlan:
        """Return the plan of this side, with the frozen part of its model from a file; None to have it from the plan."""
        spec = self._spec
        plan: TrainingPlan = built_plan(
            self._source.text,
            spec.plan_entry,
            spec.model_args,
            spec.training_args,
            spec.seed,
            self._source.origins,
            models=models,
            frozen=frozen,
        )
        return plan

    @property
    def _plan(self) -> TrainingPlan:
        return self._built

    def _note_optimizer(self, *, quick: bool = False) -> None:
        """Note in the folder what the plan's optimizer holds at a node; with `quick`, where that takes no time."""
        home = self._folder.path.parent.parent
        note_optimizer(self._spec, self._folder, home, lambda: self._plan, quick=quick)

    # -- ask the nodes -------------------------------------------------------------

    @overload
    def check(
        self,
        timeout_s: float = 10.0,
        *,
        schema: Mapping[str, str] | None = None,
        plan_only: Literal[False] = False,
    ) -> Checks: ...

    @overload
    def check(self, timeout_s: float = 10.0, *, plan_only: Literal[True]) -> PlanChecks: ...

    def check(
        self,
        timeout_s: float = 10.0,
        *,
        schema: Mapping[str, str] | None = None,
        plan_only: bool = False,
    ) -> Checks | PlanChecks:
        """Ask every node whether the job may run there; nothing is filed and nothing stays at a node.

        The plan was imported and built when the job was defined; the nodes look
        whether they have the packages that it imports.

        Args:
            timeout_s: after which a node counts as silent.
            schema: column name -> type that every dataset must have; an empty type for any.
            plan_only: no node is asked; one batch of the plan runs here, in a process of its own, on made-up rows with the
                columns that the nodes publish, and what would fail at them is named with the plan's own line.

        Returns:
            One answer per node.

        Raises:
            NoDatasets: nothing matches `data`.
            SpecError: a simulation's workers need more memory than there is.
        """
        if plan_only:
            session = self._at_home()
            where = (self._data, self._nodes_asked, self._as_node, session)
            return check_plan_only(self._spec, self._source, self._folder, *where)
        session = self.reach()
        epoch = self._runner.record.epoch if self._runner is not None else 0
        return check_nodes(session, self._spec, self._folder, epoch=epoch, timeout_s=timeout_s, schema=schema)

    def estimate(self, timeout_s: float = 10.0, *, probe: bool = False) -> Estimate:
        """Return what the job would cost before anything of it is sent: bytes, time, memory and differential privacy.

        Where no job like it ran here, and under differential privacy, every node is asked as `check` asks them, for its speed
        and for what it would charge; nothing is charged, nothing stays there.

        Args:
            timeout_s: after which a node counts as silent.
            probe: time the lines of all parties, as they are now, with an object of 256 KiB to 4 MiB that goes to the hub and
                back; nodes have two minutes for it at least. Where no job like it ran here, try it: its first rounds, 2 to 12,
                on the nodes' mocks, where all have one that may be used; else, and where no node has measured this plan,
                one batch of made-up rows on this machine. A job on this machine, a simulation and one on mocks is tried as
                it is. What was tried is deleted.

        Returns:
            One estimate per node, and the sums.

        Raises:
            NoDatasets: nothing matches `data`.
            SpecError: a simulation's workers need more memory than there is.
        """
        session = self.reach()
        self._note_optimizer()
        home = self._folder.path.parent.parent
        trials = Trials(rounds=lambda spec: time_by_trying(spec, lambda changes: self.clone(**changes)))
        if session is not None:
            trials = replace(
                trials,
                lines=lambda: check_lines(session, self._spec, self._folder, timeout_s),
                here=lambda: time_plan_here(
                    self._spec, self._source, self._folder, self._data, self._nodes_asked, session
                ),
            )
        ask = partial(self.check, timeout_s)
        done = 0 if self._position is None else self._position.round
        return estimate_job(self._spec, self._folder, home, ask, trials if probe else None, done=done)

    def request(self, timeout_s: float = 30.0) -> dict[str, str]:
        """Ask the owners of the nodes to allow the job; it stays a draft, and nothing runs.

        Returns:
            node -> id of its grant; pending ones wait for their owners. Nodes that need none, or that
            did not answer, are not among them.

        Raises:
            JobError: the job is no draft: `submit` asks by itself.
        """
        check_is_draft(self._folder)
        session = self.reach()
        self._note_optimizer()
        return ShownMap(request_grants(session, self._spec, self._folder, timeout_s), ("node", "request"))

    def refresh(self, throttle_s: float = 1.0) -> bool:
        """Ask the nodes whose owners have not decided again; return whether anything has changed.

        The nodes tell a decision by themselves, so that this is for loops that
        want an answer. It talks to the network at most once per `throttle_s`.
        """
        return refresh_grants(self, self.reach, self._last_requests, throttle_s)

    @property
    def waiting_on(self) -> list[dict[str, Any]]:
        """The permissions that are missing, each `{node, needs, plan, dataset, since, contact}`; empty outside `waiting`."""
        return missing_permissions(self._spec, self.record)

    def logs(self, node: str | None = None, stdout: bool = True, stderr: bool = True) -> JobLogs:
        """Return what tasks wrote, as far as their nodes let it out; print it to read it.

        A node that keeps a log to itself says so, and whom to ask. Of a job that has
        ended, such nodes are asked whether their owners have released it since.

        Args:
            node: None for all.
            stdout, stderr: which streams.
        """
        return read_job_logs(self, self.reach, self._last_requests, node=node, stdout=stdout, stderr=stderr)

    # -- run ----------------------------------------------------------------------

    def run(self, *, progress: bool | None = None) -> JobResult:
        """Run the job in this process and return its result.

        The last line of the progress bar says what the result is about; without a bar it is logged where nodes do
        not count, or rows with missing values, or a GPU was asked for and not to be had, as a warning of the logger `fedjob`, which Python writes to stderr.

        Args:
            progress: draw a progress bar in a terminal, and a table of nodes in a notebook; None does in both.

        Raises:
            NoDatasets: nothing matches `data`.
            JobFailed: names the reason; committed rounds stand, see `Job.resume`.
        """
        from fedjob.researcher.hooks.progress import progress_hook

        drawn = progress_hook(progress, self._in_notebook)
        result = self._run(() if drawn is None else (drawn,))
        if drawn is not None:
            drawn.conclude(result.about, result.last)
        elif result.lacks_nodes_or_rows or result.remarks:
            _log.warning("%s: %s", self.name or self.id[:12], result.about)
        return result

    def _in_notebook(self) -> NotebookDisplay:
        """Return the display of this job for a notebook; it draws nothing by itself."""
        title = f"{self.name} ({self.id[:12]})" if self.name else self.id[:12]
        return NotebookDisplay(title, lambda: tuple(self.nodes), self._spec.rounds)

    def _run(self, extra_hooks: tuple[Hook, ...] = (), lock: int | None = None) -> JobResult:
        runner = self._open(extra_hooks=extra_hooks, lock=lock)
        try:
            with excerpts_added(self._source):
                runner.run()
        finally:
            self._position, self._runner = runner.position, None
        return self.result

    def _open(self, extra_hooks: tuple[Hook, ...] = (), lock: int | None = None) -> Runner:
        """Resolve the data, then take the folder's lock and reach the nodes."""
        record = self.record
        if record.state == "completed" and self._position is None:
            raise JobError(
                f"{self.id} is completed; make a new Job, or Job.resume a breakpoint with more rounds"
            )
        session = self.reach()
        if session is not None:
            self._note_optimizer(quick=True)
        self._go_on(record, lock)
        runner = Runner.open(
            self._spec,
            self._source.text,
            self._folder,
            position=self._position,
            session=session,
            hooks=lambda note: (
                *self._hooks,
                *extra_hooks,
                *coordinators(self._source, lambda: self._plan),
                *attendants(self, session, note),
            ),
            keep_files=Path(record.keep_files) if record.keep_files else None,
            extras=self._extras,
            coordinate=coordinate_of(self._plan) if self._spec.protocol.name == Steps.name else None,
            lock=lock,
        )
        self._resumed = None
        if self._nodes_override is not None:
            runner.selector = FunctionSelector(self._select_override, "job.nodes")
        return runner

    def _go_on(self, record: JobRecord, lock: int | None) -> None:
        """Find where an attempt begins that this process has not brought there itself: at the newest breakpoint."""
        if self._position is not None:
            return
        if lock is None and (self._folder.is_held() or not list_breakpoints(self._folder.breakpoints)):
            return  # whoever holds the lock has the files in use, and is named when it is asked for
        if (beginning := find_beginning(self._folder, record)) is not None:
            self._position, self._extras = beginning

    # -- hand over, wait, end, begin again --------------------------------------------

    def submit(self, *, token: str | None = None) -> Self:
        """Hand the job over to a process of its own and return at once; the job outlives this process.

        Args:
            token: names this submission for good, 1 to 128 of `A-Z a-z 0-9 . _ : -`: submitted again
                with the same content, it is the same job, whatever happened in between.

        Returns:
            This job; or the one that the token belongs to already.

        Raises:
            NotFinished: it was resumed, and runs.
            SubmitError: hub or broker can't be reached: the job stays a draft.
            TokenConflict: the token was used for other content.
            TokenDeleted: the token's job was deleted.
            NoDatasets: nothing matches `data`.
            SpecError: a hook of this job can't travel to another process.
        """
        check_travel(self._hooks)
        connect_to_submit(self._at_home)
        if self._resumed is not None:
            if token:
                raise SpecError(
                    f"a token names a new job, and {self.id} is resumed, under the id that it has: leave token out"
                )
            at = (self._resumed, self._position or self._resumed.position, self._extras)
            self._spec = hand_over_resumed(*at, self._hooks, self._prepare)
            self._position, self._resumed = None, None
            return self
        notice(self._folder)  # a runner that died is noticed before the state is named
        folder = hand_over(self._folder, token or "", self._prepare)
        self._position = None
        return self if folder == self._folder else self._at(folder, self._session)

    def _prepare(self, folder: JobFolder) -> JobFolder:
        """Find the data of a draft and see to it that the broker is there."""
        job = self if folder == self._folder else self._at(folder, self._session)
        if (session := job._at_home()) is not None:
            check_broker(session)
        job.reach()
        if session is not None:
            job._note_optimizer()
        return job._folder

    def run_on(self, lock: int) -> Any:
        """Run a submitted job in this process, which holds its lock; what a detached runner does.

        Args:
            lock: the descriptor of the job's lock.
        """
        return self._run(lock=lock)

    def wait(
        self,
        timeout_s: float | None = None,
        silent: bool = False,
        for_grants: bool = True,
        on_interrupt: str = "ask",
    ) -> Self:
        """Return this job once it is completed. It needs no connection: the job's folder tells.

        Args:
            timeout_s: seconds to wait at most; None waits as long as it takes.
            silent: do not tell the job's events on stderr.
            for_grants: False returns as soon as it is known that an owner has to decide.
            on_interrupt: what Ctrl+C does: `ask` in a terminal whether to stop the job, and leave it
                running anywhere else; `leave` it running; or `kill` it.

        Raises:
            JobFailed: it ended otherwise; carries outcome and reason.
            WaitTimeout: time is up; the job goes on.
            KeyboardInterrupt: this process was interrupted, and the job left running.
        """
        display = self._in_notebook()
        with excerpts_added(self._source):
            wait_through(
                self._folder,
                lambda: attended(self, silent, lambda: display),
                timeout_s=timeout_s,
                for_grants=for_grants,
                on_interrupt=on_interrupt,
            )
        self._spec = load_spec(self._folder.spec)
        if not silent and self.success:
            result = self.result
            display.conclude(result.about, result.last) if in_notebook() else write_line(result.about)
        return self

    def cancel(self) -> bool:
        """Withdraw the job while it waits or is queued.

        Returns:
            Whether it was withdrawn; False leaves a job that has begun, or ended, as it is.
        """
        return cancel(self._folder)

    def stop(self) -> bool:
        """Have the job end between two rounds, as completed: what there is by then is its result.

        Returns:
            Whether it will; False for a job that has not begun, which is cancelled, and for one that has ended.
        """
        return stop(self._folder)

    def kill(self) -> bool:
        """End the job wherever it stands.

        Returns:
            Whether this ended it; False for a draft and for a job that had ended before.
        """
        return kill(self._folder)

    def restart(self, breakpoint: str | Path | int | None = None, rounds: int | None = None) -> Self:
        """Begin the next attempt at a job that has ended: same id, from its last breakpoint, or where it was resumed.

        Nodes answer work again that they finished. What the attempts before told stays in the events.

        Args:
            breakpoint: one of `job.breakpoints`, or its round; None for the newest. Those of later rounds go once
                this attempt has saved its first.
            rounds: a new total.

        Raises:
            NotFinished: the job runs.
            BreakpointMissing, BreakpointCorrupt: it can't be used.
            SubmitError: no runner can be started.
        """
        record = notice(self._folder)
        if (
            self._resumed is not None
            and record.state != State.DRAFT
            and breakpoint is None
            and rounds is None
        ):
            return self.submit()
        if record.state in PENDING and begin_again(self._folder, at_once=True):
            return self  # it lost nothing: its runner died before it began
        check_has_ended(self._spec.id, record)
        self._spec, lock = take_next_attempt(
            self._folder,
            lambda: "" if breakpoint is None else name_of_breakpoint(self._folder, self._spec.id, breakpoint),
            rounds,
        )
        self._position, self._resumed = None, None
        start_runner(self._folder, lock)
        return self

    def delete(self) -> None:
        """Delete the job: its folder, its objects at the hub, what nodes keep for it.

        Raises:
            NotFinished: it has not ended; kill it first.
            TransportError, RepositoryError: the hub can't be reached; nothing was deleted.
        """
        if not self._folder.spec.exists():
            raise NoSuchJob(f"{self._spec.id} is not there any more: it was deleted before")
        delete_job(self._folder, lambda: check_broker(self._at_home()))

    # -- where its data are -----------------------------------------------------------

    @property
    def given_data(self) -> Any:
        """The data argument as the job was given it; `data` holds the datasets that were found for it."""
        return self._data

    def reach(self) -> Connection | None:
        """Find the job's data, so that `nodes` names who has them; connect a remote job to its federation.

        Raises:
            NoDatasets: nothing matches `data`.
        """
        session = self._at_home()
        if not self._spec.datasets:
            self._resolve(session)
        elif session is not None:
            session.meet(self._spec.datasets)
        return session

    def _at_home(self) -> Connection | None:
        """Return the session, connected if need be, None for a local job; the folder lies in its home then."""
        if self._spec.local:
            return None
        self._session = reach_home(self._folder, self._session, is_anywhere=self._is_anywhere)
        if not self._spec.researcher:
            self._folder = at_home(self._folder, self._session, is_anywhere=self._is_anywhere)
        return self._session

    def _resolve(self, session: Connection | None) -> None:
        check_plans(self._spec, self._source, self._folder)
        self._spec, silent = resolve_for(
            self._spec,
            self._data,
            self._nodes_asked,
            self._as_node,
            self._folder,
            session,
            lambda spec, handles: try_plan(spec, self._source, handles, self._folder.path.parent.parent),
        )
        with self._folder.locked():  # or another thread runs it already
            replace(load_record(self._folder.record), absent=silent).save(self._folder.record)
            self._spec.save(self._folder.spec)
        if session is not None:
            session.meet(self._spec.datasets)
        if session is not None:
            warn_of_no_workers(session, self._spec.datasets)

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any], **changes: Any) -> Job:
        """Return a draft of what a file defines, see docs/scheduling.md; NVFlare's names are understood.

        Args:
            source: `job.json`, a folder or zip archive that holds one, or what one would hold.
            changes: arguments of `Job`, in place of the file's.

        Raises:
            SpecError: it does not define a job; says what was expected.
        """
        with open_definition(source) as defined:
            job = cls(defined.operation, **{**defined.arguments, **changes})
        name_origin(job._folder, defined.folder)
        return job

    def to_json(self, path: str | Path | None = None, *, force: bool = False) -> str:
        """Return what `Job.from_json` and `fedjob job submit` make an equal job of, its plan's text included.

        Args:
            path: also write it there.
            force: replace the file that is there.

        Raises:
            SpecError: the job brings data or first parameters of its own, which such a file can't hold; or there
                is a file already.
        """
        text = job_json(self._spec, self._folder, self.record.asked)
        if path is not None:
            with by_users_umask():
                write_atomic(free_path(path, force=force).resolve(), text.encode(), mode=0o666)
        return text

    def clone(self, **changes: Any) -> Job:
        """Return a new draft that keeps every field of this job but those that are named.

        It needs neither the plan's file nor the notebook that this job came from.

        Args:
            changes: arguments of `Job`.

        Raises:
            SpecError: an argument that there is not, or a wrong value.
            NoSuchJob: this job was deleted.
        """
        here: dict[str, Any] = (
            {"hooks": self._hooks} if self._data is None else {"hooks": self._hooks, "data": self._data}
        )
        if isinstance(self._nodes_asked, Simulation):
            here["nodes"] = self._nodes_asked
        defined = define_clone(self._folder, here, changes)
        clone = Job.__new__(Job)
        home, same_params = self._folder.path.parent.parent, not NEW_PARAMS & changes.keys()
        clone._draft(defined, home, self._session, self._folder, same_params=same_params)
        return clone

    def rehearse(self) -> Rehearsal:
        """Run the whole job on the nodes' mocks first; then ask their owners, with the outcome in the note.

        Raises:
            JobError: the job is no draft any more.
            NoDatasets, SpecError: its datasets have no mocks.
        """
        twin = self.clone(**changes_for_mocks(self))
        return rehearse(twin, lambda: twin.run(progress=False), self._request_after)

    def _request_after(self, outcome: str) -> dict[str, str]:
        """Ask the owners of a draft's nodes, with what came of its rehearsal in the note to them."""
        self._spec = replace(self._spec, note=f"{self._spec.note}\n{outcome}".strip()[:MAX_NOTE])
        self._spec.save(self._folder.spec)
        return {} if self._spec.local else self.request()

    # -- come back ------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path, *, session: Connection | None = None) -> Job:
        """Return the job that is kept in a folder, whatever process made it.

        Args:
            path: the job's folder, `<home>/jobs/<job id>`.
            session: for its verbs that reach nodes; None connects when one is needed.

        Raises:
            NoSuchJob: there is none.
        """
        check_session(session)
        return cls._at(JobFolder(Path(path).expanduser().resolve()), session)

    @classmethod
    def _at(cls, folder: JobFolder, session: Connection | None) -> Self:
        """Return the job that a folder holds."""
        if not folder.spec.exists():
            raise NoSuchJob(
                f"{folder.path} is not a job's folder, <home>/jobs/<job id>: it has no {folder.spec.name}"
            )
        spec, asked = load_spec(folder.spec), load_record(folder.record).asked
        return cls._of(
            folder,
            spec,
            folder.plan.read_bytes().decode(),
            session=session,
            data=asked.get("data"),
            nodes=asked.get("nodes"),
            as_node=str(asked.get("as_node", LOCAL)),
        )

    @classmethod
    def _of(
        cls,
        folder: JobFolder,
        spec: JobSpec,
        plan_text: str,
        *,
        session: Connection | None,
        data: Any,
        nodes: Any,
        as_node: str = LOCAL,
        hooks: Sequence[Hook] | None = None,
    ) -> Self:
        """Return the job of a spec; with the spec's own hooks where none are given."""
        job = cls.__new__(cls)
        source = PlanSource(plan_text, spec.plan_entry, spec.plan_hash)
        running = (
            tuple(check_hook(hook) for hook in hooks)
            if hooks is not None
            else tuple(from_part(HOOKS, part) for part in spec.hooks)
        )
        job._take(folder, spec, source, running, session=session, data=data, nodes=nodes, as_node=as_node)
        job._is_anywhere = not belongs_somewhere(folder)
        return job

    @classmethod
    def resume(
        cls,
        path: str | Path,
        *,
        rounds: int | None = None,
        session: Connection | None = None,
        hooks: Sequence[Hook] | None = None,
        home: str | Path | None = None,
        data: Any = None,
        trust: str | None = None,
    ) -> Job:
        """Return the job of a breakpoint, ready to `run()`, or to `submit()`, on from there.

        It ends in the same bytes as the uninterrupted run. The breakpoint may have
        been moved to another folder, home or machine; another researcher's key
        makes it a new job with new grants, which begins with fresh node states.

        A breakpoint holds a plan, which runs here. One that this home did not sign is refused, with the name of its
        job, its plan's sha256 and the key that signed it, before anything of it is run or loaded.

        Args:
            path: a breakpoint's folder, such as one of `job.breakpoints`; or a job's folder, for its
                newest valid breakpoint, or its very beginning where it has none yet.
            rounds: a new total, to go further than the job was for.
            hooks: None for those that the job had.
            data: for a local job whose data was moved.
            home: of yours, in which the job goes on; its breakpoints are your own. None for the session's, or the
                default one.
            trust: for a breakpoint of another home, once you know whose plan it is: what the error about it gave.

        Raises:
            BreakpointForeign: this home did not sign it; carries `trust`.
            BreakpointMissing, BreakpointCorrupt, BreakpointIncompatible: it can't be used; the newest
                valid one beside it is offered.
            JobError: a process runs the job; nothing of it was changed.
        """
        at = resume_at(path, rounds=rounds, session=session, home=home, data=data, trust=trust)
        job = cls._of(
            at.folder,
            at.spec,
            at.found.plan_text,
            session=at.session,
            data=data,
            nodes=LOCAL if at.spec.local else None,
            hooks=hooks,
        )
        job._position, job._extras = begin_at(at)
        job._resumed = at
        return job


def attendants(job: JobView, session: Connection | None, note: Callable[[str], object]) -> tuple[Hook, ...]:
    """Return the hooks that call event handlers, count messages, note how fast lines are, and publish to watchers.

    Args:
        session: None for a local job.
        note: adds a note to the job's events.
    """
    telling = EventHandlersHook(job, note)
    if session is None:
        return (telling,)
    recording = LineRecording(session.repository.meter, LineLedger(session.home))
    counting = Counting(session.endpoint.traffic)
    if not job.spec.watchers:
        return telling, counting, recording
    return telling, counting, recording, Publishing(session, job.spec)
