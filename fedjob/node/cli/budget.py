"""The commands `fedjob node budget ...`: how much may be told of a dataset's records, and what was."""

from __future__ import annotations

import getpass
import re
from typing import Any

import click

from fedjob.common.console import json_option, print_json, table, when
from fedjob.common.errors import SpecError
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database
from fedjob.node.config.home import NodeHome
from fedjob.node.data.datasets import Datasets
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import PrivacyBudget
from fedjob.node.storage.database import Database

DELTA = 1e-6
"""Of a budget where its owner gives none."""


@click.group()
def budget() -> None:
    """Set how much differential privacy jobs may spend on a dataset, and show what was spent.

    \b
    fedjob node budget set hearts --epsilon 3 --delta 1e-6
    fedjob node budget set hearts --epsilon 1 --project trial7 --researcher ann --researcher ben
    fedjob node budget show
    fedjob node budget history hearts
    """


@budget.command("set")
@click.argument("dataset", type=KnownText("dataset"))
@home_option
@click.option(
    "--epsilon",
    type=float,
    metavar="E",
    help="Largest epsilon of all jobs together; 1 is strong, 10 is weak.",
)
@click.option(
    "--delta",
    type=float,
    metavar="D",
    help=f"The delta that it is for, far below one by the number of rows; default {DELTA:g}.",
)
@click.option(
    "--project",
    default=None,
    help="Only jobs of this project, `default` for those without one; by default those of all together.",
)
@click.option(
    "--researcher",
    "researchers",
    multiple=True,
    metavar="NAME",
    help="Only jobs of this researcher, or of a pattern such as '*.acme'; several share the budget; may be repeated.",
)
@click.option("--remove", is_flag=True, help="Remove the budget that was set with the same options.")
@click.option(
    "--by", default=None, metavar="NAME", help="The person who decides; default the user of this system."
)
@json_option
def budget_set(
    dataset: str,
    home: NodeHome,
    epsilon: float | None,
    delta: float | None,
    project: str | None,
    researchers: tuple[str, ...],
    remove: bool,
    by: str | None,
    as_json: bool,
) -> None:
    """Set the privacy budget of DATASET; what was spent before counts, and jobs without privacy are refused.

    \b
    fedjob node budget set hearts --epsilon 3 --delta 1e-6
    fedjob node budget set hearts --remove
    """
    if remove != (epsilon is None) or (remove and delta is not None):
        raise SpecError("expected --epsilon E, with --delta D if you like, or --remove alone")
    who = check_given(getpass.getuser() if by is None else by, "a value of --by")[:80]
    for name in researchers:
        _check_researcher(name)
    project = "" if project is None else _checked_project(project)
    with open_database(home) as database:
        accounts = PrivacyAccounts(database)
        if remove:
            gone = accounts.remove_budget(dataset, project, researchers, who)
            left = accounts.budgets(dataset)
            shown = {
                "removed": True,
                "dataset": dataset,
                "project": project,
                "researchers": [*gone.researchers],
            }
            text = f"removed: {gone.words}" + ("" if left else "; jobs without privacy may run on it again")
        else:
            Datasets(database).get(dataset)  # a dataset that does not exist is a typing error
            wanted = PrivacyBudget(
                dataset=dataset,
                project=project,
                researchers=tuple(sorted(set(researchers))),
                epsilon=float(epsilon or 0.0),
                delta=DELTA if delta is None else delta,
            )
            accounts.set_budget(wanted, who)
            shown = state_of(accounts, wanted)
            text = f"set: {wanted.words}; {shown['spent']:.4g} of it is spent, {shown['left']:.4g} is left"
    if as_json:
        print_json(shown)
    else:
        click.echo(text)


@budget.command("show")
@click.argument("dataset", required=False, type=KnownText("dataset"))
@home_option
@json_option
def budget_show(dataset: str | None, home: NodeHome, as_json: bool) -> None:
    """Show the privacy budgets, of DATASET or of all, what was spent of each, and what is left."""
    with open_database(home) as database:
        accounts = PrivacyAccounts(database)
        found = [state_of(accounts, one) for one in accounts.budgets(_given(dataset, database))]
    if as_json:
        print_json(found)
        return
    table(
        ("dataset", "project", "researchers", "epsilon", "delta", "spent", "left"),
        [
            (
                one["dataset"],
                one["project"] or "all",
                " ".join(one["researchers"]) or "all",
                f"{one['epsilon']:g}",
                f"{one['delta']:g}",
                f"{one['spent']:.4g}",
                f"{one['left']:.4g}",
            )
            for one in found
        ],
        empty="no privacy budget is set: fedjob node budget set DATASET --epsilon 3",
    )


@budget.command("history")
@click.argument("dataset", required=False, type=KnownText("dataset"))
@home_option
@click.option("--job", default="", help="Only charges of the job whose id begins so.")
@json_option
def budget_history(dataset: str | None, home: NodeHome, job: str, as_json: bool) -> None:
    """Show every charge, the newest first: for whom, what it costs alone, and whether it is spent.

    Costs of several charges are less than their sum: `budget show` has them together.
    """
    with open_database(home) as database:
        found = [one.to_plain() for one in PrivacyAccounts(database).charges(_given(dataset, database), job)]
    if as_json:
        print_json(found)
        return
    table(
        (
            "when",
            "dataset",
            "researcher",
            "project",
            "job",
            "round",
            "step",
            "cost",
            "delta",
            "state",
            "task",
        ),
        [
            (
                when(one["at"]),
                one["dataset"],
                one["researcher"],
                one["project"] or "-",
                one["job"],
                str(one["round"]),
                one["step"],
                f"{one['cost']:.4g}",
                f"{one['delta']:g}",
                one["state"],
                one["task"][:12] + (f" ({one['number']})" if one["number"] > 1 else ""),
            )
            for one in found
        ],
        empty="nothing was charged yet: no job with differential privacy has begun here",
    )


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


def _given(dataset: str | None, database: Database) -> str:
    """Return the dataset that is asked about, empty for all; one that was removed may have a ledger still."""
    if dataset is None:
        return ""
    accounts = PrivacyAccounts(database)
    if not accounts.budgets(dataset) and next(accounts.charges(dataset), None) is None:
        Datasets(database).get(check_given(dataset, "a dataset"))
    return dataset


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
