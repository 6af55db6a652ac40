"""What a limited resource may still be used for: counting, capping, and what is charged.

    used + amount <= limit     all of it is allowed
    used + amount >  limit     overrun = used + amount - limit are over, the rest is allowed

A limit that is reached exactly is told too, with an overrun of 0: what comes after is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

INFERENCES = "inferences"
"""The resource that a prediction uses, as in a grant's limits."""


class Usage(NamedTuple):
    """What of an amount that reached or passed a limit was over it, and what was allowed."""

    overrun: int
    allowed: int


def usage_of(used: int, amount: int, limit: int) -> Usage | None:
    """Hold an amount against a limit.

    Args:
        used: of the limit before, 0 or more.
        amount: that is to be used now, 0 or more.
        limit: 0 for none.

    Returns:
        None while something is left; else how much is over and how much is allowed.
    """
    if not limit or used + amount < limit:
        return None
    overrun = min(amount, used + amount - limit)
    return Usage(overrun, amount - overrun)


def capped(used: Iterable[Mapping[str, Any]], resource: str, usage: Usage | None) -> list[dict[str, Any]]:
    """Return what is charged: of the resource what was allowed, of all others what was used.

    Args:
        used: `{resource, amount}` each.
        usage: None where the limit was not reached.
    """
    return [
        {**entry, "amount": min(entry["amount"], usage.allowed)}
        if usage is not None and entry["resource"] == resource
        else dict(entry)
        for entry in used
    ]
