"""The one view of a job that goes on which notebooks show: a line about the job, and a row for each node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedjob.common.lifecycle import HISTORY, State
from fedjob.common.notebooks.html import (
    BAD,
    BUSY,
    GOOD,
    WAIT,
    Piece,
    bar,
    chip,
    note,
    panel,
    preformatted,
    table,
)
from fedjob.common.notebooks.plain_tables import cell_text, number_text, text_table
from fedjob.common.terminal.colours import colour_of, painted
from fedjob.common.terminal.tables import table_lines, width_of, wrapped
from fedjob.common.types import ENDLESS
from fedjob.researcher.monitoring.live import Live, NodeLive, duration
from fedjob.researcher.monitoring.summary import mood_of

MAX_NODES = 30
"""Most nodes that have a row of their own."""

MAX_METRICS = 4
MAX_EVENTS = 200

_COUNTS = frozenset(
    (
        "iteration",
        "epoch",
        "epochs",
        "samples",
        "round",
        "phase",
        "total_iterations",
        "batch_size",
        "total_samples",
        "num_updates",
    )
)
"""Numbers beside a node's metrics that are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """What is shown of a job at one moment.

    Args:
        rounds: of the job.
        live: what follows from its events so far.
        overall: metric -> its last value over all nodes.
        left_out: node -> reason, in the last round.
        about: of a completed job: the nodes and rows that its result is about.
        remark: the last note, such as what a queued job waits for.
        now: seconds since 1970.
        events: the lines of its events, where they are to be shown, too.
    """

    title: str
    nodes: tuple[str, ...]
    rounds: int
    live: Live
    now: float
    overall: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    remark: str = ""
    events: Sequence[str] = ()

    def forms(self) -> dict[str, str]:
        """Return the view as plain text and as HTML."""
        return {"text/plain": self.text(), "text/html": self.html()}

    def text(self) -> str:
        """Return the view as aligned lines."""
        parts = [
            f"{self.title}: {self.live.state}",
            self._rounds_words(),
            self._time_words(),
            *self._overall_words(),
        ]
        header, rows = self._rows()
        plain = [[state if not isinstance(state, Piece) else "" for state in row] for row in rows]
        lines = [cell_text(line) for line in (", ".join(filter(None, parts)), *self._remarks())]
        if rows:
            lines.append(text_table(header, plain))
        return "\n".join([*lines, *self.events[-MAX_EVENTS:]])

    def terminal(self, width: int, *, colours: bool) -> list[str]:
        """Return the view as lines of a terminal, none of them wider than it is."""
        state = painted(self.live.state, colour_of("state", self.live.state) if colours else "")
        parts = ", ".join(filter(None, [self._rounds_words(), self._time_words(), *self._overall_words()]))
        title = cell_text(self.title)
        if width_of(f"{title}: {self.live.state}, {parts}") <= width:
            lines = [f"{title}: {state}, {parts}"]
        else:
            lines = [*wrapped(title, width), state, *wrapped(parts, width)]
        for remark in self._remarks():
            lines += wrapped(cell_text(remark), width)
        header, rows = self._rows()
        cells = [["" if isinstance(cell, Piece) else cell_text(cell) for cell in row] for row in rows]
        return [*lines, *(table_lines(header, cells, width=width, colours=colours) if rows else ())]

    def html(self) -> str:
        """Return the view as HTML."""
        state = self.live.state
        words = " · ".join(filter(None, [self._rounds_words(), self._time_words(), *self._overall_words()]))
        done = self._fraction()
        head = Piece(f"<div>{chip(state, mood_of(state))} {bar(done, words)}</div>")
        header, rows = self._rows()
        drawn = [[row[0], self._chip_of(row[0], str(row[1])), *row[2:]] for row in rows]
        pieces = [head, *(note(text, warns=state not in HISTORY) for text in self._remarks())]
        if rows:
            pieces.append(table(header, drawn))
        if self.events:
            pieces.append(preformatted("\n".join(self.events[-MAX_EVENTS:]), from_end=True))
        return panel(self.title, *pieces)

    # -- the line --------------------------------------------------------------------

    def _fraction(self) -> float:
        if self.live.state == State.COMPLETED:
            return 1.0
        if self.rounds == ENDLESS:
            return 0.0
        return self.live.progress(self.rounds, self.now).percent / 100

    def _rounds_words(self) -> str:
        if self.rounds == ENDLESS:
            return f"{self.live.round} rounds"
        return f"{self.live.round} of {self.rounds} round{'s' if self.rounds > 1 else ''}"

    def _time_words(self) -> str:
        live = self.live
        if live.state in HISTORY:
            took = live.updated - (live.since[0] or live.began)
            return f"took {duration(took)}" if took >= 0 and live.began else ""
        if live.state != State.RUNNING:
            return ""
        eta_s = live.progress(self.rounds, self.now).eta_s
        return "" if eta_s is None else f"about {duration(eta_s)} left"

    def _overall_words(self) -> list[str]:
        names = _without_repeats(self.overall)[:MAX_METRICS]
        return [f"{name} {number_text(self.overall[name])}" for name in names]

    def _remarks(self) -> list[str]:
        live = self.live
        found = []
        if live.state == State.WAITING and live.waiting:
            who = [
                f"{node} (ask {live.contacts[node]})" if live.contacts.get(node) else node
                for node in live.waiting
            ]
            found.append(f"waits for the owner of {', '.join(who)} to decide")
        if live.state == State.QUEUED and live.holding:
            found.append("waits for " + ", ".join(f"{node}: {why}" for node, why in live.holding.items()))
        if live.state in HISTORY and live.state != State.COMPLETED:
            found.append(": ".join(filter(None, (live.reason, live.detail))))
        out = {node: why for node, why in self.left_out.items() if node not in self.nodes}
        found += [f"{node} is left out: {why}" for node, why in list(out.items())[:MAX_NODES]]
        return [*found, *filter(None, (self.remark, self.about))]

    # -- the nodes ---------------------------------------------------------------------

    def _rows(self) -> tuple[list[str], list[list[Any]]]:
        """Return the header and the rows of the table of nodes: name, state, progress, metrics."""
        metrics = self._metric_names()
        header = ["node", "state", "progress", *metrics]
        rows: list[list[Any]] = []
        for node in self.nodes[:MAX_NODES]:
            known = self._metrics_of(node)
            values = [_number(known.get(name)) for name in metrics]
            rows.append([node, self._state_of(node), self._progress_of(node), *values])
        if len(self.nodes) > MAX_NODES:
            more = [f"… {len(self.nodes) - MAX_NODES} more nodes", "", "", *[None] * len(metrics)]
            rows.append(more)
        if all(not row[2] for row in rows):
            header.pop(2)
            for row in rows:
                row.pop(2)
        return header, rows

    def _metrics_of(self, node: str) -> Mapping[str, Any]:
        """Return what a node measures while it computes, and over all rows once it has answered."""
        last = self.live.metrics.get(node, {})
        answered = self.live.nodes.get(node, NodeLive()).state == State.COMPLETED
        return {**last, **self.live.measured.get(node, {})} if answered else last

    def _metric_names(self) -> list[str]:
        found: dict[str, None] = {}
        for node in self.nodes:
            for name, value in self._metrics_of(node).items():
                if name not in _COUNTS and _number(value) is not None:
                    found[name] = None
        return _without_repeats(found)[:MAX_METRICS]

    def _state_of(self, node: str) -> str:
        if node in self.left_out:
            return f"left out: {self.left_out[node]}"[:120]
        if self.live.state == State.COMPLETED:
            return "done"
        known = self.live.nodes.get(node, NodeLive())
        if self.live.state in HISTORY and known.state not in HISTORY:
            return "ended" if known.state or node in self.live.asked else "did not begin"
        if node in self.live.waiting and self.live.state == State.WAITING:
            return "waits for its owner"
        if known.state in HISTORY:
            return (
                "answered"
                if known.state == State.COMPLETED
                else f"{known.state}: {known.reason}".rstrip(": ")
            )
        return known.state or ("asked" if node in self.live.asked else "idle")

    def _chip_of(self, node: str, words: str) -> Piece:
        if node in self.left_out:
            return chip(words, BAD)
        if words in ("done", "answered"):
            return chip(words, GOOD)
        if words == "waits for its owner":
            return chip(words, WAIT)
        return (
            chip(words, BUSY)
            if words in ("running", "starting", "asked")
            else chip(words)
            if words
            else Piece("")
        )

    def _progress_of(self, node: str) -> str:
        known = self.live.nodes.get(node, NodeLive())
        if not known.total or self.live.state in HISTORY:
            return ""
        return f"{100 * known.done / known.total:.0f} %"


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except OverflowError:  # a whole number that no float can hold
        return None


def _without_repeats(names: Iterable[str]) -> list[str]:
    """Return names of metrics without a confusion matrix whose value, the accuracy, is there by its own name."""
    known = list(names)
    matrix, accuracy = "confusion_matrix", "accuracy"
    return [
        name for name in known if not name.startswith(matrix) or name.replace(matrix, accuracy) not in known
    ]
