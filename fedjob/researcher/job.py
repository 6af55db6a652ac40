"""The researcher's handle on a job: define it, run it, look at it, resume it."""

from __future__ import annotations

import html
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import to_plain
from fedjob.common.durable import link_or_copy, write_atomic
from fedjob.common.errors import BreakpointMissing, ConfigError, FedjobError, JobError, NotReady, SpecError
from fedjob.common.folds import FOLDS
from fedjob.common.folds.base import Fold
from fedjob.common.params import FileParams, save_params, schema_of
from fedjob.common.plans.args import TrainingArgs
from fedjob.common.plans.source import PlanSource, compile_plan, extract
from fedjob.common.protocols import PROTOCOLS
from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.quorum import Quorum
from fedjob.common.types import new_job_id
from fedjob.common.work import built_plan
from fedjob.researcher.breakpoints import Breakpoint, list_breakpoints, load_breakpoint, newest_valid
from fedjob.researcher.byhand import ByHand
from fedjob.researcher.components import from_part, to_part
from fedjob.researcher.datasets import resolve, resolve_local
from fedjob.researcher.events import JobEvent, read_events
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.history import OVERALL
from fedjob.researcher.home import home_path, job_folder
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.position import Position
from fedjob.researcher.record import JobRecord, load_record
from fedjob.researcher.results import JobResult
from fedjob.researcher.runner import Runner
from fedjob.researcher.selection import SELECTORS, Explicit, Selector
from fedjob.researcher.session import Session, default_session
from fedjob.researcher.spec import JobSpec, Part, check_count, load_spec, plain_args, spec_from_plain

if TYPE_CHECKING:
    from fedjob.common.plans.base import TrainingPlan

LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundInfo:
    """Who took part in a committed round.

    Args:
        dropped: node -> reason.
    """

    selected: tuple[str, ...]
    replied: tuple[str, ...]
    dropped: dict[str, str]


