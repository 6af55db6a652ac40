"""Rounds by hand, in the words of the Fed-BioMed job: each method is a step of the loop itself."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.aggregation.contribution import Contribution
from fedjob.common.checks import checked_methods, shown, some_of
from fedjob.common.codec import pack, unpack
from fedjob.common.errors import NotReady, SpecError
from fedjob.common.files import write_atomic
from fedjob.common.lifecycle import State
from fedjob.common.types import Ref
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols.answer_form import Nothing
from fedjob.protocols.base import Ask, Done, Gathered, View
from fedjob.researcher.definition.arguments import checked_each
from fedjob.researcher.federation.offers import NO_REPLY
from fedjob.researcher.jobs.trust import load_in_job
from fedjob.researcher.jobs.view import JobView
from fedjob.researcher.results.partial import training_replies_kept
from fedjob.researcher.results.training_replies import (
    Replies,
    make_replies,
    replies_from_plain,
    replies_to_plain,
)
from fedjob.researcher.selection.by_function import FunctionSelector
from fedjob.researcher.storage.breakpoints import adopt
from fedjob.researcher.storage.spec import plain_args
from fedjob.training_plans.training_args import check_rounds, merged_args

if TYPE_CHECKING:
    import torch

    from fedjob.repository.base import Repository
    from fedjob.researcher.connection.connection import Connection
    from fedjob.researcher.federation.offers import Checks
    from fedjob.researcher.runner.runner import Runner
    from fedjob.researcher.storage.spec import JobSpec
    from fedjob.training_plans.base import TrainingPlan

_REPLIES = "training_replies.mpk"


_log = logging.getLogger("fedjob.job")
_ALLOWED = ("granted", "not-needed")


@checked_methods
class ManualRounds(JobView):
    """The part of a job that lets a researcher drive its rounds one by one.

    replies = job.start_nodes_training_round(1)   # train
    job.aggregate()                               # or job.update_parameters(params) of your own
    replies = job.start_nodes_training_round(2)
    ...
    job.close()
    """

    _nodes_override: tuple[str, ...] | None = None
    _gathered: Gathered | None = None

    @property
    @abstractmethod
    def _plan(self) -> TrainingPlan:
        """The plan, built from its text."""

    @abstractmethod
    def _open(self) -> Runner:
        """Take the job's lock and reach its nodes."""

    @abstractmethod
    def check(self) -> Checks:
        """Ask every node whether the job may run there."""

    # -- what there is ------------------------------------------------------------

    @property
    def training_plan(self) -> TrainingPlan:
        """The plan, built on this side from the text that nodes get."""
        return self._plan

    @property
    def training_plan_file(self) -> Path:
        """The file that holds the plan's text, byte for byte what nodes run."""
        return self._folder.plan

    @property
    def training_plan_name(self) -> str:
        """The name of the plan's class."""
        return self._spec.plan_entry

    @property
    def requests(self) -> Connection | None:
        """The session that messages travel through; None before a remote job has connected."""
        return self._session

    @property
    def repo(self) -> Repository | None:
        """The file repository."""
        return None if self._session is None else self._session.repository

    @property
    def training_replies(self) -> dict[int, Replies]:
        """Round -> replies, of the rounds driven by hand."""
        replies: dict[int, Replies] = self.__dict__.setdefault("_replies_by_round", {})
        return replies

    @property
    def nodes(self) -> list[str]:
        """The nodes of the next round; set it between rounds to choose others of the job's nodes."""
        return list(self._nodes_override if self._nodes_override is not None else sorted(self._spec.datasets))

    @nodes.setter
    def nodes(self, nodes: Sequence[str]) -> None:
        chosen = tuple(nodes)
        unknown = sorted(set(chosen) - set(self._spec.datasets)) if self._spec.datasets else []
        if isinstance(nodes, str) or unknown or not chosen:
            raise SpecError(
                f"job.nodes is a list of {some_of(sorted(self._spec.datasets))}; found {shown(nodes)}"
            )
        self._nodes_override = chosen
        if self._runner is not None:
            self._runner.selector = FunctionSelector(self._select_override, "job.nodes")

    def _select_override(self, round_: int, nodes: Sequence[str]) -> Sequence[str]:
        return self._nodes_override or nodes

    @property
    def training_args(self) -> dict[str, Any]:
        """The training arguments; set it in a draft or between rounds, and it counts from the next one on."""
        return dict(self._spec.training_args if self._position is None else self._position.training_args)

    @training_args.setter
    def training_args(self, training_args: Mapping[str, Any]) -> None:
        plain = plain_args("training_args", training_args)
        if self._runner is None and self.record.state == State.DRAFT:  # nobody is asked, nothing is opened
            check_rounds(plain, self._spec.rounds, extra_args=type(self._plan).extra_args)
            self._spec = replace(self._spec, training_args=plain)
            self._spec.save(self._folder.spec)
            return
        runner = self._opened()
        first = runner.position.round + 1
        check_rounds(
            plain, max(first, self._spec.rounds), extra_args=type(self._plan).extra_args, first=first
        )
        runner.position = self._position = replace(runner.position, training_args=plain)
        runner.events.add("note", round_=runner.position.round + 1, text=f"training_args are now {plain}")

    # -- steps ----------------------------------------------------------------------

    def check_training_plan_is_approved_by_nodes(self) -> dict[str, str]:
        """Ask every node of the job whether the plan may run there, log the verdicts, and file nothing.

        The logger is `fedjob.job`; a node that may not run it, or did not answer, is a warning.

        Returns:
            node -> `granted`, `not-needed`, `pending`, `rejected: why`, `unknown: why` or `no reply`.
        """
        verdicts = {answer.node: answer.verdict for answer in self.check()}
        for node, verdict in sorted(verdicts.items()):
            if verdict == NO_REPLY:
                _log.warning(
                    "node %s did not answer whether plan %s may run there", node, self.training_plan_name
                )
            else:
                level = logging.INFO if verdict in _ALLOWED else logging.WARNING
                _log.log(level, "plan %s at node %s: %s", self.training_plan_name, node, verdict)
        return verdicts

    def start_nodes_training_round(
        self,
        round_: int,
        do_training: bool = True,
        *,
        each: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Replies:
        """Ask the nodes for one round and return their replies.

        Args:
            round_: the round's number, from 1; the one after the last for a validation.
            do_training: False only validates the current parameters.
            each: node -> training arguments for it alone in this round, over the job's own; a plan names
                values of its own in `extra_args` and reads them in its `training_args`.

        Raises:
            QuorumNotReached: too few nodes answered.
            SpecError: the round is below 1, or `each` names an unknown node or argument.
        """
        if round_ < 1:
            raise SpecError(f"rounds count from 1, not {round_}")
        runner = self._opened()
        own_args = checked_each("each", each)
        check_own_args(own_args, self._spec, self.training_args, type(self._plan).extra_args, round_)
        position = replace(runner.position, round=round_ - 1)
        if do_training:
            ask = runner.protocol.instruct(
                {**position.state, "round": round_ - 1},
                View(
                    rounds=round_, nodes=tuple(sorted(self._spec.datasets)), last=None, seed=self._spec.seed
                ),
            )
            if isinstance(ask, Done):
                raise SpecError(f"{self._spec.protocol.name} has nothing to ask in round {round_}")
        else:
            shared = {"params": position.state["params"]}
            ask = Ask(step="validate", shared=shared, commit=False, answer=Nothing())
        ask = replace(ask, own_args=own_args)
        gathered, runner.position = runner.gatherer(ask, position)
        self._position = runner.position
        self._gathered = gathered if do_training else None
        replies = make_replies(runner.gatherer.replies[round_], gathered.left_out, self._spec.datasets)
        self.training_replies[round_] = replies
        return replies

    def waiting_for_nodes(self, replies: Replies | Sequence[Any] | None) -> bool:
        """Tell whether a reply of one of the round's nodes is still missing."""
        return not set(self.nodes) <= answered_in(replies)

    def extract_received_optimizer_aux_var_from_round(self, round_: int) -> dict[str, dict[str, Any]]:
        """Return `{module: {node: values}}` of what node-side optimizers shared in a round; `{}` for none."""
        found: dict[str, dict[str, Any]] = {}
        for reply in self.training_replies.get(round_, ()):
            for module, values in reply.optim_aux_var.items():
                found.setdefault(module, {})[reply.node_id] = values
        return found

    def aggregate(self) -> dict[str, torch.Tensor]:
        """Combine the replies of the last round by the job's protocol and aggregator, and complete the round.

        Returns:
            The new shared parameters: name -> tensor.

        Raises:
            NotReady: no round was trained since the last one was completed.
        """
        gathered = self._gathered
        if gathered is None:
            raise NotReady(
                "there are no replies to aggregate: call job.start_nodes_training_round(...) first"
            )
        runner = self._opened()
        position = runner.position
        state = runner.protocol.finish({**position.state, "round": position.round}, gathered)
        self._complete(runner, state, gathered)
        current = runner.position.state["params"]
        return {name: current[name].clone() for name in current}

    def update_parameters(
        self, params: Mapping[str, Any] | None = None, filename: str | Path | None = None
    ) -> tuple[str, Ref]:
        """Write the shared parameters to a file and publish them; given ones complete the round first.

        Args:
            params: parameters of your own for the next round: name -> tensor or array of the plan's shapes;
                other dtypes are converted to the plan's, with rounding where the plan has whole numbers.
            filename: a safetensors file of them. With neither, the current parameters are exported:
                those of the last round that was completed.

        Returns:
            The file that holds them, and their name in the repository.

        Raises:
            SpecError: both were given; or names or shapes are not those of the plan's model.
        """
        if params is not None and filename is not None:
            raise SpecError(
                "update_parameters takes params or filename: both were given, expected at most one"
            )
        runner = self._opened()
        if params is not None or filename is not None:
            argument, source = ("filename", filename) if params is None else ("params", params)
            own = self._own_params(runner, argument, source)
            gathered = self._gathered or Gathered(total=Contribution(own), replies={}, left_out={})
            state = runner.protocol.finish(
                {**runner.position.state, "round": runner.position.round}, gathered
            )
            # as they are, whatever the protocol makes of a total
            self._complete(runner, {**state, "params": own}, gathered)
        current = runner.position.state["params"]
        return str(current.path), runner.gatherer.tasks.stored(current)

    def _complete(self, runner: Runner, state: dict[str, Any], gathered: Gathered) -> None:
        """Commit the round whose state this is."""
        position = replace(runner.position, state=state, round=runner.position.round + 1)
        runner.position = self._position = runner.commit(position, gathered, tidy_now=True)
        self._gathered = None

    def _own_params(self, runner: Runner, argument: str, params: Any) -> FileParams:
        """Put parameters of the researcher's into the spool of the round that they complete."""
        from fedjob.researcher.definition.initial_params import fitting_params

        path = self._folder.make_spool(runner.position.round + 1) / "given.safetensors"
        path.unlink(missing_ok=True)
        save_params(fitting_params(argument, params, self._plan), path)
        return FileParams(path)

    def save_state_breakpoint(self, path: str | Path) -> dict[str, Any]:
        """Write a breakpoint of the current position into a new folder of its own in the folder `path`.

        Args:
            path: a folder, made if need be. Whatever lies in it stays as it is.

        Returns:
            The job's state as plain data: `path` of the breakpoint, `round`, `job_id`, `researcher_id`,
            `model_params_path`, `training_replies` (round -> replies, without tensors) and `node_state`
            (node -> id of its state).

        Raises:
            BreakpointError: `path` is a file, or nothing can be written there.
            NoSpace: the disk is full.
        """
        runner = self._opened()
        position = runner.position
        replies = {
            round_: replies for round_, replies in self.training_replies.items() if round_ <= position.round
        }
        plain = {round_: replies_to_plain(replies[round_]) for round_ in sorted(replies)}
        kept = self._folder.make_spool(position.round) / _REPLIES
        write_atomic(kept, pack([[round_, each] for round_, each in plain.items()]))
        extras = {_REPLIES: kept}
        for round_, each in replies.items():
            for reply in each:
                if reply.params_path and Path(reply.params_path).exists():
                    extras[_reply_file(round_, reply.node_id)] = Path(reply.params_path)
        saved = runner.persistence.save_breakpoint(position, Path(path).expanduser().resolve(), extras)
        params = saved / "params.safetensors"
        return {
            "path": str(saved),
            "round": position.round,
            "job_id": self._spec.id,
            "researcher_id": self._spec.researcher,
            "model_params_path": str(params) if params.exists() else "",
            "training_replies": plain,
            "node_state": dict(position.node_states),
        }

    def load_state_breakpoint(
        self, state: str | Path | Mapping[str, Any], *, trust: str | None = None
    ) -> None:
        """Continue from a breakpoint of this job: its parameters, node states and replies are those of that time.

        Args:
            state: what `save_state_breakpoint` returned, its `path`, or a folder with a single breakpoint.
            trust: see `Job.resume`.

        Raises:
            BreakpointForeign: another home wrote it, or nobody knows who; nothing of it was used.
            SpecError: it is of another job, or no state.
            BreakpointMissing: there is none, or there are several.
            BreakpointCorrupt: it has been damaged.
        """
        found = load_in_job(self._folder, _path_of(state), trust)
        if found.spec.get("id") != self._spec.id:
            raise SpecError(
                f"that breakpoint is of {found.spec.get('id')}, not of {self._spec.id}: use Job.resume"
            )
        position, extras = adopt(found, found.position, self._folder)  # which may be moved or removed
        replies = self._replies_of(position.round, extras)
        self._position, self._extras, self._gathered = position, extras, None
        self.training_replies.clear()
        self.training_replies.update(replies)
        if self._runner is not None:
            self._runner.position = position
            self._runner.gatherer.federation.restore_states(extras)

    def _replies_of(self, round_: int, extras: Mapping[str, Path]) -> dict[int, Replies]:
        """Return the training replies up to a round, as a breakpoint or else the job's folder holds them."""
        if _REPLIES in extras:
            folder = extras[_REPLIES].parent
            return {
                number: replies_from_plain(
                    each,
                    lambda node, number=number: str(  # type: ignore[misc]
                        extras.get(_reply_file(number, node), folder / _reply_file(number, node))
                    ),
                )
                for number, each in unpack(extras[_REPLIES].read_bytes())
            }
        known = {**training_replies_kept(self._folder, self._spec), **self.training_replies}
        return {number: known[number] for number in sorted(known) if number <= round_}

    def close(self, outcome: str = "completed") -> None:
        """End a job driven by hand: the nodes let go, the result is kept."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self._position = runner.position
        if outcome == "completed":
            runner.persistence.save_result(runner.position.state.get("params"))
        runner.close(outcome)

    def _opened(self) -> Runner:
        if self._runner is None:
            self._runner = self._open()
            self._position = self._runner.position
        return self._runner


def answered_in(replies: Any) -> set[str]:
    """Return the nodes that replies are of.

    Raises:
        SpecError: they are no replies.
    """
    try:
        return set() if replies is None else {str(reply.node_id) for reply in replies}
    except Exception as error:  # whatever was given raises when it is read
        raise SpecError(
            f"replies is what start_nodes_training_round returned, or a list of such, not {shown(replies)}"
        ) from error


def _reply_file(round_: int, node: str) -> str:
    """Return the name in a breakpoint of the file with a reply's tensors."""
    return f"reply_{round_:04d}_{node}.safetensors"


def check_own_args(
    each: Mapping[str, Mapping[str, Any]],
    spec: JobSpec,
    training_args: Mapping[str, Any],
    extra_args: Sequence[str],
    round_: int,
) -> None:
    """Check the training arguments of single nodes together with those of all.

    Raises:
        SpecError: a node is none of the job's; an argument is unknown, or has a value that it can't have.
    """
    if unknown := sorted(each.keys() - spec.datasets.keys()):
        raise SpecError(
            f"each names {some_of(unknown)}; the job's nodes are {some_of(sorted(spec.datasets))}"
        )
    for own in each.values():
        check_rounds(merged_args(training_args, own), round_, extra_args=extra_args, first=round_)


def _path_of(state: str | Path | Mapping[str, Any]) -> Path:
    """Return the path that a saved state names, or that was given itself."""
    path = state.get("path") if isinstance(state, Mapping) else state
    if not isinstance(path, (str, Path)):
        found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise SpecError(
            "load_state_breakpoint takes what save_state_breakpoint returned, or a path; the given state has no path, "
            f"but {found or 'nothing'}"
        )
    return Path(path).expanduser().resolve()
