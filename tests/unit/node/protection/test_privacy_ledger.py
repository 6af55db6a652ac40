"""The privacy ledger of a node: budgets, charges, and that it is never under what was told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedjob.common.errors import SpecError
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import (
    PrivacyBudget,
    Spending,
    Wanted,
    composed,
    quote_job,
    spent_of,
)
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.privacy.dp.calibration import noise_for
from fedjob.privacy.dp.mechanisms import Gaussian, Mechanism, Pure, cost_of

DELTA = 1e-6
ROUND = Gaussian(noise=noise_for(1.0, DELTA, rate=0.1, number=10 * 3), rate=0.1, number=10)
"""One of three rounds that cost epsilon 1 together."""


def wanted(*mechanisms: Mechanism, **about: Any) -> Wanted:
    fields = {
        "dataset": "hearts",
        "job": "j1",
        "researcher": "ann",
        "project": "",
        "epsilon": 1.0,
        "delta": DELTA,
    }
    return Wanted(mechanisms=mechanisms or (ROUND,), **{**fields, **about})


def budget(epsilon: float = 3.0, **about: Any) -> PrivacyBudget:
    return PrivacyBudget(**{"dataset": "hearts", "epsilon": epsilon, "delta": DELTA, **about})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def accounts(database: Database) -> PrivacyAccounts:
    return PrivacyAccounts(database)


def states(accounts: PrivacyAccounts) -> list[tuple[str, int, str]]:
    return [(one.task, one.number, one.state) for one in reversed(list(accounts.charges()))]


def pays(accounts: PrivacyAccounts, task: str, **about: Any) -> str:
    return accounts.reserve(wanted(**about), task=task, round_=1, step="train")


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "covered"),
    [
        ({}, [True, True, True]),
        ({"project": "heart"}, [False, True, False]),
        ({"researchers": ("ann", "b*")}, [True, True, True]),
        ({"researchers": ("b*",)}, [False, False, True]),
        ({"researchers": ("b*",), "project": "heart"}, [False, False, False]),
    ],
)
def test_a_budget_is_for_those_that_its_owner_names(about: dict[str, Any], covered: list[bool]) -> None:
    of = [("", "ann"), ("heart", "ann"), ("lung", "ben")]
    assert [budget(**about).covers(project, who) for project, who in of] == covered


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            Gaussian,
            noise=st.sampled_from([0.8, 2.0, 9.0]),
            rate=st.sampled_from([0.1, 1.0]),
            number=st.integers(1, 9),
        )
        | st.builds(Pure, epsilon=st.sampled_from([0.1, 0.5]), number=st.integers(1, 9)),
        max_size=8,
    )
)
def test_mechanisms_that_are_alike_cost_as_much_one_by_one(every: list[Mechanism]) -> None:
    spendings = [Spending(job="j", researcher="ann", project="", mechanism=one) for one in every]
    assert cost_of(composed(spendings), DELTA) == pytest.approx(cost_of(every, DELTA), rel=1e-12)
    assert spent_of(budget(), spendings) == pytest.approx(cost_of(every, DELTA), rel=1e-12)


def test_what_a_job_has_paid_is_a_part_of_what_the_whole_of_it_costs() -> None:
    paid = [Spending(job="j1", researcher="ann", project="", mechanism=ROUND, times=2)]
    whole = wanted(ROUND, ROUND, ROUND)
    fresh, going_on = quote_job(whole, [budget(1.5)], []), quote_job(whole, [budget(1.5)], paid)
    assert fresh == going_on
    assert (fresh.refusal, fresh.left) == ("", 1.5)
    assert 0.97 < fresh.cost <= 1.0
    assert fresh.after == pytest.approx(1.5 - fresh.cost, abs=1e-5)
    other = quote_job(wanted(ROUND, ROUND, ROUND, job="j2"), [budget(1.0)], paid)
    assert "costs" in other.refusal
    assert "left" in other.refusal


def test_the_tightest_budget_decides_and_all_have_to_hold() -> None:
    budgets = [budget(5.0), budget(0.5, project="heart"), budget(4.0, researchers=("ann",))]
    quote = quote_job(wanted(ROUND, ROUND, ROUND, project="heart"), budgets, [])
    assert quote.budget == budgets[1]
    assert "in project heart" in quote.refusal
    assert quote_job(wanted(ROUND, ROUND, ROUND, project="lung"), budgets, []).budget == budgets[2]


def test_who_was_given_no_budget_has_none() -> None:
    budgets = [budget(project="heart"), budget(project="lung", researchers=("ben",))]
    for project, who in (("", "ann"), ("lung", "ann"), ("kidney", "ben")):
        quote = quote_job(wanted(project=project, researcher=who), budgets, [])
        assert quote.refusal.startswith("no privacy budget on dataset hearts is for researcher")
    assert quote_job(wanted(), [], []).refusal == ""


def test_next_to_no_noise_fits_into_no_budget() -> None:
    endless = quote_job(wanted(Gaussian(noise=1e-6)), [budget(1e9)], [])
    assert endless.refusal
    assert quote_job(wanted(Pure(epsilon=0.5, number=2)), [budget(1.0)], []).refusal == ""


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_a_promise(accounts: PrivacyAccounts, epsilon: float) -> None:
    with pytest.raises(SpecError, match="--epsilon is a number above 0"):
        accounts.set_budget(budget(epsilon), "owner")
    for delta in (0.0, 1.0, math.nan, -1e-6):
        with pytest.raises(SpecError, match="--delta lies between 0 and 1"):
            accounts.set_budget(budget(delta=delta), "owner")
    assert accounts.budgets() == []


# --- charges --------------------------------------------------------------------------------------


def test_a_job_never_passes_its_own_epsilon_whatever_it_claims(accounts: PrivacyAccounts) -> None:
    for number in range(3):
        assert pays(accounts, f"t{number}") == ""
    refused = pays(accounts, "t3")
    assert refused.startswith("the job keeps epsilon 1 here (delta 1e-06), and has spent")
    assert pays(accounts, "t4", job="j2") == "", "another job has another epsilon"
    claims_more = wanted(epsilon=5.0)
    assert accounts.reserve(claims_more, task="t5", round_=1, step="train") == ""


@pytest.mark.feature("BF-24")
def test_jobs_rounds_and_researchers_spend_one_budget(accounts: PrivacyAccounts) -> None:
    accounts.set_budget(budget(2.0), "owner")
    paid = 0
    for job, who in itertools.product(range(9), ("ann", "ben")):
        for number in range(3):
            if refused := pays(accounts, f"{job}{who}{number}", job=f"{job}{who}", researcher=who):
                assert "the privacy budget on dataset hearts (epsilon 2, delta 1e-06) has" in refused
                break
            paid += 1
    assert accounts.spent(budget(2.0)) <= 2.0
    assert cost_of([ROUND] * (paid + 1), DELTA) > 2.0, "and not a charge more would have fitted"
    assert paid > 2 * 3, "composition is better than addition"


def test_work_that_let_nothing_out_is_charged_once_however_often_it_begins(
    accounts: PrivacyAccounts, database: Database
) -> None:
    for _ in range(4):
        assert pays(accounts, "t1") == ""
        accounts = PrivacyAccounts(database)  # a daemon that was killed knows nothing but the tables
    assert states(accounts) == [("t1", 1, "reserved")]
    accounts.settle("t1", left=False)
    assert states(accounts) == [("t1", 1, "returned")]
    assert accounts.spent(budget()) == 0
    assert pays(accounts, "t1") == ""
    accounts.settle("t1", left=True)
    accounts.settle("t1", left=False)  # what is spent stays spent
    assert states(accounts) == [("t1", 1, "returned"), ("t1", 2, "spent")]


def test_work_whose_result_has_left_is_charged_again_when_it_is_computed_again(
    accounts: PrivacyAccounts,
) -> None:
    assert pays(accounts, "t1") == ""
    accounts.settle("t1", left=True)
    assert pays(accounts, "t1") == ""
    assert states(accounts) == [("t1", 1, "spent"), ("t1", 2, "reserved")]
    assert accounts.spent(budget()) == pytest.approx(cost_of([ROUND, ROUND], DELTA))


def test_work_that_was_stopped_on_its_way_out_is_not_computed_again_for_nothing(
    accounts: PrivacyAccounts,
) -> None:
    assert pays(accounts, "t1") == ""
    accounts.note_leaving("t1")
    assert pays(accounts, "t1") == ""
    assert states(accounts) == [("t1", 1, "spent"), ("t1", 2, "reserved")]
    assert not accounts.is_leaving("t1"), "the second computation has let nothing out yet"


def test_a_reservation_that_a_lowered_budget_no_longer_pays_is_given_back(accounts: PrivacyAccounts) -> None:
    assert pays(accounts, "t1") == ""
    accounts.set_budget(budget(0.01), "owner")
    assert "has 0.01 left" in pays(accounts, "t1")
    assert states(accounts) == [("t1", 1, "returned")]


def test_terms_that_the_owner_changed_before_anything_left_replace_the_first(
    accounts: PrivacyAccounts,
) -> None:
    assert pays(accounts, "t1") == ""
    other = Gaussian(noise=50.0, rate=0.1, number=10)
    assert accounts.reserve(wanted(other, epsilon=0.5), task="t1", round_=1, step="train") == ""
    (one,) = accounts.charges()
    assert (one.mechanisms, one.epsilon, one.number) == ((other,), 0.5, 1)


def test_the_chain_has_every_charge_and_every_change_of_a_budget(
    accounts: PrivacyAccounts, database: Database
) -> None:
    accounts.set_budget(budget(3.0, researchers=("ben", "ann")), "owner")
    accounts.set_budget(budget(5.0, researchers=("ann", "ben")), "owner")
    assert pays(accounts, "t1") == ""
    accounts.settle("t1", left=True)
    assert pays(accounts, "t2") == ""
    accounts.settle("t2", left=False)
    assert accounts.remove_budget("hearts", "", ["ann", "ben"], "owner").epsilon == 5.0
    records = [record.to_plain() for record in Audit(database).records()]
    assert [(one["kind"], one["subject"], one["body"].get("state", "")) for one in records] == [
        ("budget", "hearts", ""),
        ("budget", "hearts", ""),
        ("charge", "t1", "reserved"),
        ("charge", "t1", "spent"),
        ("charge", "t2", "reserved"),
        ("charge", "t2", "returned"),
        ("budget", "hearts", ""),
    ]
    assert Audit(database).verify() == 7
    with pytest.raises(SpecError, match="there is no such budget"):
        accounts.remove_budget("hearts", "", [], "owner")


# --- a model of it --------------------------------------------------------------------------------


class LedgerLife(RuleBasedStateMachine):
    """Tasks begin, die, leave and are asked again, and the daemon is killed: what was told is what the world saw."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.database = Database(Path(self.folder.name) / "node.sqlite")
        self.accounts = PrivacyAccounts(self.database)
        self.computing: dict[str, Gaussian] = {}
        self.kept: dict[str, Gaussian] = {}  # results that lie in the spool, uploaded perhaps
        self.seen: list[tuple[str, Gaussian]] = []
        self.limit = math.inf

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @initialize(epsilon=st.sampled_from([0.5, 2.0, 1e9]))
    def owner_sets_a_budget(self, epsilon: float) -> None:
        self.accounts.set_budget(budget(epsilon), "owner")
        self.limit = epsilon

    @rule(task=st.sampled_from("abc"), job=st.sampled_from("xy"), noise=st.sampled_from([2.0, 5.0]))
    def begin(self, task: str, job: str, noise: float) -> None:
        key = task + job
        if key in self.computing or key in self.kept:
            return
        mechanism = Gaussian(noise=noise)
        if not self.accounts.reserve(
            wanted(mechanism, job=job, epsilon=4.0), task=key, round_=1, step="train"
        ):
            self.computing[key] = mechanism

    @rule(task=st.sampled_from("abc"), job=st.sampled_from("xy"))
    def leave(self, task: str, job: str) -> None:
        """The worker returned: its output is kept, and a thread brings it to the repository."""
        if (mechanism := self.computing.pop(task + job, None)) is not None:
            self.accounts.note_leaving(task + job)
            self.kept[task + job] = mechanism
            self.seen.append((job, mechanism))

    @rule(task=st.sampled_from("abc"), job=st.sampled_from("xy"), is_done=st.booleans())
    def end(self, task: str, job: str, is_done: bool) -> None:
        key = task + job
        if key in self.kept and is_done:
            self.accounts.settle(key, left=True)
        elif key in self.computing or key in self.kept:
            left = self.accounts.is_leaving(key) or key in self.kept
            self.accounts.settle(key, left=left)
            self.computing.pop(key, None)
        else:
            return
        self.kept.pop(key, None)

    @rule()
    def kill_the_daemon(self) -> None:
        """Only tables and spool are left; the work begins again."""
        self.accounts = PrivacyAccounts(self.database)
        self.computing.clear()

    @invariant()
    def never_under(self) -> None:
        told = [mechanism for _, mechanism in self.seen]
        found = self.accounts.spent(budget())
        assert found >= cost_of(told, DELTA) * (1 - 1e-12)
        assert found <= self.limit * (1 + 1e-9)
        for job in "xy":
            of_job = [mechanism for whose, mechanism in self.seen if whose == job]
            assert cost_of(of_job, DELTA) <= 4.0 * (1 + 1e-9)

    @invariant()
    def never_twice(self) -> None:
        """What is charged is what the world saw, and one computation of each task that is under way or was cut off."""
        charges = [one for one in self.accounts.charges() if one.state != "returned"]
        assert sum(one.state == "spent" for one in charges) <= len(self.seen)
        assert len(charges) <= len(self.seen) + len({one.task for one in charges if one.state == "reserved"})


LedgerLife.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestLedgerLife = LedgerLife.TestCase
