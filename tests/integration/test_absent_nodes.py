"""Nodes that go and come back in the middle of a job, and outages of the broker: what each costs, and who is blamed."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import FedAvg, Hook, Job, Quorum, TorchPlan
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.federation.collection_machine import AWAY_S, SILENT
from fedjob.researcher.hooks.base import RoundReport
from fedjob.researcher.jobs.session import Session
from tests.integration.nodes import Federation
from tests.integration.scripted import open_session
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(300)

DEADLINE_S = 25.0


class Fitted(TorchPlan):
    """One linear layer."""

    extra_args = ("pause_s",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        import time

        time.sleep(self.training_args.raw.get("pause_s", 0.0))
        inputs, targets = batch
        return torch.nn.functional.mse_loss(model(inputs), targets)


class AtRound(Hook):
    """Keeps when each round ended, and calls a function at the end of some."""

    def __init__(self, deeds: dict[int, Any]) -> None:
        self.deeds = deeds
        self.ended: dict[int, float] = {}

    def round_done(self, report: RoundReport) -> str | None:
        self.ended[report.round] = time.monotonic()
        if report.round in self.deeds:
            self.deeds[report.round]()
        return None


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    found = Federation(tmp_path)
    for name in ("node1", "node2"):
        found.node(name, NodeConfig(approval="off", threads=1)).start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def make_job(session: Session, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Fitted,
        "data": {"tags": ["toy"]},
        "training_args": {"lr": 0.1, "num_updates": 2, "batch_size": 5},
        "seed": 5,
        "session": session,
    }
    return Job(FedAvg(), **{**arguments, **changes})


def test_a_node_that_went_away_costs_its_deadline_once_and_takes_part_again_when_it_is_back(
    federation: Federation, session: Session
) -> None:
    other = federation.nodes[1]
    hook = AtRound({1: other.stop, 3: lambda: other.start()})
    job = make_job(session, rounds=4, hooks=[hook], quorum=Quorum(deadline_s=DEADLINE_S))
    result = job.run(progress=False)
    assert {number: one.dropped for number, one in job.rounds.items()} == {
        1: {},
        2: {"node2": "deadline"},
        3: {"node2": SILENT},
        4: {},
    }
    cost = hook.ended[3] - hook.ended[2]
    assert AWAY_S - 1.0 <= cost < DEADLINE_S
    assert str(result.participation).endswith("; not in every round: node2 (2 of 4 rounds)")
    assert {part.node: part.rows_used for part in result.participation} == {"node1": 20, "node2": 20}


def test_an_outage_of_the_broker_runs_down_no_deadline_and_is_blamed_on_no_node(
    federation: Federation, session: Session
) -> None:
    slow = {"lr": 0.1, "num_updates": 10, "batch_size": 5, "pause_s": 0.4}
    job = make_job(session, training_args=slow, rounds=1, quorum=Quorum(deadline_s=20.0, required="all"))
    job.reach()

    def cut() -> None:
        wait_until(lambda: any(e.type == "ask" for e in job.events()), timeout_s=60, what="round 1")
        federation.broker.stop()
        time.sleep(25.0)
        federation.broker.start()

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        job.run(progress=False)
    finally:
        cutting.join(60)
    assert job.rounds[1].replied == ("node1", "node2")
    notes = [event.body["text"] for event in job.events() if event.type == "note"]
    assert any(note.startswith("not connected: ") and "no node is blamed" in note for note in notes)
    assert any(note.startswith("connected again after 2") for note in notes), notes


def test_a_node_that_is_revoked_in_a_round_is_left_out_at_once(
    federation: Federation, session: Session
) -> None:
    slow = {"lr": 0.1, "num_updates": 10, "batch_size": 5, "pause_s": 0.8}
    job = make_job(session, training_args=slow, rounds=1, quorum=Quorum(min_nodes=1, deadline_s=60.0))
    job.reach()

    def revoke() -> None:
        wait_until(lambda: any(e.type == "ask" for e in job.events()), timeout_s=60, what="round 1")
        federation.parties["node2"] = replace(federation.parties["node2"], revoked=True)
        wait_until(session.roster.refresh, timeout_s=20, what="the list of parties, once a second at most")

    revoking = threading.Thread(target=revoke)
    revoking.start()
    try:
        job.run(progress=False)
    finally:
        revoking.join(60)
    assert job.rounds[1].replied == ("node1",)
    assert job.rounds[1].dropped == {"node2": "revoked: it does not belong to the federation any more"}
