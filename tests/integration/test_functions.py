"""Remote functions: what they return, what they say, what they are given; here and at nodes alike."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import fedjob
from fedjob import FedAvg, Job, JobFailed
from fedjob.common.errors import NoDatasets, NotReady, PlanError, SpecError, WrongResult
from fedjob.identity.keys import Identity
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.limits import GrantLimits
from fedjob.researcher.jobs.session import Session
from fedjob.researcher.storage.folder import JobFolder
from fedjob.training_plans.source.extraction import extract
from tests import remote
from tests.integration.nodes import Federation
from tests.integration.test_jobs_over_memory import open_session
from tests.plans import Linear

NAMES = ("node1", "node2")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("functions"))
    for number, name in enumerate(NAMES, 1):
        node = found.node(name, NodeConfig(approval="off", threads=1))
        path = write_table(node.folder / "heart.csv", A=[1, 2, 3], B=[10 * number, 20, 30])
        with node.database() as database:
            Datasets(database).add(describe_dataset("heart", path, tags=["heart"]))
        node.start()
    yield found
    found.close()


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def write_table(path: Path, **columns: list[Any]) -> Path:
    pandas.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.mark.feature("BF-67", "TB-53", "PS-50")
def test_one_node_has_its_value_for_the_result_and_several_have_a_map(session: Session) -> None:
    one = Job(remote.column_mean.bind(column="B"), data="node1/heart", session=session)
    assert one.run(progress=False).value == 20.0
    assert one.result.object == 20.0
    several = Job(remote.sums, data="heart", session=session)
    assert several.run(progress=False).value == {"node1": {"A": 6, "B": 60}, "node2": {"A": 6, "B": 70}}


@pytest.mark.feature("TB-53")
def test_every_type_comes_back_as_it_was_here_and_from_a_node(session: Session, tmp_path: Path) -> None:
    far = Job(remote.everything, data="node1/heart", session=session).run(progress=False).value
    path = write_table(tmp_path / "heart.csv", A=[1], B=[2])
    near = Job(remote.everything, data=path, nodes="local", home=tmp_path).run(progress=False).value
    written = remote.everything(None)
    for value in (far, near):
        assert value.keys() == written.keys()
        for key in ("large", "pair", "by_number", "set", "date", "scalar"):
            assert value[key] == written[key]
            assert type(value[key]) is type(written[key])
        assert value["plain"][:-1] == written["plain"][:-1]
        assert np.isnan(value["plain"][-1])
        for array in ("array",):
            assert np.array_equal(value[array], written[array])
            assert value[array].dtype == written[array].dtype
        for tensor in ("tensor", "half"):
            assert torch.equal(value[tensor], written[tensor])
            assert value[tensor].dtype == written[tensor].dtype
        pandas.testing.assert_frame_equal(value["frame"], written["frame"])
        pandas.testing.assert_series_equal(value["series"], written["series"])
        assert value["deep"][0]["array"].tolist() == [True, False]


def test_a_large_result_travels_as_an_object_and_is_a_table(session: Session, tmp_path: Path) -> None:
    job = Job(remote.large_table.bind(num_rows=200_000), data="node2/heart", session=session)
    result = job.run(progress=False)
    body = result.raw[1]["call"]["node2"]
    assert body["value"] is None
    assert body["blob"]["size_bytes"] > 1 << 20
    assert result.kind == "table"
    assert len(result.table) == 200_000
    assert result.dataframe.half.sum() == 200_000 * 199_999 / 4


@pytest.mark.feature("PS-26")
def test_the_functions_that_one_has_asked_for_are_listed_with_decisions_and_called_by_name(
    session: Session, tmp_path: Path
) -> None:
    strict = Federation(tmp_path)
    node = strict.node("ward", NodeConfig(threads=1))
    path = write_table(node.folder / "heart.csv", A=[1, 2, 3], B=[10, 20, 30])
    with node.database() as database:
        Datasets(database).add(describe_dataset("heart", path, tags=["heart"]))
    node.start()
    try:
        with open_session(strict, tmp_path / "lab", Identity.generate("lab")) as asking:
            assert list(asking.functions()) == []
            Job(remote.column_mean, data="ward/heart", session=asking).request()
            (listed,) = asking.functions()
            assert (listed.name, dict(listed.decisions)) == ("column_mean", {"ward": "pending"})
            node.decide(limits=GrantLimits(args={"column": {"choices": ["A", "B"]}}))
            assert "column_mean" in repr(asking.functions())
            assert "ward: granted" in repr(asking.functions())
            found = asking.functions()["column_mean"](column="B", data="ward/heart", progress=False)
            assert found.value == 20.0
            assert asking.functions()["column_mean"](progress=False).value == 2.0  # the data of before
            (again,) = asking.functions()
            assert len(again.jobs) == 3
            with pytest.raises(
                SpecError, match="no function 'means' was asked for in this home; there are column_mean"
            ):
                asking.functions()["means"]
            with pytest.raises(SpecError, match="colum"):
                again(colum="B", progress=False)
            node.stop()
            assert dict(asking.functions(timeout_s=0.5)[0].decisions) == {"ward": "granted"}
    finally:
        strict.close()


@pytest.mark.parametrize("nodes", [None, "local"])
def test_an_aggregator_of_the_jobs_own_makes_one_value(
    session: Session, tmp_path: Path, nodes: str | None
) -> None:
    data: Any = "heart"
    if nodes:
        rows = {"node1": [10, 20, 30], "node2": [20, 20, 30]}
        data = {n: write_table(tmp_path / f"{n}.csv", A=[1, 2, 3], B=b) for n, b in rows.items()}
    arguments = {
        "data": data,
        "nodes": nodes,
        "session": session if nodes is None else None,
        "home": None if nodes is None else tmp_path,
    }
    total = Job(remote.sums, aggregator="sum", **arguments)
    assert total.run(progress=False).value == {"A": 12, "B": 130}
    mean = Job(remote.tensors.bind(value=2), aggregator="weighted_mean", **arguments)
    assert mean.run(progress=False).params["weight"].tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.feature("TB-64", "PS-09")
def test_what_a_function_emits_arrives_before_the_end_with_its_fields_intact(session: Session) -> None:
    job = Job(remote.speaks, data="node1/heart", session=session)
    job.run(progress=False)
    events = list(job.events())
    found = next(event for event in events if event.type == "found")
    assert found.body == {"site": 3, "names": ["x", "y"], "nested": {"deep": [1, 2.5, None]}}
    assert found.node == "node1"
    early = next(event for event in events if event.type == "result" and event.body.get("so_far"))
    assert early.body["so_far"] == 3
    ended = next(event for event in events if event.type == "state" and event.body["state"] == "completed")
    assert early.seq < ended.seq
    assert any(event.type == "progress" and event.body["total"] == 4 for event in events)


@pytest.mark.feature("TB-64")
def test_a_local_function_emits_the_same(tmp_path: Path) -> None:
    job = Job(
        remote.speaks,
        data=write_table(tmp_path / "h.csv", A=[1, 2, 3]),
        nodes="local",
        home=tmp_path,
    )
    job.run(progress=False)
    found = next(event for event in job.events() if event.type == "found")
    assert found.body == {"site": 3, "names": ["x", "y"], "nested": {"deep": [1, 2.5, None]}}


def test_a_function_still_works_where_it_was_written() -> None:
    class Data:
        num_rows = 7
        path = "here"

    assert remote.speaks(Data()) == "local"
    assert remote.nothing_needed(None, word="x") == [True, "x"]
    assert remote.nothing_needed.bind(word="y")(None) == [True, "y"]
    assert remote.column_mean.__name__ == "column_mean"
    assert remote.column_mean.__doc__ == "Return the mean of a column."


def test_its_text_holds_what_it_uses_and_nothing_else() -> None:
    source = extract(remote.column_mean)
    assert source.entry == "column_mean"
    assert "_rounded" in source.text
    assert "ROUNDING = 3" in source.text
    assert "@fedjob.function" in source.text
    assert "everything" not in source.text
    assert extract(remote.column_mean.bind(column="B")).sha256 == source.sha256
    assert extract(f"{remote.__file__}:column_mean").sha256 == source.sha256


@pytest.mark.feature("TB-09")
def test_a_function_that_needs_no_data_runs_at_the_nodes_that_are_named_or_at_all(session: Session) -> None:
    named = Job(remote.nothing_needed.bind(word="hi"), nodes=["node2"], session=session)
    assert named.run(progress=False).value == [True, "hi"]
    everywhere = Job(remote.nothing_needed.bind(word="hi"), session=session)
    assert everywhere.run(progress=False).value == {"node1": [True, "hi"], "node2": [True, "hi"]}
    here = Job(remote.nothing_needed.bind(word="hi"), nodes="local", home=session.home)
    assert here.run(progress=False).value == [True, "hi"]


@pytest.mark.feature("BF-52")
def test_one_name_for_several_nodes_is_refused_and_a_name_for_each_is_not(session: Session) -> None:
    greet = remote.nothing_needed.bind(word="hi")
    with pytest.raises(SpecError, match=r"write data=\{'node1': \.\.\., 'node2': \.\.\.\}"):
        Job(greet, data="heart", nodes=["node1", "node2"], session=session)
    job = Job(greet, data={"node1": "heart", "node2": "toy"}, session=session)
    assert job.run(progress=False).value == {"node1": [False, "hi"], "node2": [False, "hi"]}
    assert [str(used) for used in job.data] == ["node1/heart", "node2/toy"]
    with pytest.raises(
        NoDatasets,
        match=r"no dataset node2/hart \(did you mean the dataset 'node2/heart' .*\); the nodes .* offer node1/",
    ):
        Job(greet, data={"node1": "heart", "node2": "hart"}, session=session).run(progress=False)
    with pytest.raises(SpecError, match="expected the keys 'tags' or 'name', or nodes"):
        Job(greet, data={"tag": ["heart"]}, session=session).run(progress=False)


def test_an_error_in_a_function_tells_its_class_and_line_and_no_value(session: Session) -> None:
    job = Job(remote.fails, data="node1/heart", session=session)
    with pytest.raises(JobFailed, match=r"AttributeError at plan line \d+"):
        job.run(progress=False)
    assert "mysum" not in str(job.record.detail)


def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no_such"):
        remote.column_mean.bind(no_such=1)
    with pytest.raises(SpecError, match="word"):
        Job(remote.nothing_needed, nodes="local", home=tmp_path)
    with pytest.raises(SpecError, match="can't travel"):
        Job(remote.nothing_needed.bind(word=object()), nodes="local", home=tmp_path)
    with pytest.raises(SpecError, match="needs no training_plan"):
        Job(remote.nothing_needed.bind(word=1), training_plan=Linear, nodes="local", home=tmp_path)
    with pytest.raises(SpecError, match="is a function"):
        Job(FedAvg(), training_plan=remote.sums, data="x", home=tmp_path)
    with pytest.raises(SpecError, match=r"write @fedjob\.function"):
        Job(lambda dataset: 1, data="x", home=tmp_path)
    with pytest.raises(PlanError, match="takes no dataset"):

        @fedjob.function
        def bare() -> None:
            pass

    assert not (tmp_path / "jobs").exists()


def test_what_can_not_travel_is_named(tmp_path: Path) -> None:
    @fedjob.function
    def odd(dataset: Any) -> Any:
        return {"ok": 1, "odd": [object()]}

    with pytest.raises(JobFailed, match=r"\['odd'\]\[0\] is a builtins.object"):
        Job(odd, nodes="local", home=tmp_path).run(progress=False)


@pytest.mark.feature("PS-34", "PS-52")
def test_a_result_before_the_end_is_not_ready_and_says_whose_and_why(tmp_path: Path) -> None:
    job = Job(remote.nothing_needed.bind(word=1), nodes="local", home=tmp_path)
    queued = replace(job.record, state="queued")
    queued.save(job.folder / "record.json")
    held = JobFolder(job.folder).take(0.0)  # as the process that runs it does
    assert not job.finished
    with pytest.raises(NotReady, match=f"{job.id} is queued") as caught:
        _ = job.result
    assert (caught.value.id, caught.value.state) == (job.id, "queued")
    os.close(held)


@pytest.mark.feature("TB-57")
def test_a_value_is_no_table_and_no_model(tmp_path: Path) -> None:
    result = Job(remote.nothing_needed.bind(word=1), nodes="local", home=tmp_path).run(progress=False)
    with pytest.raises(TypeError, match="result is not a table"):
        _ = result.table
    with pytest.raises(TypeError, match="result is not a table"):
        _ = result.dataframe
    with pytest.raises(WrongResult, match="not parameters"):
        _ = result.params
    with pytest.raises(WrongResult, match="not a model"):
        result.model()
