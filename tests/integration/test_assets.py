"""Datasets of several named tables and files: registered, described, computed on, and tried out by their mocks."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner, Result

from fedjob import FedAvg, Job, RecordDP, Select, TorchPlan
from fedjob.common.errors import FedjobError, SpecError
from fedjob.data.loader import open_dataset
from fedjob.identity.keys import Identity
from fedjob.node.cli.data import data
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets
from fedjob.researcher.jobs.session import Session
from tests import remote
from tests.integration.nodes import Federation, Node
from tests.integration.test_bringing import wait_for
from tests.integration.test_functions import write_table
from tests.integration.test_jobs_over_memory import open_session

PATIENTS = {"id": [1, 2, 3], "age": [40, 15, 60]}
VISITS = {"patient": [1, 1, 2, 3], "cost": [0.5, 1.0, 2.0, 4.0]}
MADE_UP = {"patient": [1, 2], "cost": [1.0, 1.0]}


class CostOfVisits(TorchPlan):
    """One linear layer from the age of a patient to the cost of each visit: rows of two tables, joined."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(1, 1)

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(model.parameters(), lr=1e-4)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        joined = dataset.assets["visits"].frame().merge(dataset.frame(), left_on="patient", right_on="id")
        return joined[["age"]].to_numpy("float32"), joined[["cost"]].to_numpy("float32")

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("assets"))
    found.node("node1", NodeConfig(approval="off", threads=1)).start()
    yield found
    found.close()


@pytest.fixture
def node(federation: Federation) -> Iterator[Node]:
    """The node; it has no datasets before and after a test."""
    (found,) = federation.nodes
    yield found
    with found.database() as database:
        for dataset in Datasets(database).all():
            Datasets(database).remove(dataset.name)


@pytest.fixture
def session(federation: Federation, tmp_path: Path) -> Iterator[Session]:
    with open_session(federation, tmp_path / "lab", Identity.generate(f"lab{secrets.token_hex(3)}")) as found:
        yield found


def command(node: Node, *words: str) -> Result:
    return CliRunner().invoke(data, [*words, "--home", str(node.home.root)])


