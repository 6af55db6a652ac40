"""Local jobs: the loop, the hooks, breakpoints and rounds by hand, in one process and without a hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import (
    EarlyStopping,
    FedAdam,
    FedAvg,
    Fraction,
    Job,
    JobFailed,
    KeepBest,
    Median,
    Quorum,
    TensorBoard,
    WeightedMean,
)
from fedjob.aggregation.base import Aggregator
from fedjob.common.errors import (
    BreakpointCorrupt,
    BreakpointMissing,
    EmptyData,
    FedjobError,
    NotReady,
    PlanError,
    SpecError,
)
from fedjob.data.preprocessing.rows import Filter
from fedjob.parameters.files import FileParams
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import chain, hash_file, load_breakpoint, save_breakpoint
from fedjob.researcher.storage.folder import JobFolder
from fedjob.training_plans.source.extraction import extract
from tests.data import TRAINING, make_points
from tests.foreign import accept
from tests.memory import held_bytes
from tests.on_disk import in_memory_alone, need_a_disk_that_waits
from tests.parts import package
from tests.plans import Linear, Raises, Tiny

PLAN_FILE = Path(__file__).parents[1] / "plans.py"


def test_whatever_a_job_leaves_behind_is_on_the_disk(clinics: dict[str, str], tmp_path: Path) -> None:
    need_a_disk_that_waits(tmp_path)
    job = make_job(
        clinics, tmp_path / "home", rounds=3, breakpoint_every=3, hooks=[KeepBest("accuracy", phase="after")]
    )
    job.run(progress=False)
    for kept in ("breakpoints", "result"):
        files = [path for path in (Path(job.folder) / kept).rglob("*") if path.is_file()]
        assert len(files) > 2
        assert [path.name for path in files if in_memory_alone(path)] == []


@pytest.fixture
def clinics(tmp_path: Path) -> dict[str, str]:
    return {f"clinic-{k}": str(make_points(tmp_path / f"{k}.npz", 60 + 20 * k, k)) for k in range(3)}


ROOT = Path(__file__).parents[2]


def make_job(clinics: dict[str, str], home: Path, **changes: object) -> Job:
    arguments: dict[str, object] = {
        "training_plan": Tiny,
        "data": clinics,
        "nodes": "local",
        "training_args": TRAINING,
        "rounds": 4,
        "seed": 11,
        "home": home,
    }
    return Job(FedAvg(), **{**arguments, **changes})  # type: ignore[arg-type]


def digest(job: Job) -> str:
    return hash_file(job.folder / "result" / "params.safetensors")


@pytest.mark.feature("FB-80")
def test_a_local_job_runs_with_sockets_forbidden(tmp_path: Path) -> None:
    """The hook is one of a process of its own, for it can't be taken away again."""
    script = """
import sys
from pathlib import Path

def forbid(event, args):
    if event.startswith("socket."):
        raise PermissionError(f"a socket was used: {event}")

sys.addaudithook(forbid)
from tests.integration.test_local_jobs import digest, make_job
job = make_job({"alone": sys.argv[1]}, Path(sys.argv[2]), rounds=1)
job.run(progress=False)
print(digest(job))
"""
    data = str(make_points(tmp_path / "points.npz", 60, 1))
    command = [sys.executable, "-c", script, data, str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    here = make_job({"alone": data}, tmp_path / "here", rounds=1)
    here.run(progress=False)
    assert done.stdout.split()[-1] == digest(here)


@pytest.mark.feature("FB-16")
def test_memory_does_not_grow_with_the_rounds_that_a_job_has_replies_of(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    width = 200_000
    job = make_job(
        clinics, tmp_path, model_args={"width": width}, training_args={**TRAINING, "num_updates": 1}
    )
    one_reply = sum(t.numel() * t.element_size() for t in job.training_plan.get_params().values())
    sizes = []
    for round_ in range(1, 9):
        job.start_nodes_training_round(round_)
        job.aggregate()
        sizes.append(held_bytes())
    assert len([reply for replies in job.training_replies.values() for reply in replies]) == 24
    job.close("killed")
    # held in memory, the replies of the last five rounds alone would be fifteen times one
    assert sizes[-1] - sizes[2] < 5 * one_reply, [size >> 20 for size in sizes]


def test_a_job_trains_and_tells_what_it_measured(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path, validate_at_end=True)
    result = job.run(progress=False)
    assert job.success
    history = result.history
    assert set(history.phase) == {"before", "train", "after", "validate"}
    final = history[(history.phase == "validate") & (history.node == "all")].value.iloc[0]
    assert final > 0.8
    assert set(result.params) == set(result.model().state_dict())
    result.plot(path=tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    saved = result.save(tmp_path / "model.safetensors")
    assert saved.exists()
    assert "round" in repr(result)
    assert "<table>" in job._repr_html_()


@pytest.mark.feature("FB-24")
def test_the_same_seed_gives_the_same_first_parameters_and_the_same_result(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    a, b = (make_job(clinics, tmp_path / name) for name in "ab")
    first = [hash_file(job.folder / "initial.safetensors") for job in (a, b)]
    assert first[0] == first[1]
    a.run(progress=False)
    b.run(progress=False)
    assert digest(a) == digest(b)


@pytest.mark.feature("FB-43")
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_moved_breakpoint_alone_ends_in_the_bytes_of_the_uninterrupted_run(
    clinics: dict[str, str], tmp_path: Path, cut: int
) -> None:
    whole = make_job(clinics, tmp_path / "whole", selector=Fraction(0.67), keep_breakpoints=9)
    whole.run(progress=False)
    moved = tmp_path / "moved"
    shutil.move(whole.breakpoints[cut - 1], moved)
    expected = digest(whole)
    shutil.rmtree(whole.folder)
    job = accept(moved, home=tmp_path / "other")
    job.run(progress=False)
    assert digest(job) == expected
    assert {event.round for event in job.events() if event.type == "round"} == set(range(cut + 1, 5))


@pytest.mark.feature("FB-93")
def test_two_rounds_and_two_more_equal_four_in_one_go(clinics: dict[str, str], tmp_path: Path) -> None:
    four = make_job(clinics, tmp_path / "four")
    four.run(progress=False)
    two = make_job(clinics, tmp_path / "two", rounds=2)
    two.run(progress=False)
    more = Job.resume(two.breakpoints[-1], rounds=4)
    more.run(progress=False)
    assert digest(more) == digest(four)


@pytest.mark.feature("FB-42")
def test_disk_use_grows_by_one_file_of_parameters_per_round(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path, model_args={"width": 4000}, keep_breakpoints=9)
    job.run(progress=False)
    inodes = {}
    for file in job.folder.joinpath("breakpoints").rglob("params.safetensors"):
        inodes[os.stat(file).st_ino] = os.stat(file).st_size
    everything = {os.stat(f).st_ino: os.stat(f).st_size for f in job.folder.rglob("*") if f.is_file()}
    model = max(inodes.values())
    assert len(inodes) == 4
    momentum_of_three_nodes = 3 * 4 * model  # what a node would keep lies in a local job's folder, too
    assert sum(everything.values()) < (4 + 1 + 4) * model + momentum_of_three_nodes + 2_000_000


def test_a_job_cut_before_its_first_breakpoint_resumes_from_its_folder(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    whole = make_job(clinics, tmp_path / "whole")
    whole.run(progress=False)
    job = make_job(clinics, tmp_path / "cut")
    job.start_nodes_training_round(1)  # begun, and never committed
    job.close("failed")
    assert job.breakpoints == []
    again = Job.resume(job.folder)
    again.run(progress=False)
    assert again.id == job.id
    assert digest(again) == digest(whole)
    with pytest.raises(BreakpointMissing, match="anew"):
        Job.resume(make_job(clinics, tmp_path).folder)


def test_a_damaged_breakpoint_is_refused_by_name_with_an_offer(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path)
    job.run(progress=False)
    newest = job.breakpoints[-1]
    record = newest / "record.mpk"
    record.write_bytes(record.read_bytes()[:-1])
    with pytest.raises(BreakpointCorrupt, match=r"record\.mpk.*round_0003"):
        Job.resume(newest)


def test_verify_aggregates_every_round_again_and_notices_a_changed_reply(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path, keep=True)
    job.run(progress=False)
    checks = verify_job(JobFolder(job.folder))
    assert [check.verdict for check in checks] == ["equal"] * 4
    reply = next(job.folder.glob("spool/round_0002/local_clinic-1_*/params.safetensors"))
    raw = bytearray(reply.read_bytes())
    raw[-1] ^= 1
    reply.write_bytes(raw)
    assert [check.verdict for check in verify_job(JobFolder(job.folder))] == [
        "equal",
        "different",
        "equal",
        "equal",
    ]


class Half(Linear):
    """Its parameters have eight bits of fraction, and numpy has no name for them; its buffer has one bit."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = super().init_model(model_args).to(torch.bfloat16)
        model.register_buffer("is_first", torch.zeros(1, dtype=torch.bool))
        return model

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        model.is_first.fill_(self.ctx.node.endswith("0"))  # of three nodes one says yes
        return torch.nn.functional.mse_loss(model(inputs.bfloat16())[:, 0].float(), targets)


@pytest.mark.parametrize("aggregator", [WeightedMean(), Median()], ids=lambda aggregator: aggregator.name)
def test_verify_aggregates_parameters_of_two_bytes_again(
    aggregator: Aggregator, clinics: dict[str, str], tmp_path: Path
) -> None:
    args = {
        name: value for name, value in TRAINING.items() if name != "test_metric"
    }  # Half measures the loss
    job = make_job(
        clinics, tmp_path, keep=True, training_plan=Half, rounds=2, aggregator=aggregator, training_args=args
    )
    job.run(progress=False)
    assert [check.verdict for check in verify_job(JobFolder(job.folder))] == ["equal"] * 2


def test_verify_aggregates_a_total_again_that_was_only_a_direction(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path, keep=True, server_optimizer=FedAdam(), rounds=2)
    job.run(progress=False)
    assert [check.verdict for check in verify_job(JobFolder(job.folder))] == ["equal"] * 2
    found = load_breakpoint(job.breakpoints[-1])
    first, second = found.position.ledger
    forged = replace(first, output_hash="0" * 64)
    ledger = chain(chain((), forged), replace(second, previous_hash=""))
    save_breakpoint(JobFolder(job.folder), replace(found.position, ledger=ledger))
    assert [check.detail for check in verify_job(JobFolder(job.folder))] == [
        "the total does not follow from the replies",
        "",
    ]


@pytest.mark.feature("FB-03", "FB-19")
def test_class_instance_and_file_give_the_same_plan(clinics: dict[str, str], tmp_path: Path) -> None:
    forms = [Tiny, Tiny(), f"{PLAN_FILE}:Tiny"]
    jobs = [make_job(clinics, tmp_path, training_plan=form) for form in forms]
    assert len({job.spec.plan_hash for job in jobs}) == 1
    assert {job.training_plan_name for job in jobs} == {"Tiny"}


@pytest.mark.feature("FB-10")
def test_no_plan_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="training_plan is required"):
        Job(FedAvg(), training_plan=None, data="x", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.feature("FB-11")
@pytest.mark.parametrize("plan", [3, dict, print, "nowhere.py:Net"])
def test_what_is_not_a_plan_is_refused_and_leaves_no_file(tmp_path: Path, plan: object) -> None:
    with pytest.raises(SpecError):
        Job(FedAvg(), training_plan=plan, data="x", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.feature("FB-05")
def test_why_a_plan_file_can_not_be_used_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("class Net(:\n")
    with pytest.raises(PlanError, match=r"broken\.py"):
        extract(f"{broken}:Net")
    with pytest.raises(PlanError, match=r"missing\.py"):
        extract(f"{tmp_path}/missing.py:Net")
    with pytest.raises(PlanError, match="Other"):
        extract(f"{PLAN_FILE}:Other")


@pytest.mark.feature("FB-21")
def test_an_unwritable_home_raises_and_leaves_no_half_built_job(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    blocked = tmp_path / "home"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(FedjobError, match="home"):
        make_job(clinics, blocked)
    assert blocked.read_text() == "a file where a folder should be"


@pytest.mark.feature("FB-09")
def test_kept_files_hold_plan_parameters_and_replies_of_every_round(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path / "home", keep_files_dir=tmp_path / "kept", rounds=2)
    job.run(progress=False)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    expected = ["plan.py"]
    for round_ in (1, 2):
        expected += [f"round_000{round_}_{who}.safetensors" for who in [*sorted(clinics), "params"]]
    assert names == sorted(expected)


@pytest.mark.feature("FB-26")
def test_what_a_job_is_can_not_be_assigned(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path)
    for name in (
        "id",
        "requests",
        "training_plan",
        "training_plan_file",
        "training_plan_name",
        "training_replies",
        "repo",
    ):
        with pytest.raises(AttributeError):
            setattr(job, name, 1)
    assert job.training_plan_file.read_text() == extract(Tiny).text


@pytest.mark.feature("FB-12")
def test_selected_replied_and_dropped_are_told_apart(clinics: dict[str, str], tmp_path: Path) -> None:
    for k, name in enumerate(clinics):  # the first treats nobody who is old enough
        lines = ["age,a,b,c,sick"] + [f"{age},0.1,0.2,0.3,{age % 2}" for age in range(20 * k, 20 * k + 20)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    tables = {name: str(tmp_path / f"{name}.csv") for name in clinics}
    job = make_job(tables, tmp_path, rounds=1, preprocess=[Filter("age", ">=", 20)])
    job.run(progress=False)
    info = job.rounds[1]
    assert info.selected == ("clinic-0", "clinic-1", "clinic-2")
    assert info.replied == ("clinic-1", "clinic-2")
    assert list(info.dropped) == ["clinic-0"]
    with pytest.raises(EmptyData, match="has no rows"):
        make_job({**clinics, "clinic-0": str(make_points(tmp_path / "empty.npz", 0, 1))}, tmp_path).reach()


@pytest.mark.feature("FB-86")
def test_a_plan_that_raises_fails_the_local_job_with_its_own_exception(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    job = make_job(clinics, tmp_path, training_plan=Raises)
    with pytest.raises(JobFailed) as caught:
        job.run(progress=False)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert job.state == "failed"
    with pytest.raises(NotReady, match="failed"):
        _ = job.result


class Exits(Tiny):
    """Ends its process in the middle of training, as a script does."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        raise SystemExit(3)


def test_a_plan_that_exits_fails_the_local_job_and_not_the_program(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match="the training plan raised SystemExit: 3"):
        make_job(clinics, tmp_path, training_plan=Exits).run(progress=False)


@pytest.mark.feature("FB-84")
def test_a_local_job_shows_its_plan_parameters_and_model(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path, rounds=1)
    result = job.run(progress=False)
    assert job.training_plan.model is not None
    assert isinstance(result.model(), torch.nn.Module)
    assert torch.equal(result.model().state_dict()["0.weight"], result.params["0.weight"])


def test_the_three_forms_of_first_parameters_are_equal_and_misuse_is_refused(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    trained = make_job(clinics, tmp_path, rounds=1)
    result = trained.run(progress=False)
    file = result.save(tmp_path / "init.safetensors")
    jobs = [make_job(clinics, tmp_path, init=init) for init in (result, result.params, file)]
    assert len({hash_file(job.folder / "initial.safetensors") for job in jobs}) == 1
    for wrong in (3, {}, {"w": torch.ones(1)}, tmp_path / "none.safetensors"):
        with pytest.raises(SpecError):
            make_job(clinics, tmp_path, init=wrong)
    job = make_job(clinics, tmp_path)
    with pytest.raises(ValueError, match="both"):
        job.update_parameters(params=result.params, filename=file)


@pytest.mark.feature("FB-04")
def test_files_of_one_name_load_independently_and_the_import_path_stays(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    before, modules = list(sys.path), set(sys.modules)
    plans = []
    for name, width in (("one", 3), ("two", 5)):
        folder = tmp_path / name
        folder.mkdir()
        text = PLAN_FILE.read_text().replace('model_args.get("width", 8)', str(width))
        (folder / "plan.py").write_text(text)
        plans.append(make_job(clinics, tmp_path, training_plan=f"{folder}/plan.py:Tiny").training_plan)
    assert [plan.model[0].out_features for plan in plans] == [3, 5]  # type: ignore[attr-defined]
    assert sys.path == before
    assert not {name for name in set(sys.modules) - modules if name == "plan"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": "3"}, "rounds"),
        ({"seed": -1}, "seed"),
        ({"training_args": {**TRAINING, "num_update": 3}}, "num_updates"),
        ({"training_args": {"epochs": 1, "num_updates": 2}}, "epochs"),
        ({"model_args": {"f": open}}, "model_args"),
        ({"model_args": {1: 2}}, "string keys"),
        ({"nodes": "all"}, "nodes"),
        ({"hooks": ["early"]}, "hooks"),
        ({"selector": 5}, "selector"),
        ({"quorum": 3}, "quorum"),
        ({"breakpoint_every": 0}, "breakpoint_every"),
        ({"keep_breakpoints": 0}, "keep_breakpoints"),
    ],
)
def test_a_wrong_argument_says_what_was_expected(
    clinics: dict[str, str], tmp_path: Path, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_job(clinics, tmp_path / "home", **wrong)
    assert not list((tmp_path / "home").glob("jobs/*"))


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    job = make_job({"a": str(tmp_path / "missing.npz")}, tmp_path)
    with pytest.raises(SpecError, match=r"missing\.npz"):
        job.run(progress=False)


def test_more_nodes_than_there_are_can_not_be_required(clinics: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="quorum needs 5"):
        make_job(clinics, tmp_path, quorum=Quorum(min_nodes=5)).run(progress=False)
    with pytest.raises(SpecError, match="elsewhere"):
        make_job(clinics, tmp_path, quorum=Quorum(required=("elsewhere",))).run(progress=False)


def test_early_stopping_ends_the_job_and_is_told(clinics: dict[str, str], tmp_path: Path) -> None:
    job = make_job(clinics, tmp_path, rounds=50, hooks=[EarlyStopping("accuracy", patience=2)])
    job.run(progress=False)
    assert job.success
    assert job.position.round < 50
    assert any("has not improved" in str(event) for event in job.events())


def test_the_best_round_is_kept_over_a_resume(clinics: dict[str, str], tmp_path: Path) -> None:
    hooks = [KeepBest("accuracy", phase="after")]
    whole = make_job(clinics, tmp_path / "a", hooks=hooks)
    whole.run(progress=False)
    half = make_job(clinics, tmp_path / "b", hooks=[KeepBest("accuracy", phase="after")], rounds=2)
    half.run(progress=False)
    shutil.move(half.breakpoints[-1], tmp_path / "moved")
    rest = accept(tmp_path / "moved", rounds=4, home=tmp_path / "c")
    rest.run(progress=False)
    assert {n: t.tolist() for n, t in rest.result.best.items()} == {
        n: t.tolist() for n, t in whole.result.best.items()
    }


def test_tensorboard_gets_scalars_per_node_and_round(clinics: dict[str, str], tmp_path: Path) -> None:
    event_accumulator = package("tensorboard.backend.event_processing.event_accumulator")
    job = make_job(clinics, tmp_path, hooks=[TensorBoard(str(tmp_path / "tb"))], rounds=3)
    job.run(progress=False)
    assert {path.name for path in (tmp_path / "tb").iterdir()} == {*clinics, "all"}
    reader = event_accumulator.EventAccumulator(str(tmp_path / "tb" / "clinic-1"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("accuracy/after")] == [1, 2, 3]


def test_one_full_batch_step_on_every_node_is_one_step_on_the_pooled_data(tmp_path: Path) -> None:

    parts = {f"n{k}": make_points(tmp_path / f"n{k}.npz", 30 + 10 * k, k) for k in range(3)}
    loaded = [np.load(path) for path in parts.values()]
    np.savez(
        tmp_path / "pool.npz",
        x=np.concatenate([d["x"] for d in loaded]),
        y=np.concatenate([d["y"] for d in loaded]),
    )
    arguments = {"training_args": {"lr": 0.1, "num_updates": 1, "batch_size": 10_000}, "rounds": 5, "seed": 1}
    jobs = [
        Job(FedAvg(), training_plan=Linear, data=data, nodes="local", home=tmp_path, **arguments)  # type: ignore[arg-type]
        for data in ({k: str(v) for k, v in parts.items()}, str(tmp_path / "pool.npz"))
    ]
    federated, pooled = (job.run(progress=False).params for job in jobs)
    for name in pooled:
        assert torch.allclose(federated[name], pooled[name], atol=1e-6)


class TestRoundsByHand:
    """The steps of the loop under the names of the Fed-BioMed job."""

    @pytest.mark.feature("FB-46", "FB-47", "FB-75")
    def test_two_rounds_by_hand_equal_two_rounds_of_the_loop(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        loop = make_job(clinics, tmp_path / "loop", rounds=2)
        loop.run(progress=False)
        job = make_job(clinics, tmp_path / "hand", rounds=2)
        refs = []
        for round_ in (1, 2):
            replies = job.start_nodes_training_round(round_)
            assert not job.waiting_for_nodes(replies)
            average = job.aggregate()
            path, ref = job.update_parameters()
            assert all(torch.equal(FileParams(Path(path))[name], average[name]) for name in average)
            assert job.update_parameters() == (path, ref), "the current parameters are exported again"
            assert Path(path).exists()
            refs.append(ref)
        job.close()
        assert refs[0] != refs[1]
        assert digest(job) == digest(loop)

    @pytest.mark.feature("FB-67", "FB-88")
    def test_replies_have_the_fields_of_the_original_and_become_a_table(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path)
        replies = job.start_nodes_training_round(1)
        job.close("killed")
        reply = replies.get("clinic-1")
        assert reply is not None
        assert reply.success
        assert reply.msg == ""
        assert reply.dataset_id == "1"
        assert reply.node_id == "clinic-1"
        assert reply.state_id is not None
        assert Path(reply.params_path).exists()
        assert reply.params is not None
        assert set(reply.params) == set(job.training_plan.get_params())
        assert reply.optimizer_args["optimizer"] == "SGD"
        assert reply.optimizer_args["groups"][0]["lr"] == TRAINING["lr"]
        assert reply.optim_aux_var == {}
        assert reply.sample_size == 60
        assert reply.encryption_factor is None
        assert reply.timing["total"] > 0
        assert len(replies.dataframe()) == 3

    @pytest.mark.feature("FB-51", "FB-66", "FB-45")
    def test_a_validation_round_brings_metrics_and_no_parameters(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path)
        job.start_nodes_training_round(1)
        job.aggregate()
        states = dict(job.position.node_states)
        replies = job.start_nodes_training_round(2, do_training=False)
        assert all(reply.params is None for reply in replies)
        assert all("accuracy" in reply.metrics["validate"] for reply in replies)
        assert dict(job.position.node_states) == states
        saved = job.save_state_breakpoint(tmp_path / "bp")
        job.load_state_breakpoint(saved)
        job.close("killed")

    def test_a_breakpoint_that_lies_elsewhere_keeps_its_node_states_for_as_long_as_it_is_there(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path, keep_breakpoints=1)
        job.start_nodes_training_round(1)
        job.aggregate()
        saved = job.save_state_breakpoint(tmp_path / "bp")["path"]
        states = set(job.position.node_states.values())
        for round_ in range(2, 6):
            job.start_nodes_training_round(round_)
            job.aggregate()
        kept = {path.name for path in (job.folder / "local" / "states").iterdir()}
        assert states <= kept
        job.close("killed")
        again = Job.resume(saved, rounds=3)
        assert again.run(progress=False).params

    def test_parameters_of_ones_own_and_other_nodes_and_arguments_count_from_the_next_round(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path)
        first = job.start_nodes_training_round(1)
        mine = {name: sum(r.params[name] for r in first) / len(first) for name in first[0].params}  # type: ignore[index,misc]
        mine = {name: tensor.to(first[0].params[name].dtype) for name, tensor in mine.items()}  # type: ignore[index]
        job.update_parameters(params=mine)
        assert torch.equal(job.position.state["params"]["0.weight"], mine["0.weight"])
        job.nodes = ["clinic-0", "clinic-2"]
        job.training_args = {**TRAINING, "lr": 0.001}
        replies = job.start_nodes_training_round(2)
        assert [reply.node_id for reply in replies] == ["clinic-0", "clinic-2"]
        assert any("0.001" in str(event) for event in job.events())
        assert job.extract_received_optimizer_aux_var_from_round(2) == {}
        assert set(job.check_training_plan_is_approved_by_nodes().values()) == {"not-needed"}
        with pytest.raises(SpecError, match="nowhere"):
            job.nodes = ["nowhere"]
        job.close("killed")

    @pytest.mark.feature("FB-72")
    def test_own_parameters_are_cast_to_the_plans_dtypes_and_others_are_named(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path)
        own = job.training_plan.get_params()
        with pytest.raises(NotReady, match="no replies to aggregate"):
            job.aggregate()
        doubles = {name: tensor.double().numpy() + 0.25 for name, tensor in own.items()}
        path, _ = job.update_parameters(doubles)
        stored = FileParams(Path(path))
        assert {name: stored[name].dtype for name in stored} == {name: t.dtype for name, t in own.items()}
        for name, tensor in own.items():
            wanted = tensor.double() + 0.25
            assert torch.equal(
                stored[name], wanted.to(tensor.dtype) if tensor.is_floating_point() else tensor
            )
        first = next(iter(own))
        for wrong, words in (
            ({**own, first: torch.zeros(3, 1, 7)}, f"params does not fit .*'{first}' is of shape .3, 1, 7."),
            ({**own, "extra": torch.zeros(1)}, "params does not fit .*'extra' .*expected missing"),
            (
                {name: t for name, t in own.items() if name != first},
                f"params does not fit .*'{first}' is missing",
            ),
            ({**own, first: "many"}, rf"params\['{first}'\] is a tensor or an array of numbers, not a str"),
            ([1, 2], "params takes named tensors"),
        ):
            with pytest.raises(SpecError, match=words):
                job.update_parameters(wrong)
        with pytest.raises(SpecError, match="filename='/nowhere': there is no such file"):
            job.update_parameters(filename="/nowhere")
        job.close("killed")

    def test_a_node_has_arguments_of_its_own_in_a_round_driven_by_hand(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        args = {"lr": 0.1, "num_updates": 1, "batch_size": 8}
        job = make_job(clinics, tmp_path, training_plan=Linear, training_args=args)
        replies = job.start_nodes_training_round(1, each={"clinic-1": {"lr": 1e-6}})
        moved = {reply["node_id"]: bool(reply["params"]["weight"].abs().max() > 1e-3) for reply in replies}
        assert moved == {"clinic-0": True, "clinic-1": False, "clinic-2": True}
        job.aggregate()
        again = job.start_nodes_training_round(2)
        assert [reply["timing"]["train"] > 0 for reply in again] == [True] * 3
        with pytest.raises(SpecError, match="each names nowhere; the job's nodes are clinic-0, clinic-1"):
            job.start_nodes_training_round(2, each={"nowhere": {"lr": 0.1}})
        with pytest.raises(SpecError, match="unknown key 'epoch'"):
            job.start_nodes_training_round(2, each={"clinic-0": {"epoch": 1}})
        job.close("killed")

    def test_training_arguments_of_a_draft_are_set_without_asking_anybody(
        self, clinics: dict[str, str], tmp_path: Path
    ) -> None:
        job = make_job(clinics, tmp_path, rounds=1)
        before = {path.name for path in job.folder.iterdir()}
        job.training_args = {**TRAINING, "lr": 0.002}
        assert (job.state, job.attempts) == ("draft", 0)
        assert {path.name for path in job.folder.iterdir()} == before
        assert Job.open(job.folder).training_args["lr"] == 0.002
        job.run(progress=False)
        other = make_job(clinics, tmp_path / "b", rounds=1, training_args={**TRAINING, "lr": 0.002})
        other.run(progress=False)
        assert digest(job) == digest(other)

    @pytest.mark.feature("FB-29")
    def test_the_last_message_is_the_final_event(self, clinics: dict[str, str], tmp_path: Path) -> None:
        job = make_job(clinics, tmp_path, rounds=1)
        assert job.last_msg is None
        job.run(progress=False)
        assert job.last_msg == list(job.events())[-1]
        assert job.last_msg.body["state"] == "completed"


def test_arguments_that_will_be_missed_are_named_before_anybody_is_asked(
    clinics: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"Tiny\.init_optimizer takes training_args\['lr'\]"):
        make_job(clinics, tmp_path, training_args={"epochs": 1}).run(progress=False)
    asked: list[tuple[str, dict[str, Any]]] = [
        (
            "test_on_global_updates",
            {"training_args": {"epochs": 1, "lr": 0.1, "test_on_global_updates": True}},
        ),
        ("test_on_local_updates", {"training_args": {"epochs": 1, "lr": 0.1, "test_on_local_updates": True}}),
        ("validate_at_end", {"training_args": {"epochs": 1, "lr": 0.1}, "validate_at_end": True}),
    ]
    for name, more in asked:
        job = make_job(clinics, tmp_path, **more)
        with pytest.raises(
            SpecError, match=f"{name} asks for a validation, .* give training_args test_ratio"
        ):
            job.run(progress=False)
        assert job.state == "draft"
