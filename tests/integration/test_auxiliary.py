"""Auxiliary variables on a real hub: what all share is there once, what is one node's is for that node alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest
import torch

from fedjob import Explicit, Scaffold
from fedjob.common.errors import ObjectMissing
from fedjob.common.quorum import Quorum
from fedjob.common.types import Ref, new_job_id
from fedjob.messaging.messages import Result, Task
from fedjob.parameters.auxiliary import join
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols.base import Buffered, View
from fedjob.repository.base import Repository
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.base import Accept, AskContext, Collected, Federation, Gates
from fedjob.researcher.rounds.gatherer import Gatherer
from fedjob.researcher.rounds.tasks import TaskBuilder
from fedjob.researcher.storage.deployment import Code
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.replies import Arrival
from fedjob.researcher.storage.spec import Component, JobSpec
from tests.hubs import HubThread

NODES = ("n1", "n2", "n3", "n4", "n5")


class AtHub(Federation):
    """Publishes at a hub as remote jobs do; its nodes answer at once."""

    def __init__(self, repository: Repository, job: str) -> None:
        self.num_rows = dict.fromkeys(NODES, 10)
        self.repository = repository
        self.job = job
        self.tasks: dict[str, Task] = {}
        self.uploads: list[tuple[Ref, str | None]] = []

    def prepare(self, code: Mapping[str, Code], gates: Gates) -> None: ...

    def forget(self, refs: Iterable[Ref]) -> None: ...

    def end(self, outcome: str, keep_states: Mapping[str, Collection[str]]) -> None: ...

    def publish(self, source: Path | bytes, node: str | None = None) -> Ref:
        ref = self.repository.put(source, job=self.job, readers=NODES if node is None else [node])
        self.uploads.append((ref, node))
        return ref

    def collect(
        self,
        tasks: Mapping[str, Task],
        place: AskContext,
        quorum: Quorum,
        until: Buffered | None,
        accept: Accept,
    ) -> Collected:
        self.tasks = dict(tasks)
        arrivals = {}
        for number, node in enumerate(tasks):
            path = place.spool / f"train_{node}.safetensors"
            change = {"w": torch.full((3,), number**2 + 0.5)}  # no two files alike
            save_params(join({"w": torch.ones(3)}, {"scaffold": change}), path)
            result = Result(of="m", key="k" * 64, ok=True, weight=10.0, num_examples=10, params=ref_of(path))
            arrivals[node] = Arrival(node=node, result=result, params=FileParams(path))
            assert not accept(arrivals[node])
        return Collected(arrivals=arrivals)


@pytest.mark.feature("FB-38", "FB-39")
def test_the_shared_part_is_uploaded_once_and_a_nodes_own_part_is_for_that_node_alone(
    tmp_path: Path,
) -> None:
    folder = JobFolder(tmp_path / new_job_id())
    folder.create()
    save_params({"w": torch.zeros(3)}, folder.initial_params)
    protocol = Scaffold(kept_by="researcher")
    asked: tuple[str, ...] = NODES  # the first round; then all but the last
    with HubThread(tmp_path / "hub") as hub:
        federation = AtHub(hub.repository("lab", "researcher"), folder.path.name)
        spec = JobSpec(
            id=folder.path.name,
            protocol=Component(name="scaffold"),
            rounds=2,
            seed=1,
            datasets={node: {"name": "d"} for node in NODES},
        )
        events = EventLog(folder.events)
        gatherer = Gatherer(
            spec=spec,
            federation=federation,
            folder=folder,
            events=events,
            selector=lambda: Explicit(asked),
            aggregator=None,
            tasks=TaskBuilder(
                spec=spec, federation=federation, folder=folder, events=events, code={}, named_states=dict
            ),
        )
        position = Position(state=protocol.start(FileParams(folder.initial_params)))
        for round_ in (1, 2):
            federation.uploads.clear()
            ask = protocol.instruct(position.state, View(rounds=2, nodes=NODES))
            gathered, position = gatherer(ask, position)  # type: ignore[arg-type]
            state = protocol.finish(position.state, gathered)
            position = Position(state=state, round=round_)
            asked = NODES[:4]
        gatherer.events.close()
        shared = [ref for ref, node in federation.uploads if node is None]
        own = {node: ref for ref, node in federation.uploads if node is not None}
        assert len(shared) == 1  # the control variate of all; the parameters went up with the first total
        assert sorted(own) == list(NODES[:4])
        for node, task in federation.tasks.items():
            assert task.params["own_control"] == own[node]
            assert task.params["control"] == shared[0]
        theirs = hub.repository("n2").get(own["n2"], tmp_path / "own")
        assert FileParams(theirs)["w"].tolist() == [1.5] * 3
        with pytest.raises(ObjectMissing, match="that n1 may read"):
            hub.repository("n1").get(own["n2"], tmp_path / "not mine")
        for node in NODES:
            hub.repository(node).get(shared[0], tmp_path / f"shared-{node}")
