"""The interface to the nodes of a job: remote nodes and sites in this very process answer alike."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedjob.common.errors import FedjobError
from fedjob.common.lifecycle import State
from fedjob.common.quorum import Quorum
from fedjob.common.types import Ref
from fedjob.messaging.messages import Event, Message, Result, Task
from fedjob.metrics.states import value
from fedjob.protocols.base import Buffered
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.replies import Arrival

Write = Callable[[Callable[[int], object]], None]
"""Write a file from its beginning to its end; call what is given with the number of bytes that are there by now."""

MAX_PARAMS_BYTES = 64 << 30
MAX_VALUE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySizes:
    """The most bytes that one node's answer may have; what says to be larger is not fetched.

    Args:
        params: of its file of tensors; 0 where none was asked for.
        value: of its plain value and metrics.
    """

    params: int = MAX_PARAMS_BYTES
    value: int = MAX_VALUE_BYTES

    def problem(self, result: Result) -> str:
        """Return why what a result refers to is not fetched (`reason: detail`), or nothing."""
        if result.params is not None and not self.params:
            return f"bad_names: {result.params.size_bytes} bytes of tensors came back, none were asked for"
        if result.params is not None and result.params.size_bytes > self.params:
            return (
                f"too_large: {result.params.size_bytes} bytes of tensors announced, at most {self.params} were "
                "asked for"
            )
        if result.blob is not None and result.blob.size_bytes > self.value:
            return (
                f"too_large: {result.blob.size_bytes} bytes of value and metrics announced, at most {self.value} "
                "were asked for: if the plan sends so much, raise Guard(max_value_mb=...)"
            )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskContext:
    """The place of an ask in its job: the round, the step, and the folder for what arrives.

    Args:
        spool: an existing folder for what arrives.
        asked: node -> round of the node's task, where that is an earlier one.
        keep: nodes that are not done when the ask is closed go on with their tasks.
        at_work: nodes that may still answer what they were asked before: whose answer is needed is asked again.
        sizes: of what may come back.
    """

    job: str
    round: int
    step: str
    spool: Path
    asked: Mapping[str, int] = field(default_factory=dict)
    keep: bool = False
    at_work: frozenset[str] = frozenset()
    sizes: ReplySizes = field(default_factory=ReplySizes)

    def round_of(self, node: str) -> int:
        """Return the round that a node's task is of."""
        return self.asked.get(node, self.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The answers that count, and the reasons why the other nodes' do not.

    Args:
        parts: node -> the answer of a node that is left out because its owner allowed only a part of the task.
        order: the nodes that count, in the order in which their answers came in.
        busy: nodes that go on with their tasks.
        away: nodes that showed no sign of life; the next ask does not wait for them as long.
    """

    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Arrival] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    away: frozenset[str] = frozenset()


Accept = Callable[[Arrival], str]
"""Return why an arrival does not count (`reason: detail`), or nothing."""


def is_completion(message: Message) -> bool:
    """Return whether a message reports a task as completed; the answer itself may still be on its way."""
    body = message.body
    return isinstance(body, Event) and body.type == "state" and body.data.get("state") == State.COMPLETED


class Gates(Protocol):
    """The part of the runner that a federation uses on the way to the first round: record, states, and the slot."""

    record: JobRecord
    """The job's record as it stands; changed by `enter` and `update` only."""

    folder: JobFolder
    """The job's folder."""

    def enter(self, state: State, reason: str = "", detail: str = "") -> None:
        """Put the job into a state: write its record and add an event."""

    def update(self, **changes: Any) -> None:
        """Change other fields of the job's record."""

    def await_slot(self) -> None:
        """Wait until this job is one of those that may run on this home; at once if it is already."""

    def leave_slot(self) -> None:
        """Let another job of this home run while this one can't."""

    def check(self) -> None:
        """Raise what ends the job, if somebody asked for its end; called at least every second."""


class PostponedWork:
    """The work that waits until nodes compute, see `Federation.when_asked`, in the order in which it came."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def add(self, work: Callable[[], None]) -> None:
        """Let some work wait."""
        self._waiting.append(work)

    def do(self) -> None:
        """Do all that waits."""
        while self._waiting:
            self._waiting.pop(0)()


class Federation(ABC):
    """Nodes that can be asked.

    Attributes:
        num_rows: node -> registered size of its dataset, None if unknown; the keys are the nodes.
    """

    num_rows: Mapping[str, int | None]

    @abstractmethod
    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None:
        """Reach the nodes and wait until enough of their owners allow the job, and enough of them can start.

        Args:
            code: node -> the plan that it is to run, published; empty for a protocol without one.
            gates: enters `queued` (and `waiting` again) and gives the slot.

        Raises:
            JobFailed: too few do; the job's final state has been entered then.
        """

    @abstractmethod
    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        """Make bytes available to all nodes of the job, or to one alone."""

    def attach(self, path: Path, node: str | None = None) -> Ref:
        """Have a file of parameters go to nodes with the tasks that name it: as a part of them, or published.

        Args:
            path: where it stays until it is forgotten, or `moved`.
        """
        return self.publish(path, node)

    def attach_growing(self, path: Path, size_bytes: int, write: Write) -> Ref:
        """Have a new file of parameters go to all nodes, as `attach` does, perhaps while it is being written.

        Nothing of it stays published where the writing fails. No node is told of it before this returns.

        Args:
            size_bytes: that it will have.
            write: writes it from its first byte to its last, and calls back with how many bytes are there.

        Raises:
            Exception: that of `write`.
        """
        write(lambda written: None)
        return self.attach(path)

    def is_published(self, ref: Ref) -> bool:
        """Return whether what `attach` returned is the name of a published object."""
        return True

    def moved(self, ref: Ref, path: Path) -> None:
        """Take note that the file of published bytes lies at another path from now on."""
        return

    @abstractmethod
    def forget(self, refs: Iterable[Ref]) -> None:
        """Take back published bytes that no node will need again."""

    @abstractmethod
    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        """Have each node do its task; return once the quorum is decided.

        Raises:
            QuorumNotReached: too few nodes are left.
        """

    def when_asked(self, work: Callable[[], None]) -> None:
        """Do work that nobody waits for: at once, or when the next tasks are with nodes that compute elsewhere.

        What waits is done by the next `rest` or `end` at the latest.
        """
        work()

    def rest(self, seconds: float) -> None:
        """Send no task for a while; messages of the nodes are still received.

        Raises:
            JobStopped: somebody asked for the job's end.
        """
        time.sleep(seconds)

    def keep_states(self, named: Mapping[str, Collection[str]]) -> None:
        """Drop states of nodes that live on this side and are named no more; a node learns it with its task."""
        return

    def state_files(self, node_states: Mapping[str, str]) -> dict[str, Path]:
        """Return name -> file of node states that live on this side and must travel in a breakpoint."""
        return {}

    def restore_states(self, files: Mapping[str, Path]) -> None:
        """Take up again, from a breakpoint's files, the node states that live on this side."""
        return

    @abstractmethod
    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None:
        """End the job at the nodes.

        Args:
            keep_states: node -> ids of the node states that breakpoints name; all others go.
        """


_ODD = (FedjobError, ArithmeticError, LookupError, TypeError, ValueError)


def completion(result: Result, worker: int = 0) -> dict[str, Any]:
    """Return the body of a `state` event; values stay out of it, because watchers see events too.

    Args:
        worker: number of the process that computed it; 0 where the node reported none.
    """
    measured = _measured(result.metrics)
    body = {
        "state": str(State.COMPLETED),
        "worker": worker,
        "reason": "",
        "num_examples": result.num_examples,
    }
    return {**body, "metrics": measured} if measured else body


def _measured(phases: Any) -> dict[str, dict[str, float]]:
    """Return phase -> name -> number; a value that is no state of a metric is left out."""
    found: dict[str, dict[str, float]] = {}
    for phase, states in phases.items() if isinstance(phases, dict) else ():
        for name, state in states.items() if isinstance(states, dict) else ():
            try:
                found.setdefault(str(phase), {})[str(name)] = value(state)
            except _ODD:
                continue
    return found
