"""The question to a node's owner that an offer or a task raises, or the reason that no approval could help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.codec import to_plain
from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.requirements import read_need
from fedjob.common.types import ENDLESS, MAX_SIZE_BYTES
from fedjob.data.preprocessing import canonical
from fedjob.messaging.messages import Offer, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import RegisteredDataset
from fedjob.node.grants.contract import Request, defaults_of, hash_of_question, is_same
from fedjob.node.grants.grant import GrantSubject, Question, matches_any
from fedjob.node.grants.policy import Permission, ask, not_possible, too_few_rows
from fedjob.parameters.compression import COMPRESSORS
from fedjob.privacy.protect import protect_of
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import FederatedProtocol
from fedjob.protocols.step_inputs import input_problem
from fedjob.training_plans.training_args import merged_args

CLAIMS = ("down", "up", "memory", "most")
MAX_PLAN_BYTES = 256 * 1024
MAX_LEVELS = 32
"""Levels of lists and maps in arguments and settings: an owner can't read more."""

_NESTED = (
    "config",
    "model_args",
    "training_args",
    "props",
    "split",
    "preprocess",
    "resources",
    "protect",
    "compress",
    "sum",
)


def question_of(
    wanted: Offer | Task,
    *,
    researcher: str,
    key_hex: str,
    job: str,
    dataset: RegisteredDataset | None,
    version: str,
    config: NodeConfig,
    round_: int = 0,
    step: str = "",
) -> Question | Permission:
    """Read what is asked of the owner; a verdict where no decision of the owner could help.

    Args:
        round_, step: of a task.
        key_hex: the researcher's key.
        dataset: that is named, if it is registered here.
        version: of the dataset's content.
    """
    if refused := _refused_outright(wanted, dataset, config):
        return refused
    operation = operation_of(PROTOCOLS.find(wanted.protocol))
    if not matches_any(config.operations, operation):
        return not_possible("protocol", f"this node does not run {operation}{ask(config, dataset)}", dataset)
    needs = _needs(wanted, operation, config)
    try:
        asked = _asked(wanted, job, operation, needs, config)
        if isinstance(wanted, Task):
            asked = _of_step(asked, wanted, round_, step)
    except FedjobError as error:  # settings that the protocol can't have
        return not_possible("spec", str(error)[:1000])
    return Question(
        protocol=wanted.protocol,
        plan="" if wanted.plan is None else wanted.plan.sha256,
        subject=_subject(wanted, researcher, key_hex, asked, version),
        asked=asked,
    )


def operation_of(protocol: type[FederatedProtocol]) -> str:
    """Return the public name of what a protocol computes: package, family where it has one, name."""
    words = (protocol.__module__.partition(".")[0], protocol.family, protocol.name)
    return ".".join(word for word in words if word)


def _refused_outright(
    wanted: Offer | Task, dataset: RegisteredDataset | None, config: NodeConfig
) -> Permission | None:
    """Return a verdict on what can't be computed here at all."""
    if any(_is_deeper(getattr(wanted, part, None), MAX_LEVELS) for part in _NESTED):
        return not_possible("spec", f"arguments and settings are nested in more than {MAX_LEVELS} levels")
    if not 1 <= wanted.rounds <= ENDLESS:
        return not_possible("spec", f"a job has one round or more, {ENDLESS} at most; found {wanted.rounds}")
    return (
        _refused_for_its_data(wanted, dataset, config, brings=wanted.files is not None)
        or _refused_for_its_use(wanted, dataset, config)
        or _refused_for_its_plan(wanted)
    )


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(each, levels - 1) for each in value))


def _refused_for_its_data(
    wanted: Offer | Task, dataset: RegisteredDataset | None, config: NodeConfig, *, brings: bool
) -> Permission | None:
    if wanted.project and not matches_any(config.projects, wanted.project):
        detail = f"this node takes no part in project {wanted.project[:60]!r}{ask(config)}"
        return not_possible("project", detail)
    if dataset is None and wanted.dataset:
        return not_possible("no_dataset", f"there is no dataset {wanted.dataset[:80]!r} here")
    if brings and config.bring == "off":
        detail = f"this node takes no data that researchers bring (bring = off){ask(config)}"
        return not_possible("bring", detail)
    if not wanted.dataset and not brings and wanted.plan is None:
        detail = f"{wanted.protocol} computes on a dataset, and the job names none here"
        return not_possible("no_dataset", detail)
    return None


def _refused_for_its_use(
    wanted: Offer | Task, dataset: RegisteredDataset | None, config: NodeConfig
) -> Permission | None:
    if wanted.use not in ("private", "mock"):
        return not_possible("spec", f"data are used as 'private' or 'mock', not {wanted.use[:40]!r}")
    if dataset is None:
        return None
    if wanted.use == "mock" and not dataset.mock:
        return not_possible("no_mock", f"dataset {dataset.name} has no mock{ask(config, dataset)}")
    if wanted.use == "private" and dataset.least_rows < dataset.min_rows:
        return not_possible("min_rows", too_few_rows(dataset, "", config))
    return None


