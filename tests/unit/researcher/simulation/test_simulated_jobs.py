"""Simulated jobs, computed in this process: the bytes of local ones, data of every kind, drops, slow nodes and resumes."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save_file
from scipy.sparse import csr_matrix

from fedjob import (
    IID,
    ByColumn,
    Dirichlet,
    FedAvg,
    FedBuff,
    Fraction,
    Job,
    JobFailed,
    Median,
    OverSelection,
    Protect,
    Quorum,
    RecordDP,
    Scaffold,
    SecAgg,
    Shards,
    Sizes,
    SpecError,
    Statistics,
    simulate,
)
from fedjob.common.errors import NoSpace, PlanError, WrongResult
from fedjob.data.loader import open_dataset
from fedjob.data.readers.npy import NpyReader
from fedjob.researcher.simulation.opening import num_workers
from fedjob.training_plans.context import Context
from tests.data import make_points
from tests.plans import Grouped, Linear, Tiny

NODES = [f"node-{k:04d}" for k in range(1, 5)]
ARGS = {"lr": 0.05, "num_updates": 3, "batch_size": 8}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {node: str(make_points(tmp_path / f"{node}.npz", 24 + 8 * k, k)) for k, node in enumerate(NODES)}


def pooled(num_rows: int = 120) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(num_rows, 4)).astype(np.float32)
    return inputs, (inputs.sum(axis=1) > 0).astype(np.int64)


def simulated(home: Path, operation: Any = "fedavg", **given: Any) -> Job:
    arguments: dict[str, Any] = {"training_plan": Tiny, "training_args": ARGS, "rounds": 2, "seed": 7}
    return Job(operation, **{**arguments, "home": home, **given})


def end_of(job: Job) -> bytes:
    job.run(progress=False)
    return (job.folder / "result" / "params.safetensors").read_bytes()


PLAIN: dict[str, dict[str, Any]] = {
    "FedAvg with momentum and batch norm": {"operation": FedAvg()},
    "the median": {"operation": FedAvg(), "aggregator": Median()},
    "a selector": {"operation": FedAvg(), "selector": Fraction(0.5)},
    "secure sums": {"operation": FedAvg(), "protect": SecAgg(clip=8.0), "training_plan": Linear},
    "secure sums of few bits": {
        "operation": FedAvg(),
        "protect": SecAgg(clip=0.2, bits=10),
        "training_plan": Linear,
    },
    "SCAFFOLD": {
        "operation": Scaffold(),
        "training_plan": Grouped,
    },
    "a buffer": {"operation": FedBuff(k=2)},
}


@pytest.mark.parametrize("name", PLAIN)
def test_simulated_nodes_end_in_the_bytes_of_local_ones(
    name: str, files: dict[str, str], tmp_path: Path
) -> None:
    given = {"data": files, "rounds": 3, **PLAIN[name]}
    local = end_of(simulated(tmp_path, nodes="local", **given))
    assert end_of(simulated(tmp_path, nodes=simulate(workers=0), **given)) == local


class OnBase(Linear):
    """A layer that is taken from a file that all nodes have, and another that is trained."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        model[0].load_state_dict(self.ctx.model("base"), assign=True)
        model[0].requires_grad_(False)
        return model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model[2].parameters(), lr=training_args["lr"])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.safetensors"
    save_file({"weight": torch.randn(16, 4, generator=torch.manual_seed(2)), "bias": torch.zeros(16)}, path)
    return path


def test_plans_have_the_models_of_a_job_as_in_a_local_one(
    base: Path, files: dict[str, str], tmp_path: Path
) -> None:
    given = {"data": files, "training_plan": OnBase, "models": {"base": base}}
    local = end_of(simulated(tmp_path, nodes="local", **given))
    assert end_of(simulated(tmp_path, nodes=simulate(workers=0), **given)) == local
    together = simulated(tmp_path, nodes=simulate(vectorize=True), **given)
    together.run(progress=False)
    assert load(local).keys() == together.result.params.keys()
    assert all(
        torch.allclose(value, together.result.params[name], atol=1e-5) for name, value in load(local).items()
    )


def test_a_model_that_is_not_there_as_it_was_is_an_error_before_the_first_round(
    base: Path, files: dict[str, str], tmp_path: Path
) -> None:
    job = simulated(
        tmp_path, data=files, nodes=simulate(workers=0), training_plan=OnBase, models={"base": base}
    )
    base.write_bytes(base.read_bytes()[:-4] + bytes(range(4)))
    with pytest.raises(JobFailed, match=r"the model 'base' .* is not in .* as it was"):
        job.run(progress=False)
    assert job.breakpoints == []


