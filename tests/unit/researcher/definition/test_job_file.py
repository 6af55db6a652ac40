"""What a map of plans, resources and a job's file must be, and what they come to."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedjob import EarlyStopping, FedAvg, Fraction, Guard, Items, Job, Quorum, Select, StepDecay, TrimmedMean
from fedjob.common.errors import FedjobError, PlanError, SpecError
from fedjob.common.types import check_job_id, new_job_id
from fedjob.researcher.cli.jobs import job as job_commands
from fedjob.researcher.definition.job_file import read_definition
from fedjob.researcher.storage.folder import job_folder
from fedjob.researcher.storage.spec import load_spec, resources_of
from fedjob.training_plans.source.extraction import extract
from tests import remote
from tests.plans import Linear, Raises, Tiny
from tests.stepping import Fetching, Sizes

PLAN = """\
import torch
from fedjob import TorchPlan


class {name}(TorchPlan):
    def init_model(self, model_args):
        return torch.nn.Linear(2, 1)

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def training_data(self, dataset, training_args):
        return dataset.arrays()

    def training_step(self, model, batch):
        return model(batch[0]).mean()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDJOB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make(**arguments: Any) -> Job:
    return Job(FedAvg(), **{"training_plan": Tiny, "data": "toy", **arguments})


def plans_of(job: Job) -> dict[str, str]:
    return {node: plan["entry"] for node, plan in job.spec.plans.items()}


# --- a plan per node --------------------------------------------------------------------


@pytest.mark.feature("NV-04", "NV-10")
def test_each_node_of_a_map_has_its_own_plans_text_under_its_hash() -> None:
    job = make(training_plan={"a": Tiny, "b": Linear})
    assert plans_of(job) == {"a": "Tiny", "b": "Linear"}
    for node, plan in (("a", Tiny), ("b", Linear)):
        hash_ = job.spec.plans[node]["hash"]
        assert hash_ == extract(plan).sha256
        assert (job.folder / "plans" / f"{hash_}.py").read_bytes() == extract(plan).text.encode()
    assert job.spec.plan_hash == extract(Tiny).sha256
    assert job.nodes == [] or job.nodes == ["a", "b"]


@pytest.mark.feature("NV-04", "NV-05")
def test_named_apps_with_lists_of_nodes_and_one_for_this_side() -> None:
    job = make(
        training_plan={
            "hello-numpy-server": (Raises, ["@researcher"]),
            "hello-numpy-client": (Tiny, ["client1", "client2"]),
            "hello-numpy-client3": (Linear, ["client3"]),
        }
    )
    assert plans_of(job) == {"client1": "Tiny", "client2": "Tiny", "client3": "Linear"}
    assert job.training_plan_name == "Raises"
    assert job.training_plan_file.read_text() == extract(Raises).text


def test_one_plan_everywhere_is_no_map() -> None:
    assert make(training_plan={"app": (Tiny, ["@ALL"])}).spec.plans == {}
    everywhere = make(training_plan={"app": (Tiny, ["@all"]), "here": (Raises, ["@researcher"])})
    assert plans_of(everywhere) == {"@all": "Tiny"}


@pytest.mark.feature("NV-06")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"training_plan": {}}, "empty map"),
        ({"training_plan": {"x": (Tiny, ["@ALL", "a"])}}, "@all means every node: a"),
        ({"training_plan": {"x": (Tiny, ["@ALL"]), "y": (Linear, ["a"])}}, "@all means every node: a"),
        ({"training_plan": {"x": (Tiny, ["a"]), "y": (Linear, ["a"])}}, "a has two plans, 'x' and 'y'"),
        (
            {"training_plan": {"x": (Tiny, ["@researcher"]), "y": (Linear, ["@researcher"]), "a": Tiny}},
            "exactly one",
        ),
        ({"training_plan": {"x": (Tiny, [])}}, "names no node"),
        ({"training_plan": {"x": (Tiny, "a")}}, "is a plan, or"),
        ({"training_plan": {"../a": Tiny}}, "../a"),
        ({"training_plan": {"a": Tiny}, "quorum": Quorum(required=("b",))}, "requires b, but only a"),
        ({"training_plan": {"a": Tiny}, "quorum": Quorum(min_nodes=2)}, "needs 2 nodes, but only 1"),
        ({"training_plan": {"a": Tiny}, "nodes": ["a", "b"]}, "nodes b have no plan"),
        ({"training_plan": {"a": "missing.py:Plan"}}, "missing.py"),
    ],
)
def test_each_rule_of_a_map_of_plans_refuses_what_breaks_it(
    arguments: dict[str, Any], said: str, home: Path
) -> None:
    with pytest.raises(SpecError, match=said):
        make(**arguments)
    assert not list((home / "jobs").glob("*"))


