"""A clone: a new definition from a job that exists, with every argument kept but those that are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from fedjob.common.config import load_config
from fedjob.common.errors import NoSuchJob, SpecError
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.definition.arguments import CHANGEABLE, OWNER, JobArguments
from fedjob.researcher.definition.job_definition import Defined, define
from fedjob.researcher.storage.deployment import frozen_file, model_files, text_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import load_record
from fedjob.researcher.storage.spec import load_spec

NEW_PARAMS = frozenset({"init", "training_plan", "model_args", "seed", "models", "share"})
"""Arguments that a job's first parameters follow from."""


def define_clone(origin: JobFolder, here: Mapping[str, Any], changes: Mapping[str, Any]) -> Defined:
    """Return the definition of a clone, with an id of its own.

    Args:
        here: arguments as this process has them, whose objects say more than the origin's folder does.
        changes: arguments of `Job` by name.

    Raises:
        SpecError: an argument that there is not, or a wrong value.
        NoSuchJob: the origin is gone.
    """
    check_changes(changes)
    if not origin.spec.exists():
        raise NoSuchJob(f"{origin.path.name} is not there any more: was it deleted?")
    spec, record = load_spec(origin.spec), load_record(origin.record)
    given = {**here, **changes}
    # those of the clone, because the origin's data need not fit the clone's nodes
    own: dict[str, Any] = {name: given[name] for name in ("data", "nodes") if name in given}
    before = JobArguments.of(spec, {**record.asked, **own}, partial(text_of, spec, origin))
    settings = load_config(ResearcherConfig, origin.path.parent.parent)
    # a clone keeps its origin's description of the owner, whatever the home's settings are by now
    described: dict[str, Any] = {f"owner_{key}": spec.owner.get(key, "") for key in OWNER}
    settings = replace(settings, **described)
    arguments = replace(before, **{**here, "keep_files_dir": record.keep_files or None, **changes})
    defined = define(arguments, settings)
    kept: dict[str, Any] = {
        "cloned_from": spec.id,
        "researcher": spec.researcher,
        "owner_key": spec.owner_key,
        "federation": spec.federation,
        "learned": defined.spec.learned or spec.learned,
        "artifacts": spec.artifacts,
        "files": "" if "data" in changes else spec.files,
        "models": defined.spec.models if "models" in changes else spec.models,
        "datasets": {} if {"data", "nodes", "use"} & changes.keys() else spec.datasets,
    }
    return replace(
        defined,
        spec=replace(defined.spec, **kept),
        models=defined.models if "models" in changes else model_files(spec, origin),
        frozen=None if NEW_PARAMS & changes.keys() else frozen_file(spec, origin),
    )


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse what a clone can't be given.

    Raises:
        SpecError: an argument that there is not; the nearest is named.
    """
    for name in changes:
        if name not in CHANGEABLE:
            near = get_close_matches(name, CHANGEABLE, 1)
            hint = f": did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(CHANGEABLE)}"
            raise SpecError(f"a clone has no argument {name!r} to change{hint}")
