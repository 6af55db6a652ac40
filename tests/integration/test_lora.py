"""LoRA adapters of `peft` on a model of `transformers`: they travel alone, and a job of them goes on to the same bytes."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fedjob import Job
from fedjob.parameters.files import FileParams
from fedjob.parameters.frozen import FROZEN, read_frozen
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # of transformers itself

EXAMPLE = Path(__file__).parents[2] / "examples" / "lora" / "adapter.py"


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("adapter", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapter"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["adapter"]


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


def test_adapters_travel_alone_and_learn_and_a_cut_job_goes_on_to_the_same_bytes(
    example: Any, tmp_path: Path
) -> None:
    job = example.make_job(tmp_path)
    result = job.run(progress=False)
    names = result.params.keys()
    assert len(names) == 4
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    part = read_frozen(JobFolder(job.folder).artifact_of(FROZEN))
    assert not part.sent
    assert FileParams(job.folder / "initial.safetensors").keys() == names
    losses = [
        row.value
        for row in result.rows
        if row.phase == "before" and row.node == OVERALL and row.metric == "loss"
    ]
    assert losses[-1] < losses[0]
    whole = FileParams(result.save(tmp_path / "whole.safetensors"))
    assert set(whole) == {*part.names, *names}
    cut = example.make_job(tmp_path, rounds=1)
    cut.run(progress=False)
    again = Job.resume(cut.breakpoints[-1], rounds=3)
    again.run(progress=False)
    assert digest(again) == digest(job)