@pytest.mark.feature("NV-06")
def test_an_empty_list_of_nodes_is_an_app_that_is_not_deployed() -> None:
    assert plans_of(make(training_plan={"x": (Tiny, []), "y": (Linear, ["a"])})) == {"a": "Linear"}


@pytest.mark.feature("NV-06")
@pytest.mark.parametrize("min_nodes", [0, -1, 1.5, True])
def test_a_quorum_counts_from_one(min_nodes: Any) -> None:
    with pytest.raises(SpecError, match="whole number"):
        Quorum(min_nodes=min_nodes)


# --- resources ----------------------------------------------------------------------------


@pytest.mark.feature("NV-03", "NV-31")
def test_resources_are_kept_as_they_were_given() -> None:
    given = {"default": {}, "node-a": {"gpus": 1, "cpus": 4, "memory": "8Gi"}}
    for resources in (given, {"gpus": 2, "labels": ["a100"]}, {"default": {"cpus": 0.5}}, {}):
        job = make(resources=resources)
        assert job.spec.resources == load_spec(job.folder / "spec.mpk").resources == resources
        shown = CliRunner().invoke(
            job_commands, ["show", job.id, "--home", str(job.folder.parents[1]), "--json"]
        )
        assert json.loads(shown.output)["spec"]["resources"] == resources
        written = json.loads(job.to_json())
        assert written.get("resources", {}) == resources
        assert Job.from_json(written).spec.resources == resources


@pytest.mark.feature("NV-03")
def test_resources_of_no_node_in_particular_are_those_of_every_node() -> None:
    assert resources_of(make(resources={"gpus": 2}).spec, "node-a") == {"gpus": 2}
    spec = make(resources={"default": {"cpus": 1}, "node-a": {"gpus": 2}}).spec
    assert (resources_of(spec, "node-a"), resources_of(spec, "node-b")) == ({"gpus": 2}, {"cpus": 1})
    assert resources_of(make().spec, "node-a") == {}


@pytest.mark.feature("NV-03")
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"default": {"gpu": 1}}, "no 'gpu'"),
        ({"a": {"gpus": 1.5}}, "gpus is a whole number"),
        ({"a": {"memory": "lots"}}, "memory is bytes"),
        ({"a": {"cpus": -1}}, "cpus is a number"),
        ({"a": {"gpus": 1}, "b": 2}, r"resources\['b'\]"),
        ({"../a": {"gpus": 1}}, "../a"),
    ],
)
def test_resources_that_mean_nothing_are_refused(resources: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make(resources=resources)


# --- a job's file ---------------------------------------------------------------------------


def write_folder(folder: Path, **changes: Any) -> Path:
    (folder / "app2").mkdir(parents=True)
    (folder / "plan_a.py").write_text(PLAN.format(name="PlanA"))
    (folder / "app2" / "plan.py").write_text(PLAN.format(name="PlanB"))
    definition = {
        "name": "two-apps",
        "deploy_map": {"plan_a.py:PlanA": ["node-a"], "app2": ["node-b"]},
        "data": {"tags": ["toy"]},
        "rounds": 3,
        "seed": 7,
        **changes,
    }
    (folder / "job.json").write_text(json.dumps(definition))
    return folder


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted(folder.rglob("*"), reverse=True):
            made.write(path, f"{prefix}{path.relative_to(folder)}")
    return archive


def test_a_folder_its_file_and_its_zip_define_the_same_job(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "two-apps")
    sources = [
        folder,
        folder / "job.json",
        zipped(folder, tmp_path / "flat.zip"),
        zipped(folder, tmp_path / "nested.zip", "two-apps/"),
    ]
    jobs = [Job.from_json(source) for source in sources]
    assert len({job.record.content_hash for job in jobs}) == 1
    assert plans_of(jobs[0]) == {"node-a": "PlanA", "node-b": "PlanB"}
    assert (jobs[0].name, jobs[0].spec.rounds, jobs[0].seed) == ("two-apps", 3, 7)
    other = Job.from_json(write_folder(tmp_path / "other", rounds=4))
    assert other.record.content_hash != jobs[0].record.content_hash


@pytest.mark.feature("NV-26")
def test_the_folder_or_archive_that_a_job_comes_from_is_in_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "two-apps")
    archive = zipped(folder, tmp_path / "flat.zip")
    monkeypatch.chdir(tmp_path)
    for source, expected in ((folder, folder), (folder / "job.json", folder), (archive, archive)):
        for path in (source, source.relative_to(tmp_path)):
            job = Job.from_json(path)
            assert Job.open(job.folder).record.submitted_from == str(expected)
    assert make().record.submitted_from == ""  # nobody has submitted it yet


