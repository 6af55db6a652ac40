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

from fedjob import FedAvg, FlexLoRA, FLoRA, Int8, Job, JobFailed
from fedjob.common.errors import PlanError, SpecError
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


def job_with(example: Any, folder: Path, kind: str, protocol: Any, **given: Any) -> Job:
    from tests.adapter_kinds import Adapters

    arguments = {
        "training_plan": Adapters,
        "model_args": {"kind": kind},
        "training_args": {"lr": 0.01, "num_updates": 2, "batch_size": 16},
        "data": example.make_sites(folder),
        "nodes": "local",
        "rounds": 2,
        "seed": 1,
        "home": folder / "home",
    }
    return Job(protocol, **{**arguments, **given})


@pytest.mark.parametrize(
    ("kind", "protocol", "compress", "num_tensors"),
    [
        ("dropout", FLoRA(ranks={"clinic-1": 2}), None, 4),
        ("all biases", FlexLoRA(ranks={"clinic-1": 2}), "bf16", 17),
        ("bias of B", FLoRA(ranks={"clinic-1": 2}), None, 6),
        ("saved embedding", FlexLoRA(ranks={"clinic-2": 1}), None, 5),
        ("magnitudes", FedAvg(), "fp16", 6),
        ("embedding", FlexLoRA(ranks={"clinic-1": 2}), Int8(), 6),
        ("two", FLoRA(ranks={"clinic-1": 2}), Int8(), 4),
        ("both of two", FedAvg(), Int8(), 8),
        ("scales", FedAvg(), None, 4),
        ("every layer", FlexLoRA(ranks={"clinic-1": 2}), Int8(), 16),
        ("three factors", FedAvg(), None, 6),
        ("vectors", FedAvg(), Int8(), 10),
        ("two products", FedAvg(), None, 4),
    ],
)
def test_adapters_of_every_kind_are_trained_and_go_on_to_the_same_bytes(
    example: Any, tmp_path: Path, kind: str, protocol: Any, compress: Any, num_tensors: int
) -> None:
    job = job_with(example, tmp_path, kind, protocol, compress=compress)
    result = job.run(progress=False)
    assert len(result.params) == num_tensors
    assert set(result.state_dict()) >= set(result.params)
    cut = job_with(example, tmp_path, kind, protocol, compress=compress, rounds=1)
    cut.run(progress=False)
    again = Job.resume(cut.breakpoints[-1], rounds=2)
    again.run(progress=False)
    assert digest(again) == digest(job)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no layer", "Target modules .*no_such.* not found in the base model"),
        ("for inference", r"every parameter of the model is frozen.*inference_mode=True"),
        ("unloaded", "every parameter of the model is frozen"),
    ],
)
def test_adapters_that_leave_nothing_to_train_are_named_before_there_is_a_job(
    example: Any, tmp_path: Path, kind: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        job_with(example, tmp_path, kind, FedAvg())


@pytest.mark.parametrize(
    ("protocol", "kind", "words"),
    [
        (FLoRA(ranks={"clinic-1": 2}), "three factors", r"lora_E.*is a third factor .* as AdaLoRA has it"),
        (FlexLoRA(), "three factors", r"lora_E.*is a third factor .* as AdaLoRA has it"),
        (
            FlexLoRA(ranks={"clinic-1": 2}),
            "vectors",
            "ranks are of low-rank adapters, and the model trains none",
        ),
        (
            FLoRA(ranks={"clinic-1": 2}),
            "two products",
            "ranks are of low-rank adapters, and the model trains none",
        ),
    ],
)
def test_adapters_without_a_rank_of_their_own_are_named_before_there_is_a_job(
    example: Any, tmp_path: Path, protocol: Any, kind: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        job_with(example, tmp_path, kind, protocol)


def test_a_merged_adapter_is_named(example: Any, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"the adapter of .*c_attn is merged into its layer"):
        job_with(example, tmp_path, "merged", FedAvg()).run(progress=False)
