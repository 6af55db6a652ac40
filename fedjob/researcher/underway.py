"""Work that goes on over rounds: the tasks that nodes are still at, and what these are computed from.

A task names its parameters by hash. The file stays in the job's folder, and at the
hub, for as long as a node is at work on it; a breakpoint takes it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedjob.common.durable import link_or_copy, write_atomic
from fedjob.common.messages import Task
from fedjob.common.types import Ref
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.position import UnderWay

_HELD = "held_"


def refs_of(under_way: Iterable[UnderWay]) -> set[Ref]:
    """Return the objects that tasks are computed from, but for the plan and what was brought."""
    return {ref for work in under_way for ref in inputs_of(work.task)}


def inputs_of(task: Task) -> tuple[Ref, ...]:
    """Return the objects of a task's instruction."""
    return (*task.params.values(), *task.blobs.values())


def hold(folder: JobFolder, under_way: Iterable[UnderWay], sources: Mapping[Ref, Path | bytes]) -> None:
    """Keep the files that tasks under way are computed from, and drop those of others.

    Args:
        sources: what was published for the tasks of this ask; the others are held already.
    """
    wanted = {ref.sha256: ref for ref in refs_of(under_way)}
    if not wanted and not folder.held.exists():
        return
    folder.held.mkdir(exist_ok=True)
    for path in folder.held.iterdir():
        if path.name not in wanted:
            path.unlink()
    for sha256, ref in wanted.items():
        path, source = folder.held / sha256, sources.get(ref)
        if path.exists() or source is None:
            continue
        if isinstance(source, bytes):
            write_atomic(path, source)
        else:
            link_or_copy(source, path)


def held_files(folder: JobFolder, under_way: Iterable[UnderWay]) -> dict[str, Path]:
    """Return name -> file of what a breakpoint takes along."""
    found = {ref.sha256: folder.held / ref.sha256 for ref in refs_of(under_way)}
    return {f"{_HELD}{sha256}": path for sha256, path in found.items() if path.exists()}


def restore_held(folder: JobFolder, extras: Mapping[str, Path]) -> None:
    """Put what a breakpoint took along where unfinished tasks find it."""
    for name, source in extras.items():
        if name.startswith(_HELD):
            folder.held.mkdir(exist_ok=True)
            path = folder.held / name.removeprefix(_HELD)
            if not path.exists():
                link_or_copy(source, path)
