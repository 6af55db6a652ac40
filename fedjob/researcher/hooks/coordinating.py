"""The researcher's half of a plan: its `coordinate` is called at the end of every round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedjob.common.errors import PlanError
from fedjob.researcher.hooks.base import Hook, RoundReport


class Coordinating(Hook):
    """Calls `coordinate(report)` of the plan that is built on this side; what it returns ends the job.

    Args:
        plan: returns the plan; asked at the first round.
    """

    def __init__(self, plan: Callable[[], Any]) -> None:
        self._plan = plan

    def round_done(self, report: RoundReport) -> str | None:
        said = self._plan().coordinate(report)
        if said is not None and not isinstance(said, str):
            raise PlanError(f"coordinate(report) returns None, or a reason to end the job; found {said!r}")
        return said


def coordinators(text: str, plan: Callable[[], Any]) -> tuple[Hook, ...]:
    """Return the hook for a plan whose class has a `coordinate`; none for others."""
    if "def coordinate(" not in text or not callable(getattr(plan(), "coordinate", None)):
        return ()
    return (Coordinating(plan),)
