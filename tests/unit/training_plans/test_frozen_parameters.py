"""Frozen parameters: sent once, left out of every round, and whole again in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedjob import (
    FedAvg,
    FedPer,
    FineTuned,
    Guard,
    Job,
    JobFailed,
    Median,
    QFedAvg,
    RecordDP,
    SecAgg,
    SpecError,
    TorchPlan,
)
from fedjob.common.errors import PlanError
from fedjob.parameters.files import FileParams
from fedjob.parameters.frozen import FROZEN, read_frozen
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.deployment import model_files_of
from fedjob.researcher.storage.folder import JobFolder
from tests.data import make_points
from tests.unit.protocols.training.sites import TRAINING_PROTOCOLS

BASE = {"0.weight", "0.bias"}
ARGS = {"lr": 0.1, "num_updates": 3, "batch_size": 8, "test_ratio": 0.2}


class Head(TorchPlan):
    """A frozen first layer, batch normalisation and a layer that learns."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        )
        model[0].requires_grad_(False)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"], momentum=0.9)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


class Plain(Head):
    """The same with plain SGD, which SCAFFOLD takes, and no batch normalisation."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])


class Thaws(Plain):
    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        model.requires_grad_(True)
        return torch.optim.SGD(model.parameters(), lr=0.1)


class WritesToIt(Plain):
    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            model[0].weight += 1
        return super().training_step(model, batch)


class OfAFile(Plain):
    """Its first layer is that of a published model."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        model[0].load_state_dict(self.ctx.model("base", sha256=model_args.get("sha256")), assign=True)
        model[0].requires_grad_(False)
        return model


class Tied(Plain):
    """One frozen tensor under two names."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        model[1].weight = model[0].weight
        model[0].weight.requires_grad_(False)
        return model


class WritesBehindIt(Head):
    """Changes a frozen parameter on a way that torch does not count."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        model[0].bias.data.add_(0.1)
        return super().training_step(model, batch)


class ThawsForAWhile(Head):
    """Trains a frozen parameter in a step and freezes it again."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        model[0].requires_grad_(True)
        loss = super().training_step(model, batch)
        loss.backward()
        self.optimizer.step()
        model[0].requires_grad_(False)
        return super().training_step(model, batch)


class AllFrozen(Plain):
    """Nothing of it is trained."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return super().init_model(model_args).requires_grad_(False)


class AllFrozenAndNoOptimizer(AllFrozen):
    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=training_args["lr"])


class ThawsTheHead(AllFrozen):
    """Its optimizer thaws what it trains."""

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        model[2].requires_grad_(True)
        return torch.optim.SGD(model[2].parameters(), lr=training_args["lr"])


class MeansAlone(TorchPlan):
    """A loop of its own finds the running mean of a buffer; its one parameter is frozen."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Linear(4, 1)
        model.register_buffer("mean", torch.zeros(4))
        return model.requires_grad_(False)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)

    def train(self, model, data, training_args):  # type: ignore[no-untyped-def]
        for inputs, _ in data:
            model.mean.copy_(inputs.mean(0))
            yield 0.0


class CountsAlone(Plain):
    """A model of a buffer, which a step changes."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Module()
        model.register_buffer("seen", torch.tensor(0))
        return model

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        model.seen += 1
        return torch.tensor(0.0)


class TrainsTheFrozen(Plain):
    """Its optimizer is given what is frozen, and nothing else."""

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model[0].parameters(), lr=training_args["lr"])


class LosesTheGradient(Plain):
    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return super().training_step(model, batch).detach()


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("points")
    return {name: str(make_points(folder / f"{name}.npz", 40 + 8 * k, k)) for k, name in enumerate("abc")}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    path = tmp_path / "base.safetensors"
    save_file({"weight": torch.randn(8, 4, generator=generator), "bias": torch.zeros(8)}, path)
    return path


