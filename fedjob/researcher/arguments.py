"""From what a researcher writes as `Job(...)` to a job's spec, checked."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import SpecError
from fedjob.common.folds import FOLDS
from fedjob.common.folds.base import Fold
from fedjob.common.guard import Guard
from fedjob.common.items import Items
from fedjob.common.plans.args import merged_args
from fedjob.common.plans.plan_source import PlanSource
from fedjob.common.plans.step import check_split
from fedjob.common.preprocess import PlainSteps
from fedjob.common.protocols import PROTOCOLS
from fedjob.common.protocols.base import FederatedProtocol
from fedjob.common.protocols.fedopt import with_optimizer
from fedjob.common.protocols.steps import Steps
from fedjob.common.quorum import ALL, Quorum
from fedjob.common.ranges import check_count
from fedjob.common.types import new_job_id
from fedjob.researcher.checked import (
    checked_guard,
    checked_items,
    checked_quorum,
    checked_resources,
    checked_watchers,
)
from fedjob.researcher.components import to_part
from fedjob.researcher.deploymap import DeployMap, check_quorum_of_map, read_deploy_map
from fedjob.researcher.eachargs import checked_each
from fedjob.researcher.enough import check_enough, check_selector
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.hooks.base import Hook
from fedjob.researcher.operation import Operation, read_args, read_operation
from fedjob.researcher.preparing import with_known
from fedjob.researcher.selectors import SELECTORS
from fedjob.researcher.selectors.base import Selector
from fedjob.researcher.spec import JobSpec, Part, checked_rounds, checked_seconds, plain_args

if TYPE_CHECKING:
    from fedjob.researcher.settings import ResearcherConfig

LOCAL = "local"
_USES = ("private", "mock")
_OWNER = ("name", "org", "role")


@dataclass(frozen=True, slots=True, kw_only=True)
class Defined:
    """A job's definition, before anything of it is on disk.

    Args:
        source: of the plan that is built on this side; nodes run it too, unless there are `plans`.
        plans: texts by their sha256, where there is a plan per node.
        nodes: that were asked for, by name or by a plan of their own.
        given_seed: None where the seed was drawn.
        trained: file of the parameters to predict with, where the job is an inference.
    """

    spec: JobSpec
    source: PlanSource
    plans: Mapping[str, str]
    nodes: Sequence[str] | str | None
    hooks: tuple[Hook, ...]
    given_seed: int | None
    trained: Path | None = None


def define(
    operation: Any,
    *,
    settings: ResearcherConfig,
    training_plan: Any,
    model_args: Mapping[str, Any] | None,
    training_args: Mapping[str, Any] | None,
    each: Mapping[str, Mapping[str, Any]] | None,
    rounds: int | None,
    name: str,
    note: str,
    project: str,
    props: Mapping[str, Any] | None,
    seed: int | None,
    nodes: Sequence[str] | str | None,
    quorum: Quorum | None,
    selector: Selector | Callable[[int, list[str]], Sequence[str]] | str,
    fold: Fold | Callable[[list[Any], list[float]], Any] | str | None,
    guard: Guard | None,
    server_optimizer: Any,
    hooks: Sequence[Hook],
    preprocess: list[PlainSteps],
    items: Items | None,
    split: Mapping[str, Any] | str | None,
    resources: Mapping[str, Any] | None,
    use: str,
    watchers: Sequence[str],
    round_timeout_s: float | None,
    every_s: float | None,
    max_tries: int | None,
    owner: Mapping[str, str] | None,
    validate_at_end: bool,
    breakpoint_every: int,
    keep_breakpoints: int,
    keep: bool,
) -> Defined:
    """Check a constructor's arguments and return what they define; see `Job`.

    Raises:
        SpecError: a wrong argument: what was expected, what was found.
        PlanError: the plan can't be extracted or compiled.
    """
    deployed = read_deploy_map(training_plan)
    wanted = read_operation(operation, deployed.own, training_args, folded=fold is not None)
    sources = {
        node: read_operation(operation, plan, training_args, folded=fold is not None).source
        for node, plan in deployed.plans.items()
    }
    nodes = _nodes_with_plans(nodes, deployed)
    own_args = checked_each(each)
    for own in own_args.values():
        read_args(wanted.source, merged_args(wanted.training_args, own))
    protocol = with_optimizer(wanted.protocol, server_optimizer)
    protocol_name, protocol_config = PROTOCOLS.config_of(protocol)
    if isinstance(nodes, str) and nodes != LOCAL:
        raise SpecError(f'nodes is a list of node ids, None for all, or "local"; found {nodes!r}')
    if use not in _USES:
        raise SpecError(f"use is 'private' or 'mock', not {use!r}")
    source = wanted.source
    trained_with = {} if wanted.trained is None else wanted.trained.model_args
    trained_on = None if wanted.trained is None else wanted.trained.preprocess
    found = [] if wanted.trained is None else wanted.trained.learned
    preprocess, known = with_known(preprocess, trained_on, found)
    _check_batches(wanted.protocol, checked_items(items), split)
    quorum = quorum or Quorum()
    checked_hooks = tuple(check_hook(hook) for hook in hooks)
    spec = JobSpec(
        id=new_job_id(),
        name=_text("name", name),
        note=_text("note", note),
        protocol=Part(name=protocol_name, config=protocol_config),
        plan_entry=source.entry,
        plan_hash=source.sha256,
        model_args={**trained_with, **plain_args("model_args", model_args)},
        training_args=wanted.training_args,
        each=own_args,
        launches=wanted.launches,
        rounds=checked_rounds(rounds),
        seed=_drawn_seed(wanted) if seed is None else seed,
        local=nodes == LOCAL,
        selector=to_part(SELECTORS, selector),
        quorum=checked_quorum(quorum),
        plans={node: {"entry": own.entry, "hash": own.sha256} for node, own in sources.items()},
        fold=None if fold is None else to_part(FOLDS, fold),
        guard=checked_guard(guard),
        hooks=[to_part(HOOKS, hook) for hook in checked_hooks if travels(hook)],
        validate_at_end=validate_at_end,
        breakpoint_every=breakpoint_every,
        keep_breakpoints=keep_breakpoints,
        keep=keep,
        use=use,
        preprocess=preprocess,
        learned=known,
        items=checked_items(items),
        split=check_split(split),
        project=_text("project", project),
        props=plain_args("props", props),
        owner=_owner(owner, settings),
        resources=checked_resources(resources),
        watchers=checked_watchers(watchers),
        round_timeout_s=checked_seconds("round_timeout_s", round_timeout_s),
        every_s=checked_seconds("every_s", every_s),
        max_tries=check_count("max_tries", settings.max_tries if max_tries is None else max_tries, 1),
    )
    if sources:
        named = list(nodes) if nodes is not None and nodes != LOCAL else deployed.nodes
        required = () if quorum.required == ALL else quorum.required
        check_quorum_of_map(named, required, quorum.min_nodes)
    if nodes is not None and nodes != LOCAL:
        check_enough(spec, len(nodes), f"nodes names {len(nodes)}")
    check_selector(spec, wanted.protocol)
    return Defined(
        spec=spec,
        source=source,
        plans={own.sha256: own.text for own in sources.values()},
        nodes=nodes,
        hooks=checked_hooks,
        given_seed=seed,
        trained=None if wanted.trained is None else wanted.trained.params,
    )


def _drawn_seed(wanted: Operation) -> int:
    """Return the seed of a job that was given none: a fresh one, or that of the job whose result it takes up."""
    return secrets.randbits(62) if wanted.trained is None else wanted.trained.seed


def _nodes_with_plans(nodes: Sequence[str] | str | None, deployed: DeployMap) -> Sequence[str] | str | None:
    named = deployed.nodes
    if named is None or nodes == LOCAL:
        return nodes
    without = sorted(set(nodes or ()) - set(named))
    if without:
        raise SpecError(f"nodes {', '.join(without)} have no plan: training_plan names {', '.join(named)}")
    return named if nodes is None else nodes


def travels(hook: Hook) -> bool:
    """Whether a hook can be built again from data; others live in the process that defined them."""
    return hook.name in HOOKS.names()


def check_hook(hook: Any) -> Hook:
    """Return `hook` if it is one.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(hook, Hook):
        raise SpecError(f"hooks are instances of Hook, such as EarlyStopping('loss'); found {hook!r}")
    return hook


