"""The output of a job's tasks, as far as their nodes release it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedjob.common.checks import printable
from fedjob.common.notebooks import html
from fedjob.researcher.storage.event import JobEvent, prefix, utc, withheld


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a task.

    Args:
        stream: `stdout`, `stderr`, or empty where the node withholds the log.
        withheld: the node withholds the log; `text` is a message that says so.
    """

    time: float
    node: str
    round: int
    task: str
    stream: str
    text: str
    withheld: bool = False

    def __str__(self) -> str:
        event = JobEvent(type="log", time=self.time, node=self.node, round=self.round)
        return f"{prefix(event)} | {printable(self.text)}"

    def to_plain(self) -> dict[str, object]:
        """Return it as JSON shows it."""
        return {
            "time": utc(self.time),
            "node": self.node,
            "round": self.round,
            "task": self.task,
            "stream": self.stream,
            "text": self.text,
            "withheld": self.withheld,
        }


class JobLogs(Sequence[LogLine]):
    """The lines of a job in the order in which they came; printed, one per line."""

    def __init__(self, lines: Iterable[LogLine]) -> None:
        self._lines = tuple(lines)

    def __getitem__(self, index: int) -> LogLine:  # type: ignore[override]
        return self._lines[index]

    def __len__(self) -> int:
        return len(self._lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self._lines))

    def __repr__(self) -> str:
        return str(self) or "<no log lines by now>"

    def _repr_html_(self) -> str:
        return html.panel("", html.preformatted(repr(self)))


def read_logs(
    events: Iterable[JobEvent], *, node: str | None = None, stdout: bool = True, stderr: bool = True
) -> Iterator[LogLine]:
    """Yield the log lines in a job's events.

    A task whose log was withheld and released later shows its lines only.

    Args:
        node: None for all.
        stdout, stderr: which streams.
    """
    found: list[LogLine] = []
    released: set[tuple[str, str]] = set()
    for event in events:
        if event.type != "log" or (node is not None and event.node != node):
            continue
        body = event.body
        if body.get("withheld"):
            found.append(_line(event, "", withheld(event.node, body), withheld=True))
            continue
        released.add((event.node, event.task))
        stream = str(body.get("stream", "stdout"))
        if (stdout and stream == "stdout") or (stderr and stream == "stderr"):
            lines = body.get("lines")
            found += [_line(event, stream, str(text)) for text in lines] if isinstance(lines, list) else []
    for line in found:
        if not line.withheld or (line.node, line.task) not in released:
            yield line


def _line(event: JobEvent, stream: str, text: str, *, withheld: bool = False) -> LogLine:
    return LogLine(
        time=event.time,
        node=event.node,
        round=event.round,
        task=event.task,
        stream=stream,
        text=text,
        withheld=withheld,
    )
