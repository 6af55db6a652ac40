"""The tasks that are unfinished when an ask is closed, kept for the asks that wait for them.

A task names its parameters by hash. The file stays in the job's folder, and at the
hub, for as long as a node is at work on it; a breakpoint takes it along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedjob.common.files import link_or_copy, make_folder, write_atomic
from fedjob.common.types import Ref
from fedjob.messaging.messages import Task, keyless_task, with_refs
from fedjob.protocols.base import Ask
from fedjob.researcher.federation.base import AskContext, Collected, Federation
from fedjob.researcher.storage.breakpoints import states_at
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position, UnfinishedTask


@dataclass
class UnfinishedTasks:
    """The work of a job that goes on over rounds.

    Args:
        publish, attach: `(file, node) -> ref`, for one node alone; the latter for parameters.
        sources: what was published for the tasks of this ask.
    """

    folder: JobFolder
    federation: Federation
    publish: Callable[[Path, str], Ref]
    attach: Callable[[Path, str], Ref]
    sources: dict[Ref, Path | bytes] = field(default_factory=dict)
    _at_hub: dict[Ref, Ref] = field(default_factory=dict)
    """Of what tasks under way are computed from: content -> as it was published."""

    def names(self, ref: Ref) -> bool:
        """Tell whether a task of this ask, or one under way, was computed from an object."""
        return ref in self.sources or ref in self._at_hub or ref in self._at_hub.values()

    def waited_for(self, ask: Ask, position: Position) -> dict[str, UnfinishedTask]:
        """Return node -> the work of earlier rounds that an ask waits for; its files are all here."""
        self.sources = {}
        if ask.late == "drop":
            return {}
        return {
            node: work
            for node, work in position.under_way.items()
            if node in self.federation.num_rows
            and all((self.folder.held / ref.sha256).exists() for ref in inputs_of(work.task))
        }

    def asked_again(
        self,
        waiting: Mapping[str, UnfinishedTask],
        named: Mapping[str, Collection[str]],
        sent_along: Iterable[Ref] = (),
    ) -> dict[str, Task]:
        """Return the tasks of nodes that are still at work; a repeated task changes nothing there.

        Args:
            named: node -> ids of the node states that kept breakpoints name.
            sent_along: plans, brought data and artifacts, as they are published.
        """
        for node, work in waiting.items():
            for ref in inputs_of(work.task):
                if ref not in self._at_hub:  # a run before this one put it there
                    give = self.attach if ref in work.task.params.values() else self.publish
                    self._at_hub[ref] = give(self.folder.held / ref.sha256, node)
        known = {**{ref: ref for ref in sent_along}, **self._at_hub}
        return {
            node: replace(
                with_refs(work.task, lambda ref: known.get(ref, ref)), keep_states=states_at(named, node)
            )
            for node, work in waiting.items()
        }

    def goes_on(
        self, place: AskContext, tasks: Mapping[str, Task], collected: Collected, position: Position
    ) -> dict[str, UnfinishedTask]:
        """Return node -> its unfinished task after an ask; their files are kept, those of other tasks are deleted."""
        if place.keep:
            under_way = {
                node: UnfinishedTask(round=place.round_of(node), task=keyless_task(tasks[node]))
                for node in collected.busy
            }
        else:  # a node that got a new task has given up the one before
            under_way = {node: work for node, work in position.under_way.items() if node not in tasks}
        hold(self.folder, under_way.values(), self.sources)
        published = self._at_hub | {ref: ref for task in tasks.values() for ref in inputs_of(task)}
        self._at_hub = {ref: published[ref] for ref in refs_of(under_way.values()) if ref in published}
        for ref in refs_of(under_way.values()):
            self.federation.moved(ref, self.folder.held / ref.sha256)
        return under_way


_HELD = "held_"


def refs_of(under_way: Iterable[UnfinishedTask]) -> set[Ref]:
    """Return the objects that tasks are computed from, except the plan and the data that the researcher brings."""
    return {ref for work in under_way for ref in inputs_of(work.task)}


def inputs_of(task: Task) -> tuple[Ref, ...]:
    """Return the objects of a task's instruction."""
    return (*task.params.values(), *task.blobs.values())


def hold(folder: JobFolder, under_way: Iterable[UnfinishedTask], sources: Mapping[Ref, Path | bytes]) -> None:
    """Keep the files that tasks under way are computed from, and drop those of others.

    Args:
        sources: what was published for the tasks of this ask; the others are held already.
    """
    wanted = {ref.sha256: ref for ref in refs_of(under_way)}
    if not wanted and not folder.held.exists():
        return
    make_folder(folder.held)
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


def held_files(folder: JobFolder, under_way: Iterable[UnfinishedTask]) -> dict[str, Path]:
    """Return name -> file of the inputs that a breakpoint takes along."""
    found = {ref.sha256: folder.held / ref.sha256 for ref in refs_of(under_way)}
    return {f"{_HELD}{sha256}": path for sha256, path in found.items() if path.exists()}


def restore_held(folder: JobFolder, extras: Mapping[str, Path]) -> None:
    """Put the inputs that a breakpoint took along where unfinished tasks find them."""
    for name, source in extras.items():
        if name.startswith(_HELD):
            make_folder(folder.held)
            path = folder.held / name.removeprefix(_HELD)
            if not path.exists():
                link_or_copy(source, path)
