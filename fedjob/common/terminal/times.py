"""Times as people read them, in their own zone, and as programs do, in UTC."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def when(at: float | None, never: str = "-") -> str:
    """Return seconds since 1970 as `2026-11-30 11:03 CET`, in the reader's zone; `never` for None and 0."""
    return never if not at else time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at))


def when_of_text(text: str, never: str = "-") -> str:
    """Return a time of ISO 8601, such as `2026-11-30T10:03:11.123456Z`, in the reader's zone; others as they are."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text or never
    return when(at.timestamp())


_TIMES = frozenset(
    ("accepted", "at", "created", "decided", "ended", "finished", "known", "requested", "started", "updated")
)


def in_utc(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data for JSON with its times, which are seconds since 1970, as texts in UTC."""
    return {
        name: utc(value) if name in _TIMES and isinstance(value, int | float) else value
        for name, value in plain.items()
    }


def utc(at: float | None) -> str | None:
    """Return seconds since 1970 as `2026-11-30T10:03:11.123456Z`, for programs; None for None and 0."""
    if not at:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
