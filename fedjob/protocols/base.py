"""The interface of a protocol: both halves of a federated computation in one object.

The researcher's half decides what to ask the nodes next, and uses their answers; the
node's half computes an answer. A protocol is a frozen dataclass whose fields are its
configuration. Its state is a tree (see `parameters/tree.py`), which its methods take and
return, so that a breakpoint is data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fedjob.aggregation.base import Aggregator, Origin
from fedjob.aggregation.mean import WeightedMean
from fedjob.protocols.answer_form import AnswerForm, Anything

if TYPE_CHECKING:
    from pathlib import Path

    from fedjob.aggregation.contribution import Contribution
    from fedjob.data.row_limit import RowLimit
    from fedjob.parameters.safetensors_header import Schema
    from fedjob.privacy.protect import Protect
    from fedjob.privacy.release_book import ReleaseBook
    from fedjob.protocols.usage import Usage
    from fedjob.training_plans.base import TrainingPlan

VALIDATE = "validate"
"""The step in which a node measures the shared parameters on its test data."""

LOSS = "loss"
"""The step in which a node reports the mean loss of the shared parameters on its training data."""

MEASURING = (VALIDATE, LOSS)
"""Steps that train nothing: nodes return no tensors, and keep no node state."""

NUMBERS, ANY = "numbers", "any"
"""What a needed column must hold."""

State = dict[str, Any]
"""A protocol's state on the researcher: a map of plain data and named tensors."""


