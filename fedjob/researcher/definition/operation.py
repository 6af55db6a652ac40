"""The operation of a job, read from its first argument: a protocol, a function, a plan, a name or a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import SpecError
from fedjob.data.preprocessing import PlainSteps
from fedjob.optimizers import OPTIMIZERS
from fedjob.optimizers.base import ServerOptimizer
from fedjob.parameters.model_files import ModelFile
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.evaluation import Evaluation
from fedjob.protocols.function import Function
from fedjob.protocols.inference import Inference
from fedjob.protocols.own import OwnProtocol, inner_of
from fedjob.protocols.steps import Steps
from fedjob.researcher.results.artifact import Artifact
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.results.result_folder import PARAMS, load_manifest
from fedjob.researcher.storage.deployment import frozen_file, model_files
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import load_spec, plain_args
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.function import FunctionPlan, RemoteFunction, declared
from fedjob.training_plans.pipeline import Pipeline
from fedjob.training_plans.plan_checks import check_plan_arguments, check_test_data, check_test_metric
from fedjob.training_plans.schedules import at_round
from fedjob.training_plans.source.compilation import compile_plan, make_plan
from fedjob.training_plans.source.extraction import extract
from fedjob.training_plans.source.joined import joined
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash
from fedjob.training_plans.source.used_args import check_read
from fedjob.training_plans.step_plan import Plan
from fedjob.training_plans.training_args import HYPERPARAMETERS, TrainingArgs, check_rounds, merged_args

NO_PLAN = PlanSource("", "", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The model that an earlier job trained, to predict with or to be measured.

    Args:
        params: its result's safetensors file.
        preprocess, learned: the steps that prepared its data, and what they found in the data of all nodes.
        seed: of that job: nodes split their rows as they did then, so that none that trained is measured on.
        models, frozen: the files that the rest of its model is in, see `Defined`.
    """

    source: PlanSource
    params: Path
    model_args: dict[str, Any]
    training_args: dict[str, Any]
    preprocess: list[PlainSteps]
    learned: PlainSteps
    seed: int
    models: Mapping[str, ModelFile]
    frozen: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A protocol with the code that it needs.

    Args:
        source: of the plan or function; `NO_PLAN` where none is needed.
        training_args: checked; a function's arguments.
        launches: sha256 of the text of what it may start as child tasks -> name.
        trained: what it predicts with or measures; None where nothing was trained before.
    """

    protocol: FederatedProtocol
    source: PlanSource
    training_args: dict[str, Any]
    launches: dict[str, str] = field(default_factory=dict)
    trained: Trained | None = None


def read_operation(
    operation: Any, training_plan: Any, training_args: Mapping[str, Any] | None, *, aggregated: bool
) -> Operation:
    """Check and complete what a job is to do.

    Args:
        operation: a protocol, its class or name, a `Plan`, a `@fedjob.function`, "file.py:function", or the
            result of a job that trained: then it means inference.
        aggregated: the job has an aggregator of its own.

    Raises:
        SpecError: it is none of these, a plan is missing or too much, or arguments don't fit.
        PlanError: the plan or function can't be extracted or built.
    """
    if isinstance(operation, PlanSource) or (isinstance(operation, str) and ".py:" in operation):
        return _function(extract(operation), {}, training_plan, training_args, aggregated=aggregated)
    if isinstance(operation, RemoteFunction):
        return _function(
            extract(operation), operation.args, training_plan, training_args, aggregated=aggregated
        )
    if isinstance(operation, Plan) or (isinstance(operation, type) and issubclass(operation, Plan)):
        operation, training_plan = Steps(), _only(operation, training_plan)
    if isinstance(operation, (JobResult, Artifact)):
        operation = Inference(operation)
    protocol = _protocol(operation)
    if isinstance(protocol, (Evaluation, Inference)) and protocol.model is not None:
        return _of_trained(protocol, training_plan, training_args)
    raw = plain_args("training_args", training_args)
    if not protocol.needs_plan:
        if training_plan is not None:
            raise SpecError(f"{protocol.name} runs without a training plan: leave training_plan out")
        return Operation(protocol=protocol, source=NO_PLAN, training_args=raw)
    if training_plan is None:
        raise SpecError(
            f"training_plan is required for {protocol.name}: a class derived from TorchPlan or SklearnPlan, "
            'an instance of one, or "file.py:Class"'
        )
    source = extract(training_plan)
    plan = make_plan(source.text, source.entry, source.origins)
    if isinstance(plan, FunctionPlan):
        raise SpecError(f"{source.entry} is a function: give it first, Job({source.entry}, data=...)")
    if isinstance(plan, Pipeline) or isinstance(protocol, Steps):
        return _steps(protocol, source, plan, raw)
    inner_of(protocol).check_plan(type(plan))
    _check_aux(inner_of(protocol), type(plan), source.entry)
    _check_read_args(source.text, source.entry, type(plan), raw, inner_of(protocol).reads_args)
    protocol, source = _with_its_text(protocol, source)
    return Operation(protocol=protocol, source=source, training_args=raw, launches=_launches(plan.launches))


def read_args(
    source: PlanSource,
    raw: Mapping[str, Any],
    rounds: int,
    *,
    first: int = 1,
    reads_args: tuple[str, ...] | None = None,
) -> None:
    """Check training arguments in all rounds of a job, or a function's, against the code that gets them.

    Args:
        rounds, first: the last round and the one that they count from.
        reads_args: those that the protocol may read beside the plan; None does not look for unread ones.

    Args:
        reads_args: those that the protocol may read beside the plan.

    Raises:
        SpecError: one is unknown, of the wrong type or out of range.
    """
    read_args_of(source.text, source.entry, raw, rounds, first=first, reads_args=reads_args)


def read_args_of(
    text: str,
    entry: str,
    raw: Mapping[str, Any],
    rounds: int,
    *,
    first: int = 1,
    reads_args: tuple[str, ...] | None = None,
) -> None:
    """Do what `read_args` does, for a plan's text and the name of its class; for no text nothing."""
    if not text:
        return
    plan = make_plan(text, entry)
    if isinstance(plan, FunctionPlan):
        plan.remote.check(raw)
    elif isinstance(plan, TrainingPlan):
        check_rounds(raw, rounds, extra_args=type(plan).extra_args, first=first)
        if reads_args is not None:
            _check_read_args(text, entry, type(plan), raw, reads_args)


