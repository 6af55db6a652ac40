"""The privacy budgets of datasets, as the commands and the page set and show them."""

from __future__ import annotations

import re
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.types import check_given
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.deciders import decider
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import PrivacyBudget
from fedjob.node.storage.database import Database

DELTA = 1e-6
"""Of a budget where its owner gives none."""


def set_budget(
    database: Database,
    dataset: str,
    *,
    epsilon: float,
    delta: float | None = None,
    project: str | None = None,
    researchers: tuple[str, ...] = (),
    by: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Set the privacy budget of a dataset; return it as plain data and in words.

    Raises:
        SpecError: there is no such dataset, or a number or a name is none.
    """
    who = decider(by)
    project = "" if project is None else _checked_project(project)
    for name in researchers:
        _check_researcher(name)
    accounts = PrivacyAccounts(database)
    Datasets(database).get(dataset)  # a dataset that does not exist is a typing error
    wanted = PrivacyBudget(
        dataset=dataset,
        project=project,
        researchers=tuple(sorted(set(researchers))),
        epsilon=float(epsilon),
        delta=DELTA if delta is None else delta,
    )
    accounts.set_budget(wanted, who)
    shown = state_of(accounts, wanted)
    return shown, f"set: {wanted.words}; {shown['spent']:.4g} of it is spent, {shown['left']:.4g} is left"


def remove_budget(
    database: Database,
    dataset: str,
    *,
    project: str | None = None,
    researchers: tuple[str, ...] = (),
    by: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Remove a privacy budget; return what was removed as plain data and in words.

    Raises:
        SpecError: there is none.
    """
    who = decider(by)
    project = "" if project is None else _checked_project(project)
    for name in researchers:
        _check_researcher(name)
    accounts = PrivacyAccounts(database)
    gone = accounts.remove_budget(dataset, project, researchers, who)
    shown = {"removed": True, "dataset": dataset, "project": project, "researchers": [*gone.researchers]}
    left = accounts.budgets(dataset)
    return shown, f"removed: {gone.words}" + ("" if left else "; jobs without privacy may run on it again")


def state_of(accounts: PrivacyAccounts, one: PrivacyBudget) -> dict[str, Any]:
    """Return a budget with what is spent and left of it, as plain data."""
    spent = round(accounts.spent(one), 6)
    return {
        "dataset": one.dataset,
        "project": one.project,
        "researchers": list(one.researchers),
        "epsilon": one.epsilon,
        "delta": one.delta,
        "spent": spent,
        "left": round(max(0.0, one.epsilon - spent), 6),
    }


def _checked_project(name: str) -> str:
    check_given(name, "a value of --project")
    if not name.isprintable() or re.search(r"[*?\[\]]", name):
        raise SpecError(
            f"--project is the name of one project, and no pattern, found {name[:60]!r}: leave it out for jobs of all "
            "projects together"
        )
    return name


def _check_researcher(name: str) -> None:
    check_given(name, "a value of --researcher")
    if re.match(r"(key|org):", name):
        raise SpecError(
            f"--researcher is a researcher's id, or a pattern such as '*.acme', and not {name[:60]!r}: the ledger "
            "knows who was charged by their id"
        )
