"""The participation of nodes in a job: who took part, who did not and why, and from how many rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.checks import MAX_NAMED, printable, some_of
from fedjob.common.notebooks import html
from fedjob.common.quorum import by_reason
from fedjob.data.preprocessing.learning import LEARN
from fedjob.data.shares import RowRanges, SharedDatasets
from fedjob.protocols.base import LOSS, VALIDATE
from fedjob.researcher.storage.position import AggregationRecord, Position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.spec import JobSpec

MAX_REASON = 160
"""Characters of a reason in a line; the whole of it is in `NodeParticipation.reason`."""

NOT_ASKED = "it was not chosen for any round"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParticipation:
    """The part of one node in a job.

    Args:
        node: of the job, or one of the federation that could have been.
        reason: why its answer does not count in the last round that it was asked in, or why it was never
            asked; empty where it counts.
        num_rounds: committed rounds in which its answer counted.
        rows_registered: rows of its dataset, as its owner registered it; None where that is not known.
        rows_read: rows that it found there when it computed.
        rows_used: rows that were left after filters, selections of items, and incomplete rows.
    """

    node: str
    reason: str = ""
    num_rounds: int = 0
    rows_registered: int | None = None
    rows_read: int | None = None
    rows_used: int | None = None

    @property
    def took_part(self) -> bool:
        """True if it counts in the last round that it was asked in."""
        return not self.reason

    @property
    def rows(self) -> str:
        """The counts of its rows in words: `294 of 303 rows`; empty where none is known."""
        if self.rows_used is None:
            return "" if self.rows_registered is None else f"{self.rows_registered} rows registered"
        of = self.rows_registered if self.rows_registered is not None else self.rows_read
        return f"{self.rows_used} rows" if of is None else f"{self.rows_used} of {of} rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """The parts of all nodes in a job, in the order of their names.

    Args:
        parts: of the nodes, or of a simulation those of which more is known than their rows.
        num_rounds: committed rounds of the job.
        simulated: the nodes of a simulation with their rows, see `RowRanges`: those without a part were not asked.
    """

    parts: tuple[NodeParticipation, ...] = ()
    num_rounds: int = 0
    simulated: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def nodes(self) -> tuple[NodeParticipation, ...]:
        """The parts of all nodes."""
        return tuple(self)

    def __iter__(self) -> Iterator[NodeParticipation]:
        if not self.simulated:
            yield from self.parts
            return
        rows = RowRanges.of(self.simulated)
        known = {part.node: part for part in self.parts}
        for place, node in enumerate(rows.names):
            yield known.get(node) or NodeParticipation(
                node=node, reason=NOT_ASKED, rows_registered=rows.count_at(place)
            )

    def __len__(self) -> int:
        return len(RowRanges.of(self.simulated).names) if self.simulated else len(self.parts)

    def __getitem__(self, node: str) -> NodeParticipation:
        """Return the part of one node.

        Raises:
            KeyError: there is no such node.
        """
        for part in self:
            if part.node == node:
                return part
        raise KeyError(f"{node!r} is none of {some_of(part.node for part in self) or 'no nodes'}")

    @property
    def dataframe(self) -> Any:
        """A row for each node, as a pandas DataFrame.

        Its columns are `node`; `rounds`, those in which its answer counted; `rows_registered`, `rows_read` and `rows_used`,
        empty where they are not known; and `left_out`, why its answer does not count, empty where it does.
        """
        import pandas

        columns = ("node", "rounds", "rows_registered", "rows_read", "rows_used", "left_out")
        rows = [
            (part.node, part.num_rounds, part.rows_registered, part.rows_read, part.rows_used, part.reason)
            for part in self
        ]
        counts = dict.fromkeys(columns[2:5], "Int64")
        return pandas.DataFrame(rows, columns=list(columns)).astype(counts)

    @property
    def took_part(self) -> tuple[str, ...]:
        """The nodes that count."""
        return tuple(part.node for part in self.parts if part.took_part)

    @property
    def left_out(self) -> dict[str, str]:
        """node -> reason, for the nodes that do not count."""
        return {part.node: part.reason for part in self if not part.took_part}

    @property
    def complete(self) -> bool:
        """True if every node counts, in every round."""
        return not self.left_out and not self.partly

    @property
    def partly(self) -> dict[str, int]:
        """node -> rounds, for the nodes that count, but not in every round."""
        return {
            part.node: part.num_rounds
            for part in self.parts
            if part.took_part and part.num_rounds < self.num_rounds
        }

    @property
    def rows_used(self) -> int | None:
        """Rows that the result comes from; None where a node that counts did not report them."""
        counts = [part.rows_used for part in self.parts if part.took_part]
        return None if not counts or None in counts else sum(c for c in counts if c is not None)

    @property
    def rows_registered(self) -> int | None:
        """Rows of all datasets that are known of, those of nodes that are left out among them."""
        if self.simulated:
            return RowRanges.of(self.simulated).stops[-1]
        counts = [part.rows_registered for part in self.parts if part.rows_registered is not None]
        return sum(counts) if counts else None

    def __str__(self) -> str:
        line = f"{len(self.took_part)} of {len(self)} nodes"
        if self.rows_used is not None and self.rows_registered is not None:
            line += f", {self.rows_used} of {self.rows_registered} rows"
        if partly := self.partly:
            line += f"; not in every round: {_in_some_rounds(partly, self.num_rounds)}"
        short = {node: _short(reason) for node, reason in self.left_out.items()}
        out = by_reason(short, lambda nodes, reason: f"{nodes} ({reason})")
        return printable(f"{line}; left out: {', '.join(out)}" if out else line)

    __repr__ = __str__

    def lines(self) -> list[str]:
        """Return one line for each node: its rows and rounds, or why it is left out."""
        return [printable(f"{part.node}: {_line(part, self.num_rounds)}") for part in self]

    def _repr_html_(self) -> str:
        rows = [
            (
                part.node,
                html.chip("took part", html.GOOD) if part.took_part else html.chip("left out", html.BAD),
                f"{part.num_rounds} of {self.num_rounds}",
                part.rows,
                part.reason,
            )
            for part in self
        ]
        return html.panel(str(self), html.table(("node", "", "rounds", "rows", "why"), rows))


@dataclass(slots=True)
class _AskCounts:
    """The answers of nodes, counted ask by ask."""

    reasons: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, set[int]] = field(default_factory=dict)

    def count(self, entry: AggregationRecord) -> None:
        for node, *_ in entry.inputs:
            self.reasons[str(node)] = ""
            self.rounds.setdefault(str(node), set()).add(entry.round)
        for node, reason in entry.left_out.items():
            self.reasons[node] = reason
            self.rounds.get(node, set()).discard(entry.round)


def participation_of(spec: JobSpec, record: JobRecord, position: Position | None) -> Participation:
    """Return who took part in a job, from what is on its record.

    Args:
        position: with its aggregations so far; None where there are none: the record's last round is taken.
    """
    tally = _AskCounts()
    asks = [] if position is None else _that_count(position)
    for entry in asks:
        tally.count(entry)
    reasons = {**record.participants, **tally.reasons}
    total = len({entry.round for entry in asks})
    parts = []
    shared = spec.datasets if isinstance(spec.datasets, SharedDatasets) else None
    every = spec.datasets if shared is None else ()
    for node in sorted({*every, *record.absent, *reasons}):
        rows: Mapping[str, int] = record.rows.get(node, {})
        registered = spec.datasets.get(node, {}).get("num_rows")
        counted = tally.rounds.get(node, set())
        parts.append(
            NodeParticipation(
                node=node,
                reason=reasons[node] if node in reasons else record.absent.get(node, NOT_ASKED),
                num_rounds=len(counted),
                rows_registered=rows.get("registered", registered),
                rows_read=rows.get("read"),
                rows_used=rows.get("used"),
            )
        )
    simulated = {} if shared is None else shared.rows.plain
    return Participation(parts=tuple(parts), num_rounds=total, simulated=simulated)


def _that_count(position: Position) -> list[AggregationRecord]:
    """Return the asks that a result comes from: preparations, and validations beside training, are none of them."""
    asks = [entry for entry in position.ledger if entry.step not in (LEARN, LOSS)]
    main = [entry for entry in asks if entry.step != VALIDATE]
    return main or asks


def _line(part: NodeParticipation, num_rounds: int) -> str:
    if part.reason:
        rows = f" ({part.rows})" if part.rows else ""
        return f"left out{rows}: {part.reason}"
    rounds = f"{part.num_rounds} of {num_rounds} rounds" if num_rounds > 1 else ""
    return ", ".join(filter(None, (part.rows, rounds))) or "took part"


def _short(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."


def _in_some_rounds(partly: Mapping[str, int], num_rounds: int) -> str:
    """Return nodes with the rounds in which they count: of each, or of very many the fewest and the most rounds."""
    if len(partly) <= MAX_NAMED:
        return ", ".join(f"{node} ({rounds} of {num_rounds} rounds)" for node, rounds in partly.items())
    fewest, most = min(partly.values()), max(partly.values())
    rounds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{some_of(partly)} ({rounds} of {num_rounds} rounds)"
