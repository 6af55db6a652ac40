"""Jobs whose parameters travel compressed, both ways: they learn, can be verified, and go on to the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjob import Int8, Job, TopK, simulate
from fedjob.parameters.files import FileParams
from fedjob.parameters.safetensors_header import num_bytes_of
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.compressed import ARGS, Digits, accuracy, digits

COMPRESSORS: dict[str, Any] = {"bf16": "bf16", "fp16": "fp16", "int8": Int8(), "top_k": TopK(0.1)}
TRAINED, NUM_NODES, ROUNDS = 1200, 4, 6


def compressed_job(home: Path, compress: Any, **given: Any) -> Job:
    inputs, targets = digits()
    arguments = {
        "training_plan": Digits,
        "training_args": ARGS,
        "rounds": ROUNDS,
        "seed": 3,
        "data": (inputs[:TRAINED], targets[:TRAINED]),
        "nodes": simulate(NUM_NODES, workers=0),
        "home": home,
        "compress": compress,
    }
    return Job(arguments.pop("operation", "fedavg"), **{**arguments, **given})


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def travelled(job: Job, round_: int) -> tuple[int, int]:
    """Return the bytes that each node got and gave in a round."""
    spool = JobFolder(job.folder).spool(round_)
    (sent,) = {path.stat().st_size for path in spool.glob("sent_*.safetensors")}
    given = [path.stat().st_size for path in spool.glob("local_*/params.safetensors")]
    assert len(given) == NUM_NODES
    return sent, max(given)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = compressed_job(tmp_path_factory.mktemp("plain"), None)
    job.run(progress=False)
    return job


@pytest.mark.parametrize(("name", "share"), [("bf16", 0.55), ("fp16", 0.55), ("int8", 0.33), ("top_k", 0.25)])
def test_a_compressed_job_learns_as_well_and_moves_less_and_is_verified_and_goes_on_to_the_same_bytes(
    name: str, share: float, plain: Job, tmp_path: Path
) -> None:
    job = compressed_job(tmp_path, COMPRESSORS[name], keep=True)
    result = job.run(progress=False)
    inputs, targets = digits()
    test = inputs[TRAINED:], targets[TRAINED:]
    assert accuracy(result.params, *test) > accuracy(plain.result.params, *test) - 0.03
    whole = num_bytes_of(FileParams(job.folder / "initial.safetensors").schema)
    down, up = travelled(job, ROUNDS)
    assert up < share * whole
    assert down < share * whole
    checks = verify_job(JobFolder(job.folder))
    assert [check.verdict for check in checks] == ["equal"] * ROUNDS
    cut = compressed_job(tmp_path, COMPRESSORS[name], rounds=3)
    cut.run(progress=False)
    again = Job.resume(cut.breakpoints[-1], rounds=ROUNDS)
    again.run(progress=False)
    assert digest(again) == digest(job)
