"""A training plan's own word at the end of a round, as a hook of its job."""

from __future__ import annotations

from typing import Any

import pytest

from fedjob.common.errors import PlanError
from fedjob.researcher.hooks.plan_coordination import coordinators
from fedjob.training_plans.source.compilation import compile_plan
from fedjob.training_plans.source.plan_source import PlanSource, plan_hash

PLAN = """from fedjob.training_plans.sklearn import SklearnPlan


class Plan(SklearnPlan):
    def init_estimator(self, model_args):
        return None

    def training_data(self, dataset, training_args):
        return dataset
"""
WORD = """
    def round_done(self, report):
        return report
"""
STEPS = """from fedjob.training_plans.step_plan import Plan as Steps


class Plan(Steps):
    def step(self, ctx):
        return 1

    def coordinate(self, job):
        return "def round_done(self, report)"
"""


def source(text: str) -> PlanSource:
    return PlanSource(text, "Plan" if text else "", plan_hash(text))


@pytest.mark.parametrize("text", ["", PLAN, STEPS, PLAN + "\n    word = 'def round_done('\n"])
def test_a_plan_that_has_no_word_at_the_end_of_a_round_is_not_asked(text: str) -> None:
    assert coordinators(source(text), lambda: None) == ()


def test_what_a_plan_returns_at_the_end_of_a_round_ends_the_job() -> None:
    (hook,) = coordinators(source(PLAN + WORD), compile_plan(PLAN + WORD, "Plan"))
    report: Any = "enough"
    assert hook.round_done(report) == "enough"
    report = None
    assert hook.round_done(report) is None
    report = 3
    with pytest.raises(PlanError, match="None, or a reason to end the job; found 3"):
        hook.round_done(report)


def test_a_word_that_cannot_be_called_with_a_report_is_refused_when_the_plan_is_made() -> None:
    wrong = PLAN + WORD.replace("self, report", "self, report, more")
    with pytest.raises(PlanError, match=r"round_done\(self, report, more\) can't be called"):
        compile_plan(wrong, "Plan")