class Convolves(Linear):
    """A convolution in the format in which processors compute it faster."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        layers = torch.nn.Conv2d(1, 4, 2), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1), torch.nn.Flatten()
        model = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 2, 2)), *layers)
        return model.to(memory_format=torch.channels_last)


def test_a_model_whose_channels_are_last_ends_in_the_bytes_of_a_local_job_and_keeps_its_format(
    files: dict[str, str], tmp_path: Path
) -> None:
    given = {"data": files, "training_plan": Convolves, "rounds": 3}
    local = end_of(simulated(tmp_path, nodes="local", **given))
    assert end_of(simulated(tmp_path, nodes=simulate(workers=0), **given)) == local
    plan = Convolves()
    plan.ctx = Context(node="node-1", round=1, job_seed=1, seed=1)
    plan.build({}, ARGS)
    plan.set_params(plan.get_params())
    assert plan.model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert plan.model[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_privacy_of_records_costs_as_much_as_in_a_local_job(
    files: dict[str, str], tmp_path: Path
) -> None:
    given = {
        "training_plan": Linear,
        "data": files,
        "protect": Protect(dp=RecordDP(epsilon=8.0, delta=1e-3, max_grad_norm=1.0)),
    }
    local, here = (simulated(tmp_path, nodes=nodes, **given) for nodes in ("local", simulate(workers=0)))
    assert len(end_of(local)) == len(end_of(here))  # the noise is never the same
    assert local.record.privacy == here.record.privacy
    assert set(here.record.privacy) == set(NODES)


def test_a_share_of_arrays_gives_the_bytes_of_a_file_of_the_same_rows(tmp_path: Path) -> None:
    inputs, targets = pooled()
    job = simulated(tmp_path, data=(inputs, targets), nodes=simulate(4, split=Dirichlet(2.0), workers=0))
    found = end_of(job)
    rows = np.load(job.folder / "simulated" / "rows.npy")
    parts = {}
    for node, info in job.spec.datasets.items():
        own = rows[info["share"]["start"] : info["share"]["stop"]]
        np.savez(tmp_path / f"{node}.npz", x=inputs[own], y=targets[own])
        parts[node] = str(tmp_path / f"{node}.npz")
    assert list(parts) == NODES
    assert sorted(rows.tolist()) == list(range(120))
    assert end_of(simulated(tmp_path, data=parts, nodes="local")) == found


def test_all_kinds_of_data_end_in_the_same_bytes(tmp_path: Path) -> None:
    inputs, targets = pooled()
    np.savez(tmp_path / "all.npz", x=inputs, y=targets)
    frame = pd.DataFrame(inputs, columns=list("abcd")).assign(y=targets)
    frame.to_parquet(tmp_path / "all.parquet", index=False)
    tensors = torch.as_tensor(inputs), torch.as_tensor(targets)
    every: dict[str, Any] = {
        "arrays": (inputs, targets),
        "tensors": tensors,
        "dataset": torch.utils.data.TensorDataset(*tensors),
        "frame": frame,
        "npz": tmp_path / "all.npz",
        "parquet": {"path": str(tmp_path / "all.parquet")},
    }
    split = simulate(3, split=Shards(2), workers=0)
    found = {name: end_of(simulated(tmp_path, data=data, nodes=split)) for name, data in every.items()}
    assert {name for name, ended in found.items() if ended != found["arrays"]} == set()


def test_a_map_of_objects_is_a_node_for_each(files: dict[str, str], tmp_path: Path) -> None:
    arrays = {node: tuple(np.load(path)[name] for name in "xy") for node, path in files.items()}
    job = simulated(tmp_path, data=arrays, nodes=simulate(workers=0))
    assert end_of(job) == end_of(simulated(tmp_path, data=files, nodes="local"))
    assert {node: info["num_rows"] for node, info in job.spec.datasets.items()} == dict(
        zip(NODES, (24, 32, 40, 48), strict=True)
    )


@pytest.mark.parametrize(
    ("sites", "nodes"),
    [
        (("North", "South", "East"), {"east": "East", "north": "North", "south": "South"}),
        (("St. Mary", "Charité", "north"), {"charite": "Charité", "north": "north", "st-mary": "St. Mary"}),
        (("a b", "A-B", "c"), {"node-0001": "A-B", "node-0002": "a b", "node-0003": "c"}),  # two of one name
        (("9", "10", "11"), {"node-0001": "10", "node-0002": "11", "node-0003": "9"}),
        ((3, 2, 10), {"node-0001": 2, "node-0002": 3, "node-0003": 10}),
        (("北", "南", "東"), {"node-0001": "北", "node-0002": "南", "node-0003": "東"}),
    ],
)
def test_the_values_of_a_column_name_the_nodes(
    sites: tuple[Any, ...], nodes: dict[str, Any], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"a": range(60), "site": [*sites] * 20})
    job = simulated(
        tmp_path, Statistics(mean="a"), training_plan=None, training_args=None, rounds=1, data=frame,
        nodes=simulate(split=ByColumn("site"), workers=0),
    )  # fmt: skip
    job.run(progress=False)
    assert list(job.spec.datasets) == list(nodes)
    for node, site in nodes.items():
        assert set(open_dataset(job.spec.datasets[node]).frame()["site"]) == {site}


# -- drops, slow nodes -----------------------------------------------------------------


def left_out(job: Job) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for event in job.events():
        if event.type == "error" and event.body["reason"].startswith("dropped"):
            found.setdefault(event.round, []).append(event.node)
    return found


def test_dropped_answers_follow_from_the_seed_and_change_from_round_to_round(tmp_path: Path) -> None:
    given = {
        "data": pooled(),
        "nodes": simulate(20, drop=0.3, workers=0),
        "training_plan": Linear,
        "rounds": 4,
    }
    first, again, other = (simulated(tmp_path, **given, seed=seed) for seed in (1, 1, 2))
    assert end_of(first) == end_of(again)
    assert left_out(first) == left_out(again)
    end_of(other)
    assert left_out(other) != left_out(first)
    assert len({tuple(nodes) for nodes in left_out(first).values()}) > 1
    assert 10 < sum(map(len, left_out(first).values())) < 40  # of 80, 24 expected


def test_a_job_whose_answers_never_come_ends_by_its_quorum(tmp_path: Path) -> None:
    job = simulated(
        tmp_path, data=pooled(), nodes=simulate(5, drop=0.999999, workers=0), quorum=Quorum(min_nodes=2)
    )
    with pytest.raises(JobFailed, match=r"0 nodes contributed, expected 2 or more.*dropped: the simulation"):
        job.run(progress=False)


def test_slow_nodes_are_late_where_a_round_does_not_wait_for_them(tmp_path: Path) -> None:
    late: set[str] = set()
    job = simulated(
        tmp_path,
        data=pooled(),
        nodes=simulate(10, slow=0.3, workers=0),
        training_plan=Linear,
        selector=OverSelection(4, 2.5),
        rounds=3,
    )
    job.run(progress=False)
    answered: set[str] = set()
    for event in job.events():
        if event.type == "round":
            late |= set(event.body["left_out"])
            answered |= set(event.body["nodes"])
    assert late
    assert answered


# -- failures of plans -----------------------------------------------------------------


class FailsAtOne(Linear):
    """Raises at one node, and counts the data sets that it has loaded."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        if self.ctx.node == "node-0002":
            raise ValueError("this node is broken")
        self.loaded = getattr(self, "loaded", 0) + 1
        assert self.loaded == 1, "another node's attribute is here"
        return super().training_data(dataset, training_args)


