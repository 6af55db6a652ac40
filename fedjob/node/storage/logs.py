"""The logs of user code: a file per task and stream, forwarded to the researcher as far as the owner allows.

The daemon writes the files (see `execution.output_pipes`), reads what was added and
forwards whole lines as `log` events where the owner's rule allows it. An owner can
release the rest of a task's log with `fedjob node logs TASK --release`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedjob.common.files import private
from fedjob.node.config.home import NodeHome
from fedjob.node.storage.secrets import Secrets, hide, hide_in_file

STREAMS = ("stdout", "stderr")
RULES = {"none": (), "stdout": ("stdout",), "all": STREAMS}
"""The streams that each rule of an owner lets through."""

MAX_READ_BYTES = 64 * 1024
MAX_EVENT_BYTES = 16 * 1024
MAX_LINE_CHARS = 4000
MAX_RELEASED_BYTES = 512 * 1024


class Tail:
    """The growing end of a log file, in whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self, *, final: bool = False) -> list[str]:
        """Return the lines that were added, at most 64 KiB of them.

        Args:
            final: nothing more will come: a last line without its end counts too.
        """
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # it was cut
                file.seek(self._offset)
                data = file.read(MAX_READ_BYTES)
        except OSError:
            return []
        whole = len(data) if final or len(data) == MAX_READ_BYTES else data.rfind(b"\n") + 1
        self._offset += whole
        return _lines(data[:whole])


class Forwarding:
    """The part of a running task's log that is forwarded to its researcher.

    Args:
        rule: the owner's: `none`, `stdout` or `all`.
    """

    def __init__(self, home: NodeHome, key: str, rule: str) -> None:
        self._tails = {stream: Tail(home.log_of(key, stream)) for stream in RULES[rule]}
        self._hidden = Secrets(home.secrets).values()
        self._held = [home.log_of(key, stream) for stream in STREAMS if stream not in RULES[rule]]

    def events(self, *, final: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the bodies of `log` events for what was added."""
        for stream, tail in self._tails.items():
            while lines := tail.read(final=final):
                yield from bodies(stream, [hide(line, self._hidden) for line in lines])
                if not final:
                    break

    def withholds(self) -> bool:
        """Tell whether there is something that the owner's rule keeps back."""
        return any(_size(path) for path in self._held)


def bodies(stream: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield bodies of `log` events, none of them too large for a message."""
    batch: list[str] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > MAX_EVENT_BYTES // 4:  # a character takes 4 bytes at most
            yield {"stream": stream, "lines": batch, "withheld": False}
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 4
    if batch:
        yield {"stream": stream, "lines": batch, "withheld": False}


def read_log(home: NodeHome, key: str, stream: str) -> list[str]:
    """Return what a task wrote to a stream: its last 512 KiB."""
    try:
        with home.log_of(key, stream).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_RELEASED_BYTES))
            hidden = Secrets(home.secrets).values()
            return [hide(line, hidden) for line in _lines(file.read(MAX_RELEASED_BYTES))]
    except OSError:
        return []


def released(home: NodeHome, key: str) -> Iterator[dict[str, Any]]:
    """Yield the bodies of `log` events for all that a task wrote."""
    for stream in STREAMS:
        for body in bodies(stream, read_log(home, key, stream)):
            yield {**body, "released": True}


def add_trace(home: NodeHome, key: str, text: str) -> None:
    """Append the traceback of what user code raised to the task's log."""
    with suppress(OSError), open(home.log_of(key, "stderr"), "ab", opener=private) as file:
        file.write(text.rstrip("\n").encode("utf-8", "replace") + b"\n")


def tidy_logs(home: NodeHome, limit_bytes: int) -> None:
    """Remove, beyond a limit for all together, the logs that were not written to for longest."""
    found = []
    for entry in os.scandir(home.task_logs):
        with suppress(OSError):
            found.append((entry.stat().st_mtime, entry.stat().st_size, Path(entry.path)))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def has_log(home: NodeHome, key: str) -> bool:
    """Return whether there is anything of a task's output to close."""
    return any(home.log_of(key, stream).exists() for stream in STREAMS)


def close_log(home: NodeHome, key: str) -> None:
    """Take the node's secrets out of a complete log, and remove the files of a task that wrote nothing."""
    hidden = Secrets(home.secrets).values()
    for stream in STREAMS:
        path = home.log_of(key, stream)
        if hidden:
            hide_in_file(path, hidden)
        if _size(path) == 0:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace")
    return [line[:MAX_LINE_CHARS] for line in text.splitlines()]