@dataclass(frozen=True, slots=True)
class Buffered:
    """The rule to close an ask as soon as `k` nodes have answered."""

    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An ask: one step that nodes are to compute, and the way in which their contributions are aggregated.

    Each node's part of an ask is a task. A contribution is a node's answer, which others call an update.

    Args:
        step: the name of the step: `train`, `validate`, or one of the protocol's own.
        shared: values and named tensors for every node.
        each: node -> values and named tensors for it alone, which override those of `shared`.
        to: the nodes; None for the selector's choice.
        aggregator: the aggregator, which makes one total of the contributions.
        origin: named tensors from which updates are measured by aggregators and guards that bound their size;
            None for `shared["params"]`, where there are any, `{}` for zero.
        until: None to wait for the quorum; `Buffered(k)` to close the ask earlier.
        commit: whether this ask completes a round.
        late: what happens with unfinished tasks when the ask is closed. With `drop` they do not count. With
            `keep` the node goes on and gets no new task, and its contribution counts, with its staleness, in
            a later ask that also has `keep`.
        schema: names, dtypes and shapes that a contribution must have; None for
            those of `shared["params"]`, where there are any.
        schemas: node -> the same for it alone, where nodes send tensors of different shapes.
        aux: module -> names, dtypes and shapes of the auxiliary variables that it must have.
        answer: the form of the plain value that a contribution must have, see `answer_form`.
        value_bytes: the most bytes of that value and of the metrics, where the protocol knows it; None for what
            the job's `Guard(max_value_mb=...)` allows.
        training_args: for this ask, in place of the job's own.
        own_args: node -> training arguments for it alone in this ask, over all others.
        sends_total: whether the next round sends the total unchanged, so that it may be published at once.
    """

    step: str = "train"
    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    to: Sequence[str] | None = None
    aggregator: Aggregator = field(default_factory=WeightedMean)
    origin: Origin | None = None
    until: Buffered | None = None
    commit: bool = True
    late: Literal["drop", "keep"] = "drop"
    schema: Schema | None = None
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    aux: Mapping[str, Schema] = field(default_factory=dict)
    answer: AnswerForm = field(default_factory=Anything)
    value_bytes: int | None = None
    training_args: Mapping[str, Any] = field(default_factory=dict)
    own_args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sends_total: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a job, in place of a further ask; `value` is the job's result."""

    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The facts about one node's contribution that the researcher's half may use.

    Args:
        num_examples: the number of examples that it was computed from.
        weight: its weight in a weighted mean.
        metrics: `{phase: {name: state}}`, see `metrics/states.py`.
        timing: seconds by stage.
        state: id of the node state that the contribution proposes to keep.
        threads: number of torch threads that computed it.
        params_hash: sha256 of the file of named tensors; empty where there is no file.
        used: the use of limited resources that the node counted for it, `{resource, amount}` each.
        usage: the limit of the owner that this use reached; None for none.
        items: the numbers of items `processed` and `failed`, and of `batches`; empty where there are none.
        aux: its auxiliary variables, `{module: {name: tensor}}`; a tensor is loaded when it is read.
        staleness: number of rounds that were completed since the node was asked.
    """

    node: str
    num_examples: int = 0
    weight: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    state: str | None = None
    threads: int = 0
    params_hash: str = ""
    used: Sequence[Mapping[str, Any]] = ()
    usage: Usage | None = None
    value: Any = None
    items: Mapping[str, int] = field(default_factory=dict)
    aux: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    staleness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The outcome of an ask.

    Args:
        total: the aggregate of the contributions that count.
        replies: node -> facts about its contribution, for the contributions that count.
        left_out: node -> reason, for the other nodes that were asked.
        busy: nodes that are still at work, for a later ask.
        num_nodes: number of nodes of the job, asked or not.
    """

    total: Contribution
    replies: Mapping[str, Reply]
    left_out: Mapping[str, str]
    busy: tuple[str, ...] = ()
    num_nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The facts on which a protocol decides what to ask next.

    Args:
        rounds: number of rounds that the job is to complete.
        nodes: the nodes that can be asked, sorted.
        last: outcome of the ask before; None at the start, and after a resume.
        seed: the job's seed.
        validate_at_end: whether the job asks for a last validation of its result.
        private: whether each node adds noise itself, for differential privacy of its records.
    """

    rounds: int
    nodes: Sequence[str]
    last: Gathered | None = None
    seed: int = 0
    validate_at_end: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A node's part of an ask: `shared` and its own `each`, merged."""

    step: str
    round: int
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(slots=True, kw_only=True)
class Local:
    """The things at a node that a protocol's second half works with.

    Args:
        node: this node's id.
        plan: the training plan, built, with its data loaded; None for a protocol without one.
        data: the dataset.
        state: the node state (others: client state), which the protocol keeps here between rounds; write to it
            to propose the next one.
        seed: derived from (job, round, node).
        emit: `emit(type, data)` sends an event to the researcher.
        progress: `progress(done, total)` reports how much of the work is done.
        scratch: a folder that exists as long as the warm worker, which may compute several tasks.
        limits: the owner's limits: `min_rows`, and others by the names of a grant's limits; a missing one
            means no limit. `own`: these are the researcher's own data.
        releases: the record of released numbers and their rows; None where the owner sets no minimum of rows.
        rows: the rule on the rows that what a plan computes may be about; None where the owner sets no minimum.
        used: the use of limited resources in this step so far, such as `inferences`; write to it.
        keep: `keep(name, data)` leaves a file at this node, for its owner.
        noise: the terms of differential privacy that the node's daemon computed; empty for none.
    """

    node: str
    round: int
    seed: int
    plan: Any
    data: Any
    args: Any
    state: dict[str, Any]
    emit: Callable[[str, dict[str, Any]], None]
    progress: Callable[[int, int], None]
    scratch: Path
    limits: Mapping[str, Any] = field(default_factory=dict)
    releases: ReleaseBook | None = None
    rows: RowLimit | None = None
    used: dict[str, int] = field(default_factory=dict)
    keep: Callable[[str, bytes], None] = lambda name, data: None
    noise: Mapping[str, Any] = field(default_factory=dict)


