"""Jobs whose preprocessing finds values in the data of all nodes: local, remote, resumed, used for predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import fedjob
from fedjob import Encode, FedAvg, Impute, Job, JobFailed, Scale, Select, SpecError, Target, TorchPlan
from fedjob.data.preprocessing.rows import Filter
from fedjob.identity.keys import Identity
from fedjob.node.cli.data import data as data_commands
from fedjob.node.config.config import NodeConfig
from fedjob.researcher.rounds.verification import verify_job
from fedjob.researcher.storage.breakpoints import hash_file
from fedjob.researcher.storage.folder import JobFolder
from tests.foreign import accept
from tests.integration.nodes import Federation, Node
from tests.integration.scripted import open_session

STEPS = [Impute("age", strategy="mean"), Scale(("age", "dose")), Encode("sex"), Target("sick")]
COLUMNS = ["age", "dose", "sex=f", "sex=m", "sick"]
FRAMES = {
    "a": pd.DataFrame(
        {"age": [61.0, None, 33.0, 50.0], "dose": [1.0, 2, 3, 4], "sex": list("fmfm"), "sick": [0, 1, 0, 1]}
    ),
    "b": pd.DataFrame({"age": [20.0, 70.0], "dose": [9.0, 8.0], "sex": list("mm"), "sick": [1, 0]}),
}
POOLED = pd.concat(FRAMES.values(), ignore_index=True)


class Sick(TorchPlan):
    """A linear layer on what the steps leave."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(4, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        inputs, targets = dataset.arrays()
        return torch.tensor(inputs), torch.tensor(targets, dtype=torch.float32)[:, None]

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)


@fedjob.function
def what_it_sees(dataset):  # type: ignore[no-untyped-def]
    frame = dataset.frame()
    return {"columns": [str(name) for name in frame], "rows": frame.to_numpy(dtype=float).tolist()}


def files(folder: Path) -> dict[str, Path]:
    paths = {}
    for node, frame in FRAMES.items():
        paths[node] = folder / f"{node}.csv"
        frame.to_csv(paths[node], index=False)
    return paths


def train(data: Any, home: Path, **changes: Any) -> Job:
    arguments: dict[str, Any] = {
        "training_plan": Sick,
        "data": data,
        "preprocess": STEPS,
        "training_args": {"num_updates": 2, "batch_size": 2},
        "rounds": 3,
        "seed": 3,
        "nodes": "local",
    }
    return Job(FedAvg(), home=home, **{**arguments, **changes})


def result_hash(job: Job) -> str:
    return hash_file(job.result.artifact.path)


def expected(node: str) -> np.ndarray[Any, Any]:
    """What a node's rows are on the scale of all rows."""
    filled = POOLED.assign(age=POOLED["age"].fillna(POOLED["age"].mean()))
    numbers = filled[["age", "dose"]]
    scaled = ((numbers - numbers.mean()) / numbers.std(ddof=0)).assign(
        f=(POOLED["sex"] == "f").astype(float), m=(POOLED["sex"] == "m").astype(float), sick=POOLED["sick"]
    )
    return scaled[:4].to_numpy(dtype=float) if node == "a" else scaled[4:].to_numpy(dtype=float)


