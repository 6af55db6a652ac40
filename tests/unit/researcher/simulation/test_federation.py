"""The federation of a simulation: what nobody waits for is done while workers compute, and no later than an answer counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedjob import simulate
from fedjob.common.errors import QuorumNotReached
from fedjob.common.lifecycle import State
from fedjob.common.quorum import Quorum
from fedjob.execution.orders import WorkOrder, WorkResult
from fedjob.messaging.messages import Task
from fedjob.researcher.federation.base import AskContext
from fedjob.researcher.simulation.backend import NodeOutcome, Tell
from fedjob.researcher.simulation.federation import SimulatedFederation
from fedjob.researcher.storage.event_log import EventLog


class Listing:
    """A backend of so many workers that notes what it is asked, and whose work all fails after an event of its own."""

    def __init__(self, num_workers: int, seen: list[str]) -> None:
        self.num_workers = num_workers
        self._seen = seen

    def compute(self, orders: Iterable[WorkOrder], tell: Tell) -> Iterator[NodeOutcome]:
        waiting = iter(orders)
        while given := [order for order in (next(waiting, None) for _ in range(self.num_workers)) if order]:
            self._seen += [order.node for order in given]
            ahead = next(waiting, None)
            self._seen.append("computed")
            for order in given + ([ahead] if ahead else []):
                done = WorkResult(key=order.key, ok=False, reason="exception")
                yield NodeOutcome(done=done, events=(("note", {"text": f"of {order.node}"}),))

    def close(self) -> None:
        self._seen.append("closed")


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "events.jsonl") as log:
        yield log


def federation(tmp_path: Path, events: EventLog, backend: Listing) -> SimulatedFederation:
    nodes: dict[str, dict[str, Any]] = {name: {"name": name, "num_rows": 5} for name in ("a", "b", "c")}
    made = SimulatedFederation(
        nodes, tmp_path, events, {}, "", simulation=simulate(3), seed=1, open_backend=lambda: backend
    )
    gates: Any = SimpleNamespace(record=SimpleNamespace(state=State.QUEUED), await_slot=lambda: None)
    made.prepare({}, gates)
    return made


def ask(made: SimulatedFederation, nodes: Iterable[str], spool: Path) -> None:
    tasks = {node: Task(protocol="fedavg", dataset=node) for node in nodes}
    with pytest.raises(QuorumNotReached):
        made.collect(
            tasks, AskContext(job="j", round=2, step="train", spool=spool), Quorum(), None, lambda arrival: ""
        )


@pytest.mark.parametrize(
    ("num_workers", "seen"),
    [(2, ["a", "b", "removed", "computed"]), (3, ["a", "b", "c", "removed", "computed"])],
)
def test_what_nobody_waits_for_is_done_once_all_workers_compute(
    num_workers: int, seen: list[str], tmp_path: Path, events: EventLog
) -> None:
    found: list[str] = []
    made = federation(tmp_path, events, Listing(num_workers, found))
    made.when_asked(lambda: found.append("removed"))
    assert found == []
    ask(made, ("a", "b", "c"), tmp_path)
    assert found[: len(seen)] == seen
    made.end("failed", {})


@pytest.mark.parametrize("ends", [True, False])
def test_what_still_waits_is_done_by_a_rest_or_the_end(ends: bool, tmp_path: Path, events: EventLog) -> None:
    found: list[str] = []
    made = federation(tmp_path, events, Listing(2, found))
    made.when_asked(lambda: found.append("removed"))
    made.end("completed", {}) if ends else made.rest(0.0)
    assert "removed" in found


def test_the_last_events_of_a_node_are_recorded_before_its_state(tmp_path: Path, events: EventLog) -> None:
    made = federation(tmp_path, events, Listing(1, []))
    ask(made, ("a",), tmp_path)
    made.end("failed", {})
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert ['"running"' in lines[0], '"of a"' in lines[1], '"failed"' in lines[2]] == [True, True, True]
