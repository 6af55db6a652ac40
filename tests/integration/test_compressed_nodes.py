"""Compressed parameters at real nodes: the bytes of a local job, the owner's words, an upper bound, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedjob import (
    FedBuff,
    FedPer,
    FLoRA,
    Int8,
    Job,
    JobFailed,
    Protect,
    Quorum,
    RecordDP,
    Scaffold,
    Session,
    SpecError,
    TopK,
    TorchPlan,
)
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.question_words import question_in_words
from fedjob.parameters.auxiliary import split
from fedjob.parameters.files import FileParams
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.integration.nodes import Federation, write_toy
from tests.integration.scripted import open_session
from tests.odd_tensors import KINDS, OddTensors
from tests.unit.protocols.training.sites import TRAINING_PROTOCOLS, ready

NODES = ("node1", "node2", "node3")


class Wide(TorchPlan):
    """Tensors that are large enough to be compressed, buffers, and momentum."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(
            torch.nn.Linear(2, 120), torch.nn.BatchNorm1d(120), torch.nn.ReLU(), torch.nn.Linear(120, 1)
        )

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


class Counts(Wide):
    """A model of whole numbers alone."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Module()
        model.register_buffer("counts", torch.zeros(100, dtype=torch.int64))
        return model


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("federation"))
    for name in NODES:
        found.node(name, NodeConfig(approval="off", threads=1)).start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def session(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with open_session(federation, tmp_path_factory.mktemp("lab"), Identity.generate("lab")) as found:
        yield found


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    write_toy(path)
    return path


def make_job(protocol: Any = "fedavg", **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Wide,
        "training_args": {"lr": 0.02, "num_updates": 3, "batch_size": 8, "test_ratio": 0.2},
        "rounds": 3,
        "seed": 5,
        "compress": Int8(),
    }
    return Job(protocol, **{**arguments, **changes})


def at_nodes(session: Session, protocol: Any = "fedavg", **changes: Any) -> Job:
    job = make_job(protocol, data={"tags": ["toy"]}, session=session, **changes)
    job.run(progress=False)
    return job


def local(toy: Path, home: Path, protocol: Any = "fedavg", **changes: Any) -> Job:
    job = make_job(protocol, data={node: str(toy) for node in NODES}, nodes="local", home=home, **changes)
    job.run(progress=False)
    return job


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


@pytest.mark.parametrize("compress", ["bf16", "fp16", Int8(), TopK(0.2)], ids=str)
def test_nodes_end_in_the_bytes_of_a_local_job_and_move_no_more_than_was_estimated(
    compress: Any, session: Session, toy: Path, tmp_path: Path
) -> None:
    job = make_job(data={"tags": ["toy"]}, session=session, compress=compress, validate_at_end=True)
    estimate = job.estimate()
    assert not estimate.exact
    assert "compressed" in str(estimate)
    job.run(progress=False)
    moved = sum(tally.bytes for tally in job.traffic if tally.kind == "object" and tally.direction == "in")
    most = sum(one.up for one in estimate)
    assert 0.6 * most < moved <= most
    assert digest(job) == digest(local(toy, tmp_path, compress=compress, validate_at_end=True))


class OddAtNodes(OddTensors):
    """The odd tensors, on inputs of two columns."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        inputs = torch.tensor(inputs)
        return torch.cat([inputs, inputs], 1), torch.tensor(targets)[:, 0]


@pytest.mark.parametrize("compress", ["bf16", Int8(), TopK(0.1)], ids=str)
def test_odd_tensors_at_nodes_end_in_the_bytes_of_a_local_job_and_of_one_that_goes_on(
    compress: Any, toy: Path, session: Session, tmp_path: Path
) -> None:
    given = {"training_plan": OddAtNodes, "model_args": {"kinds": " ".join(KINDS)}, "compress": compress}
    given["training_args"] = {"lr": 0.02, "num_updates": 3, "batch_size": 8}
    remote = at_nodes(session, keep=True, **given)
    here = digest(local(toy, tmp_path, **given))
    assert digest(remote) == here
    assert {check.verdict for check in verify_job(JobFolder(remote.folder))} == {"equal"}
    cut = at_nodes(session, **given, rounds=1)
    again = Job.resume(cut.breakpoints[-1], rounds=3, session=session)
    again.run(progress=False)
    assert digest(again) == here


