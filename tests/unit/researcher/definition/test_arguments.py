"""The table of the arguments of `Job`: complete, and what job files, clones and content hashes go by."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedjob import FedAdam, FedAvg, Fraction, Guard, Items, Job, Quorum, Select, TrimmedMean
from fedjob.common.errors import SpecError
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.definition.arguments import CHANGEABLE, CONTENT, IN_FILE, JobArguments
from fedjob.researcher.definition.job_definition import content_hash, define
from fedjob.researcher.storage.deployment import text_of
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import FOUND_LATER, JobSpec
from tests.plans import Linear, Tiny

ARGUMENTS: dict[str, Any] = {
    "training_plan": {"server": (Tiny, ["@researcher"]), "a": Linear, "b": Tiny},
    "data": {"a": "hearts", "b": "points"},
    "each": {"a": {"num_updates": 4}},
    "rounds": None,
    "quorum": Quorum(required="all", deadline_s=5.0),
    "selector": Fraction(0.5),
    "aggregator": TrimmedMean(0),
    "guard": Guard(max_norm=5.0),
    "items": Items(limit=10),
    "preprocess": [Select(["age", "sex"])],
    "resources": {"cpus": 2},
    "owner": {"name": "Ann"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "home"))


def test_the_table_has_the_parameters_of_job_with_their_defaults() -> None:
    parameters = inspect.signature(Job.__init__).parameters
    assert {entry.name: entry.default for entry in fields(JobArguments)} == {
        name: parameter.default for name, parameter in parameters.items() if name != "self"
    }
    assert [entry.name for entry in fields(JobArguments)] == [name for name in parameters if name != "self"]


def test_each_argument_has_its_check_and_its_facts() -> None:
    for entry in fields(JobArguments):
        assert entry.metadata.keys() == {"check", "back", "in_file", "changeable", "content"}
        assert callable(entry.metadata["check"])
    names = {entry.name for entry in fields(JobArguments)}
    assert names - set(IN_FILE) == {"artifacts", "models", "init", "keep_files_dir", "session", "home"}
    assert names - set(CHANGEABLE) == {"as_node", "preprocess", "keep_files_dir", "session", "home"}
    assert names - set(CONTENT) == {"seed", "keep_files_dir", "session", "home"}


def test_what_a_spec_finds_out_later_is_no_argument() -> None:
    assert {"id", "datasets", "researcher", "owner_key", "federation", "cloned_from"} == FOUND_LATER
    assert not FOUND_LATER & {entry.name for entry in fields(JobArguments)}


@pytest.mark.parametrize(
    "arguments",
    [ARGUMENTS, {"training_plan": Tiny, "data": "toy", "server_optimizer": FedAdam(lr=0.1)}],
    ids=["many", "few"],
)
def test_arguments_read_back_from_a_spec_define_an_equal_spec(arguments: dict[str, Any]) -> None:
    job = Job(FedAvg(), seed=3, **arguments)
    folder = JobFolder(job.folder)
    back = JobArguments.of(job.spec, job.record.asked, partial(text_of, job.spec, folder))
    again = define(back, ResearcherConfig())
    assert replace(again.spec, id=job.id) == job.spec
    assert again.asked == job.record.asked
    hashed = partial(content_hash, seed=3, asked=again.asked, init_hash="")
    assert hashed(again.spec) == job.record.content_hash


def test_content_is_what_was_asked_for_and_nothing_that_is_found_out_later() -> None:
    spec = Job(FedAvg(), training_plan=Tiny, data="toy", seed=3).spec
    hashed = partial(content_hash, seed=3, asked={}, init_hash="")
    assert hashed(
        replace(spec, id=f"job_{'0' * 8}-0000-4000-8000-{'0' * 12}", owner_key="k", seed=4)
    ) == hashed(spec)
    for name, value in {"note": "n", "keep": True, "rounds": 2, "watchers": ["bob"]}.items():
        assert name in JobSpec.__dataclass_fields__
        assert hashed(replace(spec, **{name: value})) != hashed(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 3}, "name is text, not 3"),
        ({"use": "public"}, "use is 'private' or 'mock', not 'public'"),
        (
            {"nodes": "node-a"},
            "nodes is a list of node ids, None for all, .* so many on this machine; found 'node-a'",
        ),
        ({"nodes": 100}, r"or simulate\(100\) for so many on this machine; found 100"),
        ({"guard": 3}, r"guard is a Guard\(max_norm=.*\) or None, not 3"),
        ({"quorum": 3}, r"quorum is a Quorum\(required=..., min_nodes=..., deadline_s=...\), not 3"),
        ({"items": 3}, r"items is Items\(only="),
        ({"hooks": [3]}, r"hooks are instances of Hook, such as EarlyStopping\('loss'\); found 3"),
        ({"watchers": "bob"}, r"watchers is a list of parties: watchers=\['bob'\]"),
        ({"each": 3}, "each is a map from nodes to training arguments"),
        (
            {"owner": {"mail": "a"}},
            "owner is a dict of text with the keys name, org, role; found 'mail': 'a'",
        ),
        ({"every_s": 0}, "every_s is a number of seconds above 0, not 0"),
        ({"max_tries": 0}, "max_tries is a whole number of 1 or more, not 0"),
        ({"rounds": 0}, "rounds is a whole number of 1 or more, not 0"),
        ({"props": 3}, "props is a dict with string keys, not a int"),
        ({"seed": -1}, "seed is a whole number from 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_refused_with_what_was_expected_also_of_a_clone(
    arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"training_plan": Tiny, "data": "toy"}
    with pytest.raises(SpecError, match=message):
        Job(FedAvg(), **given, **arguments)
    with pytest.raises(SpecError, match=message):
        Job(FedAvg(), **given).clone(**arguments)


def test_a_clone_for_other_nodes_keeps_what_the_job_brings(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    job = Job(FedAvg(), training_plan=Tiny, data=tmp_path / "points.csv", nodes=["a"])
    clone = job.clone(nodes=["a", "b"])
    assert clone.spec.files == job.spec.files != ""
    assert JobFolder(clone.folder).brought.read_bytes() == JobFolder(job.folder).brought.read_bytes()


def test_a_clone_keeps_its_owner_beside_what_is_changed_of_it() -> None:
    job = Job(FedAvg(), training_plan=Tiny, data="toy", owner={"name": "Ann", "org": "Heart"})
    assert job.clone(owner={"org": "Lung"}).spec.owner == {"name": "Ann", "org": "Lung"}


def test_a_job_with_a_map_of_plans_is_cloned_with_it_whatever_names_its_data() -> None:
    job = Job(FedAvg(), training_plan={"a": Linear, "b": Tiny}, data="toy")
    clone = job.clone(rounds=2)
    assert clone.spec.plans == job.spec.plans
    assert clone.record.asked == job.record.asked
