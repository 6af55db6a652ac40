"""Values that preprocessing steps learn from the data of all nodes, before the first round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedjob.aggregation.collect import Collect
from fedjob.data.preprocessing.learning import LEARN, learn, to_learn_together
from fedjob.protocols.base import Ask, Gathered
from fedjob.researcher.storage.position import Position
from fedjob.researcher.storage.spec import JobSpec


def learned(
    spec: JobSpec, position: Position, gather: Callable[[Ask, Position], tuple[Gathered, Position]]
) -> Position:
    """Return the position with all learned values; every node of the job is asked, whoever takes part later.

    Raises:
        QuorumNotReached: too few nodes answered.
        SpecError: no node has anything to find a value in.
    """
    for step in to_learn_together(spec.preprocess)[len(position.learned) :]:
        ask = Ask(step=LEARN, to=tuple(sorted(spec.datasets)), aggregator=Collect(), commit=False)
        gathered, position = gather(ask, position)
        answers = {node: reply.value for node, reply in gathered.replies.items()}
        position = replace(position, learned=(*position.learned, *learn(step, answers)))
    return position