def check_plan_args(
    source: PlanSource, raw: Mapping[str, Any], each: Mapping[str, Mapping[str, Any]], *, at_end: bool
) -> None:
    """Check what a training plan's methods take and validate on, before anybody is asked.

    Args:
        each: node -> arguments in the place of these.
        at_end: the job validates the last parameters, too.

    Raises:
        SpecError: an argument is missing, or a validation is asked for that has no data.
    """
    plan = make_plan(source.text, source.entry) if source.text else None
    if not isinstance(plan, TrainingPlan):
        return
    others = {key for own in each.values() for key in own}
    for args in (raw, *(merged_args(raw, own) for own in each.values())):
        parsed = TrainingArgs.parse(at_round(args, 1), extra_args=type(plan).extra_args)
        check_test_data(type(plan), parsed, at_end=at_end)
        check_plan_arguments(type(plan), source.text, parsed, others)


def _check_read_args(
    text: str, entry: str, plan: type[TrainingPlan], raw: Mapping[str, Any], reads_args: tuple[str, ...]
) -> None:
    """Check training arguments against the plan that gets them, and against what reads them at all."""
    args = TrainingArgs.parse(at_round(raw, 1), extra_args=plan.extra_args)
    check_test_metric(plan, args.test_metric)
    own = (*plan.applied_args, *reads_args)
    open_names = (*HYPERPARAMETERS, *plan.extra_args)
    check_read(text, entry, [name for name in raw if name in open_names and name not in own])


