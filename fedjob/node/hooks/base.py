"""The interface of a node's hooks, by which its owner observes tasks without changing them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedjob.common.lifecycle import moment_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """One fact about a task.

    Args:
        type: `state`, `batch`, `result`, `progress`, `metrics`, or a type of the plan's own.
        time: seconds since 1970.
        body: as the researcher receives it; for a completed task also `num_examples`.
    """

    type: str
    time: float
    body: Mapping[str, Any]

    @property
    def moment(self) -> str:
        """The moment of the task's life: `task.started`, `task.finished`, `batch.done`, or empty."""
        return moment_of(self.type, self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskHandle:
    """The task that an event is about.

    Args:
        folder: the node's folder for files that hooks write.
        parent: key of the task that launched this one; empty for none.
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
    """A hook: a frozen dataclass whose fields are text, with defaults.

    It runs in the daemon on a thread of its own, one event after another: it may block, and an error that it
    raises is logged and has no other effect.
    """

    name: ClassVar[str]

    @abstractmethod
    def event(self, event: NodeEvent, task: TaskHandle) -> None:
        """See an event."""
