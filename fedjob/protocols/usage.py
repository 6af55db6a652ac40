"""The arithmetic of limited resources: how much of an amount is allowed, and how much is charged.

    used + amount <= limit     all of it is allowed
    used + amount >  limit     overrun = used + amount - limit are over, the rest is allowed

A limit that is reached exactly is reported too, with an overrun of 0: later requests are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

INFERENCES = "inferences"
"""The name of the resource that predictions use, as in a grant's limits."""


class Usage(NamedTuple):
    """The parts of an amount that reached or exceeded a limit: above it, and allowed."""

    overrun: int
    allowed: int


def usage_of(used: int, amount: int, limit: int) -> Usage | None:
    """Compare an amount with a limit.

    Args:
        used: amount used before, 0 or more.
        amount: amount to be used now, 0 or more.
        limit: 0 for none.

    Returns:
        None while something is left of the limit; else how much is above it and how much is allowed.
    """
    if not limit or used + amount < limit:
        return None
    overrun = min(amount, used + amount - limit)
    return Usage(overrun, amount - overrun)


def capped(used: Iterable[Mapping[str, Any]], resource: str, usage: Usage | None) -> list[dict[str, Any]]:
    """Return the amounts to charge: of `resource` the allowed one, of all others the used ones.

    Args:
        used: `{resource, amount}` each.
        usage: None if the limit was not reached.
    """
    return [
        {**entry, "amount": min(entry["amount"], usage.allowed)}
        if usage is not None and entry["resource"] == resource
        else dict(entry)
        for entry in used
    ]
