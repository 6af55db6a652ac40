"""The protections of contributions that an owner may demand by name, and whether a job has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.privacy.secagg.fixed_point import MAX_NODES
from fedjob.privacy.secagg.terms import MIN_NODES

BUILT: tuple[str, ...] = ("secagg",)
"""Names of protections that nodes enforce. A name is added with the code that enforces it, and never before."""


def check_protections(names: Iterable[str]) -> tuple[str, ...]:
    """Return protections as an owner types them, each once: `secagg`, or `secagg:5` for sums of five nodes or more.

    Raises:
        SpecError: one is not built: a control that nothing enforces is worse than none.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        kind, colon, number = name.partition(":")
        if kind not in BUILT:
            raise SpecError(
                f"there is no protection {name[:40]!r}: this version of fedjob enforces {', '.join(BUILT)}"
            )
        if colon and not (number.isdecimal() and MIN_NODES <= int(number) <= MAX_NODES):
            raise SpecError(f"expected secagg:N with {MIN_NODES} to {MAX_NODES} nodes, found {name[:40]!r}")
    return wanted


def least_nodes(wanted: Iterable[str]) -> int:
    """Return of how many nodes a sum has to be by these protections; 0 where none is demanded."""
    numbers = [
        int(name.partition(":")[2] or MIN_NODES) for name in wanted if name.partition(":")[0] == "secagg"
    ]
    return max(numbers, default=0)


def lacking(wanted: Iterable[str], protect: Mapping[str, Any]) -> str:
    """Say which protection a job lacks that an owner demands; empty for none.

    Args:
        protect: the job's, as its messages have it.
    """
    needed = least_nodes(wanted)
    if not needed:
        return ""
    settings = protect.get("secagg")
    if settings is None:
        return "the owner demands secure aggregation, and the job has none: run it with Job(..., protect=Protect(secagg=True))"
    if int(settings.get("min_nodes", 0)) < needed:
        return (
            f"the owner demands sums of {needed} nodes or more: run the job with "
            f"protect=SecAgg(min_nodes={needed})"
        )
    return ""
