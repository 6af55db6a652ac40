"""Which nodes are still at work when an ask is closed, and what becomes of that in the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedjob.common.messages import Task
from fedjob.common.protocols.base import Ask
from fedjob.common.types import Ref
from fedjob.researcher.breakpoints import states_at
from fedjob.researcher.federation import Collected, Federation, Place
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.position import Position, UnderWay
from fedjob.researcher.underway import hold, inputs_of, refs_of


@dataclass
class Overtime:
    """The work of a job that goes on over rounds.

    Args:
        publish: `(file, node) -> ref`, for one node alone.
        sources: what was published for the tasks of this ask.
    """

    folder: JobFolder
    federation: Federation
    publish: Callable[[Path, str], Ref]
    sources: dict[Ref, Path | bytes] = field(default_factory=dict)
    _at_hub: set[Ref] = field(default_factory=set)

    def waited_for(self, ask: Ask, position: Position) -> dict[str, UnderWay]:
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
        self, waiting: Mapping[str, UnderWay], named: Mapping[str, Collection[str]]
    ) -> dict[str, Task]:
        """Return the tasks of nodes that are still at work; to be told again changes nothing there.

        Args:
            named: node -> ids of the node states that kept breakpoints name.
        """
        for node, work in waiting.items():
            for ref in inputs_of(work.task):
                if ref not in self._at_hub:  # a run before this one put it there
                    self.publish(self.folder.held / ref.sha256, node)
        return {
            node: replace(work.task, keep_states=states_at(named, node)) for node, work in waiting.items()
        }

    def goes_on(
        self, place: Place, tasks: Mapping[str, Task], collected: Collected, position: Position
    ) -> dict[str, UnderWay]:
        """Return who is at work on what after an ask; its files are kept, those of others go."""
        if place.keep:
            under_way = {
                node: UnderWay(round=place.round_of(node), task=tasks[node]) for node in collected.busy
            }
        else:  # whoever was asked something new has given up what was before
            under_way = {node: work for node, work in position.under_way.items() if node not in tasks}
        hold(self.folder, under_way.values(), self.sources)
        self._at_hub = refs_of(under_way.values())
        for ref in self._at_hub:
            self.federation.moved(ref, self.folder.held / ref.sha256)
        return under_way
