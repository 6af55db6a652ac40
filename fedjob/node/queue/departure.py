"""The measure of what leaves the node with an answer: its bytes, and the numbers in it."""

from __future__ import annotations

from typing import Any

from fedjob.common.codec import unpack
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import task_of


def departure_of(row: TaskRow) -> dict[str, Any]:
    """Return what of a finished task leaves the node, for the audit log; empty where nothing does.

    Returns:
        `bytes` of the answer and of the objects that it names; `numbers` in its value and metrics, without those of
        a value that is an object; `parameters_bytes` of trained parameters; `use` of the data, `private` or `mock`.
    """
    if not row.result or row.parent:
        return {}
    answer = unpack(row.result)
    params, blob = (answer.get(name) or {} for name in ("params", "blob"))
    parameters_bytes = int(params.get("size_bytes", 0))
    left = {
        "bytes": len(row.result) + parameters_bytes + int(blob.get("size_bytes", 0)),
        "numbers": count_numbers(answer.get("value")) + count_numbers(answer.get("metrics")),
        "use": task_of(row).use if row.dataset else "brought",
    }
    if parameters_bytes:
        left["parameters_bytes"] = parameters_bytes
    return left


def count_numbers(value: Any) -> int:
    """Return how many numbers are in a plain value; booleans are none, and bytes are counted one by one."""
    found, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif isinstance(one, bytes):
            found += len(one)
        elif isinstance(one, (int, float)) and not isinstance(one, bool):
            found += 1
    return found
