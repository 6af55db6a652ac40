"""What every training plan is to the rest of fedjob, whatever library it trains with.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import NodeFailure, PlanError
from fedjob.common.kinds import Kinds
from fedjob.common.plans.args import TrainingArgs
from fedjob.common.plans.context import Context
from fedjob.common.seeds import seed_for

if TYPE_CHECKING:
    import torch

    from fedjob.metrics.base import MetricState

Adjust = Callable[[Any], None]
"""Called with the model between the backward pass and the optimizer's step."""

RawArgs = TrainingArgs | Mapping[str, Any] | None
"""Training arguments, checked already or as a user writes them."""


@dataclass(frozen=True)
class TrainOutcome:
    """What local training did.

    Args:
        num_examples: in the training split: the weight of this node.
        num_updates: optimizer steps taken.
        loss: mean over all examples seen, weighted by batch sizes.
        metrics: name -> state, see `fedjob.metrics.states`; `loss` is one.
    """

    num_examples: int
    num_updates: int
    loss: float
    metrics: Mapping[str, MetricState] = field(default_factory=dict)


class TrainingPlan(ABC):
    """A user's model, optimizer, data loading and step, as fedjob drives them.

    Users derive from `TorchPlan` or `SklearnPlan`. The order of calls is
    `build` and `load_data` once, then for every step `start_step`, `set_state`,
    `set_params`, `train` or `validate`, `get_params` and `get_state`. A plan
    that was built just now and one that has done many steps compute the same,
    as long as the user's own methods keep what lasts in `ctx.state`. A plan is
    made with no arguments to its constructor.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages, by the name they are imported by, that a node needs beside the plan's own imports."""

    launches: ClassVar[Sequence[Any]] = ()
    """Functions that the plan may start as child tasks, `self.ctx.launch(...)`."""

    extra_args: ClassVar[tuple[str, ...]] = ()
    """Names of training arguments that this plan understands beside the common ones."""

    shows_gradients: ClassVar[bool] = True
    """Whether `train` lets a protocol correct the gradients."""

    aux_modules: ClassVar[tuple[str, ...]] = ()
    """Auxiliary variables that suit the plan's optimizer, such as `("scaffold",)` for plain SGD."""

    required_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Methods that a user must write, with the names of their arguments."""

    optional_methods: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    measured_by: ClassVar[str] = ""
    """The optional method without which an evaluation would say nothing but the loss; empty for none."""

    @property
    def ctx(self) -> Context:
        """The work this plan is part of."""
        found: Context = self.__dict__.setdefault("_fedjob_ctx", Context())
        return found

    @ctx.setter
    def ctx(self, ctx: Context) -> None:
        self.__dict__["_fedjob_ctx"] = ctx

    training_args: TrainingArgs
    """The checked arguments of the step that runs."""

    dataset: Any
    """The dataset that was loaded, None before."""

    timing: dict[str, float]
    """Seconds of this step by stage: `train`, `validate`."""

    @abstractmethod
    def build(self, model_args: Mapping[str, Any] | None, training_args: RawArgs) -> None:
        """Make the model and what trains it. The first parameters depend on `ctx.job_seed` alone.

        Raises:
            SpecError: an argument is unknown, of the wrong type or out of range.
            PlanError: a user's method returned something of the wrong type.
        """

    @abstractmethod
    def start_step(self, training_args: RawArgs) -> None:
        """Begin a step as a fresh plan would, with these arguments and no state."""

    @property
    @abstractmethod
    def num_train(self) -> int:
        """The number of examples in the training split."""

    @abstractmethod
    def get_params(self, *, copy: bool = True) -> dict[str, torch.Tensor]:
        """Return the shared parameters: on the CPU, contiguous, detached, in a stable order.

        Args:
            copy: False may return views of the model, for a caller that
                writes them out before anything trains again.
        """

    @abstractmethod
    def set_params(self, params: Mapping[str, torch.Tensor]) -> None:
        """Put parameters into the model.

        Raises:
            PlanError: names, shapes or types are not the model's.
        """

    def kinds(self) -> Kinds:
        """Return which of the shared parameters some protocols treat apart."""
        return Kinds()

    @abstractmethod
    def load_data(self, dataset: Any) -> None:
        """Call the user's data methods and make the split."""

    @abstractmethod
    def train(self, adjust: Adjust | None = None) -> TrainOutcome:
        """Train as the arguments say.

        Raises:
            NodeFailure: no data, or the loss or the parameters are not finite.
        """

    @abstractmethod
    def validate(self) -> dict[str, MetricState]:
        """Measure the model on the test split; the states of several nodes add.

        Raises:
            NodeFailure: there is no test data, or a prediction is not finite.
        """

    def training_loss(self) -> float:
        """Return the mean loss over the training split, without training and without dropout.

        Raises:
            PlanError: this kind of plan can't.
            NodeFailure: there is no data, or the loss is not finite.
        """
        raise PlanError(f"{type(self).__name__} shows no loss: derive it from TorchPlan or SklearnPlan")

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of the mean loss over the training split, by parameter; nothing is trained.

        Raises:
            PlanError: this kind of plan can't.
        """
        raise PlanError(f"{type(self).__name__} shows no gradients: derive it from TorchPlan")

    def predict_all(self) -> Any:
        """Return a prediction for every example of the node, in their order.

        Returns:
            An array with a row for each; of a model with several outputs `{name: array}`.

        Raises:
            PlanError: this kind of plan can't.
        """
        raise PlanError(
            f"{type(self).__name__} makes no predictions: derive it from TorchPlan or SklearnPlan"
        )

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """Return a copy of what stays at this node between rounds, `ctx.state` included."""

    @abstractmethod
    def set_state(self, tree: Mapping[str, Any] | None) -> None:
        """Go on from a state that `get_state` returned; None begins anew."""

    def seed_of(self, purpose: str, *, every_round: bool = True) -> int:
        """Return the seed of one use of randomness.

        Args:
            every_round: False for what must be the same in all rounds.
        """
        ctx, own = self.ctx, self.training_args.random_seed
        if every_round:
            seed = ctx.seed if own is None else seed_for(own, ctx.round, ctx.node)
            return seed_for(seed, ctx.round, ctx.node, purpose)
        return seed_for(ctx.job_seed if own is None else own, 0, ctx.node, purpose)

    def fail(self, reason: str, detail: str) -> NodeFailure:
        """Return the error that says that this node can't do its part."""
        return NodeFailure(self.ctx.node, reason, detail)