def _refused_for_its_plan(wanted: Offer | Task) -> Permission | None:
    try:
        needs_plan = PROTOCOLS.find(wanted.protocol).needs_plan
    except FedjobError as error:
        return not_possible("protocol", str(error))
    plan = wanted.plan
    if plan is None:
        return not_possible("plan", f"{wanted.protocol} needs a training plan") if needs_plan else None
    if plan.parts or plan.size_bytes > MAX_PLAN_BYTES:
        return not_possible("plan", f"a plan's text has at most {MAX_PLAN_BYTES} bytes")
    if not wanted.entry.isidentifier():
        return not_possible("plan", "the name of the plan's class is missing")
    return None


def _needs(wanted: Offer | Task, operation: str, config: NodeConfig) -> tuple[str, ...]:
    """Return what the owner has to allow."""
    needs = []
    if config.approval == "on" and (wanted.plan is not None or not matches_any(config.plans, operation)):
        needs.append("plan")
    if wanted.dataset and matches_any(config.ask_data, wanted.dataset):
        needs.append("data")
    return tuple(needs)


def _subject(
    wanted: Offer | Task, researcher: str, key_hex: str, asked: Request, version: str
) -> GrantSubject:
    plan = "" if wanted.plan is None else wanted.plan.sha256
    entry = wanted.protocol if wanted.plan is None else wanted.entry
    question = hash_of_question(asked, wanted.protocol, plan, entry, wanted.dataset, wanted.use)
    if asked.needs == ("data",):
        plan, entry, question = "", "*", ""  # one decision for whatever would run
    return GrantSubject(
        researcher=researcher,
        key_hex=key_hex,
        plan=plan,
        entry=entry,
        dataset=wanted.dataset,
        use=wanted.use,
        version=version,
        project=wanted.project,
        question=question,
    )


def lent_gpus(resources: Mapping[str, Any], config: NodeConfig) -> tuple[int, ...] | None:
    """Return the devices that a job with these resources may hold; None where the owner lends none to anybody."""
    capacity = config.capacity()
    if not any(part.gpus for part in (capacity.whole, *capacity.pools.values())):
        return None
    try:
        need = read_need(resources)
    except SpecError:  # it is refused for that
        return ()
    part = capacity.part(need.pool)
    return part.gpus if need.gpus and part is not None else ()


def _asked(
    wanted: Offer | Task, job: str, operation: str, needs: tuple[str, ...], config: NodeConfig
) -> Request:
    more = {}
    if isinstance(wanted, Offer):
        more = {
            "job_name": wanted.job_name,
            "note": wanted.note,
            "rounds": wanted.rounds,
            "claimed": _claimed(wanted.cost),
        }
    return Request(
        job=job,
        project=wanted.project,
        owner=wanted.owner,
        operation=operation,
        config={**defaults_of(wanted.protocol), **wanted.config},
        model_args=wanted.model_args,
        training_args=wanted.training_args,
        resources=wanted.resources,
        preprocess=canonical(wanted.preprocess) if wanted.preprocess else "",
        launches=tuple(sorted(wanted.launches)),
        props=wanted.props,
        items=to_plain(wanted.items),
        split=wanted.split,
        artifacts={name: ref.sha256 for name, ref in wanted.artifacts.items()},
        models=dict(wanted.models),
        files="" if wanted.files is None else wanted.files.sha256,
        protect=protect_of(wanted.protect).to_plain(),
        compress=_compression(wanted.compress),
        needs=needs,
        reading=wanted.plan.sha256 if wanted.plan is not None and needs == ("data",) else "",
        has_plan=wanted.plan is not None,
        gpus=lent_gpus(wanted.resources, config) if config.gpus or config.pools else None,
        **more,  # type: ignore[arg-type]
    )


def _claimed(cost: Mapping[str, int]) -> dict[str, int]:
    """Return what a researcher says that a job will cost.

    Raises:
        SpecError: it names something else, or no number of bytes.
    """
    for name, value in cost.items():
        if name not in CLAIMS or not 0 <= value <= MAX_SIZE_BYTES:
            raise SpecError(
                f"the cost of a job is {', '.join(CLAIMS)}, each 0 to {MAX_SIZE_BYTES}; found {shown(name)}: {shown(value)}"
            )
    return dict(cost)


def _compression(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how parameters travel, with every setting.

    Raises:
        FedjobError: no compressor of this node does that.
    """
    if not given:
        return {}
    config = given.get("config")
    compressor = COMPRESSORS.build(str(given.get("name")), config if isinstance(config, Mapping) else {})
    name, whole = COMPRESSORS.config_of(compressor)
    return {"name": name, "config": whole}


def _of_step(asked: Request, task: Task, round_: int, step: str) -> Request:
    """Return what one step of a job asks for: its round, and what it has other than the job's own arguments.

    Raises:
        FedjobError: the protocol can't have these settings, or its step takes no such values.
    """
    protocol = PROTOCOLS.build(task.protocol, task.config)
    if problem := input_problem(
        protocol, step, values=task.values, large=task.blobs.keys(), tensors=task.params.keys()
    ):
        raise SpecError(problem)
    own = protocol.args_of(step)
    given = {
        name: value
        for name, value in task.round_args.items()
        if name not in own or not is_same(value, own[name])
    }
    return replace(
        asked,
        training_args=merged_args(asked.training_args, given),
        round=max(1, round_),
        rounds=max(1, round_ - protocol.may_follow(step)),
    )