def tables(folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    found = {
        "patients": write_table(folder / "patients.csv", **PATIENTS),
        "visits": folder / "visits.csv",
        "patients-mock": write_table(folder / "made_up_patients.csv", id=[1, 2], age=[18, 17]),
        "visits-mock": folder / "made_up_visits.csv",
        "codes": folder / "codes.pdf",
    }
    pandas.DataFrame(VISITS).to_csv(found["visits"], index=False, sep=";")
    pandas.DataFrame(MADE_UP).to_csv(found["visits-mock"], index=False, sep=";")
    found["codes"].write_bytes(b"%PDF-1.4")
    return found


def add_cohort(node: Node, *more: str, mocks: bool = True) -> dict[str, Path]:
    found = tables(node.folder / "cohort")
    words = ["add", "cohort", "--tags", "heart", "--option", "visits.separator=;"]
    for asset in ("patients", "visits"):
        words += ["--asset", f"{asset}={found[asset]}"]
        words += ["--mock", f"{asset}={found[f'{asset}-mock']}"] if mocks else []
    done = command(node, *words, *more)
    assert done.exit_code == 0, (done.output, done.exception)
    return found


@pytest.mark.feature("PS-17")
def test_a_dataset_of_several_tables_is_registered_listed_and_found_with_each(
    node: Node, session: Session
) -> None:
    found = add_cohort(node, "--description", "Two tables")
    shown = command(node, "show", "cohort").output
    for asset, columns in (("patients", ("id", "age")), ("visits", ("patient", "cost"))):
        assert f"{asset}: " in shown
        assert str(found[asset]) in shown
        assert str(found[f"{asset}-mock"]) in shown
        assert all(
            f"{asset} " in line for column in columns for line in shown.splitlines() if f" {column} " in line
        )
    plain = json.loads(command(node, "show", "cohort", "--json").output)
    assert [(asset["name"], asset["num_rows"]) for asset in plain["assets"]] == [
        ("patients", 3),
        ("visits", 4),
    ]
    assert f"visits={found['visits']}" in command(node, "list").output
    (handle,) = session.datasets(tags=["heart"])
    assert (handle.description, handle.num_rows, handle.has_mock) == ("Two tables", 3, True)
    assert handle.schema == handle.assets["patients"].schema == {"id": "int", "age": "int"}
    assert handle.assets["visits"].schema == {"patient": "int", "cost": "float"}
    assert handle.assets["visits"].num_rows == 4
    assert str(node.folder) not in json.dumps(handle.describe())
    assert "asset visits" in handle._repr_html_()


@pytest.mark.feature("PS-17")
def test_functions_and_plans_read_each_table_by_its_name_at_nodes_on_mocks_and_here(
    node: Node, session: Session, tmp_path: Path
) -> None:
    found = add_cohort(node)
    for use, visits in (("private", 3), ("mock", 1)):
        job = Job(remote.visits_of_adults, data="node1/cohort", use=use, session=session)
        assert job.run(progress=False).value == {"own": ["id", "age"], "visits": visits}
    (handle,) = session.datasets(name="cohort")
    mock = handle.mock()
    assert list(mock.assets) == ["patients", "visits"]
    assert mock.assets["visits"].frame().to_dict("list") == MADE_UP
    assert remote.visits_of_adults(mock)["visits"] == 1
    local = {
        "assets": {
            "patients": {"path": found["patients"], "mock": found["patients-mock"]},
            "visits": {
                "path": found["visits"],
                "mock": found["visits-mock"],
                "options": {"separator": ";"},
            },
        }
    }
    for use, visits in (("private", 3), ("mock", 1)):
        here = Job(remote.visits_of_adults, data=local, use=use, nodes="local", home=tmp_path)
        assert here.run(progress=False).value["visits"] == visits
    args = {"num_updates": 1, "batch_size": 4}
    trained = Job(
        FedAvg(), training_plan=CostOfVisits, data="node1/cohort", session=session, training_args=args
    )
    trained.run(progress=False)
    alike = Job(
        FedAvg(),
        training_plan=CostOfVisits,
        data={"node1": local},
        nodes="local",
        home=tmp_path,
        training_args=args,
        seed=trained.seed,
    )
    alike.run(progress=False)
    for name, tensor in trained.result.params.items():
        np.testing.assert_array_equal(tensor, alike.result.params[name])
    prepared = Job(
        remote.visits_of_adults,
        data="node1/cohort",
        preprocess=[Select(["age"])],
        session=session,
    )
    assert prepared.run(progress=False).value == {"own": ["age"], "visits": 3}


@pytest.mark.feature("PS-17")
def test_the_version_is_over_all_tables_and_a_change_of_one_is_described(
    node: Node, session: Session
) -> None:
    found = add_cohort(node)
    before = session.datasets(name="cohort")[0]
    more = {name: [*values, values[0]] for name, values in VISITS.items()}
    pandas.DataFrame(more).to_csv(found["visits"], index=False, sep=";")
    wait_for(lambda: session.datasets(name="cohort")[0].version != before.version)
    after = session.datasets(name="cohort")[0]
    assert after.mock_version == before.mock_version
    output = command(node, "refresh", "cohort").output
    assert "asset visits: 5 rows, 4 before" in output or "nothing has changed" in output
    wait_for(lambda: session.datasets(name="cohort")[0].assets["visits"].num_rows == 5)
    pandas.DataFrame({**MADE_UP, "cost": [3.0, 1.0]}).to_csv(found["visits-mock"], index=False, sep=";")
    wait_for(lambda: session.datasets(name="cohort")[0].mock_version != before.mock_version)
    found["visits"].unlink()
    refreshed = command(node, "refresh", "cohort")
    assert refreshed.exit_code != 0
    assert str(found["visits"]) in refreshed.output


@pytest.mark.feature("PS-17")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("{patients}", "--asset", "v={visits}"), "PATH, or one or more --asset"),
        ((), "PATH, or one or more --asset"),
        (("--asset", "{patients}"), "ASSET=PATH"),
        (("--asset", "a={patients}", "--asset", "a={visits}"), "there twice"),
        (("--asset", "../a={patients}"), "../a"),
        (("--asset", "a={patients}", "--mock", "b={visits}"), "no such asset; there are a"),
        (("--asset", "a={patients}", "--mock", "{visits}"), "--mock takes ASSET=PATH"),
        (
            ("--asset", "a={patients}", "--asset", "b={visits}", "--mock", "a={patients}"),
            "a mock of b is missing",
        ),
        (
            ("--asset", "a={patients}", "--asset", "b={visits}", "--min-rows", "4"),
            "asset a has 3 rows, fewer",
        ),
        (("--asset", "a={patients}", "--option", "b.separator=;"), "no such asset"),
        (("--asset", "a=nowhere.csv"), "nowhere.csv"),
        (("--asset", "a={patients}", "--loading-plan", "plan.json"), "--loading-plan"),
    ],
)
def test_assets_that_are_none_are_refused_with_what_was_expected(
    words: tuple[str, ...], expected: str, node: Node
) -> None:
    found = {name: str(path) for name, path in tables(node.folder / "refused").items()}
    done = command(node, "add", "odd", *(word.format(**found) for word in words))
    assert isinstance(done.exception, SpecError), (done.output, done.exception)
    assert expected in str(done.exception)
    with node.database() as database:
        assert Datasets(database).find("odd") is None


