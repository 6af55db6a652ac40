"""The protections of updates that fedjob has built, which an owner may ask for by name: none so far."""

from __future__ import annotations

from collections.abc import Iterable

from fedjob.common.errors import SpecError

BUILT: tuple[str, ...] = ()
"""Names of protections that nodes enforce. A name is added with the code that enforces it, and never before."""


def check_protections(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of protections, each once.

    Raises:
        SpecError: one is not built: a control that nothing enforces is worse than none.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in BUILT:
            raise SpecError(
                f"there is no protection {name[:40]!r}: this version of fedjob enforces {', '.join(BUILT) or 'none'}; "
                "min_rows, ranges of arguments and a careful reading of the plan are what an owner has"
            )
    return wanted
