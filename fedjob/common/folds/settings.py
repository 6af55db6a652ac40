"""Checks of folds' settings: what was expected, what was found."""

from __future__ import annotations

import math
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.folds.base import Fold


def check_number(what: str, value: Any, least: int) -> None:
    """Check a whole number.

    Raises:
        SpecError: it is none, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{what} takes a whole number of {least} or more, not {value!r}")


def check_positive(what: str, value: Any) -> None:
    """Check a finite number above 0.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise SpecError(f"{what} takes a number above 0, not {value!r}")


def check_nodes(fold: Fold, num_nodes: int, of: str) -> None:
    """Check that a fold can be made of so many contributions.

    Args:
        of: says which nodes were counted, for the message.

    Raises:
        SpecError: its settings need more.
    """
    if num_nodes < fold.min_nodes:
        raise SpecError(
            f"{fold!r} needs {fold.min_nodes} nodes or more, but {of}: have more nodes, or expect fewer "
            "of them to be wrong"
        )
