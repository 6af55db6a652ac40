"""`fedjob node budget`, and what a request would cost in `fedjob node grants`, as an owner types them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import CliRunner

from fedjob.cli import cli
from fedjob.common.errors import SpecError
from fedjob.identity.keys import Identity
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets, describe_dataset
from fedjob.node.grants.contract import Request
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import GrantSubject
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import Wanted
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.privacy.dp.mechanisms import Gaussian

PLAN = b"class Net: ..."
DP = {"dp": {"kind": "record", "epsilon": 2.0, "delta": 1e-5, "max_grad_norm": 1.0}}


class Desk:
    """A home with the dataset `hearts`, and its owner, who types."""

    def __init__(self, folder: Path) -> None:
        self.home = NodeHome(folder / "hospital")
        self.home.create()
        Identity.load_or_create(self.home.keys, "hospital")
        path = folder / "hearts.npz"
        numpy.savez(path, x=numpy.arange(800.0).reshape(400, 2))
        self.database = Database(self.home.database)
        Datasets(self.database).add(describe_dataset("hearts", path))
        self.accounts = PrivacyAccounts(self.database)

    def types(self, *words: str) -> str:
        done = CliRunner().invoke(cli, ["node", *words, "--home", str(self.home.root)])
        if isinstance(done.exception, SpecError):
            return str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    def json(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json"))

    def pays(self, task: str, researcher: str = "ann") -> str:
        return self.accounts.reserve(
            Wanted(
                dataset="hearts",
                job="job-of-" + researcher,
                researcher=researcher,
                project="",
                mechanisms=(Gaussian(noise=5.0, rate=0.1, number=20),),
                epsilon=2.0,
                delta=1e-5,
            ),
            task=task,
            round_=1,
            step="train",
        )

    def asks(self, protect: dict[str, Any], *, rounds: int = 3, **args: Any) -> str:
        asked = Request(
            job="j1",
            operation="fedjob.train.fedavg",
            training_args={"batch_size": 20, "num_updates": 5, **args},
            rounds=rounds,
            protect=protect,
            has_plan=True,
        )
        subject = GrantSubject(
            researcher="ann",
            key_hex="ab" * 32,
            plan=hashlib.sha256(PLAN).hexdigest(),
            entry="Net",
            dataset="hearts",
            question=hashlib.sha256(repr(asked).encode()).hexdigest(),
        )
        return Grants(self.database).file(subject, PLAN, protocol="fedavg", asked=asked).id


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.database.close()


def test_a_budget_is_set_shown_spent_and_removed(desk: Desk) -> None:
    assert desk.types("budget", "show").startswith("no privacy budget is set: fedjob node budget set")
    said = desk.types("budget", "set", "hearts", "--epsilon", "3", "--delta", "1e-6", "--by", "Bea")
    assert said == (
        "set: the privacy budget on dataset hearts (epsilon 3, delta 1e-06); 0 of it is spent, 3 is left\n"
    )
    mine = ("--project", "trial7", "--researcher", "ben", "--researcher", "a*")
    assert "of a* and ben on dataset hearts in project trial7" in desk.types(
        "budget", "set", "hearts", "--epsilon", "1", *mine
    )
    assert desk.pays("t1") == ""
    desk.accounts.settle("t1", left=True)
    assert desk.pays("t2") == ""
    whole, theirs = desk.json("budget", "show", "hearts")
    assert (theirs["researchers"], theirs["spent"], theirs["delta"]) == (["a*", "ben"], 0.0, 1e-6)
    assert 0 < whole["spent"] < 3
    assert whole["left"] == pytest.approx(3 - whole["spent"])
    shown = desk.types("budget", "show")
    assert f"{whole['left']:.4g}" in shown
    assert "a* ben" in shown
    history = desk.json("budget", "history", "hearts", "--job", "job-of-a")
    assert [(one["task"], one["state"], one["round"]) for one in history] == [
        ("t2", "reserved", 1),
        ("t1", "spent", 1),
    ]
    assert history[0]["mechanisms"] == [{"kind": "gaussian", "noise": 5.0, "rate": 0.1, "number": 20}]
    assert "spent" in desk.types("budget", "history")
    assert desk.json("budget", "history", "--job", "other") == []
    assert desk.json("budget", "set", "hearts", "--remove", *mine)["removed"] is True
    assert "jobs without privacy may run on it again" in desk.types("budget", "set", "hearts", "--remove")
    assert desk.json("budget", "show") == []
    records = [record.to_plain() for record in Audit(desk.database).records()]
    assert [one["kind"] for one in records] == [*["budget"] * 2, *["charge"] * 3, *["budget"] * 2]
    assert records[0]["body"]["by"] == "Bea"
    assert "budget" in desk.types("audit")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("hearts",), "expected --epsilon E"),
        (("hearts", "--delta", "1e-6"), "expected --epsilon E"),
        (("hearts", "--epsilon", "3", "--remove"), "or --remove alone"),
        (("hearts", "--remove", "--delta", "1e-6"), "or --remove alone"),
        (("hearts", "--epsilon", "0"), "--epsilon is a number above 0"),
        (("hearts", "--epsilon", "nan"), "--epsilon is a number above 0"),
        (("hearts", "--epsilon", "inf"), "--epsilon is a number above 0"),
        (("hearts", "--epsilon", "-1"), "--epsilon is a number above 0"),
        (("hearts", "--epsilon", "3", "--delta", "0"), "--delta lies between 0 and 1"),
        (("hearts", "--epsilon", "3", "--delta", "1"), "--delta lies between 0 and 1"),
        (("hearts", "--epsilon", "three"), "not a valid float"),
        (("heart", "--epsilon", "3"), "there is no dataset 'heart'"),
        (("hearts", "--epsilon", "3", "--researcher", ""), "--researcher"),
        (("hearts", "--epsilon", "3", "--researcher", "org:acme"), "is a researcher's id, or a pattern"),
        (("hearts", "--remove"), "there is no such budget"),
    ],
    ids=str,
)
def test_what_sets_no_budget_is_refused_in_words(desk: Desk, words: tuple[str, ...], answer: str) -> None:
    assert answer in desk.types("budget", "set", *words)
    assert desk.accounts.budgets() == []


def test_the_ledger_of_a_dataset_that_was_removed_is_still_shown(desk: Desk) -> None:
    assert desk.pays("t1") == ""
    desk.types("data", "remove", "hearts")
    assert len(desk.json("budget", "history", "hearts")) == 1
    assert "there is no dataset" in desk.types("budget", "history", "lungs")


@pytest.mark.feature("BF-24")
def test_a_request_says_what_it_would_cost_and_what_would_be_left(desk: Desk) -> None:
    grant = desk.asks(DP)
    shown = desk.types("grants", "show", grant)
    assert "the dataset has no privacy budget" in shown
    desk.types("budget", "set", "hearts", "--epsilon", "3", "--delta", "1e-5")
    plain = desk.json("grants", "show", grant)["privacy"]
    assert (plain["epsilon"], plain["left"], plain["refusal"]) == (2.0, 3.0, "")
    assert 1.9 < plain["cost"] <= 2.0
    shown = desk.types("grants", "show", grant)
    assert "under differential privacy of single records (epsilon 2, delta 1e-05" in shown
    assert f"{plain['after']:.4g} would be left" in shown
    assert f"{plain['cost']:.3g}, then {plain['after']:.3g} left" in desk.types("grants", "list", "--pending")
    (listed,) = desk.json("grants", "list")
    assert listed["privacy"] == plain
    desk.types("budget", "set", "hearts", "--epsilon", "1", "--delta", "1e-5")
    assert "has 1 left, and this job costs" in desk.types("grants", "show", grant)
    assert "too much" in desk.types("grants", "list")


@pytest.mark.feature("BF-24")
def test_a_project_with_a_cap_makes_a_request_cheaper(desk: Desk) -> None:
    grant = desk.asks({"dp": {**DP["dp"], "epsilon": 10.0}})
    desk.types("grants", "project", "default", "--protection", "dp:3", "--protection", "secagg:5")
    plain = desk.json("grants", "show", grant)["privacy"]
    assert (plain["epsilon"], plain["delta"]) == (3.0, 1e-5)
    said = desk.types("grants", "approve", grant, "--protection", "dp:1,1e-7", "--by", "Bea")
    assert "differential privacy with epsilon 1 and delta 1e-07 at most" in said
    plain = desk.json("grants", "show", grant)["privacy"]
    assert (plain["epsilon"], plain["delta"]) == (1.0, 1e-7)


def test_a_request_that_cant_be_private_says_why_and_a_plain_one_costs_nothing(desk: Desk) -> None:
    plain, odd = desk.asks({}), desk.asks(DP, batch_size=300)
    assert desk.json("grants", "show", plain)["privacy"] == {}
    assert "costs" not in desk.types("grants", "show", plain)
    assert "twice as many rows" in desk.json("grants", "show", odd)["privacy"]["refusal"]
    assert "not possible" in desk.types("grants", "list")


@pytest.mark.parametrize("project", ["", " ", "*", "trial?", "[ab]", "a\x00b", "a\x1b[31m", "a\nb"])
def test_a_budget_is_for_one_project_that_is_named(desk: Desk, project: str) -> None:
    answer = desk.types("budget", "set", "hearts", "--epsilon", "3", "--project", project)
    assert "--project" in answer
    assert "expected a value of" in answer or "the name of one project, and no pattern" in answer
    assert desk.accounts.budgets() == []


def test_a_budget_of_the_default_project_is_for_jobs_that_name_none(desk: Desk) -> None:
    desk.types("budget", "set", "hearts", "--epsilon", "3", "--project", "default")
    (budget,) = desk.accounts.budgets()
    assert [budget.covers(name, "ann") for name in ("", "default", "trial7")] == [True, True, False]
    assert desk.pays("t1") == ""
    assert 0 < desk.accounts.spent(budget) < 3
