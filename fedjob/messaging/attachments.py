"""The small files of parameters that a party attaches to its tasks, in place of putting them into the repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fedjob.common.errors import ObjectCorrupt
from fedjob.common.types import Ref
from fedjob.messaging.messages import MAX_ATTACHED_BYTES, Task, may_attach, named_params
from fedjob.repository.parts import ref_of

MAX_COPIES_BYTES = 1 << 20
"""Of one file to all nodes that get it: beyond that the repository takes it once, and each node fetches it."""


def is_attachable(size_bytes: int, copies: int) -> bool:
    """Return whether a file of parameters is small enough to be attached to a task of so many nodes."""
    return size_bytes <= MAX_ATTACHED_BYTES and size_bytes * copies <= MAX_COPIES_BYTES


@dataclass(frozen=True, slots=True)
class _AttachedFile:
    """A file that is attached.

    Args:
        node: that alone gets it; None for all.
        stored: its name in the repository, where it was put for tasks that had no room.
    """

    path: Path
    node: str | None
    stored: Ref | None = None


class Attachments:
    """The files that tasks are sent with; each is read when a task is sent, and none is held in memory but the last."""

    def __init__(self) -> None:
        self._sources: dict[Ref, _AttachedFile] = {}
        self._last: tuple[Ref, bytes] | None = None

    def add(self, path: Path, node: str | None, copies: int) -> Ref | None:
        """Return the ref of a file that will be attached to the tasks that name it; None where it is too large for that."""
        if not is_attachable(path.stat().st_size, copies):
            return None
        ref = ref_of(path)
        before = self._sources.get(ref)
        self._sources[ref] = _AttachedFile(path, node, None if before is None else before.stored)
        return ref

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._sources

    def move(self, ref: Ref, path: Path) -> None:
        """Take note that a file lies at another path from now on."""
        if ref in self._sources:
            self._sources[ref] = replace(self._sources[ref], path=path)

    def take_back(self, refs: Iterable[Ref]) -> list[Ref]:
        """Forget files that no task will name again; return those refs that are names in the repository."""
        stored = []
        for ref in refs:
            source = self._sources.pop(ref, None)
            if source is None:
                stored.append(ref)
            elif source.stored is not None:
                stored.append(source.stored)
        return stored

    def not_stored(self, task: Task) -> list[tuple[Ref, Path, str | None]]:
        """Return what a task names and is in no repository: ref, file, and the node that gets it."""
        named = [ref for ref in named_params(task).values() if ref in self._sources]
        sources = {ref: self._sources[ref] for ref in named}
        return [(ref, source.path, source.node) for ref, source in sources.items() if source.stored is None]

    def note_stored(self, ref: Ref, stored: Ref) -> None:
        """Take note that a file was put into the repository after all."""
        self._sources[ref] = replace(self._sources[ref], stored=stored)

    def attach(self, task: Task) -> Task | None:
        """Return a task with the bytes of its files; None where it has no room for them.

        Raises:
            ObjectCorrupt: a file is not what it was.
        """
        if not may_attach(task):
            return None
        named = {sha256: ref for sha256, ref in named_params(task).items() if ref in self._sources}
        return replace(task, attached={sha256: self._content(ref) for sha256, ref in named.items()})

    def refer(self, task: Task) -> Task:
        """Return a task with the names of its files in the repository, for those that are there."""
        named = [ref for ref in task.params.values() if ref in self._sources]
        stored = {ref: self._sources[ref].stored or ref for ref in named}
        return replace(task, params={name: stored.get(ref, ref) for name, ref in task.params.items()})

    def _content(self, ref: Ref) -> bytes:
        if self._last is None or self._last[0] != ref:
            path = self._sources[ref].path
            content = path.read_bytes()
            if ref_of(content) != ref:
                raise ObjectCorrupt(
                    f"{path} was changed after it was taken as the parameters {ref.sha256}: resume the job from its "
                    "newest breakpoint"
                )
            self._last = ref, content
        return self._last[1]
