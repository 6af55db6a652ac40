"""Child tasks: a plan at a node starts further functions of its own text there, and uses what they return.

    import fedjob

    @fedjob.function
    def count(dataset, words):
        return {word: words.count(word) for word in set(words)}

    @fedjob.function(launches=[count])
    def count_all(dataset, ctx):
        parts = [ctx.launch(count, words=letter.split()) for letter in dataset.frame()["letter"]]
        return [part.wait() for part in parts]

    fedjob.Job(count_all, data={"tags": ["letters"]}).run()

A child runs in a process of its own, in the node's queue; a parent that waits gives its
place to somebody else. Only what the plan declares under `launches` can be launched: its
text stands in the plan's, and the owner approved both together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.errors import NodeFailure, PlanError
from fedjob.common.values import decode, encode
from fedjob.training_plans.function import RemoteFunction

MAX_CHILDREN = 1000
"""Of one parent; a plan that wants more has forgotten to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOrder:
    """A child that is wanted, as plain data.

    Args:
        number: counts the children of one parent, from 0.
        entry: the function's name in the parent's text.
        args: encoded, see `common/values.py`.
        inputs: argument -> number of the child whose value it takes.
    """

    number: int
    entry: str
    args: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutcome:
    """The outcome of a child task.

    Args:
        value: encoded, see `common/values.py`.
        reason, detail: why not, where it is not `ok`.
    """

    number: int
    ok: bool
    value: Any = None
    reason: str = ""
    detail: str = ""


class ChildRunner(ABC):
    """The place in which the child tasks of one parent run."""

    @abstractmethod
    def launch(self, order: ChildOrder) -> None:
        """Start a child, and return at once."""

    @abstractmethod
    def wait(self, number: int) -> ChildOutcome:
        """Wait for a child's end."""


class Child:
    """A child task, as its parent holds it; may be given to another child as an argument."""

    def __init__(self, number: int, entry: str, runner: ChildRunner, node: str) -> None:
        self.number = number
        self.entry = entry
        self._runner = runner
        self._node = node
        self._outcome: ChildOutcome | None = None

    def wait(self) -> Any:
        """Wait for the child, and return what its function returned.

        Raises:
            NodeFailure: it failed; the reason is the child's.
        """
        if self._outcome is None:
            self._outcome = self._runner.wait(self.number)
        if not self._outcome.ok:
            detail = f"child {self.number} ({self.entry}): {self._outcome.detail}"
            raise NodeFailure(self._node, self._outcome.reason, detail)
        return decode(self._outcome.value)

    def __repr__(self) -> str:
        return f"<child {self.number}: {self.entry}>"


@dataclass
class ChildLauncher:
    """The implementation of `ctx.launch` while one task is computed.

    Args:
        declared: names of the functions that the plan may launch.
    """

    node: str
    declared: tuple[str, ...]
    runner: ChildRunner
    _count: int = 0

    def launch(self, function: Any, /, **args: Any) -> Child:
        """Start a function of the plan's `launches` as a child task.

        Args:
            args: for the function, by name: what can be encoded, or another child for its value.

        Raises:
            PlanError: it was not declared, or there are too many.
        """
        if not isinstance(function, RemoteFunction):
            raise PlanError(f"ctx.launch starts a @fedjob.function, not {function!r:.80}")
        entry = function.function.__name__
        if entry not in self.declared:
            known = ", ".join(self.declared) or "none"
            raise PlanError(
                f"{entry} was not declared: write launches=[{entry}] where the plan is defined, so that owners "
                f"see it; declared are {known}",
                name=entry,
            )
        if self._count >= MAX_CHILDREN:
            raise PlanError(f"a plan launches at most {MAX_CHILDREN} children")
        given = {**function.args, **args}
        function.check(given)
        inputs = {name: value.number for name, value in given.items() if isinstance(value, Child)}
        plain = {name: encode(value, name) for name, value in given.items() if name not in inputs}
        order = ChildOrder(number=self._count, entry=entry, args=plain, inputs=inputs)
        self._count += 1
        self.runner.launch(order)
        return Child(order.number, entry, self.runner, self.node)
