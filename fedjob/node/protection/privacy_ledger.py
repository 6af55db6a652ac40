"""The rules of a node's privacy ledger: what was spent, what a budget allows, and what is refused. Pure.

What was told of a dataset is kept as mechanisms and not as epsilons, so that it can be added up for every budget with
that budget's delta (`privacy.dp`), over jobs, rounds and researchers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fedjob.common.errors import SpecError
from fedjob.privacy.dp.mechanisms import Mechanism, cost_of
from fedjob.privacy.dp.tree_terms import TreeTerms

SLACK = 1e-9
"""Relative error of sums of floating-point numbers, by which no budget is broken."""

DEFAULT_PROJECT = "default"
"""The project of jobs that name none."""

RESERVED, SPENT, RETURNED = "reserved", "spent", "returned"
"""The states of a charge: taken before the work begins, final, or given back because nothing left the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyBudget:
    """The most that an owner lets be told of a dataset's records.

    Args:
        dataset: its name.
        project: the jobs that it is for; empty for those of all projects together, `DEFAULT_PROJECT` for those that name
            none.
        researchers: whom it is for together, ids or patterns; empty for everybody.
        epsilon: above 0.
        delta: above 0 and below 1.
    """

    dataset: str
    project: str = ""
    researchers: tuple[str, ...] = ()
    epsilon: float
    delta: float

    def check(self) -> PrivacyBudget:
        """Return it if its numbers are a promise.

        Raises:
            SpecError: they are not.
        """
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise SpecError(
                f"--epsilon is a number above 0, such as 3 (1 is strong, 10 is weak), found {self.epsilon}"
            )
        if not 0 < self.delta < 1:
            raise SpecError(f"--delta lies between 0 and 1, such as 1e-6, found {self.delta}")
        return self

    def covers(self, project: str, researcher: str) -> bool:
        """Tell whether a job of that project and researcher spends it."""
        is_theirs = not self.researchers or any(fnmatchcase(researcher, who) for who in self.researchers)
        return is_theirs and self.project in ("", project or DEFAULT_PROJECT)

    @property
    def words(self) -> str:
        """Return what it is, in words."""
        whose = f" of {' and '.join(self.researchers)}" if self.researchers else ""
        where = f" in project {self.project}" if self.project else ""
        return (
            f"the privacy budget{whose} on dataset {self.dataset}{where} (epsilon {self.epsilon:g}, delta "
            f"{self.delta:g})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """A mechanism that ran on a dataset, or may have run.

    Args:
        times: how often.
    """

    job: str
    researcher: str
    project: str
    mechanism: Mechanism
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The work that is to be paid for.

    Args:
        mechanisms: of one task, or of all tasks of a job.
        epsilon, delta: that the job keeps here, over all its rounds.
        tree: terms of tree noise, of which the mechanisms are found by the passes that are not paid yet; None for none.
        tree_name: of the trees that the task goes on with.
    """

    dataset: str
    job: str
    researcher: str
    project: str
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    delta: float
    tree: TreeTerms | None = None
    tree_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of work, and what a budget has for it.

    Args:
        epsilon, delta: that the job keeps here, over all its rounds.
        cost: epsilon of the work alone, with the budget's delta, or the job's where there is no budget.
        budget: the one of which the least would be left; None for none.
        left, after: what is left of it now, and what would be left; infinite without a budget.
        refusal: why it can't be paid; empty where it can.
    """

    epsilon: float
    delta: float
    cost: float
    budget: PrivacyBudget | None = None
    left: float = math.inf
    after: float = math.inf
    refusal: str = ""

    @property
    def words(self) -> str:
        """Return it in words, for the owner who decides."""
        if self.refusal:
            return self.refusal
        alone = f"epsilon {self.cost:.4g}"
        if self.budget is None:
            return f"{alone} (delta {self.delta:g}); the dataset has no privacy budget"
        return f"{alone} of {self.budget.words}: {self.left:.4g} is left of it now, {self.after:.4g} would be left"

    def to_plain(self) -> dict[str, float]:
        """Return its numbers by name, those of a budget where there is one."""
        plain = {"epsilon": self.epsilon, "delta": self.delta, "cost": self.cost}
        if self.budget is not None:
            plain |= {"left": self.left, "after": self.after}
            plain |= {"budget_epsilon": self.budget.epsilon, "budget_delta": self.budget.delta}
        return plain


def composed(spendings: Iterable[Spending], *more: Mechanism) -> list[Mechanism]:
    """Return the mechanisms of all, those that are alike as one."""
    numbers: dict[Mechanism, int] = {}
    every = [(one.mechanism, one.times) for one in spendings] + [(one, 1) for one in more]
    for mechanism, times in every:
        alike = replace(mechanism, number=1)
        numbers[alike] = numbers.get(alike, 0) + mechanism.number * times
    return [replace(alike, number=number) for alike, number in numbers.items()]


def spent_of(budget: PrivacyBudget, spendings: Iterable[Spending], *more: Mechanism) -> float:
    """Return the epsilon of what a budget has paid, and of more."""
    paid = [one for one in spendings if budget.covers(one.project, one.researcher)]
    return cost_of(composed(paid, *more), budget.delta)


def spent_by_job(job: str, spendings: Iterable[Spending], delta: float, *more: Mechanism) -> float:
    """Return the epsilon of what a job has cost, and of more."""
    return cost_of(composed([one for one in spendings if one.job == job], *more), delta)


def quote_job(wanted: Wanted, budgets: Iterable[PrivacyBudget], spendings: Iterable[Spending]) -> Quote:
    """Return what a whole job would cost; what it has paid already is a part of that.

    Args:
        budgets: of the dataset.
        spendings: on the dataset.
    """
    return _quote(wanted, list(budgets), [one for one in spendings if one.job != wanted.job], "this job")


def quote_task(wanted: Wanted, budgets: Iterable[PrivacyBudget], spendings: Iterable[Spending]) -> Quote:
    """Return what a task would cost; a job never passes its own epsilon, whatever it claims of its rounds.

    Args:
        spendings: on the dataset, the job's own among them.
    """
    spendings = list(spendings)
    found = _quote(wanted, list(budgets), spendings, "this task")
    whole = spent_by_job(wanted.job, spendings, wanted.delta, *wanted.mechanisms)
    if is_over(whole, wanted.epsilon):
        before = spent_by_job(wanted.job, spendings, wanted.delta)
        refusal = (
            f"the job keeps epsilon {wanted.epsilon:g} here (delta {wanted.delta:g}), and has spent {before:.4g} of it: "
            f"with this task it would be {whole:.4g}. Run it with as many rounds, and with such training arguments, as "
            "were asked for; what was computed twice counts twice"
        )
        return replace(found, refusal=refusal)
    return found


def _quote(wanted: Wanted, budgets: list[PrivacyBudget], spendings: list[Spending], what: str) -> Quote:
    alone = composed([], *wanted.mechanisms)
    quote = Quote(epsilon=wanted.epsilon, delta=wanted.delta, cost=round(cost_of(alone, wanted.delta), 6))
    covering = [one for one in budgets if one.covers(wanted.project, wanted.researcher)]
    if budgets and not covering:
        return replace(quote, left=0.0, after=0.0, refusal=no_budget_for(wanted, budgets))
    for budget in covering:
        before = spent_of(budget, spendings)
        total = spent_of(budget, spendings, *wanted.mechanisms)
        after = budget.epsilon - total
        if after >= quote.after:
            continue
        left = max(0.0, budget.epsilon - before)
        cost = cost_of(alone, budget.delta)
        refusal = ""
        if is_over(total, budget.epsilon):
            refusal = (
                f"{budget.words} has {left:.4g} left, and {what} costs {cost:.4g}: with it {total:.4g} would be spent. "
                "Ask for a smaller epsilon, or its owner for more"
            )
        quote = replace(
            quote,
            cost=round(cost, 6),
            budget=budget,
            left=round(left, 6),
            after=round(after, 6),
            refusal=refusal,
        )
    return quote


def is_over(epsilon: float, limit: float) -> bool:
    """Tell whether an epsilon is more than another, by more than sums of floating-point numbers differ."""
    return not epsilon <= limit * (1 + SLACK)


def no_budget_for(wanted: Wanted, budgets: Iterable[PrivacyBudget]) -> str:
    """Say that none of a dataset's budgets is for a job: then nothing is."""
    whose = "; ".join(budget.words for budget in budgets)
    return (
        f"no privacy budget on dataset {wanted.dataset} is for researcher {wanted.researcher} in project "
        f"{wanted.project or DEFAULT_PROJECT}, and there are others: {whose[:500]}"
    )


def unprotected(dataset: str) -> str:
    """Say why work without differential privacy is refused: a budget that it could walk around would be none."""
    return (
        f"dataset {dataset} has a privacy budget, so that nothing is computed on it without differential privacy: run "
        "the job with Job(..., protect=Protect(dp=RecordDP(epsilon=..., delta=...)))"
    )