def job_of(points: dict[str, str], home: Path, protocol: Any = None, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Head,
        "data": points,
        "nodes": "local",
        "training_args": ARGS,
        "rounds": 2,
        "seed": 5,
        "home": home,
    }
    return Job(protocol or FedAvg(), **{**arguments, **changes})


def run(*args: Any, **changes: Any) -> Job:
    job = job_of(*args, **changes)
    job.run(progress=False)
    return job


def same(first: Any, second: Any) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", TRAINING_PROTOCOLS)
def test_every_protocol_ends_in_the_same_model_whether_frozen_parameters_travel_or_not(
    points: dict[str, str], tmp_path: Path, name: str
) -> None:
    own = {
        "fedper": FedPer(["3.*"]),
        "finetuned": FineTuned(num_updates=2),
        "qfedavg": QFedAvg(lipschitz=10.0),
    }
    protocol = own.get(name) or PROTOCOLS.build(name, {})
    plan = Plain if name == "scaffold" else Head
    light = run(points, tmp_path, protocol, training_plan=plan)
    full = run(points, tmp_path, protocol, training_plan=plan, share="all")
    assert not BASE & light.result.params.keys()
    assert full.result.params.keys() >= BASE
    whole = light.result.state_dict()
    for tensor_name, tensor in full.result.params.items():
        torch.testing.assert_close(whole[tensor_name], tensor)
    sent = FileParams(light.folder / "initial.safetensors")
    assert not BASE & sent.keys()
    assert read_frozen(JobFolder(light.folder).artifact_of(FROZEN)).names == BASE


def test_a_plan_without_frozen_parameters_sends_nothing_along(points: dict[str, str], tmp_path: Path) -> None:
    assert job_of(points, tmp_path, share="all").spec.artifacts == {}
    light = job_of(points, tmp_path)
    assert light.spec.artifacts.keys() == {FROZEN}
    assert light.record.content_hash == job_of(points, tmp_path).record.content_hash
    with pytest.raises(SpecError, match="share is 'trainable' or 'all', not 'some'"):
        job_of(points, tmp_path, share="some")


def test_saved_exported_and_built_models_are_whole(points: dict[str, str], tmp_path: Path) -> None:
    result = run(points, tmp_path).result
    saved = load_file(result.save(tmp_path / "model.safetensors"))
    exported = load_file(result.export(tmp_path / "exported.safetensors"))
    whole = dict(result.model().state_dict())
    assert same(saved, whole)
    assert same(exported, whole)
    assert saved.keys() > BASE
    first = result.plan().model[0].weight
    assert torch.equal(first, read_frozen(result._folder.artifact_of(FROZEN)).sent["0.weight"])


def test_a_job_goes_on_from_a_breakpoint_to_the_same_bytes(points: dict[str, str], tmp_path: Path) -> None:
    whole, cut = run(points, tmp_path, rounds=3), run(points, tmp_path, rounds=1)
    again = Job.resume(cut.breakpoints[-1], rounds=3)
    again.run(progress=False)
    digests = {hash_file(job.folder / "result" / "params.safetensors") for job in (whole, again)}
    assert len(digests) == 1
    clone = whole.clone()
    clone.run(progress=False)
    assert hash_file(clone.folder / "result" / "params.safetensors") in digests
    assert FROZEN not in whole.clone(share="all").spec.artifacts


def test_aggregators_guards_and_verify_see_what_travels_alone(points: dict[str, str], tmp_path: Path) -> None:
    job = run(points, tmp_path, guard=Guard(max_norm=100.0), aggregator=Median(), keep=True)
    assert {check.verdict for check in verify_job(JobFolder(job.folder))} == {"equal"}
    assert not BASE & job.result.params.keys()


