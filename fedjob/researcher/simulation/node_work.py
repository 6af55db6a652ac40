"""The work of one simulated node, in whatever process computes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjob.execution.orders import WorkOrder
from fedjob.execution.workbench import Together, Workbench
from fedjob.repository.parts import ref_of
from fedjob.researcher.simulation.backend import NodeOutcome

EVENTS_S = 0.5
"""Seconds for which events of a node are held back, to be sent together."""

MAX_EVENTS = 200
"""Events that are held back at most."""

EventBatch = list[tuple[str, dict[str, Any]]]
"""Types and data of events."""

SendEvents = Callable[[EventBatch], None]


class NodeWork:
    """The work of many nodes, one after another, on one plan and one model in memory."""

    def __init__(self) -> None:
        self._bench = Workbench(one_plan=True)

    def compute(self, order: WorkOrder, send: SendEvents, together: Together | None = None) -> NodeOutcome:
        """Compute one order; what user code raises becomes an outcome that says so.

        Args:
            send: is given events of the work while it lasts, several at a time; the last ones are in the outcome.
            together: trains many nodes at once, see `Context`; None for this node by itself.
        """
        events: EventBatch = []
        began = sent = time.perf_counter()
        cpu = time.process_time()

        def emit(type_: str, data: dict[str, Any]) -> None:
            nonlocal sent
            events.append((type_, data))
            now = time.perf_counter()
            if now - sent > EVENTS_S or len(events) >= MAX_EVENTS:
                send(events)
                events.clear()
                sent = now

        self._bench.together = together
        done = self._bench.perform(order, emit)
        worked = time.perf_counter()
        ref = ref_of(Path(done.params_path)) if done.params_path else None
        ended = time.perf_counter()
        timing = {name: float(seconds) for name, seconds in done.timing.items()}
        known = sum(timing.get(name, 0.0) for name in ("setup", "train", "validate"))
        seconds = {
            "data": timing.get("setup", 0.0),
            "compute": timing.get("train", 0.0) + timing.get("validate", 0.0),
            "transfer": max(0.0, worked - began - known) + ended - worked,
            "cpu": time.process_time() - cpu,
        }
        return NodeOutcome(done=done, events=tuple(events), ref=ref, seconds=seconds)