def test_a_node_whose_plan_raises_is_left_out_and_no_node_sees_anothers_attributes(tmp_path: Path) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(4, workers=0), training_plan=FailsAtOne)
    job.run(progress=False)
    reasons = [event.body["reason"] for event in job.events() if event.type == "error"]
    assert reasons == ["exception: ValueError at plan line 10: this node is broken"] * 2


class ExitsAtOne(Linear):
    """Ends its process, as a script does."""

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        if self.ctx.node == "node-0002":
            raise SystemExit(3)
        return super().training_data(dataset, training_args)


@pytest.mark.parametrize(
    "nodes", [simulate(4, workers=0), simulate(4, workers=1)], ids=["here", "in a worker"]
)
def test_a_plan_that_exits_is_left_out_as_one_that_raises(nodes: Any, tmp_path: Path) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=nodes, training_plan=ExitsAtOne)
    job.run(progress=False)
    reasons = [event.body["reason"] for event in job.events() if event.type == "error"]
    assert reasons == ["exception: SystemExit at plan line 10: 3"] * 2


class ExitsFirst(Linear):
    """Ends its process where its model is made."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        raise SystemExit("no GPU here")


def test_a_model_that_exits_is_an_error_of_the_job_and_not_the_end_of_the_script(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"ExitsFirst can't be built .*SystemExit: no GPU here"):
        simulated(tmp_path, data=pooled(), nodes=simulate(2, workers=0), training_plan=ExitsFirst)


# -- resumes and clones ----------------------------------------------------------------


def test_a_resumed_simulation_has_the_same_split_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    given = {
        "data": pooled(),
        "nodes": simulate(6, split=Dirichlet(1.0), drop=0.2, workers=0),
        "keep_breakpoints": 9,
    }
    whole = end_of(simulated(tmp_path, **given, rounds=4))
    job = simulated(tmp_path, **given, rounds=2)
    job.run(progress=False)
    again = Job.resume(job.breakpoints[0], rounds=4, home=None)
    assert again.spec.datasets == job.spec.datasets
    assert end_of(again) == whole


def test_a_simulation_goes_on_in_another_home_with_the_same_data_only(tmp_path: Path) -> None:
    given = {"nodes": simulate(6, split=Dirichlet(1.0), workers=0)}
    whole = end_of(simulated(tmp_path / "a", data=pooled(), **given, rounds=3))
    job = simulated(tmp_path / "b", data=pooled(), **given, rounds=2)
    job.run(progress=False)
    path = job.breakpoints[-1]
    (job.folder / "simulated").rename(tmp_path / "elsewhere")
    with pytest.raises(JobFailed, match=r"rows are not at .* any more.*data=\.\.\."):
        Job.resume(path, rounds=3).run(progress=False)
    inputs, targets = pooled()
    with pytest.raises(SpecError, match="other rows than those that the job began with"):
        Job.resume(path, rounds=3, data=(inputs, 1 - targets * (inputs[:, 0] > 0)))
    assert (job.folder / "simulated").exists()
    import shutil

    shutil.rmtree(job.folder / "simulated")
    assert end_of(Job.resume(path, rounds=3, data=pooled())) == whole


def test_a_function_divides_and_a_clone_in_this_process_keeps_it(tmp_path: Path) -> None:
    def thirds(dataset: Any, num_nodes: int, rng: Any) -> Any:
        return np.array_split(rng.permutation(dataset.num_rows), num_nodes)

    job = simulated(tmp_path, data=pooled(), nodes=simulate(3, split=thirds, workers=0))
    ended = end_of(job)
    assert end_of(job.clone()) == ended
    with pytest.raises(SpecError, match="divided by the function thirds"):
        Job.open(job.folder).clone()
    with pytest.raises(SpecError, match="can't hold simulated nodes"):
        job.to_json()


def test_a_draft_that_another_process_opens_has_its_data(tmp_path: Path) -> None:
    given = {"data": pooled(), "nodes": simulate(3, split=Shards(1), workers=0)}
    draft = simulated(tmp_path, **given)
    assert end_of(Job.open(draft.folder)) == end_of(simulated(tmp_path, **given))
    clone = Job.open(draft.folder).clone(rounds=1)
    clone.run(progress=False)
    assert clone.result.summary is not None


# -- errors before the first round -----------------------------------------------------


WRONG: dict[str, tuple[Any, Any, str]] = {
    "more nodes than rows": (pooled(5), simulate(6), r"simulate\(6\) has more nodes than there are rows, 5"),
    "an unknown column": (pd.DataFrame({"a": [1, 2], "y": [0, 1]}), simulate(split=ByColumn("site")), "no column 'site'"),
    "a column of arrays": (pooled(), simulate(2, split=Dirichlet(1.0, by="site")), "they are no table"),
    "sizes that do not sum": (pooled(), simulate(split=Sizes([60, 61])), "sums to 121 rows; the dataset has 120"),
    "nodes without rows": (pooled(30), simulate(25, split=Dirichlet(0.01)), "leaves .* of 25 nodes with fewer"),
    "a function of other rows": (pooled(), simulate(2, split=lambda d, n, g: [[0], [120]]), "gave row 120"),
    "a function that overlaps": (pooled(), simulate(2, split=lambda d, n, g: [[0], [0]]), "gave row 0 to 2 nodes"),
    "a function that raises": (pooled(), simulate(2, split=lambda d, n, g: d.nothing), "split=<lambda> raised AttributeError"),
    "a function of two": (pooled(), simulate(2, split=lambda d, n: []), "raised TypeError: .* expected a function of"),
    "a column with gaps": (
        pd.DataFrame({"site": ["a", None, "b", None], "y": [0, 1, 0, 1]}),
        simulate(split=ByColumn("site")),
        "column 'site' to divide the rows by: 2 of 4 are empty, the first that of row 1",
    ),
    "labels with gaps": (
        (np.zeros((4, 2)), np.array([0.0, 1.0, np.nan, 1.0])),
        simulate(2, split=Shards(1)),
        "the targets to divide the rows by: 1 of 4 are empty, the first that of row 2",
    ),
    "no number for a function": (pooled(), simulate(split=lambda d, n, g: [[0]]), "needs a number of nodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_divided_is_an_error_before_the_first_round(name: str, tmp_path: Path) -> None:
    data, nodes, words = WRONG[name]
    job = simulated(tmp_path, data=data, nodes=nodes)
    with pytest.raises(SpecError, match=words):
        job.run(progress=False)
    assert job.breakpoints == []


@pytest.mark.parametrize(("settings", "num_nodes", "words"), [
    (SecAgg(clip=8.0), 1, r"SecAgg\(min_nodes=3\) needs 3 nodes or more, but 1 have"),
    (SecAgg(clip=8.0, min_nodes=5), 4, r"SecAgg\(min_nodes=5\) needs 5 nodes or more, but 4 have"),
])  # fmt: skip
def test_fewer_nodes_than_a_secure_sum_needs_are_refused_before_the_first_round(
    settings: SecAgg, num_nodes: int, words: str, tmp_path: Path
) -> None:
    job = simulated(
        tmp_path, data=pooled(), nodes=simulate(num_nodes, workers=0), training_plan=Linear, protect=settings
    )
    with pytest.raises(SpecError, match=words):
        job.run(progress=False)
    assert job.breakpoints == []


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Examples that come one after another, and a number of them."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(2), 0)] * 3)


NOT_DATA: dict[str, tuple[Any, Any, str]] = {
    "no number of nodes": (pooled(), simulate(), "takes data={'node': dataset, ...}"),
    "a map and a number": ({"a": "x.csv"}, simulate(3), "divided already"),
    "an empty map": ({}, simulate(), "empty map"),
    "a node without rows": (
        {"a": pd.DataFrame({"x": [1]}), "b": pd.DataFrame({"x": []})},
        simulate(),
        r"data\['b'\] is a table without rows",
    ),
    "a node without examples": (
        {"a": pooled(), "b": (np.zeros((0, 4)), np.zeros(0))},
        simulate(),
        r"data\['b'\] has 0 inputs",
    ),
    "a bad name": ({"A B": "x.csv"}, simulate(), "a party is named by"),
    "two kinds": ({"a": pooled(), "b": "x.csv"}, simulate(), "arrays and file in one map"),
    "unequal lengths": ((np.zeros((3, 2)), np.zeros(2)), simulate(2), "3 inputs and 2 targets"),
    "no rows": ((np.zeros((0, 2)), np.zeros(0)), simulate(2), "one or more"),
    "a number": (7, simulate(2), "a simulation takes data="),
    "a series": (pd.Series([1, 2]), simulate(2), "expected a DataFrame"),
    "objects": ((np.array([{}, {}]), np.zeros(2)), simulate(2), "expected numbers"),
    "masked values": (
        (np.ma.masked_array(np.zeros((3, 2)), mask=np.eye(3, 2)), np.zeros(3)),
        simulate(2),
        "an array with masked values",
    ),
    "a sparse tensor": ((torch.eye(3).to_sparse(), torch.zeros(3)), simulate(2), "layout torch.sparse_coo"),
    "a dtype that numpy has not": (
        (torch.eye(3).bfloat16(), torch.zeros(3)),
        simulate(2),
        "data has torch.bfloat16",
    ),
    "a tensor without numbers": (
        (torch.eye(3, device="meta"), torch.zeros(3)),
        simulate(2),
        "no array can be made",
    ),
    "examples of other shapes": (
        [np.zeros(2), np.zeros(3), np.zeros(4)],
        simulate(2),
        r"found a list of 3 \(ndarray, ndarray, ndarray\)",
    ),
    "lists for arrays": (([[1, 2], [3, 4]], [0, 1]), simulate(2), r"\(list, list\): make an array of each"),
    "three arrays": ((*pooled(), np.zeros(3)), simulate(2), r"a tuple of 3 \(ndarray, ndarray, ndarray\)"),
    "inputs alone": (pooled()[0], simulate(2), r"one ndarray of shape \[120, 4\], without targets"),
    "arrays by name": (
        {"x": pooled()[0], "y": pooled()[1]},
        simulate(2),
        r"data\['x'\] is one ndarray and no",
    ),
    "a node's number": (
        {"a": pooled(), "b": 7},
        simulate(),
        r"a simulation takes data=.* found 7 as data\['b'\]",
    ),
    "nodes of other shapes": (
        {"a": pooled(), "b": (np.zeros((3, 5)), np.zeros(3, dtype=int))},
        simulate(),
        r"row 0 of data\['b'\] is float64 of shape \[5\], and the first",
    ),
    "nodes of other columns": (
        {"a": pd.DataFrame({"x": [1.0]}), "b": pd.DataFrame({"y": [1.0]})},
        simulate(),
        r"columns x and, as data\['b'\], with y",
    ),
    "a sparse matrix": (
        (csr_matrix(np.eye(3)), np.zeros(3)),
        simulate(2),
        "csr_matrix; expected a dense array",
    ),
    "a list of the nodes' datasets": (
        [pooled(), pooled()],
        simulate(2),
        r"a list of 2 \(tuple, tuple\): give each node its own, data=\{'node': \(inputs, targets\), ...\}",
    ),
    "examples by their names": ([{"x": 1}], simulate(2), r"a list of 1 \(dict\)"),
    "tensors of three": (
        torch.utils.data.TensorDataset(*[torch.zeros(3)] * 3),
        simulate(2),
        r"example 0 of the Dataset is a tuple of 3 \(Tensor, Tensor, Tensor\); expected \(input, target\)",
    ),
    "a stream": (
        Stream(),
        simulate(2),
        "a Stream, which only iterates; .* a Dataset with __len__ and __getitem__",
    ),
    "batches": (
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*[torch.zeros(3)] * 2)),
        simulate(2),
        "a DataLoader, which only iterates",
    ),
    "a column of empty maps": (
        pd.DataFrame({"a": [1, 2], "about": [{}, {}]}),
        simulate(2),
        "a table that can't be written: Cannot write struct type 'about'",
    ),
    "a number too large for any column": (
        pd.DataFrame({"a": [2**70, 1]}),
        simulate(2),
        "a table that can't be written: ",
    ),
    "a search by tags": ({"tags": ["heart"]}, simulate(2), "looks for datasets at real nodes"),
}


@pytest.mark.parametrize("name", NOT_DATA)
def test_what_is_no_data_is_an_error_when_the_job_is_defined(name: str, tmp_path: Path) -> None:
    data, nodes, words = NOT_DATA[name]
    with pytest.raises(SpecError, match=words):
        simulated(tmp_path, data=data, nodes=nodes)
    assert not (tmp_path / "jobs").exists() or list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize("data", [pooled(), {"a": pooled(), "b": pooled()}])
def test_data_in_memory_for_a_local_job_are_answered_with_a_simulation_of_them(
    data: Any, tmp_path: Path
) -> None:
    words = r"found a (list|tuple) for (local|a)\. Data in memory are taken by nodes=simulate\(4.* a map of them by nodes=simulate\(\)$"
    with pytest.raises(SpecError, match=words):
        simulated(tmp_path, data=data, nodes="local").run(progress=False)


class Ragged(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Examples of growing size."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        return torch.zeros(place + 1), 0


def test_a_dataset_of_examples_of_other_shapes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"row 1 of data is float32 of shape \[2\], and the first float32 of shape \[1\]"
    ):
        simulated(tmp_path, data=Ragged(), nodes=simulate(2))


class Dataset:
    """Examples that can be gone through as well, of a class with the name of torch's."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        return np.zeros(4, np.float32), np.int64(place % 2)

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(4))


