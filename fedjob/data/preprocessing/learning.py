"""The completion of steps that take values from the data of all nodes, one after the other.

Before a job's first round the researcher asks the nodes about each such step in turn. A node prepares its rows
with the steps before it and answers with what `LearningStep.measure` returns. The researcher makes one complete
step of the answers, and sends it with every instruction from then on. An owner approves the declared list, in
which these values are missing: a node accepts a complete step only if it equals the declared one in everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError, TooFewRows
from fedjob.data.preprocessing import PlainSteps, build_steps, to_plain_steps
from fedjob.data.preprocessing.base import LearningStep, Step, TableStep

if TYPE_CHECKING:
    import pandas as pd

    from fedjob.data.preprocessing.disclosure import Discretion

LEARN = "learn"
"""The name of this step in an ask."""

LEARNED = "preprocess_learned"
"""The key of an instruction under which the complete steps so far are sent, in their order."""


def to_learn(plain: Iterable[Mapping[str, Any]]) -> list[LearningStep]:
    """Return the steps of a list that still need values from the data, as they were declared."""
    return [step for step in build_steps(list(plain)) if isinstance(step, LearningStep) and not step.complete]


def to_learn_together(lists: Sequence[PlainSteps]) -> list[LearningStep]:
    """Return the steps of a job that still need values from the data.

    Raises:
        SpecError: the datasets have different lists, and these steps are not the same in all of them.
    """
    wanted = [to_learn(plain) for plain in lists] or [[]]
    if any(steps != wanted[0] for steps in wanted):
        raise SpecError(
            "preprocess: steps that find values in the data of all nodes are the same, in the same order, in the "
            "lists of all datasets; give own=True, or the values, where they differ"
        )
    return wanted[0]


def completed(declared: Sequence[Step], learned: Sequence[Step]) -> list[Step]:
    """Return the declared steps, with each that needs values replaced by its complete one where there is one.

    Raises:
        SpecError: a complete step differs from the declared one in more than the values found in the data.
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
    """Return a node's contribution to the next step that needs values, and the number of rows that it is about.

    Args:
        frame: the data as registered, before any step; its index holds the positions of its rows.
        plain: the declared list.
        learned: the complete steps so far.
        discretion_of: returns the rule on what may be released about a frame, which the steps before have prepared.

    Raises:
        SpecError: a step does not fit the data, or no step needs values.
        TooFewRows: the number of rows may not be released.
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
                        "from the rows of an earlier release"
                    )
                return step.measure(frame, discretion), len(frame)
        frame = step.apply(frame)
    raise SpecError("preprocess: there is nothing to find in the data")


def learn(step: LearningStep, measured: Mapping[str, Mapping[str, Any]]) -> PlainSteps:
    """Return a complete step as plain data, in a list of one.

    Args:
        measured: node -> its contribution.

    Raises:
        SpecError: the contributions hold no value, or a node's contribution has another form than the step asks for.
    """
    try:
        return to_plain_steps([step.learn({node: measured[node] for node in sorted(measured)})])
    except SpecError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # a node may send anything
        raise SpecError(
            f"step {step.name!r}: a node answered something else than was asked: {type(error).__name__}"
        ) from error


def taken_over(plain: PlainSteps, declared: PlainSteps, learned: PlainSteps) -> PlainSteps:
    """Return the complete steps for a list that prepares data for a model which was trained with another list.

    Args:
        plain: the list that prepares the data now.
        declared, learned: the list of the training, and its complete steps.

    Raises:
        SpecError: a step was no part of the training, so its values would not be those that the model was trained with.
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