def test_a_file_beside_tables_is_read_as_a_file_and_does_not_count_as_rows(
    node: Node, session: Session
) -> None:
    found = tables(node.folder / "cohort")
    done = command(
        node, "add", "cohort", "--asset", f"patients={found['patients']}", "--asset", f"codes={found['codes']}",
        "--min-rows", "2",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    (handle,) = session.datasets(name="cohort")
    assert (handle.assets["codes"].reader, handle.has_mock) == ("files", False)
    with node.database() as database:
        dataset = Datasets(database).get("cohort")
    assert dataset.least_rows == 3
    opened = open_dataset(dataset.opened_as("private"))
    assert opened.assets["codes"].items == [found["codes"]]
    assert opened.take([0]).assets is opened.assets


def test_an_asset_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    plain = open_dataset({"path": write_table(tmp_path / "t.csv", A=[1, 2])})
    assert len(plain.assets) == 0
    with pytest.raises(SpecError, match="one table, folder or file"):
        plain.assets["visits"]
    info = {"path": tmp_path / "t.csv", "name": "c", "assets": [{"name": "a", "path": tmp_path / "t.csv"}]}
    with pytest.raises(SpecError, match="dataset c has no asset 'b'; it has a"):
        open_dataset(info).assets["b"]


def test_a_private_training_is_refused_before_its_plan_sees_several_tables(
    node: Node, session: Session, tmp_path: Path
) -> None:
    """Rows of further tables would have no epsilon, and loading half of the patients would not show it."""
    add_cohort(node)
    found = tables(tmp_path / "tables")
    local = {"assets": {"patients": {"path": found["patients"]}, "visits": {"path": found["codes"]}}}
    for about in (
        {"data": "node1/cohort", "session": session},
        {"data": {"node1": local}, "nodes": "local", "home": tmp_path},
    ):
        job = Job(
            FedAvg(),
            training_plan=CostOfVisits,
            training_args={"num_updates": 1, "batch_size": 1},
            protect=RecordDP(epsilon=8.0, delta=1e-3),
            **about,  # type: ignore[arg-type]
        )
        with pytest.raises(FedjobError, match=r"dataset\.assets has no place.*patients, visits"):
            job.run(progress=False)
