"""A job's choice of a dataset's items: all or new ones, how many, in batches, and how many may fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedjob.common.checks import check_kinds, shown
from fedjob.common.errors import SpecError

ONLY = ("all", "new")


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of its dataset that a node computes on.

    Args:
        only: `all`, or `new` for those that this plan has not processed on this dataset in this project:
            never seen, or changed since.
        limit: only the first so many, in one batch, as a trial: results are marked `test`, and the node
            does not remember the items. None for no limit, else 1 or more.
        batch: items per batch, 1 or more; None for one batch of all.
        tolerate: consecutive batches that may fail, 0 or more; None for any number. 0: the first failure
            ends the task.
        retry_single: try the items of failed batches one by one; needs a `tolerate` other than 0, and is on
            there unless it is False: then all items of a failed batch count as failed.
        retry_failed: work again on items that failed before and have not changed since.
    """

    only: Literal["all", "new"] = "all"
    limit: int | None = None
    batch: int | None = None
    tolerate: int | None = 0
    retry_failed: bool = True
    retry_single: bool | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        if not isinstance(self.only, str) or self.only not in ONLY:
            raise SpecError(f"Items(only=...) is 'all' or 'new', not {shown(self.only)}")
        for name, least in (("limit", 1), ("batch", 1), ("tolerate", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise SpecError(
                    f"Items({name}=...) is a whole number of {least} or more, or None, not {shown(value)}"
                )
        if type(self.retry_failed) is not bool:
            raise SpecError(f"Items(retry_failed=...) is True or False, not {shown(self.retry_failed)}")
        if self.retry_single is not None and type(self.retry_single) is not bool:
            raise SpecError(f"Items(retry_single=...) is True or False, not {shown(self.retry_single)}")
        if self.retry_single and self.tolerate == 0:
            raise SpecError(
                "Items(retry_single=True) tries the items of failed batches again, but tolerate=0 ends the task at "
                "the first failure: give tolerate a number, or None"
            )
        if self.limit is not None and self.batch is not None and self.batch < self.limit:
            raise SpecError(
                f"Items(limit={self.limit}) is a trial in one batch: leave batch out, or make it {self.limit} or more"
            )

    @property
    def uses_ledger(self) -> bool:
        """True if the node's record of earlier jobs decides which items are computed on."""
        return self.only == "new" or not self.retry_failed
