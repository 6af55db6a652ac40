"""Every training protocol as a real job: at nodes, simulated, and cut and resumed, to the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas
import pytest
import torch

from fedjob import (
    Cyclic,
    FedAdam,
    FedAvg,
    FedOpt,
    FedPer,
    FineTuned,
    Job,
    Quorum,
    Session,
    SpecError,
    TorchPlan,
    simulate,
)
from fedjob.aggregation.contribution import Contribution
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.parameters.files import FileParams
from fedjob.protocols.base import Ask, Done, Gathered, Instruction, Local, View
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.foreign import accept
from tests.integration.nodes import Federation, write_toy
from tests.integration.scripted import open_session
from tests.unit.protocols.training.sites import TRAINING_PROTOCOLS, ready

NODES = ("node1", "node2")


class Small(TorchPlan):
    """Momentum, dropout and batch normalisation."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Linear(2, 4),
            torch.nn.BatchNorm1d(4),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.25),
            torch.nn.Linear(4, 1),
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


SHARE = 0.5


@dataclass(frozen=True, slots=True)
class HalfWay(TrainingProtocol):
    """Moves a share of the way to the nodes' average; nothing of it is installed anywhere."""

    name: ClassVar[str] = "halfway"

    share: float = SHARE

    def contribute(self, instruction: Instruction, local: Local) -> Contribution:
        local.emit("note", {"text": f"share {self.share}"})
        return TrainingProtocol.contribute(self, instruction, local)

    def finish(self, state: dict[str, Any], gathered: Gathered) -> dict[str, Any]:
        after = TrainingProtocol.finish(self, state, gathered)
        if gathered.total.value is None:  # a validation
            return after
        old, new = state["params"], gathered.total.value
        return {**after, "params": {name: old[name] + (new[name] - old[name]) * self.share for name in old}}


