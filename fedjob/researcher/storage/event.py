"""An event of a job: one line of JSON, and its words for people.

`event.schema.json` beside this module describes a line.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import Any

from fedjob.common.checks import printable, shown
from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.lifecycle import HISTORY, State

VERSION = 1
"""Of a line. A reader takes lines of its own version with fields that it does not know, and refuses a later one."""

TYPES = (
    "state",
    "grant",
    "schedule",
    "setup",
    "ask",
    "round",
    "batch",
    "progress",
    "metrics",
    "result",
    "breakpoint",
    "log",
    "note",
    "error",
)
"""The types of events that fedjob itself emits; every other type is a plan's own."""

OF_THE_JOB = frozenset(("grant", "schedule", "setup", "ask", "round", "breakpoint", "error"))
"""Of these, what only the job itself reports: whoever reads them acts on them, so that no node can."""


class LaterVersion(DecodeError):
    """A newer fedjob wrote it."""

    reason = "later_version"


_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One fact about a job.

    Args:
        seq: counts the job's events from 1.
        time: seconds since 1970.
        type: one of `TYPES`, or a plan's own.
        job: its id.
        task: key of the task that it is about; empty for none.
        node: that it is about, or that sent it; empty for the job as a whole.
        round: from 1; 0 where it is about none.
    """

    type: str
    seq: int = 0
    time: float = 0.0
    job: str = ""
    task: str = ""
    node: str = ""
    round: int = 0
    body: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines, now = format_event(self)
        return "\n".join(lines) or f"{prefix(self)} | {now}"

    def to_json(self) -> str:
        """Return the line that the log holds, without its end."""
        # not `asdict`, which copies the body piece by piece: a simulation has several events for each node and round
        plain = {name: getattr(self, name) for name in _ORDER}
        return json.dumps({"v": VERSION, **plain}, separators=(",", ":"))


_ORDER = tuple(f.name for f in fields(JobEvent))
_FIELDS = frozenset(_ORDER)


def is_job_state(event: JobEvent) -> bool:
    """Tell whether an event says that the job itself, not a node's task, entered a state."""
    return event.type == "state" and not event.node


def is_end(event: JobEvent) -> bool:
    """Tell whether an event ends an attempt at the job."""
    return is_job_state(event) and event.body.get("state") in HISTORY


def state_of(event: JobEvent) -> State:
    """Return the state that a `state` event names; `draft` for one that this version does not know."""
    try:
        return State(str(event.body.get("state")))
    except ValueError:
        return State.DRAFT


def check_type(type_: str) -> str:
    """Return `type_` if an event may have it.

    Raises:
        SpecError: it may not.
    """
    if not _TYPE.fullmatch(type_):
        raise SpecError(
            f"an event's type is 1 to 64 of a-z, 0-9, '_', '.', '-', beginning with a letter; found {type_[:80]!r}"
        )
    return type_


def decode_event(line: str | bytes) -> JobEvent:
    """Return the event that a line holds.

    Raises:
        LaterVersion: a newer fedjob wrote it.
        DecodeError: it is no event.
    """
    try:
        found = json.loads(line)
        version = found.pop("v")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DecodeError(f"expected an event as a line of JSON, found {line[:80]!r}") from error
    if not isinstance(version, int) or version > VERSION:
        raise LaterVersion(
            f"expected an event of version {VERSION}, found {str(version)[:20]}: a newer fedjob wrote it, update this one"
        )
    try:
        return JobEvent(**{key: value for key, value in found.items() if key in _FIELDS})
    except TypeError as error:
        raise DecodeError(f"an event lacks a field: {error}") from error


def decode_lines(block: bytes) -> Iterator[JobEvent]:
    """Yield the events in whole lines; what is no event at all, a power cut's zeros, is left out.

    Raises:
        LaterVersion: a newer fedjob wrote them.
    """
    for line in block.splitlines():
        try:
            yield decode_event(line)
        except LaterVersion:
            raise
        except DecodeError:
            continue


