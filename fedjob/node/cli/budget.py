"""The commands `fedjob node budget ...`: how much may be told of a dataset's records, and what was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedjob.common.console import json_option, print_json, table
from fedjob.common.errors import SpecError
from fedjob.common.terminal.times import in_utc, when
from fedjob.common.types import check_given
from fedjob.node.cli.home import KnownText, home_option, open_database

if TYPE_CHECKING:
    from fedjob.node.config.home import NodeHome
    from fedjob.node.storage.database import Database


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
    help="The delta of that epsilon, far below 1 divided by the number of rows; default 1e-6.",
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

    from fedjob.node.owner.budgets import remove_budget, set_budget

    if remove != (epsilon is None) or (remove and delta is not None):
        raise SpecError("expected --epsilon E, with --delta D if you like, or --remove alone")
    with open_database(home) as database:
        if epsilon is None:
            shown, text = remove_budget(database, dataset, project=project, researchers=researchers, by=by)
        else:
            shown, text = set_budget(
                database,
                dataset,
                epsilon=epsilon,
                delta=delta,
                project=project,
                researchers=researchers,
                by=by,
            )
    if as_json:
        print_json(shown)
    else:
        click.echo(text)


@budget.command("show")
@click.argument("dataset", required=False, type=KnownText("dataset"))
@home_option
@json_option
def budget_show(dataset: str | None, home: NodeHome, as_json: bool) -> None:
    """Show the privacy budgets, of DATASET or of all, what was spent of each, and what is left.

    \b
    fedjob node budget show
    """

    from fedjob.node.owner.budgets import state_of
    from fedjob.node.protection.privacy_accounts import PrivacyAccounts

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
@click.option("--job", default="", type=KnownText("job"), help="Only charges of the job whose id begins so.")
@json_option
def budget_history(dataset: str | None, home: NodeHome, job: str, as_json: bool) -> None:
    """Show every charge, the newest first: for whom, what it costs alone, and whether it is spent.

    Costs of several charges are less than their sum: `budget show` has them together.

    \b
    fedjob node budget history heart
    """

    from fedjob.node.protection.privacy_accounts import PrivacyAccounts

    with open_database(home) as database:
        found = [one.to_plain() for one in PrivacyAccounts(database).charges(_given(dataset, database), job)]
    if as_json:
        print_json([in_utc(one) for one in found])
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


def _given(dataset: str | None, database: Database) -> str:
    """Return the dataset that is asked about, empty for all; one that was removed may have a ledger still."""

    from fedjob.node.data.datasets import Datasets
    from fedjob.node.protection.privacy_accounts import PrivacyAccounts

    if dataset is None:
        return ""
    accounts = PrivacyAccounts(database)
    if not accounts.budgets(dataset) and next(accounts.charges(dataset), None) is None:
        Datasets(database).get(check_given(dataset, "a dataset"))
    return dataset
