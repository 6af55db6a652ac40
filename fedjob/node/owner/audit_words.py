"""The words for a record of the audit log."""

from __future__ import annotations

from typing import Any

from fedjob.common.console import size


def summary_of(body: dict[str, Any]) -> str:
    """Return in a line what a record's body says."""
    status = body.get("status") or body.get("state") or ("removed" if body.get("removed") else "")
    reason = body.get("reason") or ""
    words = [str(body.get(name) or "") for name in ("researcher", "entry", "step", "dataset", "use", "job")]
    if "moved" in body:
        words.append(
            f"moved {size(body['moved'])}, more than the {size(body['claimed'])} that its researcher said"
        )
    elif "cost" in body:
        words.append(f"epsilon {body['cost']:.4g}")
    elif "epsilon" in body:
        words.append(f"epsilon {body['epsilon']:g} delta {body['delta']:g}")
    if left := body.get("departure"):
        words.append(f"({size(left['bytes'])} left the node)")
    if "value" in body:
        words.append(f"is {body['value']!r}")
    if not any([status, *words]):  # a change of settings of a dataset or the like
        words = [f"{name} is {value!r}" for name, value in body.items() if name != "by"]
    by = body.get("decided_by") or body.get("by") or ""
    first = f"{status} ({reason})" if reason else status
    return " ".join(filter(None, [first, *words, f"by {by}" if by else ""]))
