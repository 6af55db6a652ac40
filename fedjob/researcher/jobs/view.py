"""The part of a job that is looked at: all of it read-only, from its spec, its record and its position."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import checked_methods
from fedjob.common.errors import DecodeError, NoSuchJob, NotReady
from fedjob.common.lifecycle import ACTIVE, HISTORY, State
from fedjob.common.notebooks.shown_map import ShownMap
from fedjob.messaging.traffic import Tally
from fedjob.researcher.connection.catalogue import Listing, datasets_used
from fedjob.researcher.hooks.traffic import read_traffic
from fedjob.researcher.monitoring.base import ObservedJob
from fedjob.researcher.monitoring.diagnosis import TaskInfo, Try, Why, explain, tasks_of, tries_of
from fedjob.researcher.monitoring.participation import Participation, participation_of
from fedjob.researcher.monitoring.stream import EventSource, FolderSource
from fedjob.researcher.monitoring.summary import JobSummary
from fedjob.researcher.results.partial import Partial, load_partial
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.runner.revival import look, runs
from fedjob.researcher.storage.breakpoints import list_breakpoints, load_breakpoint, newest_valid
from fedjob.researcher.storage.deployment import deployment
from fedjob.researcher.storage.event import utc
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.measurements import OVERALL
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.record import JobRecord, load_record, seconds_between, utc_now
from fedjob.researcher.storage.replies import read_aux

if TYPE_CHECKING:
    import torch

    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.hooks.base import Hook
    from fedjob.researcher.runner.runner import Runner
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.spec import JobSpec
    from fedjob.training_plans.source.plan_source import PlanSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundInfo:
    """The participants of a committed round.

    Args:
        dropped: node -> reason.
        aux: module -> node -> name -> tensor, of the auxiliary variables that nodes sent, while the job's
            folder holds them: to the end of the round after, or for good with `keep=True`.
    """

    selected: tuple[str, ...]
    replied: tuple[str, ...]
    dropped: dict[str, str]
    aux: dict[str, dict[str, Mapping[str, torch.Tensor]]] = field(default_factory=dict, repr=False)


@checked_methods
class JobView(ObservedJob):
    """The read-only properties of a job."""

    # what a job holds is declared here, once, for its verbs too
    _spec: JobSpec
    _source: PlanSource
    _folder: JobFolder
    _session: Connection | None
    _data: Any
    _nodes_asked: Any
    _as_node: str
    _hooks: tuple[Hook, ...]
    _position: Position | None
    _extras: dict[str, Path]
    _runner: Runner | None
    _seen: tuple[Path, Position] | None = None

    @property
    def id(self) -> str:
        """`job_` and a random UUID: in every message, object and event of the job."""
        return self._spec.id

    @property
    def name(self) -> str:
        """The name that the researcher gave it; need not be unique."""
        return self._spec.name

    @property
    def project(self) -> str:
        """The namespace that it belongs to; empty for none."""
        return self._spec.project

    @property
    def props(self) -> dict[str, Any]:
        """Free properties, never interpreted."""
        return dict(self._spec.props)

    @property
    def params(self) -> dict[str, Any]:
        """The plan's arguments: of its model and of its training."""
        return {"model_args": dict(self._spec.model_args), "training_args": dict(self._spec.training_args)}

    @property
    def owner(self) -> dict[str, str]:
        """The researcher: `{id, name, org, role, key}`; id and key are known once the job met its federation."""
        described = {key: self._spec.owner.get(key, "") for key in ("name", "org", "role")}
        return {"id": self._spec.researcher, **described, "key": self._spec.owner_key}

    @property
    def data(self) -> Any:
        """The datasets with the version of their content, once they are found; before that, what was asked for."""
        if self._spec.datasets:
            return datasets_used(self._spec.datasets)
        return self.record.asked.get("data")

    @property
    def preprocess(self) -> list[list[dict[str, Any]]]:
        """The steps that nodes run before the plan sees the data: no list, one for all datasets, or one for each."""
        return [[dict(step) for step in steps] for steps in self._spec.preprocess]

    @property
    def plan(self) -> str:
        """The plan: its class, and the sha256 of the text that nodes run."""
        return f"{self._spec.plan_entry}@{self._spec.plan_hash}"

    @property
    def seed(self) -> int:
        """The number that all the job's randomness comes from."""
        return self._spec.seed

    @property
    def spec(self) -> JobSpec:
        """The fixed half of the job."""
        return self._spec

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return self._folder.path

    @property
    def record(self) -> JobRecord:
        """The growing half of the job, as it is on disk; a dead runner is noticed.

        Raises:
            NoSuchJob: the job was deleted.
        """
        if not self._folder.spec.exists():
            raise NoSuchJob(f"{self._spec.id} is not there any more: was it deleted?")
        return load_record(self._folder.record) if self._runner is not None else look(self._folder)

    @property
    def state(self) -> str:
        """The state of the job; see docs/life.md."""
        return self.record.state

    @property
    def reason(self) -> str:
        """The reason of its end in one word; empty while it goes well."""
        return self.record.reason

    @property
    def success(self) -> bool:
        """True if it is completed."""
        return self.state == "completed"

    @property
    def finished(self) -> bool:
        """True if it has ended, in whatever way."""
        return self.state in HISTORY

    @property
    def attempts(self) -> int:
        """The number of times that it was begun."""
        return self.record.attempt

    @property
    def created(self) -> str:
        """The time at which it was defined, UTC."""
        return self.record.created

    @property
    def submitted(self) -> str:
        """The time at which it was first handed over, UTC; empty for a draft."""
        return self.record.submitted

    @property
    def started(self) -> str:
        """The time at which this attempt began to run, UTC; empty before."""
        return self.record.started

    @property
    def ended(self) -> str:
        """The time at which this attempt ended, UTC; empty before."""
        return self.record.finished

    @property
    def duration(self) -> float:
        """Seconds that this attempt has run: grows while it runs, stays once it has ended."""
        record = self.record
        if not record.started:
            return 0.0
        return max(0.0, seconds_between(record.started, record.finished or utc_now()))

    @property
    def cloned_from(self) -> str:
        """Id of the job that this is a clone of; empty for none."""
        return self._spec.cloned_from

    @property
    def breakpoints(self) -> list[Path]:
        """The folders of the kept breakpoints, oldest first."""
        return list_breakpoints(self._folder.breakpoints)

    @property
    def position(self) -> Position:
        """The position that the job has reached: round, parameters, optimizer and aggregator state."""
        if self._runner is not None:
            return self._runner.position
        position = self._position or self._stored_position()
        if position is None:
            raise NotReady(f"{self.id} has not run yet: call job.run()")
        return position

    def _stored_position(self) -> Position | None:
        """Return what the newest breakpoint holds: the runner may be another process."""
        for _ in range(3):  # a runner may drop the one that is being read
            newest = newest_valid(self._folder.breakpoints)
            if newest is None:
                return None
            if self._seen is None or self._seen[0] != newest:
                try:
                    self._seen = newest, load_breakpoint(newest).position
                except Exception:
                    continue
            return self._seen[1]
        return None

    @property
    def history(self) -> Any:
        """Everything measured so far: a DataFrame of round, phase, metric, node, value, num_examples, error."""
        from fedjob.researcher.storage.measurements import to_frame

        return to_frame(self.position.rows)

    @property
    def rounds(self) -> dict[int, RoundInfo]:
        """The nodes that took part in each committed round."""
        found = {}
        for aggregator in self.position.ledger:
            if aggregator.round > self.position.round:  # a last validation, or a round that was not completed
                continue
            replied = tuple(str(entry[0]) for entry in aggregator.inputs)
            found[aggregator.round] = RoundInfo(
                selected=tuple(sorted({*replied, *aggregator.left_out})),
                replied=replied,
                dropped=dict(aggregator.left_out),
                aux=read_aux(self._folder, aggregator) if aggregator.aux_hashes else {},
            )
        return ShownMap(found, ("round", "selected", "answered", "left out"))

    @property
    def participation(self) -> Participation:
        """Who took part so far, who did not and why, and from how many rows: of every node of the federation asked."""
        return participation_of(self._spec, self.record, self._newest_position())

    def _newest_position(self) -> Position | None:
        position = self._runner.position if self._runner is not None else None
        return position or self._position or self._stored_position()

    def plot(
        self,
        what: str | Sequence[str] | None = None,
        path: str | Path | None = None,
        *,
        round: int | None = None,
        rows: Any = None,
    ) -> Any:
        """Draw what fits the job: of a completed one as `JobResult.plot`, of one under way the metrics so far.

        Args:
            what: `"participation"`, a row for each node and a column for each round; else see `JobResult.plot`.
            path: also save a PNG there.
            round, rows: see `JobResult.plot`.

        Returns:
            A matplotlib figure.

        Raises:
            NotReady: there is no result, and nothing was measured yet.
            SpecError: there is no such picture, or no round was completed; the message has the pictures that there are.
        """
        from fedjob.researcher.results.pictures.of_result import PARTICIPATION, picture_so_far
        from fedjob.researcher.results.pictures.participation import RoundPart, plot_participation

        if what == PARTICIPATION:
            parts = {number: RoundPart(each.replied, each.dropped) for number, each in self.rounds.items()}
            return plot_participation(parts, sorted(self._spec.datasets), path)
        record = self.record
        if record.state == "completed":
            return self.result.plot(what, path, round=round, rows=rows)
        position = self._newest_position()
        return picture_so_far(
            self._folder, record, () if position is None else position.rows, what, path, round
        )

    @property
    def result(self) -> JobResult:
        """The result of the completed job.

        Raises:
            NotReady: it is not completed; says what state it is in.
        """
        _ = self.record  # a runner that died is noticed before the state is named
        return JobResult.load(self._folder)

    @property
    def schedule(self) -> Listing[Try]:
        """Every try at scheduling of this attempt, oldest first; `len(job.schedule)` is how often."""
        tries = tries_of(read_events(self._folder.events))
        return Listing(tries, ("number", "when", "reason", "answers", "wait_s"))

    @property
    def tasks(self) -> Listing[TaskInfo]:
        """The job's tasks at its nodes, as these last said."""
        tasks = tasks_of(read_events(self._folder.events))
        return Listing(tasks, ("node", "round", "state", "worker", "reason", "updated"))

    @property
    def deployment(self) -> dict[str, list[str]]:
        """The plan (`Class@sha256`) that runs at each node, once these are known."""
        return ShownMap(self.record.deployment or deployment(self._spec), ("plan", "nodes"))

    def why(self) -> Why:
        """Say why the job is not further than it is: which gate, which node, whom to ask."""
        record = self.record
        return explain(
            self._spec, record, list(read_events(self._folder.events)), runs=runs(self._folder, record)
        )

    def dossier(self, path: str | Path | None = None) -> Path:
        """Write one signed file of what a data protection officer or an ethics board asks; return where.

        Every aggregation is computed again for it. `fedjob dossier verify FILE` checks it on any machine, offline.

        Args:
            path: of the file; None for `dossier_<job id>.html` in the working folder.

        Raises:
            ConfigError: there is such a file already.
        """
        from fedjob.researcher.dossier.dossier import write_dossier

        return write_dossier(self._folder, None if path is None else Path(path))

    @property
    def partial(self) -> Partial:
        """The result so far: the nodes' last values, the last committed round's parameters."""
        return load_partial(self._folder)

    @property
    def _round(self) -> int:
        """The last committed round that is known of."""
        if self._runner is not None:
            return self._runner.position.round
        if self._position is not None:
            return self._position.round
        kept = self.breakpoints
        return int(kept[-1].name.removeprefix("round_")) if kept else 0

    # -- observed ----------------------------------------------------------------------

    def _listen(self, since: int) -> EventSource:
        return FolderSource(self._folder, since, lambda: look(self._folder))

    def _tallies(self) -> tuple[Tally, ...]:
        return read_traffic(self._folder)

    def _result_now(self) -> JobResult:
        return self.result

    def _facts(self) -> JobSummary:
        record, live = self.record, self._live()
        facts = JobSummary.of(self._spec, record)
        return replace(
            facts,
            round=self._round if record.state == State.DRAFT else live.round,
            updated=record.finished or (utc(live.updated) if live.updated else record.created),
            live=live,
            progress=live.progress(facts.rounds, time.time()) if record.state in ACTIVE else None,
            about=self._about() if record.state == State.COMPLETED else "",
        )

    def _about(self) -> str:
        """Return the nodes and rows that the result is about; empty where it is damaged, or gone by now."""
        try:
            return self.result.about
        except (NotReady, DecodeError):
            return ""

    def _overall(self) -> dict[str, float]:
        try:
            rows = self.position.rows
        except NotReady:
            return {}
        return {f"{r.metric}/{r.phase}": r.value for r in rows if r.node == OVERALL}
