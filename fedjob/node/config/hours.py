"""The working hours in which a node starts tasks, as its owner writes them.

`Mon-Fri 20:00-06:00, Sat-Sun 00:00-24:00` names windows; a window that ends before
it begins goes on until the next day. No text means always. What has begun goes on
after the window; nothing new begins.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from fedjob.common.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))?\s+)?(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


@dataclass(frozen=True, slots=True)
class HoursWindow:
    """Minutes of the day, on the weekdays (0 is Monday) on which it begins."""

    days: frozenset[int]
    start: int
    end: int

    def holds(self, weekday: int, minute: int) -> bool:
        """Tell whether a moment lies inside."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        began_today = weekday in self.days and minute >= self.start
        return began_today or ((weekday - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Hours:
    """The windows of time in which tasks may begin; without windows always."""

    windows: tuple[HoursWindow, ...] = ()

    def are_open(self, weekday: int, minute: int) -> bool:
        """Tell whether tasks may begin.

        Args:
            weekday: 0 is Monday.
            minute: of the day.
        """
        return not self.windows or any(window.holds(weekday, minute) for window in self.windows)


def read_hours(text: str) -> Hours:
    """Read what an owner wrote.

    Raises:
        ConfigError: it does not read as hours.
    """
    return Hours(tuple(_window(part.strip()) for part in text.replace(";", ",").split(",") if part.strip()))


def is_open_now(text: str) -> bool:
    """Tell whether tasks may begin at this moment, by this machine's clock and time zone."""
    if not text:
        return True
    now = time.localtime()
    return read_hours(text).are_open(now.tm_wday, 60 * now.tm_hour + now.tm_min)


def _window(text: str) -> HoursWindow:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ConfigError(f"hours: expected windows like 'Mon-Fri 20:00-06:00', found {text[:80]!r}")
    first, last, *clock = found.groups()
    start_hour, start_minute, end_hour, end_minute = map(int, clock)
    start, end = 60 * start_hour + start_minute, 60 * end_hour + end_minute
    if max(start_minute, end_minute) > 59 or start >= DAY_MINUTES or end > DAY_MINUTES or start == end:
        raise ConfigError(f"hours: expected times from 00:00 to 24:00, found {text[:80]!r}")
    return HoursWindow(_days(first, last, text), start, end)


def _days(first: str | None, last: str | None, text: str) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    try:
        begin = DAYS.index(first.lower())
        end = DAYS.index((last or first).lower())
    except ValueError as error:
        raise ConfigError(f"hours: expected days like Mon or Mon-Fri, found {text[:80]!r}") from error
    return frozenset((begin + n) % 7 for n in range((end - begin) % 7 + 1))