@pytest.mark.parametrize(
    ("compress", "own"),
    [
        ("bf16", {"lr": 1e30}),
        (Int8(), {"lr": 1e30}),
        (TopK(0.1), {"lr": 1e30}),
        ("fp16", {"lr": 1e7, "num_updates": 1}),
    ],
    ids=str,
)
def test_a_node_that_diverges_is_named_and_left_out_where_the_quorum_allows(
    compress: Any, own: dict[str, Any], session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """Of `fp16` the parameters are numbers, and too large for the form in which they travel."""
    given = {"each": {"node2": own}, "compress": compress, "rounds": 2}
    job = at_nodes(session, **given, quorum=Quorum(min_nodes=2))
    assert "2 of 3 nodes, 40 of 60 rows; left out: node2 (not_finite: " in caplog.text
    assert all(torch.isfinite(tensor.float()).all() for tensor in job.result.params.values())
    with pytest.raises(JobFailed, match=r"expected 3 or more .*node2: not_finite: "):
        at_nodes(session, **given, quorum=Quorum(min_nodes=3))


@pytest.mark.parametrize("name", [n for n in TRAINING_PROTOCOLS if n != "fedbuff"])
def test_every_protocol_runs_compressed_and_its_ledger_is_followed(
    name: str, toy: Path, tmp_path: Path
) -> None:
    protocol = FedPer(personal=["3.*"]) if name == "fedper" else ready(name)
    job = local(toy, tmp_path, protocol, keep=True, rounds=2)
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} <= {"equal", "not kept"}
    assert job.finished


def test_the_variates_of_scaffold_travel_exactly(toy: Path, tmp_path: Path) -> None:
    plain = local(toy, tmp_path, Scaffold(), rounds=1, compress=None, keep=True)
    small = local(toy, tmp_path, Scaffold(), rounds=1, compress=TopK(0.1), keep=True)
    first, second = (
        split(FileParams(*JobFolder(job.folder).counted(1, "train", "node1"))) for job in (plain, small)
    )
    assert first[0]["3.weight"].tolist() != second[0]["3.weight"].tolist()
    first, second = first[1]["scaffold"], second[1]["scaffold"]
    assert {n: t.tolist() for n, t in first.items()} == {n: t.tolist() for n, t in second.items()}


class Frozen(Wide):
    """The first layer stays as it is, without batch normalisation, whose examples would depend on each other."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        first, last = torch.nn.Linear(2, 120), torch.nn.Linear(120, 1)
        first.requires_grad_(False)
        return torch.nn.Sequential(first, torch.nn.ReLU(), last)


class Private(Wide):
    """Two layers whose examples do not depend on each other."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(2, 120), torch.nn.ReLU(), torch.nn.Linear(120, 1))


@pytest.mark.parametrize(
    ("plan", "changes"),
    [(Frozen, {}), (Private, {"protect": RecordDP(epsilon=5.0, delta=1e-2, max_grad_norm=1.0)})],
)
def test_frozen_parameters_stay_and_noise_is_on_before_anything_is_lost(
    plan: Any, changes: dict[str, Any], toy: Path, tmp_path: Path
) -> None:
    args = {"lr": 0.02, "num_updates": 3, "batch_size": 8}
    job = local(toy, tmp_path, training_plan=plan, training_args=args, keep=True, rounds=2, **changes)
    assert [check.verdict for check in verify_job(JobFolder(job.folder))] == ["equal", "equal"]
    (sent,) = JobFolder(job.folder).spool(2).glob("sent_train.safetensors")
    assert set(FileParams(sent)) == set(job.result.params)


