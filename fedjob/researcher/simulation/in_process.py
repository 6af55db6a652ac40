"""The backend without workers: nodes are computed one after another in this process, where a debugger sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedjob.execution.orders import WorkOrder
from fedjob.researcher.simulation.backend import NodeOutcome, Tell
from fedjob.researcher.simulation.node_work import EventBatch, NodeWork
from fedjob.training_plans.randomness import undisturbed


class InProcess:
    """The work of all nodes in this process, with as many threads as torch has here."""

    num_workers = 0

    def __init__(self) -> None:
        self._work = NodeWork()

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        for order in orders:

            def send(events: EventBatch, order: WorkOrder = order) -> None:
                for type_, data in events:
                    tell(order.node, order.round, type_, data)

            with undisturbed():
                outcome = self._work.compute(order, send)
            yield outcome

    def close(self) -> None:
        self._work = NodeWork()