@pytest.mark.feature("NV-01", "NV-30")
@pytest.mark.parametrize("names", ["ours", "clients", "sites"])
def test_nvflares_names_are_understood(names: str, tmp_path: Path) -> None:
    least, must = {
        "ours": ("min_nodes", "required"),
        "clients": ("min_clients", "mandatory_clients"),
        "sites": ("min_sites", "required_sites"),
    }[names]
    plain = {
        "job_id": new_job_id(),
        "resource_spec": {"node-a": {"gpus": 1}},
        "meta": {"ticket": 12},
        "custom_props": {"team": "heart"},
        "study": "heart-study",
        least: 2,
        must: ["node-b"],
    }
    job = Job.from_json(write_folder(tmp_path / "app", **plain))
    assert job.spec.the_quorum == Quorum(required=("node-b",), min_nodes=2)
    assert job.spec.resources == {"node-a": {"gpus": 1}}
    assert (job.project, job.props) == ("heart-study", {"ticket": 12, "team": "heart"})
    bare = Job.from_json(write_folder(tmp_path / "bare"))
    assert bare.spec.the_quorum == Quorum(required=(), min_nodes=1)


def test_a_map_defines_a_job_without_any_file() -> None:
    job = Job.from_json({"training_plan": f"{Path(__file__).parents[3] / 'plans.py'}:Tiny", "data": "toy"})
    assert job.training_plan_name == "Tiny"
    assert Job.from_json(
        {**job_of(Tiny), "operation": {"name": "fedavg", "config": {}}}
    ).spec.protocol.name == ("fedavg")


def job_of(plan: type) -> dict[str, Any]:
    return {"training_plan": f"{Path(__file__).parents[3] / 'plans.py'}:{plan.__name__}", "data": "toy"}


@pytest.mark.feature("NV-06")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roundz": 3}, "unknown key 'roundz'; did you mean 'rounds'"),
        ({"min_nodes": 2, "min_clients": 2}, "'min_clients' says again"),
        ({"quorum": {"min_nodes": 1}, "min_sites": 1}, "keep one"),
        ({"quorum": {"most": 1}}, "no most"),
        ({"mandatory_clients": "node-b"}, "list of nodes"),
        ({"mandatory_clients": ["node-c"]}, "requires node-c"),
        ({"min_clients": 0}, "1 or more"),
        ({"min_clients": 3}, "needs 3 nodes, but only 2"),
        ({"deploy_map": {"app9": ["node-a"]}}, "there is no app9/plan.py"),
        ({"deploy_map": {"../plan.py:Plan": ["node-a"]}}, "outside the job's folder"),
        ({"deploy_map": {"/etc/passwd.py:Plan": ["node-a"]}}, "outside the job's folder"),
        ({"deploy_map": []}, "a map"),
        ({"operation": 3}, "name of a protocol"),
        ({"props": []}, "props is a map"),
    ],
)
def test_a_file_that_defines_no_job_is_refused_with_what_was_expected(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=said):
        Job.from_json(write_folder(tmp_path / "app", **changes))


NO_IDS = ["../../etc", "job_../x", "job_1", "/job", "job_" + "g" * 36, "x\0y", ""]


@pytest.mark.feature("NV-02")
@pytest.mark.parametrize("id_", NO_IDS)
def test_an_id_that_is_none_is_refused_in_python(id_: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a job id reads job_<uuid4>"):
        check_job_id(id_)
    with pytest.raises(SpecError, match="a job id reads job_<uuid4>"):
        job_folder(tmp_path, id_)
    if id_:
        with pytest.raises(SpecError, match="a job id reads job_<uuid4>"):
            read_definition({"job_id": id_}, None)


@pytest.mark.feature("NV-02")
@pytest.mark.parametrize("id_", NO_IDS)
@pytest.mark.parametrize("command", ["show", "why", "wait", "kill", "restart", "clone", "result", "delete"])
def test_an_id_that_is_none_is_refused_by_every_command(command: str, id_: str, tmp_path: Path) -> None:
    outside = tmp_path / "etc"
    (outside / "job").mkdir(parents=True)
    home = tmp_path / "home" / "lab"
    (home / "jobs").mkdir(parents=True)
    done = CliRunner().invoke(job_commands, [command, "--home", str(home), "--", id_])
    assert done.exit_code != 0
    assert isinstance(done.exception, (FedjobError, SystemExit)), done.output
    assert list(outside.iterdir()) == [outside / "job"]
    assert list((home / "jobs").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "..\\evil.py"])
