"""Values that preprocessing steps learn from the data of all nodes, before the first round."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fedjob.aggregation.collect import Collect
from fedjob.aggregation.guard import check_decoded
from fedjob.common.errors import SpecError
from fedjob.data.node_names import in_order
from fedjob.data.preprocessing.base import LearningStep
from fedjob.data.preprocessing.learning import LEARN, learn, to_learn_together
from fedjob.protocols.answer_form import Something
from fedjob.protocols.base import Ask, Gathered, State
from fedjob.researcher.rounds.loop import Gather
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.spec import JobSpec


def learned(spec: JobSpec, position: Position, gather: Gather) -> Position:
    """Return the position with all learned values; every node of the job is asked, whoever takes part later.

    Raises:
        QuorumNotReached: too few nodes answered.
        SpecError: no node has anything to find a value in.
    """
    for step in to_learn_together(spec.preprocess)[len(position.learned) :]:
        ask = Ask(
            step=LEARN,
            to=tuple(in_order(spec.datasets)),
            aggregator=Collect(),
            commit=False,
            schema={},
            answer=Something(),
        )
        state = position.state
        # what was learned is returned as a state, so that an answer that it can't be learned with is left out
        _, position = gather(ask, position, partial(_completed, step))
        position = replace(position, state=state, learned=(*position.learned, *position.state["learned"]))
    return position


def _completed(step: LearningStep, gathered: Gathered) -> State:
    """Return the complete step.

    Raises:
        SpecError: the answers hold no value, one has another form, or what follows from them is not finite.
    """
    found = learn(step, {node: reply.value for node, reply in gathered.replies.items()})
    if problem := check_decoded(found):
        raise SpecError(f"step {step.name!r}: of the values that were found, {problem}")
    return {"learned": found}
