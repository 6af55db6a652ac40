"""A moment of a job, kept: it does not change when the job goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedjob.common.lifecycle import ACTIVE, HISTORY, State
from fedjob.common.traffic import Tally
from fedjob.researcher.showing import Facts

CODES: dict[State, int] = {
    **dict.fromkeys(State, 10),
    State.WAITING: 1,
    State.QUEUED: 2,
    **dict.fromkeys(ACTIVE, 3),
    State.COMPLETED: 4,
}
"""A number for programs that want one; the states are the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a job stood at one moment.

    Args:
        time: seconds since 1970.
        code: 1 waiting, 2 queued, 3 active, 4 completed, 10 otherwise.
        reason: why it ended like that, one word; None while it goes well.
        error: the same in words.
        round: the last committed one.
        num_messages_in, num_messages_out: that it exchanged with its nodes by then.
        bytes_in, bytes_out: of messages and objects together.
        result: None unless the job was completed.
    """

    id: str
    name: str
    state: str
    code: int
    time: float
    attempt: int
    round: int
    rounds: int
    reason: str | None
    error: str | None
    num_messages_in: int = 0
    num_messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    result: Any = None

    @classmethod
    def of(cls, facts: Facts, tallies: Sequence[Tally], *, time: float, result: Any) -> Snapshot:
        """Return how a job stands, with what was exchanged for it by then."""
        ended = facts.state in HISTORY and facts.state != State.COMPLETED
        messages = [tally for tally in tallies if tally.kind != "object"]
        return cls(
            id=facts.id,
            name=facts.name,
            state=facts.state,
            code=CODES[State(facts.state)],
            time=time,
            attempt=facts.attempt,
            round=facts.round,
            rounds=facts.rounds,
            reason=(facts.reason or None) if ended else None,
            error=(facts.detail or facts.reason or None) if ended else None,
            num_messages_in=sum(tally.count for tally in messages if tally.direction == "in"),
            num_messages_out=sum(tally.count for tally in messages if tally.direction == "out"),
            bytes_in=sum(tally.bytes for tally in tallies if tally.direction == "in"),
            bytes_out=sum(tally.bytes for tally in tallies if tally.direction == "out"),
            result=result,
        )

    @property
    def communications(self) -> int:
        """Messages in both directions."""
        return self.num_messages_in + self.num_messages_out