def as_json(value: Any) -> Any:
    """Return a value as JSON knows it; what is not a finite number becomes a word."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value if not isinstance(value, State) else value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    return str(value)


Drawn = tuple[list[str], str]
"""Lines to print, perhaps none; and the next single line of a status display, empty to leave it as it is."""

MAX_REMARKS = 5
"""Different remarks on one result; what is more stands among the events alone."""

MAX_REMARK_CHARS = 300

MAX_VALUE_CHARS = 120
_QUIET = ("iteration", "epoch", "samples", "round", "phase", "total_iterations", "batch_size")


def format_event(event: JobEvent) -> Drawn:
    """Return an event as lines to print, and as the line that a status display shows next.

    A type that is not fedjob's own is shown as its keys and values.
    """
    if not isinstance(event, JobEvent):
        raise SpecError(f"format_event takes an event, such as one of job.events(), not {shown(event)}")
    draw = _DRAWN.get(event.type, _other)
    try:
        texts, now = draw(event, event.body)
    except (AttributeError, KeyError, TypeError, ValueError):  # a node may send any body
        texts, now = _other(event, event.body)
    return [f"{prefix(event)} | {printable(text)}" for text in texts], printable(now)


def prefix(event: JobEvent) -> str:
    """Return when, where and in which round: `2024-10-01T21:57:01Z node-a round 1`."""
    where = f" {event.node}" if event.node else ""
    round_ = f" round {event.round}" if event.round else ""
    return f"{utc(event.time)}{where}{round_}"


def utc(at: float) -> str:
    """Return seconds since 1970 as `2024-10-01T21:57:01Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def short(value: Any) -> str:
    """Return a value in a few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 3] + "..."


def pairs(body: Mapping[str, Any]) -> str:
    """Return `key=value key=value`."""
    return " ".join(f"{key}={short(value)}" for key, value in body.items())


def because(body: Mapping[str, Any]) -> str:
    """Return ` (reason: detail)`, as far as they are there."""
    words = ": ".join(short(body[key]) for key in ("reason", "detail") if body.get(key))
    return f" ({words})" if words else ""


def remark_of(event: JobEvent) -> str:
    """Return the text of a note that belongs to the result, whoever wrote it; empty for any other event."""
    if event.type != "note" or event.body.get("of_result") is not True:
        return ""
    return printable(str(event.body.get("text", "")))[:MAX_REMARK_CHARS]


def names(value: Any) -> str:
    """Return node names as a list in words."""
    if value and (isinstance(value, str) or not isinstance(value, (Mapping, Sequence, Set))):
        return short(value)
    return ", ".join(str(item) for item in value) if value else "nobody"


def _state(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    state = short(body.get("state", "?"))
    if event.node:
        worker = f" on worker {body['worker']}" if body.get("worker") else ""
        words = f"{state}{worker}{because(body)}"
        return [words], f"{event.node} is {words}"
    return [f"{state}{because(body)}"], f"{state}{because(body)}"


def _grant(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    contacts = body.get("contacts") or {}
    waiting = [
        f"{node} ({contacts[node]})" if contacts.get(node) else str(node) for node in body.get("waiting", ())
    ]
    if event.node and body.get("state"):
        by = f" by {short(body['by'])}" if body.get("by") else ""
        note = f": {short(body['note'])}" if body.get("note") else ""
        words = f"{short(body['state'])}{by}{note}"
    elif waiting:
        words = f"waiting for the owner of {names(waiting)} to decide on the plan"
    elif body.get("waiting") == []:
        words = "nobody has to decide any more"
    else:
        words = f"grant {pairs(body)}"
    return [words], words


def _schedule(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    tried = f"try {body['try']}: " if body.get("try") else ""
    nodes = body.get("nodes") or {}
    listed = nodes.items() if isinstance(nodes, Mapping) else ((node, "") for node in nodes)
    each = ", ".join(f"{node}: {short(why)}" if why else str(node) for node, why in listed)
    words = f"{tried}{short(body.get('reason') or 'scheduled')}{f' ({each})' if each else ''}"
    return [f"scheduling, {words}"], f"waiting to start, {words}"


def _setup(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    outcome = short(body.get("outcome", "ok"))
    words = "ready" if outcome == "ok" else f"not ready: {outcome}"
    return [words], f"{_who(event)}{words}"


def _ask(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    words = f"asked {names(body.get('nodes'))} to {short(body.get('step', 'work'))}"
    return [words], words


def _round(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    left_out = body.get("left_out") or {}
    without = f", without {names(sorted(left_out))}" if left_out else ""
    took = f" in {body['seconds']:.1f} s" if isinstance(body.get("seconds"), (int, float)) else ""
    return [f"done with {names(body.get('nodes'))}{without}{took}"], f"round {event.round} done{without}"


def _batch(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    words = _batch_words(body)
    return [words], f"{_who(event)}{words}"


def _batch_words(body: Mapping[str, Any]) -> str:
    match body:
        case {"done": _}:
            return f"batch {_of(body)}"
        case {"n": n}:
            return f"batch {short(n)}{', the last' if body.get('last') else ''}"
        case {"state": "all-done", "ok": ok, "failed": failed}:
            return f"all batches were tried: {short(ok)} went well, {short(failed)} failed"
        case {"state": "retrying", "items": items}:
            return f"{short(items)} items are tried one by one"
        case {"of": of}:
            return "works in batches" if of is None else "works in one batch"
    return f"batch {pairs(body)}"


def _progress(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    return [], f"{_who(event)}{_of(body)}"


def _metrics(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    reported = body.get("values") or body
    measured = {key: value for key, value in reported.items() if key not in _QUIET}
    tested = body.get("phase") != "train" and "samples" in body
    of = f" on {short(body['samples'])} records" if tested else ""
    phase = f"{body['phase']}{of}: " if body.get("phase") else ""
    return [f"{phase}{pairs(measured)}"], f"{_who(event)}{phase}{pairs(measured)}"


def _result(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    if event.node:
        rows = f" of {short(body['num_rows'])} items" if "num_rows" in body else ""
        words = f"a result{rows}" + (f", batch {short(body['n'])}" if "n" in body else "")
        return [words], f"{_who(event)}{words}"
    words = "the result is there" + (f": {short(body['path'])}" if body.get("path") else "")
    return [words], words


def _breakpoint(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    return [f"breakpoint {short(body.get('path', ''))}"], ""


def _log(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    if body.get("withheld"):
        return [withheld(event.node, body)], ""
    return [str(line) for line in body.get("lines", ())], ""


def withheld(node: str, body: Mapping[str, Any]) -> str:
    """Say that a node keeps a log to itself, and whom to ask."""
    ask = f"; ask {body['contact']}" if body.get("contact") else ""
    return f"withheld by {node or 'the node'}{ask}"


def _note(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    return [str(body.get("text", ""))], ""


def _error(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    words = short(body.get("reason", "error")) + (f": {short(body['detail'])}" if body.get("detail") else "")
    out = f"left out: {words}" if event.node else f"error: {words}"
    return [out], f"{_who(event)}{out}"


def _other(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    words = f"{event.type}: {pairs(body)}".rstrip()
    return [words], f"{_who(event)}{words}"


def _of(body: Mapping[str, Any]) -> str:
    done, total = body.get("done", 0), body.get("total")
    if not isinstance(done, (int, float)) or not isinstance(total, (int, float)) or total <= 0:
        return short(done)
    return f"{short(done)} of {short(total)} ({100 * done / total:.0f} %)"


def _who(event: JobEvent) -> str:
    round_ = f"round {event.round} " if event.round else ""
    return f"{round_}{event.node}: " if event.node else (f"{round_.strip()}: " if round_ else "")


_DRAWN: dict[str, Callable[[JobEvent, Mapping[str, Any]], Drawn]] = {
    "state": _state,
    "grant": _grant,
    "schedule": _schedule,
    "setup": _setup,
    "ask": _ask,
    "round": _round,
    "batch": _batch,
    "progress": _progress,
    "metrics": _metrics,
    "result": _result,
    "breakpoint": _breakpoint,
    "log": _log,
    "note": _note,
    "error": _error,
}