def _only(plan: Any, training_plan: Any) -> Any:
    """Return a `Plan` that is the operation itself.

    Raises:
        SpecError: there is another one beside it.
    """
    if training_plan is not None:
        raise SpecError("a Plan is the operation itself: leave training_plan out")
    return plan


def _steps(protocol: FederatedProtocol, source: PlanSource, plan: Any, raw: dict[str, Any]) -> Operation:
    if not isinstance(plan, Pipeline) or not isinstance(protocol, Steps):
        raise SpecError(
            f"{protocol.name} and {source.entry} don't go together: a class derived from Plan is an operation "
            f"by itself, Job({source.entry}, data=...), and a training plan needs a protocol such as FedAvg()"
        )
    return Operation(protocol=protocol, source=source, training_args=raw, launches=_launches(plan.launches))


def _check_aux(protocol: FederatedProtocol, plan: type[TrainingPlan], entry: str) -> None:
    """Raise what is wrong with a plan whose optimizer is not made for a protocol's auxiliary variables."""
    missing = [module for module in protocol.aux_modules if module not in plan.aux_modules]
    if missing:
        raise SpecError(
            f"{protocol.name} exchanges the auxiliary variables {', '.join(protocol.aux_modules)} with a plan's "
            f"optimizer, and {entry} declares {', '.join(plan.aux_modules) or 'none'}. If its optimizer can use "
            f"them (plain SGD can, Adam can't), add aux_modules = {protocol.aux_modules!r} to the class"
        )


def _of_trained(
    protocol: Evaluation | Inference, training_plan: Any, training_args: Mapping[str, Any] | None
) -> Operation:
    """Complete a protocol that was given a result: its plan, its arguments, its parameters."""
    if training_plan is not None:
        raise SpecError("a trained result brings its own plan: leave training_plan out")
    if not isinstance(protocol.model, (JobResult, Artifact)):
        raise SpecError(
            f"{type(protocol).__name__}(model=...) is the result of a job that trained, or its params artifact, not "
            f"{protocol.model!r}; for other parameters give Job(..., training_plan=..., init=...)"
        )
    trained = trained_by(protocol.model)
    protocol.check_plan(compile_plan(trained.source.text, trained.source.entry))
    given = plain_args("training_args", training_args)
    return Operation(
        protocol=replace(protocol, model=None),
        source=trained.source,
        training_args={**trained.training_args, **given},
        trained=trained,
    )


def trained_by(result: JobResult | Artifact) -> Trained:
    """Return what a result was trained with, from its job's folder.

    Raises:
        SpecError: it holds no parameters, or its job is not there any more.
    """
    artifact = result.artifact if isinstance(result, JobResult) else result
    folder = JobFolder(artifact.path.parent.parent)
    if artifact.name != PARAMS or not folder.spec.exists():
        raise SpecError(
            f"{artifact} is no trained model: as an operation, give the result of a job that trained one, "
            "or its params.safetensors where its job lies"
        )
    spec = load_spec(folder.spec)
    return Trained(
        source=PlanSource(folder.plan.read_bytes().decode(), spec.plan_entry, spec.plan_hash),
        params=artifact.check(),
        model_args=spec.model_args,
        training_args=spec.training_args,
        preprocess=spec.preprocess,
        learned=load_manifest(folder).learned,
        seed=spec.seed,
        models=model_files(spec, folder),
        frozen=frozen_file(spec, folder),
    )


def _with_its_text(protocol: FederatedProtocol, source: PlanSource) -> tuple[FederatedProtocol, PlanSource]:
    """Return a protocol that is not installed at the nodes as its text, and the plan with that text in its own."""
    if isinstance(protocol, OwnProtocol):
        return protocol, joined(source, PlanSource(protocol.text, protocol.entry, plan_hash(protocol.text)))
    name, config = PROTOCOLS.config_of(protocol)
    if name in PROTOCOLS.names():
        return protocol, source
    own = extract(type(protocol))
    protocol = OwnProtocol(entry=own.entry, text=own.text, config=config)
    inner_of(protocol)  # it can be built of its text, as it will be everywhere
    return protocol, joined(source, own)