_NOT_CONTENT = ("id", "datasets", "researcher", "owner_key", "federation", "cloned_from", "seed")
"""Fields of a spec that do not say what was asked for: drawn, or found out later."""


def content_hash(spec: JobSpec, *, seed: int | None, asked: Any, init_hash: str) -> str:
    """Return the sha256 of what a job was asked to be, the same for a script that is run again.

    Args:
        seed: None where it was drawn.
        asked: plain data of `data` and `nodes`.
        init_hash: of the first parameters, where they were given.
    """
    plain = {key: value for key, value in to_plain(spec).items() if key not in _NOT_CONTENT}
    return sha256(pack([_ordered(plain), seed, _ordered(asked), init_hash])).hexdigest()


def as_asked(data: Any) -> Any:
    """Return what was given as `data` as plain data: to be compared, and shown again."""
    if isinstance(data, Mapping):
        return {str(key): as_asked(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [as_asked(item) for item in data]
    if isinstance(data, Path):
        return str(data.expanduser().resolve())
    return data if data is None or isinstance(data, (bool, int, float, str)) else str(data)


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{what} is text, not {value!r}")
    return value


def _owner(owner: Mapping[str, str] | None, settings: ResearcherConfig) -> dict[str, str]:
    given = {
        key: value
        for key, value in zip(
            _OWNER, (settings.owner_name, settings.owner_org, settings.owner_role), strict=True
        )
        if value
    }
    for key, value in (owner or {}).items():
        if key not in _OWNER or not isinstance(value, str):
            raise SpecError(
                f"owner is a dict of text with the keys {', '.join(_OWNER)}; found {key!r}: {value!r}"
            )
        given[key] = value
    return given


def _check_batches(protocol: FederatedProtocol, items: Items, split: Any) -> None:
    """Raise what a protocol can't do with its items."""
    if (items.batch is not None or items.tolerate != 0) and not protocol.batched_steps:
        raise SpecError(
            f"{protocol.name} is not computed in batches of items: leave batch and tolerate out of Items(...)"
        )
    if split is not None and not isinstance(protocol, Steps):
        raise SpecError(f"split is for a Plan; with {protocol.name} say test_ratio in training_args")