class Job(ByHand):
    """One run of one protocol over nodes.

    The constructor checks everything that can be checked here, builds the plan
    from its own extracted text, and makes the job's folder; it either returns a
    complete job or raises and leaves nothing.

    Args:
        operation: a protocol such as `FedAvg()`, or its name.
        training_plan: a class, an instance, or "file.py:Class".
        data: `{"tags": [...]}`, "node/name", dataset handles, or a list of these;
            for `nodes="local"` a path, `{"path": ..., "reader": ..., "options": ...}`,
            or a map from node names to these.
        model_args: plain data for the plan's `init_model`.
        training_args: see `fedjob.common.plans.args`.
        rounds: how many rounds to train, 1 or more.
        seed: of everything random; None draws one, which `job.seed` tells.
        nodes: None for every node that has the data, a list of node ids, or "local".
        as_node: the node that a local job plays.
        quorum: who must answer for a round to count, and how long to wait.
        selector: who takes part in a round: a selector or a function `(round, nodes) -> nodes`.
        fold: in place of the protocol's own.
        hooks: what runs at the end of each round.
        init: first parameters: named tensors, a safetensors file, or a result.
        validate_at_end: validate the last shared parameters once more at every node.
        breakpoint_every: rounds between breakpoints.
        keep_breakpoints: how many of the newest to keep.
        keep: keep every contribution in the job's folder, so that `fedjob verify` can fold them again.
        keep_files_dir: folder that plan, parameters and replies of every round are put into.
        session: None for the default session.
        home: for local jobs; others live in the session's home.

    Raises:
        SpecError: a wrong argument: what was expected, what was found.
        PlanError: the plan can't be extracted, compiled or built.
    """

    def __init__(
        self,
        operation: FederatedProtocol | str = "fedavg",
        *,
        training_plan: Any = None,
        data: Any = None,
        model_args: Mapping[str, Any] | None = None,
        training_args: Mapping[str, Any] | None = None,
        rounds: int = 1,
        name: str = "",
        note: str = "",
        seed: int | None = None,
        nodes: Sequence[str] | str | None = None,
        as_node: str = LOCAL,
        quorum: Quorum | None = None,
        selector: Selector | Callable[[int, list[str]], Sequence[str]] | str = "all",
        fold: Fold | str | None = None,
        hooks: Sequence[Hook] = (),
        init: Any = None,
        validate_at_end: bool = False,
        breakpoint_every: int = 1,
        keep_breakpoints: int = 3,
        keep: bool = False,
        keep_files_dir: str | Path | None = None,
        session: Session | None = None,
        home: str | Path | None = None,
    ) -> None:
        if isinstance(operation, str):
            operation = PROTOCOLS.build(operation, {})
        elif isinstance(operation, type) and issubclass(operation, FederatedProtocol):
            operation = operation()
        protocol_name, protocol_config = PROTOCOLS.config_of(operation)
        if training_plan is None:
            raise SpecError(
                f"training_plan is required for {protocol_name}: a class derived from TorchPlan or SklearnPlan, "
                'an instance of one, or "file.py:Class"'
            )
        if isinstance(nodes, str) and nodes != LOCAL:
            raise SpecError(f'nodes is a list of node ids, None for all, or "local"; found {nodes!r}')
        check_count("rounds", rounds, 1)
        source = extract(training_plan)
        cls = compile_plan(source.text, source.entry)
        raw_training = plain_args("training_args", training_args)
        TrainingArgs.parse(raw_training, extra_args=cls.extra_args)
        quorum = quorum or Quorum()
        if not isinstance(quorum, Quorum):
            raise SpecError(
                f"quorum is a Quorum(required=..., min_nodes=..., deadline_s=...), not {quorum!r}"
            )
        self._session = session
        self._data = data
        self._nodes_asked = nodes
        self._as_node = as_node
        self._source = source
        self._hooks = tuple(_check_hook(hook) for hook in hooks)
        self._keep_files = Path(keep_files_dir).expanduser() if keep_files_dir is not None else None
        self._spec = JobSpec(
            id=new_job_id(),
            name=name,
            note=note,
            protocol=Part(name=protocol_name, config=protocol_config),
            plan_entry=source.entry,
            plan_hash=source.sha256,
            model_args=plain_args("model_args", model_args),
            training_args=raw_training,
            rounds=rounds,
            seed=secrets.randbits(62) if seed is None else seed,
            local=nodes == LOCAL,
            selector=to_part(SELECTORS, selector),
            quorum={
                "required": list(quorum.required),
                "min_nodes": quorum.min_nodes,
                "deadline_s": quorum.deadline_s,
            },
            fold=None if fold is None else to_part(FOLDS, fold),
            hooks=[to_part(HOOKS, hook) for hook in self._hooks if _travels(hook)],
            validate_at_end=validate_at_end,
            breakpoint_every=breakpoint_every,
            keep_breakpoints=keep_breakpoints,
            keep=keep,
        )
        self._position: Position | None = None
        self._extras: dict[str, Path] = {}
        self._value: Any = None
        self._runner: Runner | None = None
        plan = built_plan(source.text, source.entry, self._spec.model_args, raw_training, self._spec.seed)
        params = _first_params(init, plan)
        self._plan = plan
        where = session.home if session is not None and home is None else home_path(home)
        self._folder = job_folder(where, self._spec.id)
        self._write_folder(params)

    def _write_folder(self, params: Mapping[str, Any]) -> None:
        try:
            self._folder.create()
            write_atomic(self._folder.plan, self._source.text.encode())
            save_params(params, self._folder.initial_params)
            self._spec.save(self._folder.spec)
            JobRecord(state="draft", rounds=self._spec.rounds).save(self._folder.record)
        except (OSError, FedjobError) as error:
            shutil.rmtree(self._folder.path, ignore_errors=True)
            if isinstance(error, FedjobError):
                raise
            raise ConfigError(f"can't write the job's folder {self._folder.path}: {error}") from error

    # -- run ----------------------------------------------------------------------

    def run(self, *, progress: bool | None = None) -> JobResult:
        """Run the job in this process and return its result.

        Args:
            progress: draw a progress bar; None does in a terminal and in a notebook.

        Raises:
            NoDatasets: nothing matches `data`.
            JobFailed: names the reason; committed rounds stand, see `Job.resume`.
        """
        from fedjob.researcher.progress import progress_hook

        drawn = progress_hook(progress)
        runner = self._open(extra_hooks=() if drawn is None else (drawn,))
        try:
            self._value = runner.run()
        finally:
            self._position, self._runner = runner.position, None
        return self.result

    def _open(self, extra_hooks: tuple[Hook, ...] = ()) -> Runner:
        """Resolve the data, then take the folder's lock and reach the nodes."""
        if self.state == "completed":
            raise JobError(
                f"job {self.id} is completed; make a new Job, or Job.resume a breakpoint with more rounds"
            )
        session = self._reach()
        runner = Runner(
            self._spec,
            self._source.text,
            self._folder,
            position=self._position,
            session=session,
            hooks=(*self._hooks, *extra_hooks),
            keep_files=self._keep_files,
            extras=self._extras,
        )
        if self._nodes_override is not None:
            runner.select = self._select_override
        runner.open()
        return runner

    def _reach(self) -> Session | None:
        """Return the session of a remote job, connected if need be; the job's data are resolved then."""
        session = None
        if not self._spec.local:
            session = self._session = self._session or default_session()
        if not self._spec.datasets:
            self._resolve(session)
        return session

    def _resolve(self, session: Session | None) -> None:
        if session is None:
            datasets = resolve_local(self._data, self._as_node)
            spec = self._spec
        else:
            asked = None if self._nodes_asked is None else list(self._nodes_asked)
            datasets = resolve(self._data, asked, session)
            spec = replace(
                self._spec,
                researcher=session.party,
                owner_key=session.identity.public_key_hex,
                federation=session.federation,
            )
            if self._folder.path.parent.parent != session.home:
                self._move(job_folder(session.home, self.id))
        required = set(self._spec.the_quorum.required) | set(self._explicit_nodes())
        unknown = sorted(required - set(datasets))
        if unknown:
            raise SpecError(
                f"the job requires nodes {', '.join(unknown)}, but only {', '.join(datasets)} have its data"
            )
        if self._spec.the_quorum.min_nodes > len(datasets):
            raise SpecError(
                f"the quorum needs {self._spec.the_quorum.min_nodes} nodes, but only {len(datasets)} have the "
                f"job's data: {', '.join(datasets)}"
            )
        self._spec = replace(spec, datasets=datasets)
        self._spec.save(self._folder.spec)

    def _explicit_nodes(self) -> tuple[str, ...]:
        part = self._spec.selector
        chosen = from_part(SELECTORS, part) if part.name else None
        return chosen.nodes if isinstance(chosen, Explicit) else ()

    def _move(self, target: JobFolder) -> None:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._folder.path, target.path)
        self._folder = target

    @classmethod
    def resume(
        cls,
        path: str | Path,
        *,
        rounds: int | None = None,
        session: Session | None = None,
        hooks: Sequence[Hook] | None = None,
        home: str | Path | None = None,
        data: Any = None,
    ) -> Job:
        """Return the job of a breakpoint, ready to `run()` on from there.

        It ends in the same bytes as the uninterrupted run. The breakpoint may have
        been moved to another folder, home or machine; another researcher's key
        makes it a new job with new grants, which begins with fresh node states.

        Args:
            path: a breakpoint's folder, such as one of `job.breakpoints`; or a job's folder, for its
                newest valid breakpoint, or its very beginning where it has none yet.
            rounds: a new total, to go further than the job was for.
            hooks: None for those that the job had.
            data: for a local job whose data was moved.

        Raises:
            BreakpointMissing, BreakpointCorrupt, BreakpointIncompatible: it can't be used; the newest
                valid one beside it is offered.
        """
        found = _find_breakpoint(Path(path).expanduser().resolve())
        spec = spec_from_plain(found.spec)
        position = found.position
        if rounds is not None:
            if rounds < position.round:
                raise SpecError(
                    f"the breakpoint is of round {position.round}; rounds={rounds} lies before it"
                )
            spec = replace(spec, rounds=check_count("rounds", rounds, 1))
            position = replace(position, stop="")
        if not spec.local:
            session = session or default_session()
            if session.identity.public_key_hex != spec.owner_key:
                spec = replace(
                    spec,
                    id=new_job_id(),
                    researcher=session.party,
                    owner_key=session.identity.public_key_hex,
                    federation=session.federation,
                )
                position = replace(position, node_states={})
        job = cls.__new__(cls)
        job._session = session
        job._data = data
        job._nodes_asked = LOCAL if spec.local else None
        job._as_node = LOCAL
        job._source = PlanSource(found.plan_text, spec.plan_entry, spec.plan_hash)
        job._hooks = tuple(hooks) if hooks is not None else tuple(from_part(HOOKS, p) for p in spec.hooks)
        job._keep_files = None
        if data is not None:
            spec = replace(spec, datasets=resolve_local(data, next(iter(spec.datasets), LOCAL)))
        job._spec = spec
        job._position = position
        job._value = None
        job._runner = None
        job._plan = built_plan(
            found.plan_text, spec.plan_entry, spec.model_args, spec.training_args, spec.seed
        )
        owning = found.path.parent.parent
        if owning.name == spec.id and found.path.parent.name == "breakpoints" and home is None:
            job._folder = JobFolder(owning)
        else:
            base = session.home if session is not None and home is None else home_path(home)
            job._folder = job_folder(base, spec.id)
        job._folder.create()
        write_atomic(job._folder.plan, found.plan_text.encode())
        spec.save(job._folder.spec)
        # the next breakpoints push this one out; what the position maps must stay readable until the end
        job._position, job._extras = _adopt(found.position, position, job._folder, found.extras)
        record = load_record(job._folder.record)
        replace(record, state="draft", rounds=spec.rounds, reason="", detail="").save(job._folder.record)
        return job

    # -- look ---------------------------------------------------------------------

    @property
    def id(self) -> str:
        """`job_` and a random UUID: in every message, object and event of the job."""
        return self._spec.id

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def seed(self) -> int:
        """What all the job's randomness comes from."""
        return self._spec.seed

    @property
    def spec(self) -> JobSpec:
        """The fixed half of the job."""
        return self._spec

    @property
    def folder(self) -> Path:
        """Where the job is kept."""
        return self._folder.path

    @property
    def record(self) -> JobRecord:
        """The growing half of the job, as it is on disk."""
        return load_record(self._folder.record)

    @property
    def state(self) -> str:
        return self.record.state

    @property
    def reason(self) -> str:
        """Why it ended like that, one word; empty while it goes well."""
        return self.record.reason

    @property
    def success(self) -> bool:
        return self.state == "completed"

    @property
    def finished(self) -> bool:
        return self.state in ("completed", "failed", "killed")

    @property
    def waiting_on(self) -> list[str]:
        """The nodes whose owners have yet to decide on the plan; empty once the job runs."""
        if self.state != "waiting":
            return []
        waiting: list[str] = []
        for event in self.events():
            if event.type == "grant":
                waiting = list(event.body["waiting"])
        return waiting

    @property
    def breakpoints(self) -> list[Path]:
        """The folders of the kept breakpoints, oldest first."""
        return list_breakpoints(self._folder.breakpoints)

    @property
    def position(self) -> Position:
        """Where the job stands."""
        if self._runner is not None:
            return self._runner.position
        if self._position is None:
            raise NotReady(f"job {self.id} has not run yet: call job.run()")
        return self._position

    @property
    def history(self) -> Any:
        """Everything measured so far: a DataFrame of round, phase, metric, node, value, num_examples."""
        from fedjob.researcher.history import to_frame

        return to_frame(self.position.rows)

    @property
    def metrics(self) -> dict[str, float]:
        """The last overall value of each metric, by `metric/phase`."""
        return {f"{r.metric}/{r.phase}": r.value for r in self.position.rows if r.node == OVERALL}

    @property
    def rounds(self) -> dict[int, RoundInfo]:
        """Who took part in each committed round."""
        found = {}
        for fold in self.position.ledger:
            if fold.round > self.position.round:  # a last validation, or a round that was not completed
                continue
            replied = tuple(str(entry[0]) for entry in fold.inputs)
            found[fold.round] = RoundInfo(
                selected=tuple(sorted({*replied, *fold.left_out})),
                replied=replied,
                dropped=dict(fold.left_out),
            )
        return found

    @property
    def result(self) -> JobResult:
        """The result of the completed job.

        Raises:
            NotReady: it is not completed; says what state it is in.
        """
        if not self.success or self._position is None:
            record = self.record
            why = f" ({record.reason}: {record.detail})" if record.reason else ""
            raise NotReady(f"job {self.id} has no result: it is {record.state}{why}")
        value = self._value
        path = self._folder.result / "params.safetensors"
        if value is None and path.exists():
            value = FileParams(path)
        return JobResult(value, self._position, self._build_with, self._folder.result / "best.safetensors")

    def _build_with(self, params: Mapping[str, Any]) -> TrainingPlan:
        spec = self._spec
        plan: TrainingPlan = built_plan(
            self._source.text, spec.plan_entry, spec.model_args, spec.training_args, spec.seed
        )
        plan.set_params(params)
        return plan

    def events(self, since: int = 0) -> Iterator[JobEvent]:
        """Yield the job's events after number `since`, oldest first."""
        return read_events(self._folder.events, since)

    @property
    def last_msg(self) -> JobEvent | None:
        """The last event; None before the first."""
        last = None
        for event in self.events():
            last = event
        return last

    def __repr__(self) -> str:
        record = self.record
        named = f" {self.name!r}" if self.name else ""
        why = f" ({record.reason})" if record.reason else ""
        at = self._position.round if self._position is not None else 0
        return f"<Job {self.id}{named}: {record.state}{why}, round {at} of {self._spec.rounds}>"

    def _repr_html_(self) -> str:
        record = self.record
        facts = {
            "job": self.id,
            "name": self.name or "-",
            "protocol": self._spec.protocol.name,
            "plan": f"{self._spec.plan_entry} ({self._spec.plan_hash[:12]})",
            "state": record.state + (f" ({record.reason})" if record.reason else ""),
            "round": f"{self._position.round if self._position is not None else 0} of {self._spec.rounds}",
            "nodes": ", ".join(self._spec.datasets) or "not resolved yet",
        }
        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in facts.items()
        )
        return f"<table>{rows}</table>"


