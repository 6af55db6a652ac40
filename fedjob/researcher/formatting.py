"""What a person reads of an event: whole lines, and the one line that says where a job is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjob.researcher.events import JobEvent

Drawn = tuple[list[str], str]
"""Lines to print, perhaps none; and the next single line of a status display, empty to leave it as it is."""

MAX_VALUE_CHARS = 120
_QUIET = ("iteration", "epoch", "samples", "round", "phase", "total_iterations", "batch_size")


def format_event(event: JobEvent) -> Drawn:
    """Return an event as lines to print, and as the line that a status display shows next.

    A type that is not fedjob's own is shown as its keys and values.
    """
    draw = _DRAWN.get(event.type, _other)
    said, now = draw(event, event.body)
    return [f"{prefix(event)} | {clean(text)}" for text in said], clean(now)


def prefix(event: JobEvent) -> str:
    """Return when, where and in which round: `2024-10-01T21:57:01Z node-a round 1`."""
    where = f" {event.node}" if event.node else ""
    round_ = f" round {event.round}" if event.round else ""
    return f"{utc(event.time)}{where}{round_}"


def utc(at: float) -> str:
    """Return seconds since 1970 as `2024-10-01T21:57:01Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def clean(text: str) -> str:
    """Keep what a node or a plan wrote from steering a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


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
    said = ": ".join(short(body[key]) for key in ("reason", "detail") if body.get(key))
    return f" ({said})" if said else ""


def names(value: Any) -> str:
    """Return node names as a list in words."""
    return ", ".join(str(item) for item in value) if value else "nobody"


def _state(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    state = short(body.get("state", "?"))
    if event.node:
        worker = f" on worker {body['worker']}" if body.get("worker") else ""
        said = f"{state}{worker}{because(body)}"
        return [said], f"{event.node} is {said}"
    return [f"{state}{because(body)}"], f"{state}{because(body)}"


def _grant(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    contacts = body.get("contacts") or {}
    waiting = [
        f"{node} ({contacts[node]})" if contacts.get(node) else str(node) for node in body.get("waiting", ())
    ]
    if event.node and body.get("state"):
        by = f" by {short(body['by'])}" if body.get("by") else ""
        note = f": {short(body['note'])}" if body.get("note") else ""
        said = f"{short(body['state'])}{by}{note}"
    elif waiting:
        said = f"waiting for the owner of {names(waiting)} to decide on the plan"
    elif body.get("waiting") == []:
        said = "nobody has to decide any more"
    else:
        said = f"grant {pairs(body)}"
    return [said], said


def _schedule(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    tried = f"try {body['try']}: " if body.get("try") else ""
    nodes = body.get("nodes") or {}
    listed = nodes.items() if isinstance(nodes, Mapping) else ((node, "") for node in nodes)
    each = ", ".join(f"{node}: {short(why)}" if why else str(node) for node, why in listed)
    said = f"{tried}{short(body.get('reason') or 'scheduled')}{f' ({each})' if each else ''}"
    return [f"scheduling, {said}"], f"waiting to start, {said}"


def _setup(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    outcome = short(body.get("outcome", "ok"))
    said = "ready" if outcome == "ok" else f"not ready: {outcome}"
    return [said], f"{_who(event)}{said}"


def _ask(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    said = f"asked {names(body.get('nodes'))} to {short(body.get('step', 'work'))}"
    return [said], said


def _round(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    left_out = body.get("left_out") or {}
    without = f", without {names(sorted(left_out))}" if left_out else ""
    took = f" in {body['seconds']:.1f} s" if isinstance(body.get("seconds"), (int, float)) else ""
    return [f"done with {names(body.get('nodes'))}{without}{took}"], f"round {event.round} done{without}"


def _batch(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    said = _batch_said(body)
    return [said], f"{_who(event)}{said}"


def _batch_said(body: Mapping[str, Any]) -> str:
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
    told = body.get("values") or body
    measured = {key: value for key, value in told.items() if key not in _QUIET}
    phase = f"{body['phase']}: " if body.get("phase") else ""
    return [f"{phase}{pairs(measured)}"], f"{_who(event)}{phase}{pairs(measured)}"


def _result(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    if event.node:
        rows = f" of {short(body['num_rows'])} items" if "num_rows" in body else ""
        said = f"a result{rows}" + (f", batch {short(body['n'])}" if "n" in body else "")
        return [said], f"{_who(event)}{said}"
    said = "the result is there" + (f": {short(body['path'])}" if body.get("path") else "")
    return [said], said


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
    said = short(body.get("reason", "error")) + (f": {short(body['detail'])}" if body.get("detail") else "")
    out = f"left out: {said}" if event.node else f"error: {said}"
    return [out], f"{_who(event)}{out}"


def _other(event: JobEvent, body: Mapping[str, Any]) -> Drawn:
    said = f"{event.type}: {pairs(body)}".rstrip()
    return [said], f"{_who(event)}{said}"


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
