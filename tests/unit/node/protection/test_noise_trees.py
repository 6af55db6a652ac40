"""The ledger of tree noise: each pass is paid once, and no step of a tree is ever given to what could leave twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedjob.common.errors import SpecError
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import PrivacyBudget, Wanted
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.privacy.dp.mechanisms import cost_of
from fedjob.privacy.dp.tree_terms import TreeTerms, tree_terms

DELTA = 1e-6
TERMS = tree_terms(
    epsilon=4.0, delta=DELTA, max_grad_norm=1.0, rounds=6, num_rows=1000, batch_size=100, steps=4
)
"""Ten blocks, six rounds of four steps: three passes."""


def wanted(terms: TreeTerms = TERMS, name: str = "a", **about: Any) -> Wanted:
    fields = {"dataset": "hearts", "job": "j1", "researcher": "ann", "project": "", "epsilon": 4.0}
    return Wanted(**{**fields, "delta": DELTA, "mechanisms": (), "tree": terms, "tree_name": name, **about})


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[PrivacyAccounts]:
    opened = Database(tmp_path / "node.sqlite")
    yield PrivacyAccounts(opened)
    opened.close()


def pays(accounts: PrivacyAccounts, task: str, **about: Any) -> str:
    return accounts.reserve(wanted(**about), task=task, round_=1, step="train")


def first_of(accounts: PrivacyAccounts, task: str) -> int:
    return accounts.stretch_of(task, TERMS).first


def passes(accounts: PrivacyAccounts) -> list[tuple[str, str, int]]:
    return [
        (one.task, one.state, sum(mechanism.number for mechanism in one.mechanisms))
        for one in reversed(list(accounts.charges()))
    ]


def test_each_pass_is_paid_by_the_first_task_in_it_and_all_together_keep_the_epsilon(
    accounts: PrivacyAccounts,
) -> None:
    seeds = set()
    for number in range(6):
        assert pays(accounts, f"t{number}") == ""
        stretch = accounts.stretch_of(f"t{number}", TERMS)
        assert stretch.first == 4 * number
        seeds.add(stretch.seed)
        accounts.settle(f"t{number}", left=True)
    assert len(seeds) == 1
    assert [paid for _, _, paid in passes(accounts)] == [1, 0, 1, 0, 0, 1]
    assert 3.99 < accounts.spent_by("j1", "hearts", DELTA) <= 4.0 + 1e-9
    assert pays(accounts, "t6") == "", "the third pass is paid to its end"
    accounts.settle("t6", left=True)
    assert pays(accounts, "t7") != ""
    assert "what was computed twice counts twice" in pays(accounts, "t7")


def test_a_task_that_was_killed_before_anything_left_has_the_same_steps_again(
    accounts: PrivacyAccounts,
) -> None:
    pays(accounts, "t0")
    before = accounts.stretch_of("t0", TERMS)
    pays(accounts, "t0")
    assert accounts.stretch_of("t0", TERMS) == before
    assert passes(accounts) == [("t0", "reserved", 1)]


def test_a_task_that_is_computed_again_after_it_left_has_further_steps(accounts: PrivacyAccounts) -> None:
    pays(accounts, "t0")
    accounts.settle("t0", left=True)
    pays(accounts, "t0")
    assert first_of(accounts, "t0") == 4
    accounts.note_leaving("t0")  # and is stopped on its way out
    pays(accounts, "t0")
    assert first_of(accounts, "t0") == 8
    assert passes(accounts) == [("t0", "spent", 1), ("t0", "spent", 0), ("t0", "reserved", 1)]


def test_a_charge_that_is_given_back_takes_its_steps_along_unless_others_came_after(
    accounts: PrivacyAccounts,
) -> None:
    pays(accounts, "t0")
    accounts.settle("t0", left=False)
    pays(accounts, "t1")
    assert first_of(accounts, "t1") == 0
    pays(accounts, "t2")  # of the pass that t1 has paid
    accounts.settle("t1", left=False)
    assert passes(accounts) == [("t0", "returned", 1), ("t1", "spent", 1), ("t2", "reserved", 0)]
    accounts.settle("t2", left=False)
    pays(accounts, "t3")
    assert first_of(accounts, "t3") == 4


def test_what_a_worker_has_begun_on_is_paid_for_however_it_ends(accounts: PrivacyAccounts) -> None:
    pays(accounts, "t0")
    accounts.note_begun("t0")
    pays(accounts, "t0")
    assert first_of(accounts, "t0") == 0, "a daemon that was killed takes the same steps again"
    accounts.settle("t0", left=False)
    pays(accounts, "t1")
    assert first_of(accounts, "t1") == 4
    assert passes(accounts) == [("t0", "spent", 1), ("t1", "reserved", 0)]


def test_other_trees_begin_anew_and_pay_for_themselves(accounts: PrivacyAccounts) -> None:
    pays(accounts, "t0")
    seed = accounts.stretch_of("t0", TERMS).seed
    pays(accounts, "t0", name="b")  # such as after its dataset has changed
    assert first_of(accounts, "t0") == 0
    assert accounts.stretch_of("t0", TERMS).seed != seed
    assert passes(accounts) == [("t0", "returned", 1), ("t0", "reserved", 1)]
    assert pays(accounts, "t1") == ""
    assert accounts.stretch_of("t1", TERMS).seed == seed
    with pytest.raises(SpecError, match="no charge"):
        accounts.stretch_of("t2", TERMS)


def test_a_budget_is_held_to_whole_passes(accounts: PrivacyAccounts) -> None:
    one = cost_of([TERMS.cost(1)], DELTA)
    accounts.set_budget(PrivacyBudget(dataset="hearts", epsilon=one * 1.01, delta=DELTA), "owner")
    assert pays(accounts, "t0") == ""
    assert pays(accounts, "t1") == ""
    assert "with it" in pays(accounts, "t2")
    assert [paid for _, _, paid in passes(accounts)] == [1, 0]


class Trees(RuleBasedStateMachine):
    """Tasks of two jobs that are begun, killed, answered, stopped on their way out, and ended, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "node.sqlite"
        self.database = Database(self.path)
        self.accounts = PrivacyAccounts(self.database)
        self.running: dict[str, tuple[bytes, int]] = {}
        self.left: list[tuple[bytes, int]] = []

    @rule(number=st.integers(0, 7), steps=st.sampled_from([1, 4, 13]), name=st.sampled_from("ab"))
    def begins(self, number: int, steps: int, name: str) -> None:
        terms = TreeTerms(**{**TERMS.to_plain(), "steps": steps})
        asked = wanted(terms, f"{name}{steps}", epsilon=1e6)
        task = f"t{number}"
        leaving = self.accounts.is_leaving(task)
        if task in self.running and leaving:
            self.left.append((*self.running[task],))
        assert self.accounts.reserve(asked, task=task, round_=1, step="train") == ""
        stretch = self.accounts.stretch_of(task, terms)
        self.running[task] = (stretch.seed + bytes([steps]), stretch.first)

    @rule(number=st.integers(0, 7))
    def is_on_its_way(self, number: int) -> None:
        if f"t{number}" in self.running:
            self.accounts.note_leaving(f"t{number}")

    @rule(number=st.integers(0, 7), left=st.booleans())
    def ends(self, number: int, left: bool) -> None:
        task = f"t{number}"
        left = left or self.accounts.is_leaving(task)
        self.accounts.settle(task, left=left)
        if task in self.running:
            stretch = self.running.pop(task)
            self.left += [stretch] * left

    @rule()
    def power_cut(self) -> None:
        # what was on its way is then known by the results on disk, which the daemon looks for first
        for task in [task for task in self.running if self.accounts.is_leaving(task)]:
            self.accounts.settle(task, left=True)
            self.left.append(self.running.pop(task))
        self.database.close()
        self.database = Database(self.path)
        self.accounts = PrivacyAccounts(self.database)

    @invariant()
    def no_step_is_released_twice_and_every_pass_is_paid(self) -> None:
        if not hasattr(self, "accounts"):
            return
        steps, begun = set(), set()
        for seed, first in [*self.left, *self.running.values()]:
            for step in range(first, first + seed[-1]):
                assert (seed, step) not in steps
                steps.add((seed, step))
                begun.add((seed, step // TERMS.blocks))
        paid = sum(number for _, state, number in passes(self.accounts) if state != "returned")
        assert paid >= len(begun)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            Audit(self.database).verify()
            self.database.close()
            self.folder.cleanup()


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
