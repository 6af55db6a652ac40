"""The check that preparing rows tells nothing of one row by another, nor by an error: what differential privacy needs.

A value found in the rows carries each of them into all others. An error that depends on values tells whether a row with such a
value is there, which a filter before it can make one person's. So steps are taken that have all their values and can't fail
at a value; those that need numbers in a column come before any filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedjob.common.checks import is_number
from fedjob.data.preprocessing import build_steps
from fedjob.data.preprocessing.base import LearningStep, Step

_BEFORE_FILTERS = ("impute", "scale")
_NEVER_FAIL = ("select", "target", "filter", "encode", "resize", *_BEFORE_FILTERS)
_ORDERED = ("<", "<=", ">", ">=")


def row_wise_problem(plain: Sequence[Mapping[str, Any]]) -> str:
    """Say what keeps a list of steps from treating each row by itself, and what to do; empty for nothing.

    Args:
        plain: the steps of one dataset, as plain data.
    """
    filtered = False
    for step in build_steps(plain):
        name = str(step.name)
        if isinstance(step, LearningStep) and (not step.complete or getattr(step, "own", False)):
            return (
                f"the preprocessing step {name!r} finds values in the data, which carry each record into all others without "
                "noise: give the values, such as Scale(centre=..., spread=...), or leave the step out"
            )
        if problem := _failing(name, step):
            return problem
        if filtered and name in _BEFORE_FILTERS:
            return (
                f"the preprocessing step {name!r} fails at values that are no numbers, which after a filter tells of single "
                "records: put it before the filter"
            )
        filtered = filtered or name == "filter"
    return ""


def _failing(name: str, step: Step) -> str:
    """Say why a step can fail at a value."""
    if name not in _NEVER_FAIL:
        return (
            f"the preprocessing step {name!r} fails where a value does not fit, which tells of single records: prepare the "
            "data so before they are registered, or leave the step out"
        )
    if name == "encode" and getattr(step, "unknown", "") != "ignore":
        return (
            "the preprocessing step 'encode' fails at an unknown category, which tells of single records: give "
            "Encode(..., unknown='ignore')"
        )
    given = [step.value] if name == "filter" and step.test in _ORDERED else []  # type: ignore[attr-defined]
    if name == "impute":
        given = list(step.values or [step.value])  # type: ignore[attr-defined]
    if any(not is_number(value) for value in given):
        return (
            f"the preprocessing step {name!r} fails at a text in a column of numbers, which tells of single records: give "
            "it a number"
        )
    return ""
