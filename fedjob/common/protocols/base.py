"""What a protocol is: both halves of a federated computation in one object.

The researcher's half says what to ask next and uses the answers; the node's half
answers. A protocol is a frozen dataclass: its fields are its configuration, its
state is a tree (see `common/tree.py`) that goes in and comes out, so that a
breakpoint is data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fedjob.common.folds.base import Fold, Origin
from fedjob.common.folds.mean import WeightedMean

if TYPE_CHECKING:
    from pathlib import Path

    from fedjob.common.analytics.releasebook import ReleaseBook
    from fedjob.common.contribution import Contribution
    from fedjob.common.params import Schema
    from fedjob.common.plans.base import TrainingPlan
    from fedjob.common.usage import Usage

VALIDATE = "validate"
"""The step in which a node measures the shared parameters on its test data."""

LOSS = "loss"
"""The step in which a node tells the mean loss of the shared parameters on its training data."""

MEASURING = (VALIDATE, LOSS)
"""Steps that train nothing: no tensors come back, and no node state is kept."""

State = dict[str, Any]
"""A protocol's state on the researcher: a map of plain data and named tensors."""


@dataclass(frozen=True, slots=True)
class Buffered:
    """Go on as soon as `k` nodes have answered."""

    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a protocol wants from nodes next.

    Args:
        step: what to do: `train`, `validate`, or a name of the protocol's own.
        shared: values and named tensors for every node.
        each: node -> values and named tensors for it alone, over those of `shared`.
        to: the nodes, None for the selector's choice.
        fold: how contributions become one total.
        origin: what tensors are measured from, for folds and guards that bound how far one may go; None
            for `shared["params"]`, where there are any, `{}` for zero.
        until: None for the quorum; `Buffered(k)` to stop early.
        commit: this ask completes a round.
        late: what becomes of work that is not done when the ask is closed: `drop`; or `keep`, then its
            node goes on, is asked nothing new, and counts in a later ask that keeps, with its staleness.
        schema: names, dtypes and shapes that a contribution must have; None for
            those of `shared["params"]`, where there are any.
        aux: module -> names, dtypes and shapes of the auxiliary variables that it must have.
        training_args: in place of the job's own, for this ask.
        sends_total: the next round sends the total as it is, so it may be published at once.
    """

    step: str = "train"
    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    to: tuple[str, ...] | None = None
    fold: Fold = field(default_factory=WeightedMean)
    origin: Origin | None = None
    until: Buffered | None = None
    commit: bool = True
    late: Literal["drop", "keep"] = "drop"
    schema: Schema | None = None
    aux: Mapping[str, Schema] = field(default_factory=dict)
    training_args: Mapping[str, Any] = field(default_factory=dict)
    sends_total: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to ask; `value` is the job's result."""

    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the researcher's half may know of one node's contribution, without its value.

    Args:
        num_examples: that it was computed from.
        weight: in a weighted mean.
        metrics: `{phase: {name: state}}`, see `metrics/states.py`.
        timing: seconds by stage.
        state: id of the node state that the contribution proposes.
        threads: torch threads that computed it.
        params_hash: sha256 of the file of named tensors; empty when there was none.
        used: what the node charged for it, `{resource, amount}` each.
        usage: a limit of the owner's that this reached; None for none.
        items: how many were `processed` and `failed`, in how many `batches`; empty where there are none.
        aux: its auxiliary variables, `{module: {name: tensor}}`; a tensor is loaded when it is asked for.
        staleness: rounds that were completed since the node was asked.
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
        total: the fold of the contributions that count.
        replies: node -> facts, for those.
        left_out: node -> reason, for the others that were asked.
        busy: nodes that are still at work, for a later ask.
        num_nodes: of the job, asked or not.
    """

    total: Contribution
    replies: Mapping[str, Reply]
    left_out: Mapping[str, str]
    busy: tuple[str, ...] = ()
    num_nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a protocol may look at when it decides.

    Args:
        rounds: how many committed rounds the job is for.
        nodes: those that can be asked, sorted.
        last: outcome of the ask before, None at the start (also after a resume).
        seed: the job's seed.
        validate_at_end: the job wants a last validation of the result.
    """

    rounds: int
    nodes: tuple[str, ...]
    last: Gathered | None = None
    seed: int = 0
    validate_at_end: bool = False


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
    """What a node gives a protocol's second half.

    Args:
        node: this node's id.
        plan: the training plan, built, its data loaded; None for a protocol without one.
        data: the dataset.
        state: what the protocol keeps here between rounds; write to it to propose the next.
        seed: derived for (job, round, node).
        emit: `emit(type, data)` sends an event to the researcher.
        progress: `progress(done, total)`.
        scratch: a folder that lives as long as the warm worker.
        limits: what the owner limits: `min_rows`, and others by the names of a grant's limits; a
            missing one does not limit. `own`: these are the researcher's own data.
        releases: the record of what was told of which rows; None where the owner sets no minimum of rows.
        used: what this step used of limited resources so far, `inferences`; write to it.
        keep: `keep(name, data)` leaves a file at this node, for its owner.
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
    used: dict[str, int] = field(default_factory=dict)
    keep: Callable[[str, bytes], None] = lambda name, data: None


class FederatedProtocol(ABC):
    """A federated computation, both halves."""

    name: ClassVar[str]

    family: ClassVar[str] = ""
    """Groups operations in their public names: `train` makes `fedjob.train.fedavg`."""

    needs_plan: ClassVar[bool] = True
    """Whether the node's half uses a training plan."""

    aux_modules: ClassVar[tuple[str, ...]] = ()
    """Auxiliary variables that it exchanges with the plan's optimizer; a plan declares those that suit it."""

    def check_plan(self, plan: type[TrainingPlan]) -> None:
        """Raise what keeps a complete plan from serving this protocol; both sides ask before they begin.

        Raises:
            PlanError: it lacks something; says what.
        """
        return

    batched_steps: ClassVar[tuple[str, ...]] = ()
    """Steps whose contributions nodes may compute batch by batch: they add, or `join` puts them together."""

    remembers_items: ClassVar[bool] = False
    """Whether nodes remember which items they worked on, for jobs on new items only."""

    def check(self, params: Mapping[str, Any]) -> None:
        """Look over a job's first parameters before it is made.

        Raises:
            SpecError: the protocol can do nothing with them.
        """
        return

    @abstractmethod
    def start(self, params: Mapping[str, Any]) -> State:
        """Return the researcher's first state. `params`: the initial parameters."""

    @abstractmethod
    def instruct(self, state: State, view: View) -> Ask | Done:
        """Decide what to ask next."""

    def setup(self, local: Local) -> None:
        """Prepare on a node, once per warm worker, before the first contribution."""
        return

    @abstractmethod
    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        """Compute a node's answer."""

    def join(self, parts: Sequence[Contribution], local: Local) -> Contribution:
        """Put the contributions of a node's batches together, which come in the order of its items.

        Args:
            parts: at least one; loaded one by one as they are asked for.
        """
        return reduce(add, parts)

    def reduce(self, total: Contribution, local: Local) -> Contribution:
        """Turn what `join` made of a node's batches into its answer."""
        return total

    @abstractmethod
    def finish(self, state: State, gathered: Gathered) -> State:
        """Use the answers; return the next state."""

    def report(self, gathered: Gathered) -> Mapping[str, Mapping[str, Any]]:
        """Return node -> what followers of the job hear of its answer at once, as a `result` event."""
        return {}

    def without_node_states(self, state: State) -> State:
        """Return the state to go on from where nodes keep nothing of this job: under another researcher's key."""
        return state
