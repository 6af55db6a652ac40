"""The interface to what computes the work of simulated nodes: processes of this machine, a cluster, or many at once.

A backend is given work orders and gives what came of them, in any order. It knows nothing of rounds, quorums or
aggregation; what it gives must have the same bytes, whichever backend it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedjob.common.types import Ref
from fedjob.execution.orders import WorkOrder, WorkResult

Tell = Callable[[str, int, str, dict[str, Any]], None]
"""Called with the node, the round, the type and the data of an event of a node's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutcome:
    """The outcome of one order.

    Args:
        events: types and data of the last events of the work, which came with its end; those before went to `Tell`.
        ref: name of its file of tensors; None where it has none.
        seconds: that it took, by stage, see `profile.STAGES`.
    """

    done: WorkResult
    events: tuple[tuple[str, dict[str, Any]], ...] = ()
    ref: Ref | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """What computes the work of nodes."""

    num_workers: int

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        """Yield the outcome of every order as it comes; take an order only when somebody is free to compute it, and
        one beyond those.

        Each order names an existing folder for what comes out. What user code raises becomes an outcome that is not
        `ok`; so does work whose worker died each time that it was tried.

        Raises:
            JobFailed: nothing can be computed at all.
        """

    def close(self) -> None:
        """End all that was started; work that is under way is given up."""
