"""Logs of hubs, nodes and runners: as text, or as one JSON object a line; in files that are rotated.

A line of JSON has `time` (UTC, ISO 8601), `level`, `logger`, `message`, and of the fields in `FIELDS` those
that are known. An exception is a field of it, `error`: its class, its reason and words where it is one of fedjob's own, and
the places in the code that it went through. The words of other exceptions stay away: they may hold
values of data or names of files, and logs are sent to other machines.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from fedjob.common.errors import FedjobError
from fedjob.common.files import touch_private

LOG_FORMATS = ("text", "json")
FIELDS = ("job", "task", "node", "party", "round", "reason")
"""Fields that a line may have, given as `extra={...}`; others are left out."""

MAX_MESSAGE_CHARS = 4096
MAX_FIELD_CHARS = 256
MAX_FRAMES = 40
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_PACKAGE = Path(__file__).parents[2]


class JsonLines(logging.Formatter):
    """Records as lines of JSON.

    Args:
        fields: that every line has.
    """

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record)[:MAX_MESSAGE_CHARS],
            **self._fields,
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                line[name] = value
            elif isinstance(value, str) and value:
                line[name] = value[:MAX_FIELD_CHARS]
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _error(record.exc_info[1], record.exc_info[2])
        return json.dumps(line, separators=(",", ":"))


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # words and arguments that do not fit together
        return str(record.msg)


def _error(error: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    words: dict[str, Any] = {}
    if isinstance(error, FedjobError):
        words = {"reason": error.reason, "message": str(error)[:MAX_MESSAGE_CHARS]}
    frames = traceback.extract_tb(trace)[-MAX_FRAMES:]
    return {
        "class": type(error).__name__,
        **words,
        "at": [f"{_place(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames],
    }


def _place(filename: str) -> str:
    """Return where code lies: within fedjob, else the last part of its path, which says nothing of this machine."""
    path = Path(filename)
    return str(path.relative_to(_PACKAGE.parent)) if path.is_relative_to(_PACKAGE) else path.name


class RotatedFile(RotatingFileHandler):
    """A log file of mode 0600, put aside when it is full; begun anew where another program took it away.

    Args:
        max_bytes: size at which it is put aside; 0 for never.
        num_old: files that are kept beside it, `.1` the newest.
    """

    def __init__(self, path: Path, *, max_bytes: int, num_old: int) -> None:
        touch_private(path)
        super().__init__(path, maxBytes=max_bytes, backupCount=num_old, encoding="utf-8", delay=True)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, into the file that has the name now: logrotate may have moved the last one."""
        if self.stream is not None and self._was_taken_away(self.stream.fileno()):
            self.stream.close()
            self.stream = None
        super().emit(record)

    def _open(self) -> Any:
        with suppress(OSError):  # its folder is gone, or the disk is full: opening it says so
            touch_private(self._path)
        return super()._open()

    def _was_taken_away(self, descriptor: int) -> bool:
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        here = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def formatter_of(format_: str, fields: Mapping[str, str]) -> logging.Formatter:
    """Return the formatter of one of `LOG_FORMATS`; `fields` are in every line of JSON."""
    return JsonLines(**fields) if format_ == "json" else logging.Formatter(TEXT_FORMAT)
