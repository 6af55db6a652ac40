"""What watchers are not shown of a job's events: the rows and values that nodes answered."""

from __future__ import annotations

import json

ANSWERS = ("rows", "value")
"""Fields of a node's `result` event that are the researcher's alone."""


def without_answers(lines: bytes) -> bytes:
    """Return whole lines of a log without what nodes answered, each as long as before.

    The lengths stay, because readers find their way through the log by its bytes.
    """
    return b"\n".join(_without(line) if b'"result"' in line else line for line in lines.split(b"\n"))


def _without(line: bytes) -> bytes:
    try:
        event = json.loads(line)
    except ValueError:  # a power cut's remains; nobody can read an answer out of them
        return b" " * len(line)
    if not isinstance(event, dict) or event.get("type") != "result" or not event.get("node"):
        return line
    body = event.get("body")
    if not isinstance(body, dict) or not any(name in body for name in ANSWERS):
        return line
    event["body"] = {name: value for name, value in body.items() if name not in ANSWERS}
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode().ljust(len(line))
