"""A draft: a definition that is written to its job's folder, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjob.common.errors import ConfigError, FedjobError
from fedjob.common.files import fsync_dir, link_or_copy, make_folder, new_folder, remove_folder, write_atomic
from fedjob.parameters.frozen import FROZEN, FrozenPart, save_frozen
from fedjob.privacy.protect import RecordDP, dp_of
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.definition.artifacts import copy_artifacts, keep_artifacts
from fedjob.researcher.definition.brought_data import bring
from fedjob.researcher.definition.initial_params import check_first, first_params, left_out, write_first
from fedjob.researcher.definition.job_definition import Defined, content_hash
from fedjob.researcher.simulation.datasets import SIMULATED, GivenData, link_data
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.deployment import link_models, write_plans
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord, load_record, utc_now
from fedjob.researcher.storage.spec import TRAINABLE, JobSpec
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.plan_checks import check_driven


def write_draft(
    folder: JobFolder,
    defined: Defined,
    plan: Callable[[], Any],
    origin: JobFolder | None = None,
    *,
    same_params: bool = False,
) -> JobSpec:
    """Write a new job's folder, and return its spec, which names what lies in there.

    Args:
        plan: builds the plan of this side; it returns None for a job without one.
        origin: of a clone: what its definition does not say anew is taken from there.
        same_params: the first parameters are the origin's.

    Raises:
        SpecError: the first parameters do not fit, or a file is not there.
        ConfigError: the folder can't be written.
    """
    built = plan()
    if isinstance(built, TrainingPlan) and isinstance(dp_of(defined.spec.protect), RecordDP):
        check_driven(type(built))
        built.check_private()
    if isinstance(built, TrainingPlan) and _trains(defined.spec):
        built.check_trained(thaws=defined.spec.share != TRAINABLE)
    part = None
    if not same_params and defined.frozen is None and defined.spec.share == TRAINABLE:
        part = left_out(defined.init, built)
    params = None if same_params else first_params(defined.init, built, () if part is None else part.names)
    try:
        with new_folder(folder.path):
            folder.create()
            spec = _with_files(folder, defined, origin, part)
            if params is not None:
                write_first(params, plan(), folder.initial_params)
            elif origin is not None:
                link_or_copy(origin.initial_params, folder.initial_params)
            check_first(spec, folder.initial_params, trained=params is not None and _trains(spec))
            write_atomic(folder.plan, defined.source.text.encode())
            write_plans(folder, defined.plans)
            spec.save(folder.spec)
            _first_record(folder, defined, spec, cloned=origin is not None).save(folder.record)
    except OSError as error:
        if isinstance(error, FedjobError):
            raise
        raise ConfigError(f"can't write the job's folder {folder.path}: {error}") from error
    return spec


def _trains(spec: JobSpec) -> bool:
    """Tell whether nodes train a plan's model for certain: a protocol of the researcher's own may only apply it."""
    return issubclass(PROTOCOLS.find(spec.protocol.name), TrainingProtocol) and spec.rounds > 0


def _with_files(
    folder: JobFolder, defined: Defined, origin: JobFolder | None, part: FrozenPart | None
) -> JobSpec:
    """Put what is brought and what is sent along into the folder, and return the spec with their hashes.

    Args:
        part: the frozen part of the model, where it is not in a file yet.
    """
    spec, artifacts = defined.spec, defined.arguments.artifacts
    link_models(defined.models, folder)
    own = {name: sha256 for name, sha256 in spec.artifacts.items() if name != FROZEN}
    spec = replace(spec, artifacts={**own, **_kept_frozen(folder, defined.frozen, part)})
    if defined.brought is not None:
        spec = replace(spec, files=bring(defined.brought, folder))
    elif origin is not None and spec.files:
        link_or_copy(origin.brought, folder.brought)
    if isinstance(defined.data, GivenData):
        defined.data.write(folder.simulated)
    elif origin is not None and isinstance(defined.data, Mapping) and SIMULATED in defined.data:
        link_data(origin.simulated, folder.simulated)
    if artifacts is not None:
        kept = {name: sha256 for name, sha256 in spec.artifacts.items() if name == FROZEN}
        return replace(spec, artifacts={**keep_artifacts(artifacts, folder), **kept})
    if origin is not None:
        copy_artifacts(own, origin, folder)
    return spec


def _kept_frozen(folder: JobFolder, file: Path | None, part: FrozenPart | None) -> dict[str, str]:
    """Put the frozen part of a model among what the job sends along, and return its name with its hash."""
    if file is None and part is None:
        return {}
    target = folder.artifact_of(FROZEN)
    make_folder(target.parent)
    if file is not None:
        link_or_copy(file, target)
    elif part is not None:
        save_frozen(part, target)
    return {FROZEN: hash_file(target)}


def _first_record(folder: JobFolder, defined: Defined, spec: JobSpec, *, cloned: bool) -> JobRecord:
    arguments = defined.arguments
    # a clone's first parameters count in any case: they may come from far back
    init_hash = hash_file(folder.initial_params) if cloned or defined.init is not None else ""
    keep_files = arguments.keep_files_dir
    return JobRecord(
        rounds=spec.rounds,
        created=utc_now(),
        asked=defined.asked,
        content_hash=content_hash(spec, seed=arguments.seed, asked=defined.asked, init_hash=init_hash),
        keep_files="" if keep_files is None else str(Path(keep_files).expanduser().resolve()),
    )


def name_origin(folder: JobFolder, submitted_from: str) -> None:
    """Record the folder or archive that a draft was defined in; empty for none."""
    if submitted_from:
        replace(load_record(folder.record), submitted_from=submitted_from).save(folder.record)


def move_draft(folder: JobFolder, target: JobFolder) -> JobFolder:
    """Move a draft to another home, which may lie on another file system; return its folder there.

    Raises:
        ConfigError: the other home can't be written; the draft is where it was.
    """
    half = target.path.with_name(f".{target.path.name}.tmp")
    try:
        make_folder(target.path.parent)
        try:
            os.rename(folder.path, target.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with new_folder(half):
                shutil.copytree(folder.path, half, symlinks=True, dirs_exist_ok=True)
                os.rename(half, target.path)
            fsync_dir(target.path.parent)
            remove_folder(folder.path)
    except OSError as error:
        raise ConfigError(
            f"can't move the job's folder to {target.path}: {error.strerror or error}"
        ) from error
    return target
