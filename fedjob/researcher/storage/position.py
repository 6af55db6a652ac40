"""The position of a job between two asks: everything that a breakpoint must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.messaging.messages import Task
from fedjob.protocols.base import State
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.spec import JobSpec

SECURE_SUM = "secure_sum"
"""The name that stands in the ledger for an aggregator under secure aggregation; its config says which that was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationRecord:
    """One committed aggregation, so that anybody can compute it again.

    Args:
        inputs: `[node, sha256 of its file, weight]` in the order aggregated.
        arrived: `[node, round that it was asked in]` in the order in which contributions came in, where
            that decided which ones count.
        output_hash: sha256 of the file of the total; of one that was not sent as it was `hash_params`, where
            replies are kept.
        aux_hashes: module -> `hash_params` of the total's auxiliary variables, where replies are kept.
        left_out: node -> reason, for the others that were asked.
        compress: how the contributions travelled, `{name, config}`, and the sha256 of the parameters that they count
            from as `origin`, where replies are kept; empty for as they are.
        previous_hash: sha256 of the record before, so that none can be exchanged.
    """

    round: int
    step: str
    aggregator: str
    aggregator_config: dict[str, Any] = field(default_factory=dict)
    inputs: list[list[Any]] = field(default_factory=list)
    arrived: list[list[Any]] = field(default_factory=list)
    output_hash: str = ""
    aux_hashes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    compress: dict[str, Any] = field(default_factory=dict)
    previous_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedTask:
    """A task that a node is still at work on, for a round to come.

    Args:
        round: that it was asked in.
        task: as it was sent.
    """

    round: int
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of a job between two asks.

    Args:
        round: the last committed round, 0 before the first.
        state: the protocol's.
        node_states: node -> id of the node state to load next.
        under_way: node -> what it is still at work on.
        rows: everything measured so far.
        ledger: every committed aggregation so far.
        training_args: in force for the next round.
        learned: steps of the preprocessing that found values in the data of all nodes, complete.
        stop: why a hook asked to end before the last round; empty if none did.
    """

    round: int = 0
    state: State
    node_states: Mapping[str, str] = field(default_factory=dict)
    under_way: Mapping[str, UnfinishedTask] = field(default_factory=dict)
    rows: tuple[Measurement, ...] = ()
    ledger: tuple[AggregationRecord, ...] = ()
    training_args: Mapping[str, Any] = field(default_factory=dict)
    learned: tuple[Mapping[str, Any], ...] = ()
    stop: str = ""


def first_position(spec: JobSpec, state: State) -> Position:
    """Return where a job begins."""
    return Position(state=state, training_args=spec.training_args, learned=tuple(spec.learned))
