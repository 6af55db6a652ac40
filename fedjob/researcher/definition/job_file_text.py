"""A draft's definition as the text of a `job.json`, which `Job.from_json` and `fedjob job submit` read back.

Plans and functions stand in it as their extracted text, so that it is whole. What is
no text can't be in it: first parameters that were given, data that are brought, files that
are sent along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import Any

from fedjob.common.codec import to_plain
from fedjob.common.errors import SpecError
from fedjob.common.registry import Registry
from fedjob.common.types import ENDLESS
from fedjob.parameters.files import FileParams
from fedjob.parameters.frozen import FROZEN, read_frozen
from fedjob.researcher.definition.arguments import IN_FILE, TextOf
from fedjob.researcher.definition.deploy_map import RESEARCHER
from fedjob.researcher.definition.initial_params import first_params, left_out
from fedjob.researcher.storage.deployment import frozen_file, text_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import Component, JobSpec
from fedjob.training_plans.source.compilation import built_plan
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash


def job_json(spec: JobSpec, folder: JobFolder, asked: Mapping[str, Any]) -> str:
    """Return the text of a file that defines an equal job.

    Args:
        asked: the job's `data`, `nodes` and `as_node`, as they were given.

    Raises:
        SpecError: the job brings data, sends files along, or was given first parameters.
    """
    if spec.simulation:
        raise SpecError(
            "a job's file can't hold simulated nodes: use job.clone(), or nodes=simulate(...) anew"
        )
    if spec.files:
        raise SpecError(
            "a job's file can't hold the data that a job brings: use job.clone(), or give data anew"
        )
    if spec.artifacts.keys() - {FROZEN} or spec.models:
        raise SpecError(
            "a job's file can't hold the files that a job sends along, nor those of models: use job.clone()"
        )
    plan = built_plan(
        folder.plan.read_bytes().decode(), spec.plan_entry, spec.model_args, spec.training_args, spec.seed
    )
    frozen = frozen_file(spec, folder)
    kept = {**({} if frozen is None else read_frozen(frozen).sent), **FileParams(folder.initial_params)}
    if frozen is not None:
        left_out(None, plan)
        first = {**plan.frozen_part().sent, **first_params(None, plan)}
    else:
        first = dict(first_params(None, plan))
    if not _equal(first, kept):
        raise SpecError("a job's file can't hold first parameters: use job.clone(), or leave init out")
    return json.dumps(_definition(spec, asked, partial(text_of, spec, folder)), indent=1) + "\n"


def _definition(spec: JobSpec, asked: Mapping[str, Any], text: TextOf) -> dict[str, Any]:
    plain: dict[str, Any] = {"operation": _operation(spec, text)}
    if spec.plan_hash and spec.protocol.name != "function":
        plain["training_plan"] = _plans(spec, text)
    plain |= {name: value for name in ("data", "nodes") if (value := asked.get(name)) is not None}
    if spec.local:
        plain["as_node"] = asked.get("as_node")
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name in IN_FILE and value != _default(field):
            plain[field.name] = to_plain(value)
    if spec.rounds == ENDLESS:
        plain["rounds"] = None
    return plain


def read_code(value: Any) -> PlanSource | None:
    """Return the plan or function whose text stands in a job's file; None where it names a file.

    Raises:
        SpecError: it is something else.
    """
    if not isinstance(value, Mapping) or "text" not in value:
        return None
    match dict(value):
        case {"entry": str(entry), "text": str(text), **rest} if not rest:
            return PlanSource(text, entry, plan_hash(text))
    raise SpecError(
        f"code in a job's file is {{'entry': name, 'text': ...}}; found {', '.join(map(str, value))}"
    )


def read_part(registry: Registry[Any], value: Any) -> Any:
    """Return a component that a job's file describes: by its name, with its configuration, or by its text.

    Raises:
        SpecError: it describes none.
    """
    if not isinstance(value, Mapping):
        return value
    part = {key: item for key, item in value.items() if item}
    if (code := read_code(part)) is not None:
        return code
    if set(part) - {"name", "config"} or not isinstance(part.get("name"), str):
        raise SpecError(
            f"a {registry.kind} is its name, or {{'name': ..., 'config': {{...}}}}; found {dict(value)!r}"
        )
    return registry.build(part["name"], part.get("config", {}))


def _equal(first: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    return first.keys() == kept.keys() and all(bool((first[name] == kept[name]).all()) for name in first)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _code(entry: str, hash_: str, text: TextOf) -> dict[str, str]:
    return {"entry": entry, "text": text(hash_)}


def _operation(spec: JobSpec, text: TextOf) -> Any:
    if spec.protocol.name == "function":
        return _code(spec.plan_entry, spec.plan_hash, text)
    return _part(spec.protocol)


def _part(part: Component) -> dict[str, Any]:
    return (
        {"entry": part.entry, "text": part.text} if part.text else {"name": part.name, "config": part.config}
    )


def _plans(spec: JobSpec, text: TextOf) -> Any:
    own = _code(spec.plan_entry, spec.plan_hash, text)
    if not spec.plans:
        return own
    each = {node: _code(plan["entry"], plan["hash"], text) for node, plan in spec.plans.items()}
    return {"server": {"plan": own, "nodes": [RESEARCHER]}, **each}
