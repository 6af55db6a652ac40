"""The checks of a plan class: is it complete, and can each of its methods be called as it will be?"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence

from fedjob.common.errors import IncompletePlan, NoTestingStep, NotPrivate, PlanError, SpecError
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.source.required_arguments import check_arguments
from fedjob.training_plans.training_args import TrainingArgs

_NEVER_CALLED = {
    "training_routine": "fedjob has a loop of its own; write training_step(self, model, batch), or "
    "train(self, model, data, training_args) for a loop of yours",
    "testing_routine": "write testing_step(self, model, batch)",
    "after_training_params": "what is done to parameters after training belongs to the protocol or the aggregator, see "
    "docs/protocols.md",
    "init_dependencies": "a plan's imports stand at the top of its file",
}
"""Methods of Fed-BioMed's plans, with what to write instead."""


_LOOP, _OF_LOOP = "train", ("init_optimizer", "training_step")
"""The method with which a plan has a training loop of its own, and what fedjob's loop needs in its place."""


def has_own_loop(cls: type[TrainingPlan], kind: type[TrainingPlan]) -> bool:
    """Tell whether a plan's class trains by a loop of its own."""
    return _LOOP in kind.optional_methods and overrides(cls, kind, _LOOP)


def overrides(plan: type | object, base: type, name: str) -> bool:
    """Tell whether a plan's class writes a method that `base` only outlines."""
    cls = plan if isinstance(plan, type) else type(plan)
    return getattr(cls, name, None) is not getattr(base, name, None)


_DECLARED = ("requires", "launches", "extra_args", "aux_modules", "round_done")
"""What a plan's class may set beside the methods of its kind."""

_DRIVEN_DUNDERS = ("__getattribute__", "__getattr__", "__setattr__", "__delattr__")


def check_driven(cls: type[TrainingPlan]) -> None:
    """Refuse a plan with a part of its own in the place of one that fedjob adds noise in, or with child tasks.

    Raises:
        NotPrivate: it is named.
    """
    kind = _kind_of(cls)
    if kind is None:
        raise NotPrivate(
            f"{cls.__name__} has no form with differential privacy: derive it from TorchPlan or SklearnPlan"
        )
    if cls.launches:
        raise NotPrivate(
            f"{cls.__name__}.launches names child tasks, which compute on the records without noise: leave it out",
            name=cls.__name__,
        )
    own = replaced_method(cls)
    if own is not None:
        name = own.rpartition(".")[2]
        raise NotPrivate(
            f"{own} is in the place of fedjob's own {name}, through which records reach "
            "parameters with noise: under differential privacy write "
            f"{', '.join(kind.required_methods)} alone, or give it another name",
            name=cls.__name__,
        )


def replaced_method(cls: type[TrainingPlan]) -> str | None:
    """Return the first part of a plan that stands in the place of one of fedjob's own, as `Class.name`; None for none."""
    kind = _kind_of(cls)
    if kind is None:
        return None
    own = {*kind.required_methods, *kind.optional_methods, *_DECLARED, "_abc_impl"} - {_LOOP}
    for base in cls.__mro__[: cls.__mro__.index(kind)]:
        for name in vars(base):
            odd = name in _DRIVEN_DUNDERS or (not name.startswith("__") and hasattr(kind, name))
            if odd and name not in own:
                return f"{base.__name__}.{name}"
    return None


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
    if has_own_loop(cls, kind):
        missing = [name for name in missing if name not in _OF_LOOP]
    if missing:
        signatures = ", ".join(_signature(name, kind.required_methods[name]) for name in missing)
        raise IncompletePlan(f"{cls.__name__} lacks {signatures}", name=cls.__name__)
    for name, arguments in {**kind.required_methods, **kind.optional_methods}.items():
        if overrides(cls, kind, name):
            _check_signature(cls, name, arguments)
    if overrides(cls, TrainingPlan, "round_done"):
        _check_signature(cls, "round_done", ("report",))
    for name, advice in _NEVER_CALLED.items():
        if getattr(cls, name, None) is not None:
            raise PlanError(f"{cls.__name__}.{name} would never be called: {advice}", name=cls.__name__)
    _check_constructor(cls)
    return cls


def check_test_data(cls: type[TrainingPlan], args: TrainingArgs, *, at_end: bool = False) -> None:
    """Check that there is something to validate on where the arguments ask for a validation.

    Args:
        at_end: the job validates the last parameters, too.

    Raises:
        SpecError: they don't hold out any data, and the plan has no test data of its own.
    """
    asked = [name for name in ("test_on_global_updates", "test_on_local_updates") if getattr(args, name)]
    asked += ["validate_at_end"] if at_end else []
    kind = _kind_of(cls)
    if asked and kind is not None and has_own_loop(cls, kind):
        measures = [name for name in (cls.measured_by, "training_step") if overrides(cls, kind, name)]
        if not measures:
            raise NoTestingStep(
                f"{asked[0]} asks for a validation, and {cls.__name__} has a `train` of its own and no "
                'testing_step(self, model, batch): write it, to return (predictions, targets) or {"name": value}',
                name=cls.__name__,
            )
    if not asked or kind is None or args.test_ratio or args.test_fold or overrides(cls, kind, "testing_data"):
        return
    raise SpecError(
        f"{asked[0]} asks for a validation, but there are no test data: give training_args test_ratio above 0, such as "
        f"0.2, or write {cls.__name__}.testing_data"
    )


def check_plan_arguments(
    cls: type[TrainingPlan], text: str, args: TrainingArgs, others: Collection[str] = ()
) -> None:
    """Check that a plan's methods find the training arguments that they take in any case.

    Args:
        text: the plan's source.
        others: arguments that some nodes have of their own.

    Raises:
        SpecError: one is missing.
    """
    kind = _kind_of(cls)
    if kind is not None:
        methods = {**kind.required_methods, **kind.optional_methods}
        check_arguments(text, cls.__name__, methods, {*args.for_user(), *others})


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


def check_test_metric(cls: type[TrainingPlan], names: Sequence[str]) -> None:
    """See to it that metrics that are asked for are measured.

    Raises:
        NoTestingStep: the plan measures the loss alone.
    """
    kind, step = _kind_of(cls), cls.measured_by
    if names and kind is not None and step and not overrides(cls, kind, step):
        raise NoTestingStep(
            f"training_args['test_metric'] asks for {', '.join(names)}, and {cls.__name__} measures the loss alone: "
            f"write {_signature(step, kind.optional_methods[step])}, which returns (predictions, targets), or leave "
            "test_metric out",
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
