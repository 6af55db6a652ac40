"""The words and limits that an owner gives a dataset, as the command and the page change them."""

from __future__ import annotations

from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.types import check_given
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.deciders import decider
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database


def reword_dataset(
    database: Database,
    name: str,
    *,
    tags: str | None = None,
    min_rows: int | None = None,
    max_weight: int | None = None,
    description: str | None = None,
    contact: str | None = None,
    by: str | None = None,
) -> str:
    """Change tags, limits and words of a dataset, and return in words what changed; None leaves something as it is.

    Args:
        tags: with commas between them.

    Raises:
        SpecError: there is no such dataset, nothing is to change, or a word is none.
    """
    given = {
        "tags": None if tags is None else [tag.strip() for tag in tags.split(",") if tag.strip()],
        "min_rows": min_rows,
        "max_weight": max_weight,
        "description": description,
        "contact": contact,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise SpecError(
            "expected something to change: --tags, --min-rows, --max-weight, --description or --contact"
        )
    who = decider(by)
    with database.transaction():
        Datasets(database).reword(check_given(name, "a dataset"), **changes)
        Audit(database).add("dataset", name, {**changes, "by": who})
    return f"dataset {name}: {', '.join(f'{key} = {value}' for key, value in changes.items())}"