def test_an_archive_that_reaches_outside_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as made:
        made.writestr("job.json", "{}")
        made.writestr(name, "x = 1")
    with pytest.raises(SpecError, match="no plain file inside"):
        Job.from_json(tmp_path / "evil.zip")
    assert not list(tmp_path.glob("**/evil.py"))


def test_an_archive_with_a_link_or_too_much_in_it_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as made:
        made.writestr(link, "/etc/passwd")
    with pytest.raises(SpecError, match="no plain file"):
        Job.from_json(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as made:
        for index in range(1001):
            made.writestr(str(index), "")
    with pytest.raises(SpecError, match="more than 1000 files"):
        Job.from_json(tmp_path / "many.zip")


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text, encoding="latin-1")
    with pytest.raises(SpecError):
        Job.from_json(tmp_path / "job.json")
    with pytest.raises(SpecError, match=r"job\.json"):
        Job.from_json(tmp_path / "nowhere")


def test_a_plan_that_is_no_python_is_a_plans_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "app")
    (folder / "plan_a.py").write_text("class PlanA(:\n")
    with pytest.raises(PlanError):
        Job.from_json(folder)


# --- a job as a file of its own ------------------------------------------------------------------


def pick(round_: int, nodes: list[str]) -> list[str]:
    return nodes[:round_]


FULL: dict[str, Any] = {
    "training_plan": {"server": (Tiny, ["@researcher"]), "a": Linear, "b": Tiny},
    "data": {"a": "hearts", "b": "points"},
    "training_args": {"lr": StepDecay(0.05, every=2), "num_updates": 3},
    "rounds": 7,
    "name": "whole",
    "note": "for the study",
    "project": "hearts",
    "props": {"study": "s1"},
    "seed": 11,
    "quorum": Quorum(required="all", deadline_s=5.0),
    "selector": Fraction(0.5),
    "aggregator": TrimmedMean(0),
    "guard": Guard(max_norm=5.0),
    "hooks": [EarlyStopping("loss", patience=2)],
    "items": Items(limit=10),
    "preprocess": [Select(["age", "sex"])],
    "resources": {"a": {"cpus": 2}},
    "use": "mock",
    "watchers": ["bob"],
    "round_timeout_s": 60.0,
    "max_tries": 3,
    "owner": {"name": "Ann"},
    "validate_at_end": True,
    "breakpoint_every": 2,
    "keep_breakpoints": 4,
    "keep": True,
}


@pytest.mark.feature("BF-37")
@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (FedAvg(), {"training_plan": Tiny, "data": {"tags": ["toy"]}, "selector": pick, "aggregator": "sum"}),
        (FedAvg(), FULL),
        (remote.column_mean.bind(column="B"), {"data": "node1/heart", "nodes": ["node1"]}),
        (FedAvg(), {"training_plan": Linear, "data": "here.npz", "nodes": "local", "as_node": "me"}),
        (Sizes, {"data": {"tags": ["scans"]}, "items": Items(batch=4), "split": {"test": 0.2, "seed": 1}}),
    ],
    ids=["least", "everything", "function", "local", "batches"],
)
def test_a_job_is_text_that_makes_an_equal_job(
    operation: Any, arguments: dict[str, Any], tmp_path: Path
) -> None:
    job = Job(operation, **{"seed": 3, **arguments})
    text = job.to_json(tmp_path / "job.json")
    for again in (Job.from_json(json.loads(text)), Job.from_json(tmp_path / "job.json")):
        assert replace(again.spec, id=job.spec.id) == job.spec
        assert again.record.content_hash == job.record.content_hash
        assert again.record.asked == job.record.asked
        assert again.to_json() == text


def test_what_is_no_text_is_not_in_a_jobs_file(tmp_path: Path) -> None:
    (tmp_path / "brought.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="the data that a job brings"):
        Job(remote.sums, data=tmp_path / "brought.csv").to_json()
    job = Job(Fetching, data={"tags": ["scans"]}, artifacts={"model": tmp_path / "brought.csv"})
    with pytest.raises(SpecError, match="sends along"):
        job.to_json()
    assert job.clone(note="again").spec.artifacts == job.spec.artifacts
    assert job.clone(artifacts={}, split="aggregator").spec.split == {"column": "aggregator"}
    first = {name: value + 1 for name, value in make()._plan.get_params().items()}
    with pytest.raises(SpecError, match="first parameters"):
        make(init=first).to_json()
    with pytest.raises(SpecError, match="code in a job's file"):
        read_definition({"training_plan": {"text": "x", "name": "y"}}, None)
