"""The privacy ledger in a node's database: its owner's budgets, and a charge for every private computation.

A charge is committed before the work begins and is given back only where nothing can have left the node, so that after
a kill or a power cut at any point the ledger is never under what was told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import SpecError
from fedjob.node.protection.noise_trees import NO_STEPS, GivenSteps, NoiseTrees
from fedjob.node.protection.privacy_ledger import (
    RESERVED,
    RETURNED,
    SPENT,
    PrivacyBudget,
    Quote,
    Spending,
    Wanted,
    quote_job,
    quote_task,
    spent_by_job,
    spent_of,
)
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.privacy.dp.mechanisms import Mechanism, cost_of, mechanism_of, mechanism_to_plain
from fedjob.privacy.dp.tree_terms import TreeStretch, TreeTerms

MAX_RETURNED = 10_000
"""Charges that were given back and are still listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCharge:
    """The charge for one computation of a task.

    Args:
        number: of the computation, from 1: one whose result has left is paid anew when it is asked for again.
        state: `reserved`, `spent` or `returned`.
        at: seconds since 1970.
    """

    task: str
    number: int
    dataset: str
    project: str
    researcher: str
    job: str
    round: int
    step: str
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    delta: float
    state: str
    at: float

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, with the epsilon that it costs alone."""
        return {
            "at": self.at,
            "task": self.task,
            "number": self.number,
            "dataset": self.dataset,
            "project": self.project,
            "researcher": self.researcher,
            "job": self.job,
            "round": self.round,
            "step": self.step,
            "state": self.state,
            "cost": round(cost_of(self.mechanisms, self.delta), 6),
            "delta": self.delta,
            "job_epsilon": self.epsilon,
            "mechanisms": [mechanism_to_plain(one) for one in self.mechanisms],
        }


class PrivacyAccounts:
    """The tables `budgets` and `charges`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)
        self._trees = NoiseTrees(database)
        self._leaving: set[str] = set()  # tasks whose output is on its way out

    # --- budgets -------------------------------------------------------------------------------

    def budgets(self, dataset: str = "") -> list[PrivacyBudget]:
        """Return the budgets of a dataset, or all."""
        rows = self._database.rows("SELECT * FROM budgets ORDER BY dataset, project, researchers")
        return [_budget(row) for row in rows if dataset in ("", row["dataset"])]

    def set_budget(self, budget: PrivacyBudget, by: str) -> None:
        """Set what an owner lets be told; what was spent before counts.

        Raises:
            SpecError: its numbers are no promise.
        """
        budget.check()
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_key(budget), budget.epsilon, budget.delta, time.time(), by),
            )
            self._record_budget(budget, by, {"epsilon": budget.epsilon, "delta": budget.delta})

    def remove_budget(self, dataset: str, project: str, researchers: Iterable[str], by: str) -> PrivacyBudget:
        """Remove a budget and return it; what was spent is kept.

        Raises:
            SpecError: there is none.
        """
        wanted = (project, tuple(sorted(set(researchers))))
        for budget in self.budgets(dataset):
            if (budget.project, budget.researchers) == wanted:
                with self._database.transaction():
                    self._database.execute(
                        "DELETE FROM budgets WHERE dataset = ? AND project = ? AND researchers = ?",
                        _key(budget),
                    )
                    self._record_budget(budget, by, {"removed": True})
                return budget
        raise SpecError(
            f"there is no such budget on dataset {dataset}: `fedjob node budget show` lists them; --project and "
            "--researcher are as it was set with"
        )

    def _record_budget(self, budget: PrivacyBudget, by: str, change: dict[str, Any]) -> None:
        about = {"project": budget.project, "researchers": list(budget.researchers), "by": by}
        self._audit.add("budget", budget.dataset, {"dataset": budget.dataset, **about, **change})

    # --- what was spent ------------------------------------------------------------------------

    def spendings(self, dataset: str, *, but: int = 0) -> list[Spending]:
        """Return what was told of a dataset, or may have been told.

        Args:
            but: the row of a charge that is not counted.
        """
        rows = self._database.rows(
            "SELECT job, researcher, project, mechanisms, count(*) AS times FROM charges WHERE dataset = ? "
            f"AND state <> '{RETURNED}' AND seq <> ? GROUP BY job, researcher, project, mechanisms",
            (dataset, but),
        )
        return [
            Spending(
                job=row["job"],
                researcher=row["researcher"],
                project=row["project"],
                mechanism=mechanism,
                times=row["times"],
            )
            for row in rows
            for mechanism in _mechanisms(row["mechanisms"])
        ]

    def spent(self, budget: PrivacyBudget) -> float:
        """Return the epsilon that a budget has paid."""
        return spent_of(budget, self.spendings(budget.dataset))

    def spent_by(self, job: str, dataset: str, delta: float) -> float:
        """Return the epsilon that a job has cost here."""
        return spent_by_job(job, self.spendings(dataset), delta)

    def quote(self, wanted: Wanted) -> Quote:
        """Return what a whole job would cost, and what its budgets have for it."""
        return quote_job(wanted, self.budgets(wanted.dataset), self.spendings(wanted.dataset))

    def charges(self, dataset: str = "", job: str = "") -> Iterator[TaskCharge]:
        """Yield the charges, the newest first."""
        for row in self._database.execute("SELECT * FROM charges ORDER BY seq DESC"):
            if dataset in ("", row["dataset"]) and row["job"].startswith(job):
                yield _charge(row)

    # --- charges -------------------------------------------------------------------------------

    def reserve(self, wanted: Wanted, *, task: str, round_: int, step: str) -> str:
        """Charge for a task before it begins, in a transaction of its own; return why it can't be paid, empty where it is.

        It is called where no output of an earlier attempt is held, so that one which was reserved and not settled let
        nothing out: its charge is used again.
        """
        with self._database.transaction():
            last = self._database.row(
                "SELECT * FROM charges WHERE task = ? ORDER BY number DESC LIMIT 1", (task,)
            )
            open_ = int(last["seq"]) if last is not None and last["state"] == RESERVED else 0
            if open_ and self.is_leaving(
                task
            ):  # it was stopped on its way out, and is computed with fresh noise
                self.settle(task, left=True)
                open_ = 0
            held = _steps_of(last) if open_ else NO_STEPS
            if open_ and not self._goes_on(
                held, wanted
            ):  # what it was charged for is not what it would do now
                self.settle(task, left=False)
                open_ = 0
            given = NO_STEPS
            if wanted.tree is not None:
                given = held if open_ else self._trees.due(wanted.tree_name, wanted.tree)
                paid = (wanted.tree.cost(given.passes),) if given.passes else ()
                wanted = replace(wanted, mechanisms=paid)
            spendings = self.spendings(wanted.dataset, but=open_)
            quote = quote_task(wanted, self.budgets(wanted.dataset), spendings)
            if quote.refusal:
                self.settle(task, left=False)
                return quote.refusal
            packed = pack([mechanism_to_plain(one) for one in wanted.mechanisms])
            number = 1 if last is None else int(last["number"]) + (not open_)
            if open_:
                self._database.execute(
                    "UPDATE charges SET mechanisms = ?, epsilon = ?, delta = ? WHERE seq = ?",
                    (packed, wanted.epsilon, wanted.delta, open_),
                )
            else:
                self._insert(wanted, packed, given, task=task, number=number, round_=round_, step=step)
                self._trees.give(given)
            self._record(task, number, RESERVED, wanted, quote)
        self._leaving.discard(task)
        return ""

    def _goes_on(self, held: GivenSteps, wanted: Wanted) -> bool:
        """Tell whether the steps that an open charge holds are those of the trees that its task is wanted with."""
        if wanted.tree is None:
            return not held.tree
        return self._trees.is_of(held, wanted.tree_name) and held.steps == wanted.tree.steps

    def stretch_of(self, task: str, terms: TreeTerms) -> TreeStretch:
        """Return the steps that were charged for a task, with the seed of their noise."""
        row = self._database.row(
            f"SELECT * FROM charges WHERE task = ? AND state = '{RESERVED}' AND tree > 0", (task,)
        )
        if row is None:
            raise SpecError("the task has no charge for steps of a tree")
        given = _steps_of(row)
        return TreeStretch(terms=terms, seed=self._trees.seed(given.tree), first=given.first)

    def note_leaving(self, task: str) -> None:
        """Note that a task's output may be on its way out from now on."""
        self._leaving.add(task)

    def note_begun(self, task: str) -> None:
        """Note that a worker has begun on a charged task, as part of the caller's transaction."""
        self._database.execute(
            f"UPDATE charges SET begun = 1 WHERE task = ? AND state = '{RESERVED}'", (task,)
        )

    def is_leaving(self, task: str) -> bool:
        """Tell whether this daemon has let a task's output begin to leave."""
        return task in self._leaving

    def settle(self, task: str, *, left: bool) -> None:
        """End what is reserved for a task, as part of the caller's transaction; nothing where nothing is.

        Where its worker has begun, that the task ended as it did may come from records, so that it is spent as well.

        Args:
            left: anything of it may have left the node.
        """
        row = self._database.row(f"SELECT * FROM charges WHERE task = ? AND state = '{RESERVED}'", (task,))
        if row is None:
            return
        left = left or bool(row["begun"]) or not self._trees.take_back(_steps_of(row))
        state = SPENT if left else RETURNED
        self._database.execute(
            "UPDATE charges SET state = ?, settled = ? WHERE seq = ?", (state, time.time(), row["seq"])
        )
        body = {"state": state, "number": row["number"], "dataset": row["dataset"], "job": row["job"]}
        self._audit.add("charge", task, body)

    def _insert(
        self,
        wanted: Wanted,
        packed: bytes,
        given: GivenSteps,
        *,
        task: str,
        number: int,
        round_: int,
        step: str,
    ) -> None:
        cursor = self._database.execute(
            "INSERT INTO charges (task, number, dataset, project, researcher, job, round, step, mechanisms, epsilon, "
            "delta, at, tree, first, steps, passes, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
            f"'{RESERVED}')",
            (
                *(task, number, wanted.dataset, wanted.project, wanted.researcher, wanted.job, round_, step),
                *(packed, wanted.epsilon, wanted.delta, time.time()),
                *(given.tree, given.first, given.steps, given.passes),
            ),
        )
        if cursor.lastrowid and cursor.lastrowid % 256 == 0:
            self._database.execute(
                f"DELETE FROM charges WHERE state = '{RETURNED}' AND seq <= ?",
                (cursor.lastrowid - MAX_RETURNED,),
            )

    def _record(self, task: str, number: int, state: str, wanted: Wanted, quote: Quote) -> None:
        body: dict[str, Any] = {
            "state": state,
            "number": number,
            "dataset": wanted.dataset,
            "project": wanted.project,
            "researcher": wanted.researcher,
            "job": wanted.job,
            "mechanisms": [mechanism_to_plain(one) for one in wanted.mechanisms],
            **quote.to_plain(),
        }
        self._audit.add("charge", task, body)


def _key(budget: PrivacyBudget) -> tuple[str, str, str]:
    return budget.dataset, budget.project, json.dumps(sorted(set(budget.researchers)))


def _budget(row: Any) -> PrivacyBudget:
    return PrivacyBudget(
        dataset=row["dataset"],
        project=row["project"],
        researchers=tuple(json.loads(row["researchers"])),
        epsilon=row["epsilon"],
        delta=row["delta"],
    )


def _charge(row: Any) -> TaskCharge:
    return TaskCharge(
        task=row["task"],
        number=row["number"],
        dataset=row["dataset"],
        project=row["project"],
        researcher=row["researcher"],
        job=row["job"],
        round=row["round"],
        step=row["step"],
        mechanisms=_mechanisms(row["mechanisms"]),
        epsilon=row["epsilon"],
        delta=row["delta"],
        state=row["state"],
        at=row["at"],
    )


def _steps_of(row: Any) -> GivenSteps:
    return GivenSteps(tree=row["tree"], first=row["first"], steps=row["steps"], passes=row["passes"])


def _mechanisms(packed: bytes) -> tuple[Mechanism, ...]:
    return tuple(mechanism_of(one) for one in unpack(packed))