class FederatedProtocol(ABC):
    """A federated computation, with the researcher's half and the node's half."""

    name: ClassVar[str]

    family: ClassVar[str] = ""
    """The group in the public name of the operation: `train` makes `fedjob.train.fedavg`."""

    needs_plan: ClassVar[bool] = True
    """True if the node's half uses a training plan."""

    wants_every_node: ClassVar[bool] = False
    """True if a job without a quorum of its own requires every node: a number without one is about other people."""

    own_aggregator: ClassVar[bool] = False
    """True if no other aggregator can take the place of its own."""

    @property
    def needs_single(self) -> str:
        """Why it needs single contributions and not their sum alone, in words; empty if secure aggregation is enough."""
        return "it uses the answer of every node by itself"

    aux_modules: ClassVar[tuple[str, ...]] = ()
    """Modules of auxiliary variables that it exchanges with the plan's optimizer; a plan declares which it supports."""

    reads_args: ClassVar[tuple[str, ...]] = ()
    """Training arguments that it reads itself, beside the plan."""

    @property
    def needed_columns(self) -> Mapping[str, str]:
        """Column -> `NUMBERS` or `ANY`, for the columns that every node's table must have; empty where a plan decides."""
        return {}

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        """Check that a complete plan can be used with this protocol; both sides call this before they begin.

        Raises:
            PlanError: the plan lacks something; the message names it.
        """
        return

    def check_protection(self, protect: Protect) -> None:
        """Check that it can run under a job's protections, before the job is made.

        Raises:
            SpecError: it can't, or one of its settings does not fit them.
        """
        return

    def may_follow(self, step: str) -> bool:
        """Tell whether a step may come after a job's last round; a grant is for so many rounds."""
        return step in MEASURING

    def args_of(self, step: str) -> Mapping[str, Any]:
        """Return the training arguments that it sets itself in a step: they follow from its configuration."""
        return {}

    @property
    def named_nodes(self) -> tuple[str, ...]:
        """The nodes, or parties, that its configuration has something for: a name that no job's node has is an error."""
        return ()

    def inputs_of(self, step: str) -> Mapping[str, str] | None:
        """Return name -> `TENSORS` or `PLAIN` for all that an ask of a step may send; see `step_inputs`.

        A node refuses a task that has more. None, where it is not declared, lets it take anything.
        """
        return None

    batched_steps: ClassVar[tuple[str, ...]] = ()
    """Steps whose contributions nodes may compute batch by batch: `join` combines them, by default as a sum."""

    remembers_items: ClassVar[bool] = False
    """True if nodes record which items they worked on, for jobs on new items only."""

    def check(self, params: Mapping[str, Any]) -> None:
        """Check a job's initial parameters before the job is made.

        Raises:
            SpecError: the protocol can't work with them.
        """
        return

    @abstractmethod
    def start(self, params: Mapping[str, Any]) -> State:
        """Return the researcher's first state, from the initial parameters."""

    @abstractmethod
    def instruct(self, state: State, view: View) -> Ask | Done:
        """Return the next ask, or `Done` with the job's result."""

    def setup(self, local: Local) -> None:
        """Prepare on a node, once per warm worker, before the first contribution."""
        return

    @abstractmethod
    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        """Compute a node's answer."""

    def join(self, parts: Sequence[Contribution], local: Local) -> Contribution:
        """Combine the contributions of a node's batches into one.

        Args:
            parts: one or more, in the order of the node's items; each is loaded when it is read.
        """
        return reduce(add, parts)

    def reduce(self, total: Contribution, local: Local) -> Contribution:
        """Turn the combined contribution of a node's batches into the node's answer."""
        return total

    @abstractmethod
    def finish(self, state: State, gathered: Gathered) -> State:
        """Return the state after an ask, from its outcome."""

    def report(self, gathered: Gathered) -> Mapping[str, Mapping[str, Any]]:
        """Return node -> data about its answer that the job publishes at once, in a `result` event."""
        return {}

    def without_node_states(self, state: State) -> State:
        """Return the state to go on from when nodes have no node states of this job, as under another researcher's key."""
        return state
