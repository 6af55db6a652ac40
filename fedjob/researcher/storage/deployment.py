"""The plans of a job at its nodes, one for all or a map, and the files that it sends along or that nodes have.

Each node gets the text of its own plan and of no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fedjob.common.checks import check_path, shown
from fedjob.common.codec import unpack
from fedjob.common.errors import BreakpointIncompatible, SpecError
from fedjob.common.files import make_folder, write_atomic
from fedjob.common.types import Ref, party_of
from fedjob.data.node_names import ByName, in_order
from fedjob.parameters.frozen import FROZEN
from fedjob.parameters.model_files import SHA256, ModelFile, check_model_file, check_model_name
from fedjob.repository.parts import ref_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

EVERYWHERE = "@all"
"""In a map of plans, every node that has none of its own."""


@dataclass(frozen=True, slots=True)
class Code:
    """The code that a node runs: a plan's text in the repository, and the class in it."""

    ref: Ref
    entry: str


@dataclass(frozen=True, slots=True)
class Enclosed:
    """The files that a job sends along, by the names under which they will be in the repository.

    Args:
        files: the data that the researcher brings; None for none.
        artifacts: by the names that the plan fetches them by.
        cost: node -> what the job moves and holds there, for its owner to see, see `Offer`; empty for not known.
    """

    files: Ref | None = None
    artifacts: Mapping[str, Ref] = field(default_factory=dict)
    cost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


Publish = Callable[[Path, str | None], Ref]


def publish_code(spec: JobSpec, folder: JobFolder, publish: Publish) -> Mapping[str, Code]:
    """Put the plans where their nodes can read them; return node -> code, empty where no plan is needed."""
    if not spec.plan_hash:
        return {}
    if not spec.plans:
        code = Code(publish(folder.plan, None), spec.plan_entry)
        return ByName(in_order(spec.datasets), lambda _: code)
    return {
        node: Code(publish(folder.plan_of(plan["hash"]), node), plan["entry"])
        for node in spec.datasets
        if (plan := plan_at(spec, node))
    }


def enclosed_with(spec: JobSpec, folder: JobFolder) -> Enclosed:
    """Return what a job's owners are asked to let in beside its plan, without publishing it.

    Raises:
        BreakpointIncompatible: a file is not in the job's folder.
    """
    return Enclosed(
        files=_ref_of(folder.brought) if spec.files else None,
        artifacts={name: _ref_of(folder.artifact_of(name)) for name in spec.artifacts},
        cost=unpack(folder.cost.read_bytes()) if folder.cost.exists() else {},
    )


def _ref_of(path: Path) -> Ref:
    try:
        found = path.stat()
    except OSError as error:
        raise BreakpointIncompatible(
            f"{path} is missing, which the job sends along: go on in the folder that the job was made in"
        ) from error
    return _hashed(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: Path, size_bytes: int, changed_ns: int) -> Ref:
    """Return the ref of a file; the same file is not read again each time that owners are asked."""
    return ref_of(path)


def model_files_of(models: object) -> dict[str, ModelFile]:
    """Return the files of `Job(models=...)`, each with its hash.

    Args:
        models: name -> path of a safetensors file, or the sha256 of one that this side does not have.

    Raises:
        SpecError: a name that is none, or no such file.
    """
    if models is None:
        return {}
    if not isinstance(models, Mapping):
        raise SpecError(f"models is a dict from names to safetensors files, not {shown(models)}")
    return {check_model_name(name): _model_file(str(name), path) for name, path in models.items()}


def _model_file(name: str, given: object) -> ModelFile:
    if isinstance(given, ModelFile):
        return given
    if isinstance(given, str) and SHA256.fullmatch(given):
        return ModelFile("", given)
    if not isinstance(given, (str, os.PathLike)):
        raise SpecError(
            f"models[{name!r}] is the path of a safetensors file, or the sha256 of one that this side does not have; found "
            f"{shown(given)}"
        )
    path = check_path(f"models[{name!r}]", given)
    try:
        check_model_file(path)
    except SpecError as error:
        raise SpecError(f"models[{name!r}]: {error}") from error
    return ModelFile(str(path.resolve()), _ref_of(path).sha256)


def link_models(files: Mapping[str, ModelFile], folder: JobFolder) -> None:
    """Name this side's files of models in a job's folder."""
    for name, file in files.items():
        if file.path:
            link = folder.model_of(name)
            make_folder(link.parent)
            link.symlink_to(file.path)


def model_files(spec: JobSpec, folder: JobFolder) -> dict[str, ModelFile]:
    """Return this side's files of a job's models, their bytes checked.

    Raises:
        BreakpointIncompatible: a file is not there any more, or another one.
    """
    found = {}
    for name, sha256 in spec.models.items():
        link = folder.model_of(name)
        if not link.is_symlink():
            found[name] = ModelFile("", sha256)
            continue
        path = link.readlink()
        if not path.is_file() or _ref_of(path).sha256 != sha256:
            raise BreakpointIncompatible(
                f"the model {name!r} of {spec.id} is not in {path} as it was, with sha256 {sha256[:16]}...: put it "
                "there again"
            )
        found[name] = ModelFile(str(path), sha256)
    return found


def frozen_file(spec: JobSpec, folder: JobFolder) -> Path | None:
    """Return the file of the frozen part of a job's model; None where everything travels."""
    path = folder.artifact_of(FROZEN)
    return path if FROZEN in spec.artifacts and path.exists() else None


def plan_at(spec: JobSpec, node: str) -> Mapping[str, str]:
    """Return `{entry, hash}` of what a node runs; empty for a node without a plan of its own in a map."""
    if not spec.plans:
        return {"entry": spec.plan_entry, "hash": spec.plan_hash}
    return spec.plans.get(node) or spec.plans.get(party_of(node)) or spec.plans.get(EVERYWHERE) or {}


def write_plans(folder: JobFolder, texts: Mapping[str, str]) -> None:
    """Keep the plans of single nodes in a job's folder, by their sha256."""
    for hash_, text in texts.items():
        path = folder.plan_of(hash_)
        make_folder(path.parent)
        write_atomic(path, text.encode())


def text_of(spec: JobSpec, folder: JobFolder, hash_: str) -> str:
    """Return the text of one of a job's plans, from its folder."""
    path = folder.plan if hash_ == spec.plan_hash else folder.plan_of(hash_)
    return path.read_bytes().decode()


PLAN_FILE = "plan_{}.py"


def plan_files(spec: JobSpec, folder: JobFolder) -> dict[str, Path]:
    """Return name -> file of the plans that a breakpoint has to hold beside the one of this side."""
    return {PLAN_FILE.format(plan["hash"]): folder.plan_of(plan["hash"]) for plan in spec.plans.values()}


def restore_plans(spec: JobSpec, folder: JobFolder, extras: Mapping[str, Path]) -> None:
    """Put the plans that a breakpoint held where a job keeps them."""
    for plan in spec.plans.values():
        held = extras.get(PLAN_FILE.format(plan["hash"]))
        if held is not None and not folder.plan_of(plan["hash"]).exists():
            write_plans(folder, {plan["hash"]: held.read_bytes().decode()})


def deployment(spec: JobSpec) -> dict[str, list[str]]:
    """Return plan -> nodes that it runs at, once these are known; a plan is written `Class@sha256`."""
    deployed: dict[str, list[str]] = {}
    for node in sorted(spec.datasets):
        plan = plan_at(spec, node)
        name = f"{plan['entry']}@{plan['hash']}" if plan.get("hash") else spec.protocol.name
        deployed.setdefault(name, []).append(node)
    return deployed
