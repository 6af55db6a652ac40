"""A job's spec comes back from its file, the datasets of thousands of simulated nodes with few bytes for each."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import BreakpointCorrupt, SpecError
from fedjob.common.types import new_job_id
from fedjob.data.node_names import NumberedNames
from fedjob.data.shares import RowRanges, SharedDatasets
from fedjob.researcher.definition.components import Component
from fedjob.researcher.definition.preprocessing import attach
from fedjob.researcher.storage.spec import JobSpec, load_spec, plain_args, plain_spec, spec_from_plain

NODES = NumberedNames(1000)


def spec(**given: Any) -> JobSpec:
    shared = SharedDatasets(
        info={"name": "scans", "path": "/data", "reader": "npy", "version": "v"},
        index="/job/rows.npy",
        rows=RowRanges(names=NODES, stops=array("q", range(50, 50_050, 50))),
    )
    return JobSpec(
        id=new_job_id(), protocol=Component(name="fedavg"), rounds=9, seed=1, **{"datasets": shared, **given}
    )


def test_a_spec_comes_back_as_it_was(tmp_path: Path) -> None:
    whole = spec()
    whole.save(tmp_path / "spec.mpk")
    back = load_spec(tmp_path / "spec.mpk")
    assert back == whole
    assert isinstance(back.datasets, SharedDatasets)
    assert back.datasets["node-0002"]["share"] == {
        "index": "/job/rows.npy",
        "start": 50,
        "stop": 100,
        "version": "v",
    }
    assert (tmp_path / "spec.mpk").stat().st_size < 20 * len(NODES)


def test_datasets_of_nodes_with_data_of_their_own_come_back_too(tmp_path: Path) -> None:
    whole = spec(datasets={"a": {"name": "x", "num_rows": 3}})
    whole.save(tmp_path / "spec.mpk")
    assert load_spec(tmp_path / "spec.mpk") == whole


def test_datasets_that_are_none_are_refused() -> None:
    plain = unpack(pack(plain_spec(spec())))
    plain["datasets"]["*"]["stops"] = plain["datasets"]["*"]["stops"][:-8]
    with pytest.raises(BreakpointCorrupt, match="no datasets of simulated nodes"):
        spec_from_plain(plain)


def test_steps_that_prepare_the_data_are_those_of_every_node() -> None:
    steps = [{"name": "drop_missing", "config": {}}]
    prepared = attach([steps], "data", spec().datasets)
    assert prepared["node-0007"] == {**spec().datasets["node-0007"], "preprocess": steps}
    assert attach([], "data", spec().datasets) == spec().datasets
    assert spec_from_plain(plain_spec(replace(spec(), datasets=prepared))).datasets == prepared


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_metric", "is computed in testing_step"),
        ("loss", "Functions and classes are written into the plan"),
    ],
)
def test_a_function_among_the_arguments_is_answered_by_where_it_goes(name: str, words: str) -> None:
    with pytest.raises(SpecError, match=rf"training_args\['{name}'\] can't travel: .*{words}"):
        plain_args("training_args", {name: abs})
    with pytest.raises(SpecError, match=r"can't travel: .*object$"):
        plain_args("training_args", {name: object()})