@dataclass(frozen=True, slots=True)
class Particular(TrainingProtocol):
    """Looks at answers more closely than zeros allow, before its first round is over."""

    name: ClassVar[str] = "particular"

    def instruct(self, state: dict[str, Any], view: View) -> Ask | Done:
        ask = TrainingProtocol.instruct(self, state, view)
        return replace(ask, commit=False) if isinstance(ask, Ask) else ask

    def finish(self, state: dict[str, Any], gathered: Gathered) -> dict[str, Any]:
        raise ValueError(f"no loss among {sorted(gathered.total.metrics)}")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    federation = Federation(tmp_path_factory.mktemp("federation"))
    for name in NODES:
        federation.node(name, NodeConfig(approval="off", threads=1)).start()
    home = tmp_path_factory.mktemp("lab")
    with open_session(federation, home, Identity.generate("lab")) as found:
        yield found
    federation.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that every node has."""
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    write_toy(path)
    return path


def make_job(protocol: Any, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Small,
        "training_args": {
            "lr": 0.05,
            "num_updates": 2,
            "batch_size": 8,
            "test_ratio": 0.25,
            "test_on_local_updates": True,
        },
        "each": {"node2": {"num_updates": 3}},
        "rounds": 2,
        "seed": 5,
    }
    return Job(protocol, **{**arguments, **changes})


def at_nodes(session: Session, protocol: Any, **changes: Any) -> Job:
    job = make_job(protocol, data={"tags": ["toy"]}, session=session, **changes)
    job.run(progress=False)
    return job


def local(toy: Path, home: Path, protocol: Any, **changes: Any) -> Job:
    job = make_job(
        protocol, data={node: str(toy) for node in NODES}, nodes="local", home=home, keep=True, **changes
    )
    job.run(progress=False)
    return job


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def test_a_protocol_of_a_script_runs_at_nodes_and_locally_and_is_resumed_cloned_and_told_from_others(
    session: Session, toy: Path, tmp_path: Path
) -> None:
    simulated, full = local(toy, tmp_path, HalfWay()), local(toy, tmp_path, FedAvg(), rounds=1)
    assert digest(at_nodes(session, HalfWay())) == digest(simulated)
    resumed = accept(simulated.breakpoints[0], home=tmp_path / "elsewhere")
    resumed.run(progress=False)
    clone = simulated.clone()
    clone.run(progress=False)
    assert digest(resumed) == digest(clone) == digest(simulated)
    assert {check.verdict for check in verify_job(JobFolder(simulated.folder))} <= {"equal", "not kept"}
    first = FileParams(full.folder / "initial.safetensors")
    once = local(toy, tmp_path, HalfWay(share=0.25), rounds=1).result.params
    for name, tensor in full.result.params.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(once[name], first[name] + (tensor - first[name]) * 0.25)
    assert "HalfWay" in repr(simulated)
    text = (simulated.folder / "plan.py").read_text()
    assert "class Small(" in text
    assert "class HalfWay(" in text


def test_owners_decide_on_the_text_of_a_protocol_of_ones_own(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    node = federation.node("strict", NodeConfig(threads=1))
    node.start()
    try:
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            job = make_job(HalfWay(), data={"tags": ["toy"]}, session=session, each=None)
            assert list(job.request()) == ["strict"]
            with node.database() as database:
                (pending,) = Grants(database).all("pending")
                assert pending.subject.plan == job.spec.plan_hash
            node.decide()
            job.run(progress=False)
            other = make_job(HalfWay(share=0.1), data={"tags": ["toy"]}, session=session, each=None)
            assert other.spec.plan_hash == job.spec.plan_hash  # a setting is no other text
            fed = make_job(FedAvg(), data={"tags": ["toy"]}, session=session, each=None)
            assert fed.spec.plan_hash != job.spec.plan_hash
            assert fed.check()[0].grant != "granted"
    finally:
        federation.close()


def test_a_protocol_of_ones_own_needs_a_name_and_a_plan_of_its_own() -> None:
    @dataclass(frozen=True)
    class Taken(TrainingProtocol):
        name: ClassVar[str] = "fedavg"

    @dataclass(frozen=True)
    class Planless(TrainingProtocol):
        name: ClassVar[str] = "planless"
        needs_plan: ClassVar[bool] = False

    with pytest.raises(SpecError, match="the name of another protocol"):
        make_job(Taken())
    with pytest.raises(SpecError, match="it needs one"):
        make_job(Planless())


def test_an_estimate_says_that_a_protocol_can_not_be_played_before_it_runs(session: Session) -> None:
    found = make_job(Particular(), data={"tags": ["toy"]}, session=session).estimate()
    assert (found.bytes_total, found.memory_bytes, found.exact) == (None, None, False)
    assert (
        "known after the job: answers of zeros don't go through its protocol (ValueError: no loss"
        in found.about
    )


@pytest.mark.parametrize("name", TRAINING_PROTOCOLS)
def test_nodes_a_simulation_and_a_resumed_job_end_in_the_same_bytes(
    name: str, session: Session, toy: Path, tmp_path: Path
) -> None:
    simulated = local(toy, tmp_path, ready(name))
    remote = at_nodes(session, ready(name))
    assert digest(remote) == digest(simulated)
    pandas.testing.assert_frame_equal(remote.result.history, simulated.result.history)
    shared = make_job(
        ready(name), data={node: str(toy) for node in NODES}, nodes=simulate(workers=0), home=tmp_path
    )  # one plan and one model for both nodes
    shared.run(progress=False)
    assert digest(shared) == digest(remote)
    pandas.testing.assert_frame_equal(remote.result.history, shared.result.history)
    resumed = accept(simulated.breakpoints[0], home=tmp_path / "elsewhere")
    resumed.run(progress=False)
    assert digest(resumed) == digest(simulated)
    assert {check.verdict for check in verify_job(JobFolder(simulated.folder))} <= {"equal", "not kept"}


def test_a_server_optimizer_makes_fedopt_of_fedavg(toy: Path, tmp_path: Path) -> None:
    short = local(toy, tmp_path, FedAvg(), server_optimizer=FedAdam(lr=0.1))
    long = local(toy, tmp_path, FedOpt(FedAdam(lr=0.1)))
    assert digest(short) == digest(long)
    again = long.clone(server_optimizer="fedavgm").clone(server_optimizer=FedAdam(lr=0.1))
    again.run(progress=False)
    assert digest(again) == digest(long)


def test_a_cycle_is_told_as_one_round(session: Session) -> None:
    job = at_nodes(session, Cyclic(order="fixed"), quorum=Quorum(min_nodes=2))
    rounds = [event.body["nodes"] for event in job.events() if event.type == "round"]
    assert rounds == [list(NODES), list(NODES)]
    asked = [event.body["nodes"] for event in job.events() if event.type == "ask"]
    assert asked == [["node1"], ["node2"]] * 2
    history = job.result.history
    rows = history[(history.phase == "after") & (history["round"] == 2)].set_index("node")
    assert list(rows.index) == ["node1", "node2", "all"]
    assert rows.num_examples["all"] == rows.num_examples["node1"] + rows.num_examples["node2"]
    mean = (rows.value["node1"] + rows.value["node2"]) / 2
    assert rows.value["all"] == pytest.approx(mean)


def test_what_is_personal_is_in_no_reply(toy: Path, tmp_path: Path) -> None:
    job = local(toy, tmp_path, FedPer(["4.*"]))
    sent = [set(FileParams(path)) for path in job.folder.glob("spool/*/local_*/params.safetensors")]
    assert len(sent) == 4
    assert not any(name.startswith("4.") for names in sent for name in names)
    tuned = local(toy, tmp_path, FineTuned(epochs=1), validate_at_end=True)
    last = tuned.result.history[tuned.result.history.phase.isin(["personal", "validate"])]
    assert set(last["round"]) == {2}
    assert set(last.phase) == {"personal", "validate"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"each": {"node9": {"epochs": 2}}}, "requires nodes node9"),
        ({"each": {"node1": {"epoch": 2}}}, "nearest known one is 'epochs'"),
        ({"each": {"node1": {"num_updates": 0}}}, "1 or more"),
        ({"each": [1]}, "each is a map from nodes"),
        ({"server_optimizer": "fedadamm"}, "did you mean 'fedadam'"),
    ],
    ids=["node", "name", "value", "list", "optimizer"],
)
def test_what_can_not_be_trained_is_refused_in_words(
    changes: dict[str, Any], says: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=says):
        local(toy, tmp_path, FedAvg(), **changes)
    with pytest.raises(SpecError, match=r"no parameter is named 'head\.\*'"):
        make_job(FedPer(["head.*"]), data=str(toy), nodes="local", home=tmp_path, each=None)
