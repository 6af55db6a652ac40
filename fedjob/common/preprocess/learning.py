"""Steps that find values in the data of all nodes: what each node tells, what becomes of it, who checks it.

Before a job's first round the researcher asks for one such step after the other. A node prepares its rows
with the steps before it and answers what `LearningStep.measure` says of them; the researcher makes one
complete step of the answers, and sends it along with every instruction from then on. What an owner approves is
the list as it was declared: a node takes a complete step only where it is the declared one, filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError, TooFewRows
from fedjob.common.preprocess import PlainSteps, build_steps, to_plain_steps
from fedjob.common.preprocess.base import LearningStep, Step, TableStep

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.common.preprocess.discretion import Discretion

LEARN = "learn"
"""The step of the ask."""

LEARNED = "preprocess_learned"
"""The instruction's value: the complete steps so far, in their order."""


def to_learn(plain: Iterable[Mapping[str, Any]]) -> list[LearningStep]:
    """Return the steps of a list that have something to find, as they were declared."""
    return [step for step in build_steps(list(plain)) if isinstance(step, LearningStep) and not step.complete]


def to_learn_together(lists: Sequence[PlainSteps]) -> list[LearningStep]:
    """Return the steps of a job that have something to find.

    Raises:
        SpecError: datasets have lists of their own, and these steps are not the same in all of them.
    """
    wanted = [to_learn(plain) for plain in lists] or [[]]
    if any(steps != wanted[0] for steps in wanted):
        raise SpecError(
            "preprocess: steps that find values in the data of all nodes are the same, in the same order, in the "
            "lists of all datasets; give own=True, or the values, where they differ"
        )
    return wanted[0]


def completed(declared: Sequence[Step], learned: Sequence[Step]) -> list[Step]:
    """Return declared steps with those that find something replaced by the complete ones; as far as these go.

    Raises:
        SpecError: a complete step is not the declared one, filled in.
    """
    waiting = list(learned)
    steps = []
    for step in declared:
        if isinstance(step, LearningStep) and not step.complete and waiting:
            found = waiting.pop(0)
            if not isinstance(found, type(step)) or not found.complete or found.declared() != step:
                raise SpecError(f"step {step.name!r}: what was found is not for the step that was declared")
            step = found
        steps.append(step)
    if waiting:
        raise SpecError(f"step {waiting[0].name!r} was found, but the declared list has no place for it")
    return steps


def measure(
    frame: pd.DataFrame,
    plain: PlainSteps,
    learned: PlainSteps,
    discretion_of: Callable[[pd.DataFrame], AbstractContextManager[Discretion]],
) -> tuple[dict[str, Any], int]:
    """Return what a node tells of the next step to find, and the number of rows that it looked at.

    Args:
        frame: the data as they are registered, without any preparation, its index the places of its rows.
        plain: the declared list.
        learned: the complete steps so far.
        discretion_of: given what the steps before leave of the frame, what may be told of it.

    Raises:
        SpecError: a step does not fit the data, or there is nothing to find.
        TooFewRows: how many rows they are may not be told.
    """
    import numpy as np

    steps = completed(build_steps(plain), build_steps(learned))
    for step in steps:
        if not isinstance(step, TableStep):
            break
        if isinstance(step, LearningStep) and not step.complete:
            with discretion_of(frame) as discretion:
                if len(frame) and not discretion.admit(np.arange(len(frame)), ""):
                    raise TooFewRows(
                        f"{step.name}: the rows that are left are fewer than the owner's minimum, or differ by fewer "
                        "from those that something was told of before"
                    )
                return step.measure(frame, discretion), len(frame)
        frame = step.apply(frame)
    raise SpecError("preprocess: there is nothing to find in the data")


def learn(step: LearningStep, measured: Mapping[str, Mapping[str, Any]]) -> PlainSteps:
    """Return a complete step, as a list of one.

    Args:
        measured: node -> what it told.

    Raises:
        SpecError: nothing can be found in it, or a node told something else than was asked.
    """
    try:
        return to_plain_steps([step.learn({node: measured[node] for node in sorted(measured)})])
    except SpecError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # a node may say anything
        raise SpecError(
            f"step {step.name!r}: a node told something else than was asked: {type(error).__name__}"
        ) from error


def taken_over(plain: PlainSteps, declared: PlainSteps, learned: PlainSteps) -> PlainSteps:
    """Return the complete steps for a list that prepares data for a model trained on another list.

    Args:
        declared, learned: of the training.

    Raises:
        SpecError: a step would have to find its values anew: the model knows other ones.
    """
    known = dict(zip(map(repr, to_learn(declared)), learned, strict=True))
    found = []
    for step in to_learn(plain):
        if repr(step) not in known:
            raise SpecError(
                f"{step!r} was no part of the training: what it finds in these data would not be what the model was "
                "trained with; take the step as it was there, or give it its values"
            )
        found.append(dict(known[repr(step)]))
    return found
