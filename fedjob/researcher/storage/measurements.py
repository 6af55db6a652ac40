"""The measurements of a job, round by round: a table that grows, and the questions that it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedjob.metrics.states import error, num_examples, value

if TYPE_CHECKING:
    from fedjob.protocols.base import Reply

OVERALL = "all"
"""The node column's entry for the combination of all nodes that took part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One metric of one node (or of all together) in one phase of one round.

    Args:
        phase: `before` local training (the round's shared parameters), `train`,
            `after` it (each node's own), `personal` (what stays at a node), or `validate` (a round without training).
        num_examples: that the value was measured on.
        error: the most that the value can be off; 0 for all metrics but a `roc_auc` of many different scores.
    """

    round: int
    phase: str
    metric: str
    node: str
    value: float
    num_examples: float
    error: float = 0.0


def measurements(
    round_: int, replies: Mapping[str, Reply], overall: Mapping[str, Mapping[str, Any]]
) -> list[Measurement]:
    """Return what an ask measured at each node, and `overall`, combined exactly from the states that add."""
    rows = []
    for node in sorted(replies):
        rows += _rows(round_, node, replies[node].metrics)
    return rows + _rows(round_, OVERALL, overall)


def _rows(round_: int, node: str, phases: Mapping[str, Any]) -> list[Measurement]:
    return [
        Measurement(
            round=round_,
            phase=phase,
            metric=metric,
            node=node,
            value=value(state),
            num_examples=num_examples(state),
            error=error(state),
        )
        for phase, states in phases.items()
        for metric, state in states.items()
    ]


def newest_rows(rows: Sequence[Measurement], round_: int) -> int:
    """Return the place in a job's rows from which on those of its newest round stand.

    It looks from the end, because a long job has many rows. Those of a round may be followed by some of the round before,
    whose model is measured between two asks, and by no earlier ones.
    """
    at = len(rows)
    while at and rows[at - 1].round >= round_ - 1:
        at -= 1
    return at


def series(rows: Iterable[Measurement], metric: str, phase: str | None = None) -> dict[int, float]:
    """Return round -> overall value of a metric.

    Args:
        phase: None takes the first that a round has of `validate`, `before`, `after`, `train`:
            what says most about the shared parameters.
    """
    order = ("train", "after", "before", "validate") if phase is None else (phase,)
    found: dict[int, tuple[int, float]] = {}
    for row in rows:
        if row.node == OVERALL and row.metric == metric and row.phase in order:
            rank = order.index(row.phase)
            if row.round not in found or rank >= found[row.round][0]:
                found[row.round] = (rank, row.value)
    return {round_: found[round_][1] for round_ in sorted(found)}


def to_frame(rows: Iterable[Measurement]) -> Any:
    """Return the history as a pandas DataFrame: round, phase, metric, node, value, num_examples, error."""
    import pandas

    columns = ["round", "phase", "metric", "node", "value", "num_examples", "error"]
    return pandas.DataFrame([asdict(row) for row in rows], columns=columns)


def lower_is_better(metric: str) -> bool:
    """True if a metric is an error or a loss."""
    return metric in ("loss", "mse", "mae", "rmse") or metric.endswith(("_loss", "_error"))
