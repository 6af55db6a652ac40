"""SCAFFOLD against numbers worked out by hand from the paper's update rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedjob import Explicit, FedAvg, Job, Scaffold, SpecError, TorchPlan
from fedjob.parameters.files import FileParams
from fedjob.parameters.tree import load_tree
from fedjob.protocols.training.scaffold import KEEPERS
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file, load_breakpoint, save_breakpoint
from fedjob.researcher.storage.folder import JobFolder
from tests.data import TRAINING, make_points
from tests.foreign import accept
from tests.plans import Tiny


class Valley(TorchPlan):
    """One number w and the loss curvature / 2 * (w - centre)^2, so that the gradient is curvature * (w - centre)."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        curvature, centre = dataset.arrays()
        return torch.as_tensor(curvature, dtype=torch.float32), torch.as_tensor(centre, dtype=torch.float32)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        curvature, centre = batch
        return (curvature[:, 0] / 2 * (model.weight[0, 0] - centre) ** 2).mean()


class Plain(Valley):
    aux_modules = ()  # type: ignore[assignment]


class Absent(Valley):
    """Node b can't train in round 2."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        if (self.ctx.node, self.ctx.round) == ("b", 2):
            raise self.fail("no_data", "the ward is closed")
        return super().training_step(model, batch)


class Corrected(Tiny):
    aux_modules = ("scaffold",)


def valley(path: Path, curvature: float, centre: float, num_rows: int = 4) -> str:
    np.savez(path, x=np.full((num_rows, 1), curvature), y=np.full(num_rows, centre))
    return str(path)


@pytest.fixture
def valleys(tmp_path: Path) -> dict[str, str]:
    """Two nodes that pull apart: a steep one to 1 and a flat one to -3; together they want 0."""
    return {"a": valley(tmp_path / "a.npz", 3.0, 1.0), "b": valley(tmp_path / "b.npz", 1.0, -3.0)}


def run(protocol: Any, data: dict[str, str], home: Path, *, rounds: int, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Valley,
        "data": data,
        "nodes": "local",
        "training_args": {"lr": 0.1, "num_updates": 2, "batch_size": 4},
        "rounds": rounds,
        "seed": 3,
        "home": home,
        "keep": True,
    }
    job = Job(protocol, **{**arguments, **changes})
    job.run(progress=False)
    return job


def weight_of(job: Job) -> float:
    return float(FileParams(job.folder / "result" / "params.safetensors")["weight"])


def control_of(job: Job) -> float:
    return float(job.position.state["control"]["weight"])


@pytest.mark.parametrize("kept_by", ["node", "researcher"])
@pytest.mark.parametrize("weighted", [True, False])
def test_two_rounds_are_those_of_the_paper(
    valleys: dict[str, str], tmp_path: Path, kept_by: str, weighted: bool
) -> None:
    protocol = Scaffold(kept_by=kept_by, weighted=weighted)
    # round 1, c = c_a = c_b = 0, x = 0, lr 0.1, 2 steps
    # a: g = 3 (w - 1): -3, w 0.3; -2.1, w 0.51;  c_a = (0 - 0.51) / 0.2 = -2.55
    # b: g = w + 3:      3, w -0.3; 2.7, w -0.57; c_b = 2.85
    # x = -0.03, c = 0.15
    first = run(protocol, valleys, tmp_path / "one", rounds=1)
    assert weight_of(first) == pytest.approx(-0.03, abs=1e-6)
    assert control_of(first) == pytest.approx(0.15, abs=1e-6)
    # round 2, a shifts by c - c_a = 2.7, b by -2.7
    # a: g -3.09 + 2.7 = -0.39, w 0.009;   g -2.973 + 2.7 = -0.273, w 0.0363;   c_a = -3.0315
    # b: g 2.97 - 2.7 = 0.27, w -0.057;    g 2.943 - 2.7 = 0.243, w -0.0813;    c_b = 2.9565
    # x = (0.0363 - 0.0813) / 2 = -0.0225, c = -0.0375
    second = run(protocol, valleys, tmp_path / "two", rounds=2)
    assert weight_of(second) == pytest.approx(-0.0225, abs=1e-6)
    assert control_of(second) == pytest.approx(-0.0375, abs=1e-6)


def test_option_one_and_a_server_step(valleys: dict[str, str], tmp_path: Path) -> None:
    # c_k = g_k(0): -3 and 3, so c = 0; x = 0.5 * -0.03 after one round
    job = run(Scaffold(option="I", server_lr=0.5), valleys, tmp_path, rounds=1)
    assert weight_of(job) == pytest.approx(-0.015, abs=1e-6)
    assert control_of(job) == pytest.approx(0.0, abs=1e-6)


STEPS = {"lr": 0.1, "num_updates": 10, "batch_size": 4}


@pytest.mark.feature("FB-37")
def test_it_converges_where_averaging_does_not_and_tells_what_nodes_sent(
    valleys: dict[str, str], tmp_path: Path
) -> None:
    averaged = run(FedAvg(), valleys, tmp_path / "fedavg", rounds=12, training_args=STEPS)
    corrected = run(Scaffold(), valleys, tmp_path / "scaffold", rounds=12, training_args=STEPS)
    assert abs(weight_of(averaged)) > 0.2
    assert abs(weight_of(corrected)) < 0.01
    aux = corrected.rounds[12].aux
    assert {module: sorted(nodes) for module, nodes in aux.items()} == {"scaffold": ["a", "b"]}
    first = corrected.rounds[1].aux["scaffold"]["a"]
    assert list(first) == ["weight"]
    assert averaged.rounds[1].aux == {}


def test_by_hand_the_replies_carry_the_auxiliary_variables_apart_from_the_parameters(
    valleys: dict[str, str], tmp_path: Path
) -> None:
    job = Job(
        Scaffold(server_lr=0.5),
        training_plan=Valley,
        data=valleys,
        nodes="local",
        training_args={"lr": 0.1, "num_updates": 2, "batch_size": 4},
        seed=3,
        home=tmp_path,
    )
    replies = job.start_nodes_training_round(1)
    reply = replies.get("a")
    assert reply is not None
    assert float(reply.optim_aux_var["scaffold"]["weight"]) == pytest.approx(-2.55, abs=1e-6)
    assert reply.params is not None
    assert list(reply.params) == ["weight"]
    received = job.extract_received_optimizer_aux_var_from_round(1)
    assert sorted(received["scaffold"]) == ["a", "b"]
    assert job.extract_received_optimizer_aux_var_from_round(2) == {}
    job.aggregate()
    path, _ = job.update_parameters()
    assert float(FileParams(Path(path))["weight"]) == pytest.approx(-0.015, abs=1e-6)
    job.start_nodes_training_round(2)
    job.update_parameters({"weight": torch.full((1, 1), 7.0)})
    job.close()
    assert weight_of(job) == 7.0  # as they were given, whatever the server's step


def test_a_node_that_was_left_out_moves_the_common_control_by_its_share(
    valleys: dict[str, str], tmp_path: Path
) -> None:
    job = run(Scaffold(), valleys, tmp_path, rounds=1, selector=Explicit(("a",)))
    assert weight_of(job) == pytest.approx(0.51, abs=1e-6)
    assert control_of(job) == pytest.approx(-2.55 / 2, abs=1e-6)


def test_what_a_node_keeps_stays_as_it_was_where_its_answer_does_not_count(
    valleys: dict[str, str], tmp_path: Path
) -> None:
    job = run(Scaffold(), valleys, tmp_path, rounds=3, training_plan=Absent)
    assert [sorted(info.dropped) for info in job.rounds.values()] == [[], ["b"], []]
    kept = [
        load_tree(job.folder / "local" / "states" / state)["protocol"]["control"]["weight"]
        for state in job.position.node_states.values()
    ]
    assert control_of(job) == pytest.approx(float(sum(kept)) / 2, abs=1e-6)  # c is the mean of all c_k


def test_under_another_key_all_control_variates_begin_anew(valleys: dict[str, str], tmp_path: Path) -> None:
    state = run(Scaffold(), valleys, tmp_path, rounds=1).position.state
    anew = Scaffold().without_node_states(state)
    assert float(anew["control"]["weight"]) == 0.0
    assert anew["params"] is state["params"]
    assert Scaffold(kept_by="researcher").without_node_states(state) is state


def test_momentum_batch_norm_and_dropout_go_along_and_a_resumed_job_ends_in_the_same_bytes(
    tmp_path: Path,
) -> None:
    data = {node: str(make_points(tmp_path / f"{node}.npz", 40, seed)) for seed, node in enumerate("ab")}
    for kept_by in ("node", "researcher"):
        home = tmp_path / kept_by
        arguments: dict[str, Any] = {"training_plan": Corrected, "training_args": TRAINING}
        whole = run(Scaffold(server_lr=0.7, kept_by=kept_by), data, home, rounds=3, **arguments)
        resumed = accept(whole.folder / "breakpoints" / "round_0001", home=tmp_path / f"{kept_by}2")
        resumed.run(progress=False)
        ends = [hash_file(job.folder / "result" / "params.safetensors") for job in (whole, resumed)]
        assert ends[0] == ends[1]
        assert {check.verdict for check in verify_job(JobFolder(whole.folder))} == {"equal"}
    first, second = (
        FileParams(next(tmp_path.glob(f"{k}/jobs/*/result/params.safetensors"))) for k in KEEPERS
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_option_one_leaves_running_means_as_they_were(tmp_path: Path) -> None:
    data = {"a": str(make_points(tmp_path / "a.npz", 40, 1))}
    job = run(Scaffold(option="I"), data, tmp_path, rounds=2, training_plan=Corrected, training_args=TRAINING)
    num_batches = FileParams(job.folder / "result" / "params.safetensors")["1.num_batches_tracked"]
    assert int(num_batches) == 2 * TRAINING["num_updates"]  # type: ignore[operator]


def test_changed_auxiliary_variables_are_found_out(valleys: dict[str, str], tmp_path: Path) -> None:
    job = run(Scaffold(), valleys, tmp_path, rounds=1)
    found = load_breakpoint(job.folder / "breakpoints" / "round_0001")
    aggregator = replace(found.position.ledger[0], aux_hashes={"scaffold": "0" * 64})
    save_breakpoint(JobFolder(job.folder), replace(found.position, ledger=(aggregator,)))
    (check,) = verify_job(JobFolder(job.folder))
    assert (check.verdict, check.detail) == (
        "different",
        "the auxiliary variables scaffold do not follow from the replies",
    )


@pytest.mark.feature("FB-40")
def test_a_plan_that_does_not_declare_the_module_is_refused_at_construction(
    valleys: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(
        SpecError, match=r"scaffold exchanges .* Plain declares none.*aux_modules = \('scaffold',\)"
    ):
        run(Scaffold(), valleys, tmp_path, rounds=1, training_plan=Plain)
    assert not (tmp_path / "jobs").exists() or not list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"server_lr": 0}, "above 0"),
        ({"server_lr": float("nan")}, "above 0"),
        ({"server_lr": "1"}, "is a number"),
        ({"option": "III"}, "'I' or 'II'"),
        ({"kept_by": "hub"}, "'node' or 'researcher'"),
    ],
)
def test_wrong_settings_name_the_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Scaffold(**wrong)
