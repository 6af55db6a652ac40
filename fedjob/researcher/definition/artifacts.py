"""Files that a job sends along for its plan, `Job(..., artifacts={"model": result})`; nodes fetch them by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedjob.common.checks import shown
from fedjob.common.errors import BreakpointIncompatible, SpecError
from fedjob.common.files import copy_file, link_or_copy, make_folder
from fedjob.common.types import Ref
from fedjob.researcher.results.artifact import Artifact
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def keep_artifacts(artifacts: Mapping[str, Any] | None, folder: JobFolder) -> dict[str, str]:
    """Put the files into the job's folder, and return name -> sha256.

    Args:
        artifacts: name -> a path, an artifact of a result, or a result for its main one.

    Raises:
        SpecError: a name that is none, or no file there.
    """
    kept: dict[str, str] = {}
    if artifacts is not None and not isinstance(artifacts, Mapping):
        raise SpecError(f"artifacts is a dict from names to files or results, not {shown(artifacts)}")
    for name, source in (artifacts or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpecError(f"an artifact is named by letters, digits, '_', '.' and '-'; found {shown(name)}")
        target = folder.artifact_of(name)
        make_folder(target.parent)
        if isinstance(source, (str, Path)):
            copy_file(_file_of(name, source), target)  # a file of the user's, who may write to it
        else:
            link_or_copy(_file_of(name, source), target)
        kept[name] = hash_file(target)
    return kept


def _file_of(name: str, source: Any) -> Path:
    if isinstance(source, JobResult):
        source = source.artifact
    path = source.check() if isinstance(source, Artifact) else source
    if not isinstance(path, (str, Path)) or not Path(path).expanduser().is_file():
        raise SpecError(f"artifacts[{name!r}] is a file, an artifact or a result; found {source!r:.200}")
    return Path(path).expanduser()


def copy_artifacts(names: Iterable[str], origin: JobFolder, folder: JobFolder) -> None:
    """Give a clone files of its origin."""
    for name in names:
        make_folder(folder.artifact_of(name).parent)
        link_or_copy(origin.artifact_of(name), folder.artifact_of(name))


def publish_artifacts(spec: JobSpec, folder: JobFolder, publish: Callable[[Path], Ref]) -> dict[str, Ref]:
    """Put the files where nodes can read them.

    Raises:
        BreakpointIncompatible: they are not in the folder that the job goes on in.
    """
    refs = {}
    for name, sha256 in spec.artifacts.items():
        path = folder.artifact_of(name)
        if not path.exists() or hash_file(path) != sha256:
            raise BreakpointIncompatible(
                f"the artifact {name!r} of {spec.id} is not in {folder.path} as it was: go on in the folder "
                "that the job was made in"
            )
        refs[name] = publish(path)
    return refs