def _travels(hook: Hook) -> bool:
    """Whether a hook can be built again from data; others must be given again to `Job.resume`."""
    return hook.name in HOOKS.names()


def _check_hook(hook: Any) -> Hook:
    if not isinstance(hook, Hook):
        raise SpecError(f"hooks are instances of Hook, such as EarlyStopping('loss'); found {hook!r}")
    return hook


def _first_params(init: Any, plan: TrainingPlan) -> Mapping[str, Any]:
    """Return the parameters that a job starts from.

    Raises:
        SpecError: `init` is of no known form, or does not fit the plan's model.
    """
    own = plan.get_params()
    if init is None:
        return own
    if isinstance(init, JobResult):
        init = init.params
    if isinstance(init, (str, Path)):
        path = Path(init).expanduser()
        if not path.is_file():
            raise SpecError(f"init={str(init)!r}: there is no such file; expected a safetensors file")
        init = FileParams(path)
    if not isinstance(init, Mapping):
        raise SpecError(
            f"init is named tensors, a safetensors file or a job's result, not a {type(init).__name__}"
        )
    import torch

    given = {str(name): torch.as_tensor(value) for name, value in init.items()}
    if schema_of(given) != schema_of(own):
        wanted, got = dict(schema_of(own)), dict(schema_of(given))
        odd = next((n for n in [*wanted, *got] if wanted.get(n) != got.get(n)), "")
        raise SpecError(
            f"init does not fit the plan's model: {odd or 'it'} is {got.get(odd, 'missing')}, "
            f"expected {wanted.get(odd, 'nothing of that name')}"
        )
    return given