def _launches(functions: Any) -> dict[str, str]:
    return {extract(launched).sha256: launched.function.__name__ for launched in declared(functions)}


def _protocol(operation: Any) -> FederatedProtocol:
    _check_no_optimizer(operation)
    if isinstance(operation, str):
        operation = _by_name(operation)
    elif isinstance(operation, type) and issubclass(operation, FederatedProtocol):
        operation = operation()
    elif callable(operation) and not isinstance(operation, FederatedProtocol):
        name = getattr(operation, "__name__", repr(operation))
        raise SpecError(
            f"{name} is no operation: write @fedjob.function above a function to send it to nodes"
        )
    if isinstance(operation, Function):
        raise SpecError(
            "give the function itself: Job(your_function, data=...), with @fedjob.function above it"
        )
    name, _ = PROTOCOLS.config_of(operation)
    if not isinstance(operation, FederatedProtocol):
        raise SpecError(
            f"a job computes a protocol such as FedAvg(), a @fedjob.function or a trained result; found {shown(operation)}"
        )
    if name in PROTOCOLS.names() and type(operation) is not PROTOCOLS.find(name):
        raise SpecError(
            f"{type(operation).__name__}.name is {name!r}, which is the name of another protocol: give it a name of its own"
        )
    if name not in PROTOCOLS.names() and not operation.needs_plan:
        raise SpecError(
            f"{type(operation).__name__} is not installed and runs without a training plan: a protocol of your own travels "
            "in its plan's text, so it needs one; or announce it in a package (docs/protocols.md)"
        )
    return operation


def _by_name(name: str) -> FederatedProtocol:
    """Return the protocol of a name, with its defaults.

    Raises:
        SpecError: there is none, or it has settings without a default.
    """
    kind = PROTOCOLS.find(name)
    settings = [setting for setting in fields(kind) if setting.init]  # type: ignore[arg-type]  # each is a dataclass
    needed = [each.name for each in settings if each.default is MISSING and each.default_factory is MISSING]
    if needed:
        given = ", ".join(f"{setting}=..." for setting in needed)
        raise SpecError(f"{name!r} does not say {' and '.join(needed)}: write {kind.__name__}({given})")
    return PROTOCOLS.build(name, {})


def _check_no_optimizer(operation: Any) -> None:
    """Refuse a server optimizer where a protocol is expected, as papers call both an algorithm.

    Raises:
        SpecError: it is one, its class or its name.
    """
    is_name = isinstance(operation, str) and operation in OPTIMIZERS and operation not in PROTOCOLS
    kind = OPTIMIZERS.find(operation) if is_name else operation
    kind = kind if isinstance(kind, type) else type(kind)
    if issubclass(kind, ServerOptimizer):
        raise SpecError(
            f"{kind.__name__} is a server optimizer and no protocol: write Job(FedAvg(), server_optimizer={kind.__name__}())"
        )


def _function(
    source: PlanSource,
    bound: Mapping[str, Any],
    plan: Any,
    args: Mapping[str, Any] | None,
    *,
    aggregated: bool,
) -> Operation:
    if plan is not None:
        raise SpecError(f"{source.entry} is a function and needs no training_plan: leave it out")
    raw = plain_args("arguments", {**bound, **plain_args("training_args", args)})
    built = make_plan(source.text, source.entry, source.origins)
    if isinstance(built, Pipeline):
        return _steps(Steps(), source, built, raw)
    if not isinstance(built, FunctionPlan):
        raise SpecError(
            f"{source.entry} is a training plan, not a function: Job(FedAvg(), training_plan={source.entry}, ...)"
        )
    built.remote.check(raw)
    return Operation(
        protocol=Function(aggregated=aggregated),
        source=source,
        training_args=raw,
        launches=_launches(built.remote.launches),
    )
