"""The states of a metric in one round, from which curves and matrices are drawn: those of the nodes and of all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.metrics.state_checks import odd_state
from fedjob.metrics.states import add
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import OVERALL, Measurement
from fedjob.researcher.storage.replies import read_reply, read_summed, reply_files

PHASES = ("after", "before", "validate")
"""Phases in which models are measured; of the same round the last says most about the shared model."""

MODELS = {
    "validate": "the shared model after round {}",
    "before": "the shared model before round {}",
    "after": "the nodes' own models in round {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStates:
    """The states of one metric, measured at the same time.

    Args:
        nodes: node -> its state; empty where only the sum is known.
        overall: the state of all together.
    """

    round: int
    phase: str
    nodes: Mapping[str, dict[str, Any]]
    overall: dict[str, Any]

    @property
    def model(self) -> str:
        """What was measured, in words."""
        return MODELS[self.phase].format(self.round)


def states_of(
    folder: JobFolder, rows: Sequence[Measurement], metric: str, kind: str, round_: int | None = None
) -> MeasuredStates:
    """Return the states of a metric in a round, the last one of the shared model for None.

    Args:
        kind: that the states have.

    Raises:
        SpecError: it was not measured, or the replies of that round are not kept.
    """
    found = {(row.round, row.phase) for row in rows if row.metric == metric and row.phase in PHASES}
    if not found:
        known = ", ".join(sorted({row.metric for row in rows})) or "nothing"
        raise SpecError(
            f"{metric} was not measured, the history has {known}: train or evaluate with "
            f'training_args={{"test_metric": [{metric!r}], ...}} and measure the shared model, '
            '"test_on_global_updates": True or Job(validate_at_end=True)'
        )
    if round_ is not None and round_ not in {number for number, _ in found}:
        rounds = ", ".join(str(number) for number in sorted({number for number, _ in found}))
        raise SpecError(f"{metric} was not measured in round {round_}: the rounds are {rounds}")
    wanted = [place for place in found if round_ in (None, place[0])]
    for number, phase in sorted(wanted, key=_merit, reverse=True):
        nodes, summed = _kept(folder, rows, metric, kind, number, phase)
        if summed is not None or nodes:
            overall = summed if summed is not None else reduce(add, nodes.values())
            return MeasuredStates(round=number, phase=phase, nodes=nodes, overall=overall)
    raise SpecError(
        f"the states of {metric} are not in the job's folder: its replies were removed, or only sums left"
    )


def _merit(place: tuple[int, str]) -> tuple[bool, int, int]:
    """Order what was measured: the shared model before others, then later before earlier."""
    number, phase = place
    return phase != "after", number, PHASES.index(phase)


def _kept(
    folder: JobFolder, rows: Sequence[Measurement], metric: str, kind: str, number: int, phase: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """Return the states of the nodes that count, and the sum where it alone is known.

    What is measured between two rounds is kept with the replies of the later one.
    """
    counted = {row.node for row in rows if (row.metric, row.round, row.phase) == (metric, number, phase)}
    place = number + 1 if phase == "validate" and _trains(rows) else number
    nodes: dict[str, dict[str, Any]] = {}
    summed = None
    for round_, step, path in reply_files(folder):
        if round_ != place:
            continue
        for node, kept in read_reply(path).items():
            metrics = {**kept["body"], **kept.get("large", {})}.get("metrics", {})
            state = metrics.get(phase, {}).get(metric)
            if node in counted and _fits(state, kind):
                nodes[node] = state
        state = read_summed(folder, round_, step).get(phase, {}).get(metric)
        if OVERALL in counted and _fits(state, kind):
            summed = state
    return dict(sorted(nodes.items())), summed


def _trains(rows: Sequence[Measurement]) -> bool:
    return any(row.phase != "validate" for row in rows)


def _fits(state: Any, kind: str) -> bool:
    return isinstance(state, Mapping) and state.get("kind") == kind and not odd_state(state)
