"""What a node's hook is: a function of the owner's that sees what happens to tasks, and changes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.moments import moment_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """One fact about a task.

    Args:
        type: `state`, `batch`, `result`, `progress`, `metrics`, or a plan's own.
        time: seconds since 1970.
        body: as researchers hear it; of a task that is completed `num_examples` too.
    """

    type: str
    time: float
    body: Mapping[str, Any]

    @property
    def moment(self) -> str:
        """`task.started`, `task.finished`, `batch.done`, or empty."""
        return moment_of(self.type, self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskHandle:
    """The task that an event is about.

    Args:
        folder: of the node's hooks, to write to.
        parent: key of the task that launched it; empty for none.
    """

    key: str
    job: str
    job_name: str
    project: str
    researcher: str
    dataset: str
    round: int
    step: str
    state: str
    node: str
    folder: Path
    parent: str = ""


class NodeHook(ABC):
    """A frozen dataclass whose fields are text, with defaults.

    It runs in the daemon on a thread of its own, one event after another: it may wait, and what it
    raises is logged and changes nothing.
    """

    name: ClassVar[str]

    @abstractmethod
    def event(self, event: NodeEvent, task: TaskHandle) -> None:
        """See an event."""