def test_a_dataset_that_iterates_too_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    job = simulated(tmp_path, data=Dataset(), nodes=simulate(2, workers=0), rounds=1)
    assert job.run(progress=False).participation.rows_registered == 4


class Faulty(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Four examples, of which one raises, or a length that does."""

    def __init__(self, error: Exception | None = None, length: Any = 4) -> None:
        self.error, self.length = error, length

    def __len__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        found: int = self.length
        return found

    def __getitem__(self, place: int) -> Any:
        if place == 2 and self.error is not None:
            raise self.error
        return torch.zeros(2), [0, 1, 2, 3][place]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (
            Faulty(OSError("bad sector")),
            "example 2 of the Dataset, which says that it has 4, .*: OSError: bad sector",
        ),
        (Faulty(KeyError("label")), "example 2 of .* can't be read: KeyError: 'label'"),
        (Faulty(StopIteration()), "example 2 of .* can't be read: StopIteration"),
        (Faulty(length=9), "example 4 of the Dataset, which says that it has 9, can't be read: IndexError"),
        (Faulty(length=0), "a Faulty of no examples"),
        (Faulty(length=-1), "a Faulty whose length can't be had: ValueError"),
        (Faulty(length=2.5), "a Faulty whose length can't be had: TypeError"),
        (Faulty(length=RuntimeError("away")), "a Faulty whose length can't be had: RuntimeError: away"),
    ],
)
def test_a_dataset_that_raises_is_named_with_the_place_and_nothing_is_left(
    dataset: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        simulated(tmp_path, data=dataset, nodes=simulate(2))
    assert not (tmp_path / "jobs").exists() or list((tmp_path / "jobs").iterdir()) == []


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let this process write no larger files, as if the disk were full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = {
    "arrays": (np.zeros((4096, 64)), np.zeros(4096)),
    "a table": pd.DataFrame(np.random.default_rng(0).normal(size=(4096, 64)), columns=[f"c{i}" for i in range(64)]),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_disk_too_full_for_the_data_is_named_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    with files_of_at_most(1 << 20), pytest.raises(NoSpace, match="no space left to write"):
        simulated(tmp_path, data=LARGE[name], nodes=simulate(2))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_disk_too_full_for_the_row_numbers_is_named_and_nothing_half_written_is_left(
    tmp_path: Path,
) -> None:
    data = (np.zeros((30_000, 2), dtype=np.float16), np.zeros(30_000, dtype=np.float16))
    job = simulated(tmp_path, data=data, nodes=simulate(2, workers=0))
    with files_of_at_most(200_000), pytest.raises(NoSpace, match=r"no space left to write .*rows\.npy"):
        job.run(progress=False)
    assert [path.name for path in (job.folder / "simulated").iterdir()] == ["data"]


class Wide(Linear):
    """A model whose parameters are larger than all that a job writes beside them."""

    aux_modules = ("scaffold",)

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Sequential(torch.nn.Linear(4, 8000), torch.nn.ReLU(), torch.nn.Linear(8000, 1))


def test_a_disk_that_gets_full_in_a_round_ends_the_job_and_leaves_no_node_out(tmp_path: Path) -> None:
    job = simulated(tmp_path, "scaffold", data=pooled(), nodes=simulate(3, workers=0), training_plan=Wide)
    size_bytes = (job.folder / "initial.safetensors").stat().st_size
    with (
        files_of_at_most(size_bytes * 3 // 2),
        pytest.raises(JobFailed, match="no space left to write") as failed,
    ):
        job.run(progress=False)  # each contribution has the control variates, too
    assert failed.value.reason == "no_space"


def test_numbers_in_another_order_of_bytes_are_the_same_numbers(tmp_path: Path) -> None:
    inputs, targets = pooled()
    ends = {
        end_of(simulated(tmp_path / order, data=data, nodes=simulate(2, workers=0), rounds=1))
        for order, data in {
            "own": (inputs, targets),
            "other": (inputs.astype(">f4"), targets.astype(">i8")),
        }.items()
    }
    assert len(ends) == 1


def test_arrays_have_their_place_on_the_disk_before_they_are_written(tmp_path: Path) -> None:
    job = simulated(tmp_path, data=(np.zeros((4096, 64)), np.zeros(4096)), nodes=simulate(2))
    found = (job.folder / "simulated" / "data" / "inputs.npy").stat()
    assert (
        found.st_blocks * 512 >= found.st_size
    )  # no holes: a mapped file with holes kills who writes on a full disk


def test_more_workers_than_memory_bears_are_refused_and_none_take_what_there_is() -> None:
    gigabyte = 1 << 30
    with pytest.raises(SpecError, match=r"simulate\(workers=64\) needs about .* take 3 workers or fewer"):
        num_workers(64, 1000, gigabyte, 16 * gigabyte)
    assert num_workers(3, 1000, gigabyte, 16 * gigabyte) == 3
    assert num_workers(None, 1000, gigabyte, 6 * gigabyte) == 1
    assert num_workers(None, 1, 0, 64 * gigabyte) == 1


def test_more_workers_than_memory_bears_are_refused_before_anything_is_forecast_or_run(
    tmp_path: Path,
) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(3, workers=99_999))
    for do in (job.estimate, job.check, job.run):
        with pytest.raises(SpecError, match=r"simulate\(workers=99999\) needs about .* workers or fewer"):
            do()


def test_a_simulation_has_a_profile_and_other_jobs_have_none(files: dict[str, str], tmp_path: Path) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(4, workers=0))
    job.run(progress=False)
    assert "..." not in job.result.profile.to_html(), "pandas shows each word of it"
    profile = job.result.profile.set_index("stage")["seconds"]
    assert profile["compute"] > 0
    assert set(profile.index) == {"start", "data", "compute", "transfer", "cpu", "wait", "aggregate"}
    local = simulated(tmp_path, data=files, nodes="local")
    local.run(progress=False)
    with pytest.raises(WrongResult, match="only simulations have one"):
        _ = local.result.profile


def test_mapped_arrays_are_read_and_never_written(tmp_path: Path) -> None:
    inputs, targets = pooled(6)
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "targets.npy", targets)
    dataset = NpyReader().open(tmp_path)
    mapped, _ = dataset.arrays()
    mapped[:] = 0
    again, labels = NpyReader().open(tmp_path).take([4, 1]).arrays()
    assert again.tolist() == inputs[[4, 1]].tolist()
    assert labels.tolist() == targets[[4, 1]].tolist()


Split = Callable[..., Any]


def test_the_split_depends_on_the_jobs_seed(tmp_path: Path) -> None:
    def rows_of(seed: int) -> list[int]:
        job = simulated(
            tmp_path, data=pooled(), nodes=simulate(3, split=IID(), workers=0), seed=seed, rounds=1
        )
        job.run(progress=False)
        found: list[int] = np.load(job.folder / "simulated" / "rows.npy").tolist()
        return found

    assert rows_of(1) == rows_of(1) != rows_of(2)


class Astray(Linear):
    """A plan with a fault of its own."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return self.nowhere(batch)


class Blank(Linear):
    """A plan whose step returns nothing."""

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return None


def test_an_error_of_a_plan_is_told_once_for_all_nodes_with_its_own_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(8, workers=0), training_plan=Astray)
    with pytest.raises(JobFailed) as caught:
        job.run(progress=False)
    said = str(caught.value)
    assert said.count("has no attribute 'nowhere'") == 1
    assert "node-0005 and 3 more: exception: AttributeError at plan line " in said
    (note,) = caught.value.__notes__
    assert note.startswith("AttributeError at node-0001, ")
    assert any(line.startswith("---->") and "self.nowhere(batch)" in line for line in note.splitlines())
    logged = [line for line in caplog.text.splitlines() if line.lstrip().startswith("File ")]
    assert len(logged) == 1
    assert '"<plan ' in logged[0]