@pytest.mark.parametrize("protect", [SecAgg(), RecordDP(epsilon=6.0, delta=1e-4)])
def test_protections_are_of_what_travels(points: dict[str, str], tmp_path: Path, protect: Any) -> None:
    args = {name: value for name, value in ARGS.items() if name != "test_ratio"}
    job = run(points, tmp_path, training_plan=Plain, protect=protect, training_args=args)
    assert job.result.params.keys() == {"2.weight", "2.bias"}
    assert job.result.state_dict().keys() == {*BASE, "2.weight", "2.bias"}


def test_a_result_or_a_file_of_the_whole_model_begins_another_job_with_its_frozen_values(
    points: dict[str, str], tmp_path: Path
) -> None:
    first = run(points, tmp_path).result
    path = first.save(tmp_path / "whole.safetensors")
    for init in (first, path, first.state_dict()):
        other = job_of(points, tmp_path, seed=6, init=init)
        assert same(FileParams(other.folder / "initial.safetensors"), first.params)
        frozen = read_frozen(JobFolder(other.folder).artifact_of(FROZEN)).sent
        assert torch.equal(frozen["0.weight"], first.state_dict()["0.weight"])
    alone = job_of(points, tmp_path, seed=5, init=first.params)
    assert same(FileParams(alone.folder / "initial.safetensors"), first.params)
    with pytest.raises(SpecError, match=r"'0\.bias' is missing, expected of shape \(8,\)"):
        job_of(points, tmp_path, init={**first.params, "0.weight": torch.zeros(8, 4)})


def test_a_trained_model_is_evaluated_with_its_frozen_part(points: dict[str, str], tmp_path: Path) -> None:
    trained = run(points, tmp_path, training_args={**ARGS, "test_on_global_updates": True}).result
    found = Job(trained, data=points, nodes="local", home=tmp_path)
    assert found.spec.artifacts == run(points, tmp_path).spec.artifacts
    found.run(progress=False)


@pytest.mark.parametrize("plan", [Thaws, WritesToIt, WritesBehindIt, ThawsForAWhile])
def test_what_is_frozen_and_changes_all_the_same_is_an_error_that_names_it(
    points: dict[str, str], tmp_path: Path, plan: Any
) -> None:
    with pytest.raises(JobFailed, match=r"parameter 0\.\w+ was frozen when the job was made.*share='all'"):
        run(points, tmp_path, training_plan=plan)
    run(points, tmp_path, training_plan=Thaws, share="all")


@pytest.mark.parametrize(
    ("plan", "share"),
    [(AllFrozen, "trainable"), (ThawsTheHead, "trainable"), (AllFrozenAndNoOptimizer, "all")],
)
def test_a_model_that_is_frozen_as_a_whole_is_refused_before_there_is_a_job(
    points: dict[str, str], tmp_path: Path, plan: Any, share: str
) -> None:
    words = r"every parameter of the model is frozen \(4, such as 0.weight\).*requires_grad=True.*share='all'"
    with pytest.raises(PlanError, match=words):
        job_of(points, tmp_path, training_plan=plan, share=share)
    assert not list(tmp_path.glob("jobs/job_*"))


def test_a_plan_that_trains_something_else_than_the_parameters_of_its_model_runs(
    points: dict[str, str], tmp_path: Path
) -> None:
    thawed = run(points, tmp_path, training_plan=ThawsTheHead, share="all")
    assert not same(thawed.result.params, FileParams(thawed.folder / "initial.safetensors"))
    args = {"num_updates": 3, "batch_size": 8}
    means = run(points, tmp_path, training_plan=MeansAlone, training_args=args).result.params
    assert means["mean"].abs().sum() > 0
    counts = run(points, tmp_path, training_plan=CountsAlone).result.params
    assert int(counts["seen"]) == 2 * ARGS["num_updates"]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (TrainsTheFrozen, "init_optimizer: every parameter that the optimizer is given is frozen"),
        (LosesTheGradient, r"a loss that depends on no parameter: compute it .* without detach\(\)"),
    ],
)
def test_a_step_that_would_train_nothing_is_an_error(
    points: dict[str, str], tmp_path: Path, plan: Any, words: str
) -> None:
    with pytest.raises(JobFailed, match=words):
        run(points, tmp_path, training_plan=plan)


