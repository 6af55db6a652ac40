"""A new draft from a job that exists: every field is kept but those that are named."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from fedjob.common.durable import link_or_copy
from fedjob.common.errors import NoSuchJob, SpecError
from fedjob.common.folds import FOLDS
from fedjob.common.plans.args import merged_args
from fedjob.common.plans.plan_source import PlanSource
from fedjob.common.plans.source import extract
from fedjob.common.plans.step import check_split
from fedjob.common.protocols import PROTOCOLS
from fedjob.common.protocols.fedopt import with_optimizer
from fedjob.common.quorum import Quorum
from fedjob.common.types import new_job_id
from fedjob.researcher.arguments import check_hook, travels
from fedjob.researcher.checked import (
    checked_guard,
    checked_items,
    checked_quorum,
    checked_resources,
    checked_watchers,
)
from fedjob.researcher.components import to_part
from fedjob.researcher.eachargs import checked_each
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.hooks import HOOKS
from fedjob.researcher.operation import read_args
from fedjob.researcher.selectors import SELECTORS
from fedjob.researcher.spec import JobSpec, Part, checked_rounds, checked_seconds, plain_args

_PLAIN = ("model_args", "training_args", "props")
_AS_GIVEN = (
    "name",
    "note",
    "project",
    "use",
    "seed",
    "validate_at_end",
    "keep",
    "rounds",
    "breakpoint_every",
    "keep_breakpoints",
    "max_tries",
)
_OTHERS = (
    "operation",
    "training_plan",
    "each",
    "data",
    "nodes",
    "quorum",
    "selector",
    "fold",
    "guard",
    "server_optimizer",
    "hooks",
    "items",
    "split",
    "artifacts",
    "resources",
    "watchers",
    "round_timeout_s",
    "every_s",
    "owner",
    "init",
)
CHANGEABLE = (*_AS_GIVEN, *_PLAIN, *_OTHERS)


def changed_spec(spec: JobSpec, plan_text: str, changes: Mapping[str, Any]) -> tuple[JobSpec, PlanSource]:
    """Return the spec of a clone, with a new id, and its plan.

    Args:
        changes: arguments of `Job` by name.

    Raises:
        SpecError: an argument that there is not, or a wrong value.
    """
    for name in changes:
        if name not in CHANGEABLE:
            near = get_close_matches(name, CHANGEABLE, 1)
            hint = f": did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(CHANGEABLE)}"
            raise SpecError(f"a clone has no argument {name!r} to change{hint}")
    source = PlanSource(plan_text, spec.plan_entry, spec.plan_hash)
    new: dict[str, Any] = {"id": new_job_id(), "cloned_from": spec.id}
    new |= {name: changes[name] for name in _AS_GIVEN if name in changes}
    new |= {name: plain_args(name, changes[name]) for name in _PLAIN if name in changes}
    if "training_plan" in changes:
        source = extract(changes["training_plan"])
        new |= {"plan_entry": source.entry, "plan_hash": source.sha256, "plans": {}}
    if {"operation", "server_optimizer"} & changes.keys():
        operation = changes.get("operation", PROTOCOLS.build(spec.protocol.name, spec.protocol.config))
        protocol = PROTOCOLS.build(operation, {}) if isinstance(operation, str) else operation
        name, config = PROTOCOLS.config_of(with_optimizer(protocol, changes.get("server_optimizer")))
        new["protocol"] = Part(name=name, config=config)
    if "each" in changes:
        new["each"] = checked_each(changes["each"])
    if "data" in changes or "nodes" in changes or "use" in changes:
        new |= {"datasets": {}, "files": ""}
    if "quorum" in changes:
        new["quorum"] = checked_quorum(changes["quorum"] or Quorum())
    if "selector" in changes:
        new["selector"] = to_part(SELECTORS, changes["selector"])
    if "fold" in changes:
        new["fold"] = None if changes["fold"] is None else to_part(FOLDS, changes["fold"])
    if "guard" in changes:
        new["guard"] = checked_guard(changes["guard"])
    if "hooks" in changes:
        hooks = [check_hook(hook) for hook in changes["hooks"]]
        new["hooks"] = [to_part(HOOKS, hook) for hook in hooks if travels(hook)]
    if "items" in changes:
        new["items"] = checked_items(changes["items"])
    if "split" in changes:
        new["split"] = check_split(changes["split"])
    if "artifacts" in changes:
        new["artifacts"] = {}
    if "resources" in changes:
        new["resources"] = checked_resources(changes["resources"])
    if "watchers" in changes:
        new["watchers"] = checked_watchers(changes["watchers"])
    if "round_timeout_s" in changes:
        new["round_timeout_s"] = checked_seconds("round_timeout_s", changes["round_timeout_s"])
    if "every_s" in changes:
        new["every_s"] = checked_seconds("every_s", changes["every_s"])
    if "rounds" in changes:
        new["rounds"] = checked_rounds(changes["rounds"])
    if "owner" in changes:
        new["owner"] = {**spec.owner, **plain_args("owner", changes["owner"])}
    clone = replace(spec, **new)
    if {"training_plan", "training_args", "each"} & changes.keys():
        for own in ({}, *clone.each.values()):
            read_args(source, merged_args(clone.training_args, own))
    return clone, source


def copy_definition(origin: JobFolder, folder: JobFolder, *, brought: bool) -> None:
    """Give a clone the files of its origin's definition: first parameters, plans, data that was brought.

    Raises:
        NoSuchJob: the origin is gone.
    """
    if not origin.spec.exists():
        raise NoSuchJob(f"job {origin.path.name} is not there any more: was it deleted?")
    link_or_copy(origin.initial_params, folder.initial_params)
    if (origin.path / "plans").is_dir():
        shutil.copytree(origin.path / "plans", folder.path / "plans", dirs_exist_ok=True)
    if brought and origin.brought.exists():
        link_or_copy(origin.brought, folder.brought)
