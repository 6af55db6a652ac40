"""Tensors of every odd kind through every training protocol, as they are and compressed: right, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fedjob import (
    Cyclic,
    Ditto,
    FedAvg,
    FedBN,
    FedBuff,
    FedjobError,
    FedNova,
    FedOpt,
    FedPer,
    FedProx,
    FineTuned,
    Int8,
    Job,
    Protect,
    QFedAvg,
    RecordDP,
    Scaffold,
    TopK,
    simulate,
)
from fedjob.parameters.frozen import FROZEN
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.odd_tensors import KINDS, LONG, NUM_UPDATES, OddTensors

ROUNDS = 3
PROTOCOLS: dict[str, Any] = {
    "cyclic": Cyclic(),
    "ditto": Ditto(),
    "fedavg": FedAvg(),
    "fedbn": FedBN(),
    "fedbuff": FedBuff(),
    "fednova": FedNova(),
    "fedopt": FedOpt(),
    "fedper": FedPer(["head.*"]),
    "fedprox": FedProx(mu=0.1),
    "finetuned": FineTuned(num_updates=1),
    "qfedavg": QFedAvg(),
    "scaffold": Scaffold(),
}
COMPRESSORS: dict[str, Any] = {"bf16": "bf16", "int8": Int8(), "top_k": TopK(0.999)}
NOT_AVERAGED = ("ditto", "fedbuff", "fedopt")
"""Protocols whose result is not the mean of the nodes' buffers of the last round, or not of all nodes."""


def make_job(
    home: Path, protocol: Any, compress: Any = None, kinds: str = " ".join(KINDS), **given: Any
) -> Job:
    rng = numpy.random.default_rng(0)
    inputs = rng.normal(size=(60, 4)).astype(numpy.float32)
    arguments = {
        "training_plan": OddTensors,
        "model_args": {"kinds": kinds},
        "training_args": {"lr": 0.02, "num_updates": NUM_UPDATES, "batch_size": 10},
        "rounds": ROUNDS,
        "seed": 3,
        "data": (inputs, inputs.sum(axis=1)),
        "nodes": simulate(3, workers=0),
        "home": home,
        "compress": compress,
    }
    return Job(protocol, **{**arguments, **given})


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def check_near(found: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    """See to it that parameters are those of a job without compression, but for what compressors lose."""
    assert found.keys() == plain.keys()
    for name, tensor in plain.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
        elif tensor.numel():
            most = float(tensor.double().abs().max())
            assert float((found[name].double() - tensor.double()).abs().max()) <= 0.05 * most, name


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_takes_every_odd_tensor_as_it_is_and_compressed(name: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, PROTOCOLS[name], keep=True)
    plain = dict(job.run(progress=False).params)
    assert FROZEN in job.spec.artifacts
    assert "frozen" not in plain
    assert plain[LONG].shape == (100,)
    if name not in NOT_AVERAGED:
        assert int(plain["steps"]) == 2 * NUM_UPDATES * ROUNDS * (3 if name == "cyclic" else 1)
    if name == "fedbuff":
        return
    compress = sorted(COMPRESSORS)[sorted(PROTOCOLS).index(name) % 3]
    small = make_job(tmp_path, PROTOCOLS[name], COMPRESSORS[compress], keep=True)
    check_near(dict(small.run(progress=False).params), plain)
    assert {check.verdict for check in verify_job(JobFolder(small.folder))} == {"equal"}
    cut = make_job(tmp_path, PROTOCOLS[name], COMPRESSORS[compress], rounds=1)
    cut.run(progress=False)
    again = Job.resume(cut.breakpoints[-1], rounds=ROUNDS)
    again.run(progress=False)
    assert digest(again) == digest(small)


@pytest.mark.parametrize("mechanism", ["sampled", "tree"])
def test_noise_is_on_every_odd_tensor_that_is_trained(mechanism: str, tmp_path: Path) -> None:
    quiet = " ".join(kind for kind in KINDS if kind not in ("whole", "normalised", "tied"))
    private = RecordDP(epsilon=50.0, delta=1e-3, mechanism=mechanism)
    job = make_job(tmp_path, FedAvg(), Int8(), quiet, protect=Protect(dp=private))
    params = job.run(progress=False).params
    assert float(params["scalar"]) != 0.5
    assert float(params["one"][0]) != 0.5


def test_many_nodes_are_trained_at_once_with_odd_tensors_and_clipped_gradients(tmp_path: Path) -> None:
    kinds = "scalar double zeros constant unused frozen"
    args = {"lr": 0.02, "num_updates": NUM_UPDATES, "batch_size": 10, "clip_norm": 0.1}
    each = dict(make_job(tmp_path, FedAvg(), None, kinds, training_args=args).run(progress=False).params)
    nodes = simulate(3, workers=0, vectorize=True)
    together = make_job(tmp_path, FedAvg(), None, kinds, training_args=args, nodes=nodes)
    check_near(dict(together.run(progress=False).params), each)


@pytest.mark.parametrize("compress", ["bf16", Int8(), TopK(0.01)], ids=repr)
@pytest.mark.parametrize("aggregator", ["median", "trimmed_mean", "krum", "geometric_median"])
def test_robust_aggregators_take_every_odd_tensor_compressed(
    aggregator: str, compress: Any, tmp_path: Path
) -> None:
    job = make_job(
        tmp_path, FedAvg(), compress, aggregator=aggregator, nodes=simulate(5, workers=0), rounds=2, keep=True
    )
    params = job.run(progress=False).params
    assert int(params["steps"]) == 2 * NUM_UPDATES * 2
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"equal"}


@pytest.mark.parametrize(
    ("kinds", "compress", "words"),
    [
        ("huge", "fp16", r"first parameters can't travel compressed: parameter huge: .* 65504; found 1e\+38"),
        ("infinite", "fp16", "parameter infinite holds NaN or infinity"),
        ("infinite", "bf16", "parameter infinite holds NaN or infinity"),
        ("infinite", Int8(), "parameter infinite holds NaN or infinity"),
        ("infinite", TopK(0.1), "parameter infinite holds NaN or infinity"),
        ("infinite", None, "parameter infinite holds NaN or infinity before any training"),
        ("masked", None, r"buffer masked holds NaN or infinity.*persistent=False"),
        ("expanded", None, "init_model: expanded has several numbers in one place of memory"),
        ("overlapping", Int8(), "init_model: left and right share a part of their memory"),
        ("complex", None, "parameter complex is of torch.complex64"),
        ("accented", None, "named by 1 to 200 of A-Z"),
    ],
)
def test_a_tensor_that_can_not_travel_is_named_before_there_is_a_job(
    kinds: str, compress: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(FedjobError, match=words):
        make_job(tmp_path, FedAvg(), compress, kinds)
    assert not list(tmp_path.rglob("spec.*"))
