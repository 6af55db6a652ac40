"""Models that owners have as files, and the frozen rest of others: what travels to nodes, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from fedjob import FedAvg, Job, JobFailed, TorchPlan
from fedjob.cli import cli
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.parameters.frozen import FROZEN
from fedjob.repository.memory import MemoryRepository
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.breakpoints import hash_file
from tests.integration.nodes import Federation, Node, write_toy
from tests.integration.scripted import open_session

NODES = ("node1", "node2")


class Adapted(TorchPlan):
    """A frozen layer of a model that everybody has, one that is made at random, and one that learns."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        base, own = torch.nn.Linear(2, 4), torch.nn.Linear(4, 4)
        base.load_state_dict(self.ctx.model("base", sha256=model_args["sha256"]), assign=True)
        model = torch.nn.Sequential(base, own, torch.nn.Linear(4, 1))
        base.requires_grad_(False)
        own.requires_grad_(False)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


class CountingRepository(MemoryRepository):
    """A repository that counts how often each object is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()

    def read_object(self, sha256: str, *, offset: int) -> Iterator[bytes | memoryview]:
        self.reads[len(self._objects.get(sha256, b""))] += 1
        return super().read_object(sha256, offset=offset)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(3)
    path = tmp_path_factory.mktemp("models") / "base.safetensors"
    save_file({"weight": torch.randn(4, 2, generator=generator), "bias": torch.zeros(4)}, path)
    return path


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"), CountingRepository())
    for name in NODES:
        found.node(name, NodeConfig(approval="off", threads=1)).start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def session(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with open_session(federation, tmp_path_factory.mktemp("lab"), Identity.generate("lab")) as found:
        yield found


def model(node: Node, *words: str) -> Any:
    return CliRunner().invoke(cli, ["node", "model", *words, "--home", str(node.home.root)])


def make_job(base: Path, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Adapted,
        "model_args": {"sha256": hash_file(base)},
        "models": {"base": base},
        "training_args": {"num_updates": 2, "batch_size": 5},
        "rounds": 3,
        "seed": 5,
    }
    return Job(FedAvg(), **{**arguments, **changes})


def at_nodes(session: Session, base: Path, **changes: Any) -> Job:
    return make_job(base, data={"tags": ["toy"]}, session=session, **changes)


def test_what_is_frozen_is_fetched_once_by_a_node_and_a_model_that_it_has_not_at_all(
    federation: Federation, session: Session, base: Path, tmp_path: Path
) -> None:
    for node in federation.nodes:
        added = model(node, "add", "base", str(base))
        assert added.exit_code == 0, added.output
        assert hash_file(base) in added.output
    job = at_nodes(session, base)
    job.run(progress=False)
    sent = job.folder / "artifacts" / FROZEN
    assert load_file(sent).keys() == {"1.weight", "1.bias"}
    repository = federation.repository
    assert isinstance(repository, CountingRepository)
    assert repository.reads[sent.stat().st_size] == len(NODES)
    toy = tmp_path / "toy.npz"
    write_toy(toy)
    here = make_job(base, data={node: str(toy) for node in NODES}, nodes="local", home=tmp_path)
    here.run(progress=False)
    results = [each.folder / "result" / "params.safetensors" for each in (job, here)]
    assert hash_file(results[0]) == hash_file(results[1])
    assert load_file(results[0]).keys() == {"2.weight", "2.bias"}
    for node in federation.nodes:  # what was fetched for the job goes with it
        assert not node.home.object_of(hash_file(sent)).exists()


@pytest.mark.parametrize(
    ("at_node", "words"),
    [
        ("none", "this node has no model 'base'"),
        ("other", "the model 'base' here is another one"),
        ("changed", "the model 'base' can't be used: its file has changed since its owner added it"),
        ("gone", "the model 'base' can't be used: its file can't be read"),
    ],
)
def test_a_node_that_lacks_the_model_says_so_before_the_first_round(
    federation: Federation, session: Session, base: Path, tmp_path: Path, at_node: str, words: str
) -> None:
    node = federation.nodes[0]
    path = tmp_path / "own.safetensors"
    for each in federation.nodes:
        assert model(each, "add", "base", str(base)).exit_code == 0
    tensors = load_file(base)
    if at_node == "none":
        assert model(node, "remove", "base").exit_code == 0
    else:
        save_file({**tensors, "bias": torch.ones(4)} if at_node == "other" else tensors, path)
        assert model(node, "add", "base", str(path)).exit_code == 0
    if at_node == "changed":
        save_file({**tensors, "bias": torch.ones(4), "more": torch.ones(1)}, path)
    if at_node == "gone":
        path.unlink()
    job = at_nodes(session, base, nodes=["node1"])
    (check,) = job.check()
    assert (check.grant, check.reason) == ("unknown", "no_model")
    assert words in check.note
    with pytest.raises(JobFailed, match=r"no_model"):
        job.run(progress=False)
    assert not job.breakpoints


def test_the_commands_list_and_forget_models_and_leave_their_files(
    federation: Federation, base: Path, tmp_path: Path
) -> None:
    node = federation.nodes[1]
    path = tmp_path / "small.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert model(node, "add", "small", str(path)).exit_code == 0
    listed = model(node, "list").output
    assert "small" in listed
    assert hash_file(path) in listed.replace("\n", "")
    assert "has changed" not in model(node, "list", "--json").output
    save_file({"weight": torch.zeros(3)}, path)
    assert "has changed since its owner added it" in model(node, "list", "--json").output
    assert model(node, "remove", "small").exit_code == 0
    assert path.exists()
    for words, problem in (
        (("remove", "small"), "this node has no model 'small'"),
        (("add", "../x", str(path)), "a model is named by 1 to 64 letters"),
        (
            ("add", "x", str(tmp_path)),
            "is a folder; expected a safetensors file; in it are small.safetensors: name one of them",
        ),
        (("add", "x", __file__), "expected a safetensors file"),
    ):
        refused = model(node, *words)
        assert refused.exit_code != 0
        assert problem in str(refused.exception or refused.output)


def test_an_owner_sees_which_models_a_plan_wants_and_approves_these_alone(base: Path, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    node = federation.node("strict", NodeConfig(threads=1)).start()
    try:
        assert model(node, "add", "base", str(base)).exit_code == 0
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            job = at_nodes(session, base, rounds=1)
            job.request()
            with node.database() as database:
                (pending,) = Grants(database).all("pending")
            shown = CliRunner().invoke(
                cli, ["node", "grants", "show", pending.id, "--home", str(node.home.root)]
            )
            assert "uses models" in shown.output
            assert f"base, sha256 {hash_file(base)[:16]}" in shown.output
            assert f"{FROZEN}, sha256" in shown.output
            node.decide()
            job.run(progress=False)
            other = tmp_path / "other.safetensors"
            save_file({**load_file(base), "bias": torch.ones(4)}, other)
            assert model(node, "add", "base", str(other)).exit_code == 0
            again = at_nodes(session, other, rounds=1, models={"base": other})
            assert again.check()[0].grant == "pending"
    finally:
        federation.close()