def _find_breakpoint(path: Path) -> Breakpoint:
    """Return the breakpoint at `path`; for a job's folder the newest one, or the job's beginning."""
    folder = JobFolder(path)
    if not folder.breakpoints.is_dir():
        return load_breakpoint(path)
    newest = newest_valid(folder.breakpoints)
    if newest is not None:
        return load_breakpoint(newest)
    spec = load_spec(folder.spec)
    if not spec.datasets or not folder.initial_params.exists():
        raise BreakpointMissing(f"job {spec.id} was cut before it knew its nodes: make the job anew")
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    first = FileParams(folder.initial_params)
    return Breakpoint(
        path=folder.breakpoint(0),
        position=Position(state=protocol.start(first), training_args=spec.training_args),
        spec=to_plain(spec),
        plan_text=folder.plan.read_bytes().decode(),
        extras={},
    )


def _adopt(
    loaded: Position, position: Position, folder: JobFolder, extras: Mapping[str, Path]
) -> tuple[Position, dict[str, Path]]:
    """Link a breakpoint's tensors into the job's spool, so that dropping the breakpoint leaves them."""
    spool = folder.make_spool(loaded.round)

    def adopt(name: str, source: Path) -> Path:
        target = spool / f"resumed_{name}"
        target.unlink(missing_ok=True)
        link_or_copy(source, target)
        return target

    state = {
        key: FileParams(adopt(f"{key}.safetensors", value.path)) if isinstance(value, FileParams) else value
        for key, value in position.state.items()
    }
    return replace(position, state=state), {name: adopt(name, path) for name, path in extras.items()}
