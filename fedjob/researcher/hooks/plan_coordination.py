"""The hook that calls a training plan's own `round_done` at the end of every round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedjob.common.errors import PlanError
from fedjob.researcher.hooks.base import Hook, RoundReport
from fedjob.training_plans.base import TrainingPlan
from fedjob.training_plans.plan_checks import overrides
from fedjob.training_plans.source.compilation import compile_text
from fedjob.training_plans.source.plan_source import PlanSource


class Coordinating(Hook):
    """Calls `round_done(report)` of the plan that is built on this side; what it returns ends the job.

    Args:
        plan: returns the plan; asked at the first round.
    """

    def __init__(self, plan: Callable[[], Any]) -> None:
        self._plan = plan

    def round_done(self, report: RoundReport) -> str | None:
        answer = self._plan().round_done(report)
        if answer is not None and not isinstance(answer, str):
            raise PlanError(f"round_done(report) returns None, or a reason to end the job; found {answer!r}")
        return answer


def coordinators(source: PlanSource, plan: Callable[[], Any]) -> tuple[Hook, ...]:
    """Return the hook for a training plan that has its own `round_done`; none for others."""
    found = compile_text(source.text, source.entry) if source.text else None
    if not isinstance(found, type) or not issubclass(found, TrainingPlan):
        return ()
    return (Coordinating(plan),) if overrides(found, TrainingPlan, "round_done") else ()