def test_what_a_model_ties_is_sent_once(points: dict[str, str], tmp_path: Path) -> None:
    job = run(points, tmp_path, training_plan=Tied)
    part = read_frozen(JobFolder(job.folder).artifact_of(FROZEN))
    assert (set(part.sent), part.elsewhere) == ({"0.weight"}, ("1.weight",))
    whole = load_file(job.result.save(tmp_path / "tied.safetensors"))
    assert torch.equal(whole["0.weight"], whole["1.weight"])


def test_nothing_of_a_model_that_nodes_have_travels(
    points: dict[str, str], tmp_path: Path, base: Path
) -> None:
    job = run(points, tmp_path, training_plan=OfAFile, models={"base": base})
    part = read_frozen(JobFolder(job.folder).artifact_of(FROZEN))
    assert (dict(part.sent), set(part.elsewhere)) == ({}, BASE)
    assert job.spec.models == {"base": hash_file(base)}
    assert torch.equal(job.result.state_dict()["0.weight"], load_file(base)["weight"])
    changed = {**job.result.state_dict(), "0.bias": torch.ones(8)}
    other = job_of(points, tmp_path, training_plan=OfAFile, models={"base": base}, init=changed)
    assert set(read_frozen(JobFolder(other.folder).artifact_of(FROZEN)).sent) == {"0.bias"}
    clone = job.clone(rounds=1)
    assert clone.spec.models == job.spec.models
    with pytest.raises(SpecError, match=r"can't hold the files .* nor those of models"):
        job.to_json()
    save_file({"weight": torch.zeros(8, 4), "bias": torch.zeros(8)}, base)
    with pytest.raises(JobFailed, match=r"the model 'base' of .* is not in .* as it was"):
        clone.run(progress=False)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {},
            PlanError,
            r"asks for the model 'base'.*here are none: name its file with Job\(models={'base': path}\)",
        ),
        ({"models": {"other": "base"}}, PlanError, "the job's models here are other"),
        ({"models": {"base": "a" * 64}}, PlanError, "the job's models here are none"),
        ({"models": {"base": "base"}, "model_args": {"sha256": "b" * 64}}, PlanError, "it is another model"),
        (
            {"models": {"base": "nowhere"}},
            SpecError,
            "there is no such file; expected the parameters of a model, a safetensors file",
        ),
        ({"models": {"base": "points"}}, SpecError, "expected a safetensors file"),
        ({"models": {"../x": "base"}}, SpecError, "a model is named by 1 to 64 letters"),
        ({"models": ["base"]}, SpecError, "models is a dict from names to safetensors files"),
        (
            {"models": {"base": 3}},
            SpecError,
            "is the path of a safetensors file, or the sha256 of one .* found 3",
        ),
    ],
)
def test_a_model_that_is_not_there_is_named_before_anything_is_made(
    points: dict[str, str], tmp_path: Path, base: Path, changes: dict[str, Any], error: Any, words: str
) -> None:
    places = {"base": base, "nowhere": tmp_path / "nowhere", "points": points["a"]}
    models = changes.get("models")
    if isinstance(models, dict):
        models = {name: places.get(path, path) for name, path in models.items()}
    with pytest.raises(error, match=words):
        job_of(points, tmp_path / "home", training_plan=OfAFile, **{**changes, "models": models})
    assert not list((tmp_path / "home").glob("jobs/job_*"))


def test_a_model_file_is_known_by_its_bytes(base: Path) -> None:
    found = model_files_of({"base": base, "theirs": "c" * 64})
    assert found["base"].sha256 == hash_file(base)
    assert (found["theirs"].path, found["theirs"].sha256) == ("", "c" * 64)
    assert np.isfinite(load_file(base)["weight"].numpy()).all()