def test_what_fedjob_refuses_of_a_plan_is_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(2, workers=0), training_plan=Blank)
    words = (
        r"\(node-0001, node-0002: plan: training_step returned nothing \(None\); expected a scalar tensor\)$"
    )
    with pytest.raises(JobFailed, match=words):
        job.run(progress=False)
    assert "Traceback" not in caplog.text


def test_a_plan_on_objects_of_this_process_is_tried_by_a_run(tmp_path: Path) -> None:
    job = simulated(tmp_path, data=pooled(), nodes=simulate(2, workers=0))
    with pytest.raises(SpecError, match=r"job\.clone\(rounds=1\)\.run\(\)"):
        job.check(plan_only=True)


def test_arrays_for_a_local_job_are_answered_in_one_line_by_what_takes_them(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError,
        match=r"taken by nodes=simulate\(4, split=IID\(\)\), and a map of them by nodes=simulate\(\)$",
    ) as caught:
        simulated(tmp_path, data=pooled(), nodes="local").run(progress=False)
    assert len(str(caught.value)) < 500


class Described(torch.utils.data.Dataset[tuple[Any, int]]):
    """A Dataset that describes its examples as an array does."""

    dtype, shape = np.dtype("float32"), (8, 4)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return torch.full((4,), float(place)), place % 2


def test_a_dataset_that_has_a_dtype_and_a_shape_is_no_array(tmp_path: Path) -> None:
    job = simulated(tmp_path, data=Described(), nodes=simulate(2, workers=0))
    assert job.run(progress=False).last