def test_nodes_that_take_part_now_and_then_have_what_they_need(
    session: Session, toy: Path, tmp_path: Path
) -> None:
    from tests.compressed import every_other

    job = at_nodes(session, selector=every_other, rounds=6, compress=TopK(0.2))
    assert digest(job) == digest(local(toy, tmp_path, selector=every_other, rounds=6, compress=TopK(0.2)))


def test_a_ledger_is_not_followed_where_a_kept_answer_or_what_it_counts_from_was_changed(
    toy: Path, tmp_path: Path
) -> None:
    job = local(toy, tmp_path, keep=True, rounds=2)
    folder = JobFolder(job.folder)
    for name, words in (
        ("origin_train.safetensors", "count from"),
        ("local_*/params.safetensors", "not the one"),
    ):
        (path, *_) = sorted(folder.spool(2).glob(name))
        before = path.read_bytes()
        path.unlink()  # the total of the round before is another name of it
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        (check,) = [check for check in verify_job(folder) if check.verdict != "equal"]
        assert (check.round, check.verdict) == (2, "different")
        assert words in check.detail
        path.write_bytes(before)


def test_owners_read_how_parameters_travel_and_allow_that_alone(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    node = federation.node("strict", NodeConfig(threads=1))
    node.start()
    try:
        with open_session(federation, tmp_path / "lab", Identity.generate("lab")) as session:
            job = make_job(data={"tags": ["toy"]}, session=session)
            assert list(job.request()) == ["strict"]
            with node.database() as database:
                (pending,) = Grants(database).all("pending")
                words = question_in_words(pending.protocol, pending.subject.entry, pending.asked, 0)
                assert "a shorter, less exact form (int8: block = 256)" in words
            node.decide()
            job.run(progress=False)
            assert job.finished
            assert (
                make_job(data={"tags": ["toy"]}, session=session, compress=None).check()[0].grant != "granted"
            )
    finally:
        federation.close()


@pytest.mark.parametrize(
    ("protocol", "changes", "words"),
    [
        ("fedavg", {"compress": "bf-16"}, "did you mean 'bf16'"),
        ("fedavg", {"compress": "Float16"}, "did you mean 'fp16'"),
        ("fedavg", {"compress": TopK}, r"did you mean TopK\(0.01\)"),
        ("fedavg", {"compress": "int4"}, "'bf16', 'fp16', Int8.*'int4'"),
        ("fedavg", {"compress": 8}, "'bf16', 'fp16', Int8.*8"),
        ("fedavg", {"compress": Int8}, "'bf16', 'fp16', Int8"),
        ("fedavg", {"compress": "top_k"}, r"TopK\(0.01\)"),
        (
            "fedavg",
            {"compress": TopK(0.1), "protect": Protect(secagg=True)},
            "places of one node's largest changes",
        ),
        (
            "fedavg",
            {"compress": Int8(), "protect": Protect(secagg=True)},
            r"leave compress out, and give SecAgg\(bits=\d+, clip=0.1\), in which .* have 8 bits each",
        ),
        (
            "fedavg",
            {"compress": "bf16", "protect": Protect(secagg=True)},
            r"leave compress out, and give SecAgg\(bits=16, clip=0.1\)",
        ),
        (FedBuff(k=2), {}, "answers of earlier rounds"),
        (FLoRA(ranks={}), {"compress": TopK(0.1)}, "factors of adapters"),
        ("fedavg", {"training_plan": Counts}, r"whole numbers \(I64\)"),
    ],
)
def test_what_can_not_be_compressed_is_refused_before_there_is_a_job(
    protocol: Any, changes: dict[str, Any], words: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        make_job(protocol, data={"a": str(toy)}, nodes="local", home=tmp_path, **changes)
    assert not list((tmp_path / "jobs").glob("*/spec.mpk"))