def test_every_node_prepares_its_rows_with_what_was_found_in_all(tmp_path: Path) -> None:
    job = Job(what_it_sees, data=files(tmp_path), preprocess=STEPS, nodes="local", home=tmp_path / "home")
    job.run(progress=False)
    for node, seen in job.result.value.items():
        assert seen["columns"] == COLUMNS
        np.testing.assert_allclose(seen["rows"], expected(node), atol=1e-12)
    impute, scale, encode, _ = job.result.preprocess
    assert impute.values == pytest.approx([POOLED["age"].mean()])  # type: ignore[attr-defined]
    assert encode.categories == ("f", "m")  # type: ignore[attr-defined]
    assert scale.transformer().n_features_in_ == 2  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def at_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The same rows at two nodes; one calls a column differently, and its owner says so."""
    folder = tmp_path_factory.mktemp("nodes")
    data = files(folder)
    FRAMES["b"].rename(columns={"age": "JAHRE"}).to_csv(data["b"], index=False)
    (folder / "names.toml").write_text('[columns]\nage = "JAHRE"\n')
    federation = Federation(folder)
    for name, path in data.items():
        node = federation.node(name, NodeConfig(approval="off", threads=torch.get_num_threads()))
        more = ["--loading-plan", str(folder / "names.toml"), "--mock", str(path)] if name == "b" else []
        said = owner_types(node, "add", "patients", str(path), "--tags", "patients", *more)
        assert "rows, 4 columns" in said
        assert "warning" not in said
        node.start()
    yield federation
    federation.close()


def owner_types(node: Node, *words: str) -> str:
    done = CliRunner().invoke(data_commands, [*words, "--home", str(node.home.root)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_local_remote_and_resumed_jobs_end_in_the_same_bytes_and_the_result_predicts_alike(
    at_nodes: Federation, tmp_path: Path
) -> None:
    data = files(tmp_path)
    local = train(data, tmp_path / "home", keep=True)
    local.run(progress=False)

    assert {(check.step, check.verdict) for check in verify_job(JobFolder(local.folder))} == {
        ("train", "equal")
    }
    resumed = accept(local.breakpoints[0], home=tmp_path / "moved", data=data)
    resumed.run(progress=False)
    assert result_hash(resumed) == result_hash(local)
    assert resumed.result.preprocess == local.result.preprocess

    with open_session(at_nodes, tmp_path / "lab", Identity.generate("lab")) as session:
        remote = train({"tags": ["patients"]}, None, nodes=None, session=session)  # type: ignore[arg-type]
        remote.run(progress=False)
        assert result_hash(remote) == result_hash(local)
        asked = [event.body for event in remote.events() if event.type == "ask"]
        assert [ask["step"] for ask in asked] == ["learn"] * 3 + ["train"] * 3

    predicting = Job(local.result, data=data, nodes="local", home=tmp_path / "home")
    predicting.run(progress=False)
    model = local.result.model()
    for node, predictions in predicting.result.value.items():
        inputs = torch.tensor(expected(node)[:, :4], dtype=torch.float32)
        np.testing.assert_allclose(predictions, model(inputs).detach().numpy(), rtol=1e-5)
    assert [event for event in predicting.events() if event.body.get("step") == "learn"] == []
    with pytest.raises(SpecError, match="no part of the training"):
        Job(local.result, data=data, nodes="local", home=tmp_path / "home", preprocess=[Scale("dose")])


def test_a_loading_plan_is_registered_shown_and_used_for_the_mock_too(
    at_nodes: Federation, tmp_path: Path
) -> None:
    node = next(node for node in at_nodes.nodes if node.name == "b")
    assert "columns      age = JAHRE" in owner_types(node, "show", "patients")
    shown = json.loads(owner_types(node, "show", "patients", "--json"))
    assert shown["loading"] == {"columns": {"age": "JAHRE"}}
    assert [column["name"] for column in shown["columns"]] == ["age", "dose", "sex", "sick"]
    with open_session(at_nodes, tmp_path / "lab", Identity.generate("visitor")) as session:
        (handle,) = [found for found in session.datasets(tags=["patients"]) if found.node == "b"]
        assert list(handle.mock().frame()) == ["age", "dose", "sex", "sick"]


def test_unequal_columns_are_named_before_anybody_is_asked(tmp_path: Path) -> None:
    data = files(tmp_path)
    FRAMES["b"].rename(columns={"age": "years"}).to_csv(data["b"], index=False)
    job = train(data, tmp_path / "home", quorum=fedjob.Quorum(min_nodes=2))
    lacks = "there is no column 'age'; there are years, dose"
    with pytest.raises(SpecError, match=rf"nobody was asked yet: b: preprocessing \(impute\): {lacks}"):
        job.run(progress=False)
    without = train(data, tmp_path / "home")
    without.run(progress=False)
    assert without.participation.left_out.keys() == {"b"}
    assert lacks in without.participation.left_out["b"]


def test_a_job_whose_columns_are_empty_everywhere_fails_with_the_columns_name(tmp_path: Path) -> None:
    steps = [Filter("dose", ">", 100), Select(("age", "dose")), Scale("age")]
    job = Job(what_it_sees, data=files(tmp_path), preprocess=steps, nodes="local", home=tmp_path / "home")
    with pytest.raises(JobFailed, match="no node has values of column 'age'") as caught:
        job.run(progress=False)
    assert caught.value.reason == "spec"
