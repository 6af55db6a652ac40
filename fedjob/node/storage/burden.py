"""The words for what a request will cost its node: bytes, time and memory; what is a claim is called one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedjob.common.console import size
from fedjob.common.types import ENDLESS
from fedjob.node.storage.costs import MeasuredTime, Moved

UNKNOWN_TIME = "not known yet: nothing like it has run here"
UNKNOWN_BYTES = "not known: its researcher's side can't say it before the job has run"
UNKNOWN_OUT = "how much goes out is not known before: an answer is as large as what is found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Burden:
    """The load of a request on its node, before it is decided and while it runs.

    Args:
        claimed: bytes of the whole job, as the researcher says: `down`, `up`, `memory`, and `most` of 1 where they are a
            bound; without `up` where nobody knows how large its answers will be, empty for nothing said.
        rounds: that the job asks for.
        time: of a round, as this node has measured it; None where nothing like it has run here.
        moved: what runs under it has cost so far; None for nothing.
    """

    claimed: Mapping[str, int]
    rounds: int
    time: MeasuredTime | None
    moved: Moved | None

    @property
    def bytes_words(self) -> str:
        """The bytes in and out, each round and in all."""
        down, up = self.claimed.get("down"), self.claimed.get("up")
        if down is None:
            return UNKNOWN_BYTES
        most = "at most " if self.claimed.get("most") else ""
        if up is None:
            return f"{most}{size(down)} in, as the researcher says; {UNKNOWN_OUT}"
        each = ""
        if self.rounds > 1:
            each = f", about {size(down // self.rounds)} in and {size(up // self.rounds)} out in each round"
        return f"{most}{size(down)} in and {size(up)} out in all{each}, as the researcher says"

    @property
    def time_words(self) -> str:
        """The time in all and of a round, with what it was measured on."""
        time = self.time
        if time is None:
            return UNKNOWN_TIME
        each = f"about {_duration(time.round_s)} a round"
        whole = "" if self.rounds == ENDLESS else f"about {_duration(time.round_s * self.rounds)} in all, "
        many = f"{time.rounds} round{'' if time.rounds == 1 else 's'}"
        how = "the same work" if time.same else "the same plan with other arguments"
        return f"{whole}{each}, as measured here in {many} of {how}"

    @property
    def memory_words(self) -> str:
        """The memory for tensors; empty where nothing was said of it."""
        memory = self.claimed.get("memory")
        if not memory:  # of a function without parameters there is none
            return ""
        return (
            f"{size(memory)} of the work's tensors, as the researcher says; data, activations and the optimizer's state "
            "come on top"
        )

    @property
    def moved_words(self) -> str:
        """What it has cost so far; empty for nothing."""
        moved = self.moved
        if moved is None:
            return ""
        over = ": more than the researcher said" if moved.over else ""
        tasks = f"{moved.tasks} task{'' if moved.tasks == 1 else 's'}"
        return f"{tasks}, {_duration(moved.seconds)}, {size(moved.bytes_in)} in and {size(moved.bytes_out)} out{over}"

    @property
    def short(self) -> str:
        """Bytes and time in a few words, for a table or a notice."""
        down, up = self.claimed.get("down"), self.claimed.get("up")
        moves = "? bytes" if down is None else f"{size(down)} in, ? out" if up is None else size(down + up)
        known = self.time is not None and self.rounds != ENDLESS
        return f"{moves}, {_duration(self.time.round_s * self.rounds) if known and self.time else 'time unknown'}"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield name and words of what is known."""
        yield "moves", self.bytes_words
        yield "takes", self.time_words
        if self.memory_words:
            yield "memory", self.memory_words
        if self.moved_words:
            yield "so far", self.moved_words

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data: `claimed`, seconds as `round_s`, and what was `moved`."""
        moved = self.moved
        return {
            "claimed": dict(self.claimed),
            "round_s": None if self.time is None else round(self.time.round_s, 3),
            "measured_rounds": 0 if self.time is None else self.time.rounds,
            "measured_same": self.time is not None and self.time.same,
            "bytes_in": 0 if moved is None else moved.bytes_in,
            "bytes_out": 0 if moved is None else moved.bytes_out,
            "seconds": 0.0 if moved is None else round(moved.seconds, 3),
            "over": moved is not None and moved.over,
        }


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"
