"""What every training plan is to the rest of fedjob, whatever library it trains with.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import IncompletePlan, NodeFailure, NoTestingStep, PlanError
from fedjob.common.kinds import Kinds
from fedjob.common.plans.args import TrainingArgs
from fedjob.common.seeds import seed_for

if TYPE_CHECKING:
    import torch

    from fedjob.common.children import Child, Launcher
    from fedjob.common.metrics import MetricState

Adjust = Callable[[Any], None]
"""Called with the model between the backward pass and the optimizer's step."""

RawArgs = TrainingArgs | Mapping[str, Any] | None
"""Training arguments, checked already or as a user writes them."""


def _ignore(type_: str, body: dict[str, Any]) -> None:
    """Take an event that nobody listens to."""


@dataclass
class Context:
    """What a plan may know of the work it is part of: `self.ctx`.

    Args:
        node: the name of the node that computes.
        round: counted from 1; 0 outside of a round.
        job_seed: the job's own; it decides the first parameters and the test split.
        seed: of (job, round, node); it decides shuffling, dropout and augmentation.
        device: where the plan computes, `cpu` or `cuda`; set by the plan.
        allow_gpu: whether the node lets `use_gpu` have its GPU.
        state: kept at this node from round to round: a dictionary of numbers,
            strings, bytes, None, tensors, and lists and dictionaries of them.
        send: `send(type, body)` takes what `emit` is given on its way to the researcher.
        props: the job's free properties.
        launcher: what `launch` goes through; None where no task is computed.
    """

    node: str = "local"
    round: int = 0
    job_seed: int = 0
    seed: int = 0
    device: str = "cpu"
    allow_gpu: bool = True
    state: dict[str, Any] = field(default_factory=dict)
    send: Callable[[str, dict[str, Any]], None] = _ignore
    props: Mapping[str, Any] = field(default_factory=dict)
    launcher: Launcher | None = None

    def emit(self, type_: str, body: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Send an event to whoever follows the job: `ctx.emit("found", site=3, rows=[1, 2])`.

        Args:
            type_: `metrics` (its numbers are drawn as curves), `result`, `checkpoint`, or a word of your own.
            body: fields as a map, beside those given by name; plain data, 16 KB in all.
        """
        self.send(type_, {**(body or {}), **fields})

    def progress(self, done: float, total: float) -> None:
        """Say how far this work is."""
        self.emit("progress", {"done": done, "total": total})

    def launch(self, function: Any, /, **args: Any) -> Child:
        """Start a function of the plan's `launches` as a child task at this node; see `common/children.py`.

        Returns:
            A child: `child.wait()` returns what the function returned; given to another launch as an
            argument, it stands for that value.

        Raises:
            PlanError: the function was not declared, or no task is being computed.
        """
        if self.launcher is None:
            raise PlanError("ctx.launch works while a node computes a task, not here")
        return self.launcher.launch(function, **args)


@dataclass(frozen=True)
class TrainOutcome:
    """What local training did.

    Args:
        num_examples: in the training split: the weight of this node.
        num_updates: optimizer steps taken.
        loss: mean over all examples seen, weighted by batch sizes.
        metrics: name -> state, see `fedjob.common.metrics`; `loss` is one.
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


def overrides(plan: type | object, base: type, name: str) -> bool:
    """Tell whether a plan's class writes a method that `base` only outlines."""
    cls = plan if isinstance(plan, type) else type(plan)
    return getattr(cls, name, None) is not getattr(base, name, None)


def check_plan_class(cls: object) -> type[TrainingPlan]:
    """Return `cls` if it is a complete training plan.

    Raises:
        IncompletePlan: it lacks methods; all are named.
        PlanError: it is not a class, not a plan, or takes other arguments than it will be given.
    """
    if not isinstance(cls, type):
        raise PlanError(f"a training plan is a class derived from TorchPlan or SklearnPlan, not {cls!r:.200}")
    if not issubclass(cls, TrainingPlan):
        raise PlanError(
            f"{cls.__name__} is not a training plan: derive it from TorchPlan or SklearnPlan",
            name=cls.__name__,
        )
    kind = _kind_of(cls)
    if kind is None:
        lacking = ", ".join(sorted(getattr(cls, "__abstractmethods__", ()))) or "nothing else"
        raise IncompletePlan(
            f"{cls.__name__} derives from TrainingPlan itself and lacks {lacking}: derive it from TorchPlan or "
            "SklearnPlan, which have these",
            name=cls.__name__,
        )
    missing = [name for name in kind.required_methods if not overrides(cls, kind, name)]
    if missing:
        signatures = ", ".join(_signature(name, kind.required_methods[name]) for name in missing)
        raise IncompletePlan(f"{cls.__name__} lacks {signatures}", name=cls.__name__)
    for name, arguments in {**kind.required_methods, **kind.optional_methods}.items():
        if overrides(cls, kind, name):
            _check_signature(cls, name, arguments)
    _check_constructor(cls)
    return cls


def check_testing_step(cls: type[TrainingPlan]) -> None:
    """See to it that a plan says how its model is measured.

    Raises:
        NoTestingStep: it lacks the method.
    """
    kind, name = _kind_of(cls), cls.measured_by
    if kind is not None and name and not overrides(cls, kind, name):
        raise NoTestingStep(
            f"{cls.__name__} lacks {_signature(name, kind.optional_methods[name])}, and an evaluation measures what "
            'that returns: (predictions, targets), or {"name": value}',
            name=cls.__name__,
        )


def _kind_of(cls: type[TrainingPlan]) -> type[TrainingPlan] | None:
    """Return the nearest base that says which methods a user writes, or None."""
    for base in cls.__mro__:
        if issubclass(base, TrainingPlan) and "required_methods" in vars(base) and base.required_methods:
            return base
    return None


def _signature(name: str, arguments: tuple[str, ...]) -> str:
    return f"{name}({', '.join(('self', *arguments))})"


def _check_signature(cls: type, name: str, arguments: tuple[str, ...]) -> None:
    method = inspect.getattr_static(cls, name)
    if isinstance(method, staticmethod):
        method, given = method.__func__, arguments
    elif isinstance(method, classmethod):
        method, given = method.__func__, ("cls", *arguments)
    else:
        given = ("self", *arguments)
    if not callable(method):
        raise PlanError(
            f"{cls.__name__}.{name} is a {type(method).__name__}, not a method", name=cls.__name__
        )
    try:
        signature = inspect.signature(method)
        signature.bind(*given)
    except TypeError as error:
        raise PlanError(
            f"{cls.__name__}.{name}{signature} can't be called as {_signature(name, arguments)}: {error}",
            name=cls.__name__,
        ) from error


def _check_constructor(cls: type) -> None:
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        signature.bind("self")
    except TypeError as error:
        raise PlanError(
            f"{cls.__name__}.__init__ needs arguments, but nodes build a plan without any: "
            "pass such values through model_args or training_args",
            name=cls.__name__,
        ) from error
