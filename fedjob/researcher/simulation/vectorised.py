"""The backend that trains many nodes at once, in this process, with as many threads as torch has here.

Each node's work runs in a thread of its own, only one of which runs at any time: it goes on until it would train, and
waits. When all nodes of a group wait, they are trained together (`training_plans/together`), and go on one after
another. So a protocol may do before and after its training whatever it does elsewhere, and may train several times.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from fedjob.common.errors import JobFailed, NodeFailure
from fedjob.execution.allocator import give_back_freed_memory
from fedjob.execution.orders import WorkOrder
from fedjob.researcher.simulation.backend import NodeOutcome, Tell
from fedjob.researcher.simulation.node_work import EventBatch, NodeWork
from fedjob.training_plans.randomness import undisturbed

MAX_TOGETHER = 64
"""Nodes that are trained at once: more save nothing, and each has its parameters in memory."""


class Vectorised:
    """The work of nodes in groups, whose training is vectorised over the nodes.

    Args:
        at_once: nodes of a group at most.
    """

    num_workers = 0

    def __init__(self, at_once: int = MAX_TOGETHER) -> None:
        self._at_once = at_once
        self._works: list[NodeWork] = []

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        waiting = iter(orders)
        while group := list(islice(waiting, self._at_once)):
            self._works += [NodeWork() for _ in range(len(group) - len(self._works))]
            yield from _GroupWork(group, self._works, tell).run()

    def close(self) -> None:
        self._works.clear()
        give_back_freed_memory()


class _GroupWork:
    """The work of the nodes of one group."""

    def __init__(self, orders: list[WorkOrder], works: list[NodeWork], tell: Tell) -> None:
        self._nodes = [_NodeThread(order, work, tell) for order, work in zip(orders, works, strict=False)]

    def run(self) -> Iterator[NodeOutcome]:
        """Yield the outcome of each node."""
        with undisturbed():
            self._train()
        for node in self._nodes:
            yield node.outcome()

    def _train(self) -> None:
        import torch

        from fedjob.training_plans.together.stacked import train_together

        cudnn = torch.backends.cudnn
        benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
        try:
            for node in self._nodes:
                node.go_on()
            while trained := [node for node in self._nodes if node.training is not None]:
                began, cpu = time.perf_counter(), time.process_time()
                train_together([node.training for node in trained if node.training is not None])
                took, used = time.perf_counter() - began, time.process_time() - cpu
                for node in trained:
                    node.share_s += took / len(trained)
                    node.share_cpu_s += used / len(trained)
                    node.training = None
                    node.go_on()
        finally:
            for node in self._nodes:
                node.give_up()
            # each node sets them while it trains, and they end in another order
            cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


class _NodeThread:
    """The work of a node in a thread, which runs while `go_on` waits for it.

    Args:
        work: that this thread alone uses.
    """

    def __init__(self, order: WorkOrder, work: NodeWork, tell: Tell) -> None:
        self._order, self._work, self._tell = order, work, tell
        self.training: Any = None
        """What it waits to be trained, a `NodeTraining`; None where it is done, or runs."""
        self.share_s = self.share_cpu_s = 0.0
        self._own_cpu_s = self._waited_s = 0.0
        self._turn: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paused: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._outcome: NodeOutcome | None = None
        self._events: EventBatch = []
        self._draws = _Draws()
        self._thread = threading.Thread(target=self._run, name=f"fedjob-{order.node}", daemon=True)

    def go_on(self) -> None:
        """Let it run until it waits to be trained or is done."""
        cpu = time.process_time()
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.put(True)
        self._paused.get()  # it has a deadline as much as the user's own code has one
        self._own_cpu_s += time.process_time() - cpu
        for type_, data in self._events:
            self._tell(self._order.node, self._order.round, type_, data)
        self._events.clear()
        if self.training is None and self._outcome is None:
            raise JobFailed(
                f"the plan ended its own thread at {self._order.node}, such as by KeyboardInterrupt: raise an error instead",
                reason="exception",
            )

    def give_up(self) -> None:
        """End it where it waits."""
        if self._thread.ident is not None and self._thread.is_alive():
            self._turn.put(False)
            self._thread.join()

    def outcome(self) -> NodeOutcome:
        """Return its outcome, with its share of the time that all were trained in."""
        assert self._outcome is not None, "it has run to its end"
        seconds = dict(self._outcome.seconds)
        seconds["compute"] = max(0.0, seconds["compute"] - self._waited_s) + self.share_s
        seconds["cpu"] = self._own_cpu_s + self.share_cpu_s
        return replace(self._outcome, seconds=seconds)

    def _run(self) -> None:
        try:
            self._outcome = self._work.compute(self._order, self._events.extend, self._train)
        finally:
            self._paused.put(None)

    def _train(self, training: Any) -> list[tuple[int, float]]:
        """Wait until a training is done, and return the examples and the loss of each update."""
        self._draws.save()
        training.inside = self._draws.restored
        self.training = training
        began = time.perf_counter()
        self._paused.put(None)
        if not self._turn.get():
            raise NodeFailure(self._order.node, "late", "nobody waits for it any more")
        self._waited_s += time.perf_counter() - began
        self._draws.restore()
        error = training.error
        if error is not None:
            raise error
        return list(training.updates)


class _Draws:
    """The states of the global generators of randomness, as one node's work has left them."""

    def __init__(self) -> None:
        self._states: tuple[Any, ...] = ()

    def save(self) -> None:
        """Note the states."""
        import numpy
        import torch

        self._states = (random.getstate(), numpy.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Set the generators to what was noted."""
        import numpy
        import torch

        python, of_numpy, of_torch = self._states
        random.setstate(python)
        numpy.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Go on from what was noted inside, and note it anew afterwards."""
        self.restore()
        yield
        self.save()
