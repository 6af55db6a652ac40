"""The words about a database that takes no commit, such as on a full disk: in the node's log, and for those whose work waits."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from fedjob.common.errors import FedjobError
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Event, Message, Offer, Task
from fedjob.node.queue.book import Book
from fedjob.node.queue.task import is_full

NOTED_EVERY_S = 60.0
"""Pause between two lines of the log, and between two notes about a job, while it lasts."""

MAX_NOTED = 100
"""Jobs that a note is sent about at a time."""

log = logging.getLogger(__name__)


class RefusedCommits:
    """The commits that the database has refused since it last took one."""

    def __init__(self, endpoint: Endpoint, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._since: float | None = None
        self._logged = 0.0
        self._noted: dict[tuple[str, str], float] = {}  # by address and job

    def attempt(self, steps: Iterable[Callable[[], None]], messages: Iterable[Message], book: Book) -> bool:
        """Do something in some steps; return whether the database and the disk had room for it.

        Args:
            messages, book: what has come, and what is under way: where there is no room, it waits.

        Raises:
            OSError: it is about something else than a full disk.
        """
        try:
            for step in steps:
                step()
        except sqlite3.Error as error:
            self._note(error, messages, book)
            return False
        except OSError as error:
            if not is_full(error):
                raise
            self._note(error, messages, book)
            return False
        self._end()
        return True

    def _note(self, error: Exception, messages: Iterable[Message], book: Book) -> None:
        """Take note of one more, and say so now and then; nothing of that needs the disk."""
        now = self._clock()
        if self._since is None:
            self._since, self._logged, self._noted = now, now - NOTED_EVERY_S, {}
        if now - self._logged >= NOTED_EVERY_S:
            self._logged = now
            log.error("the database refused a commit, it is tried again until it takes it: %s", error)
        text = (
            f"the node can't write its database ({error}): its work waits, and goes on by itself when the owner has seen to "
            "that, such as by freeing space on its disk"
        )
        waiting = {(row.reply_to, row.job): row.round for row in book.unfinished()}
        waiting |= {(m.reply_to, m.job): m.round for m in messages if isinstance(m.body, (Offer, Task))}
        due = [key for key in waiting if now - self._noted.get(key, -math.inf) >= NOTED_EVERY_S]
        for reply_to, job in due[:MAX_NOTED]:
            event = Event(type="note", data={"text": text})
            with suppress(FedjobError):  # an address that is none: nobody waits there
                self._endpoint.send(parse_address(reply_to), event, job=job, round=waiting[reply_to, job])
        self._noted = {key: at for key, at in self._noted.items() if key in waiting}
        self._noted |= dict.fromkeys(due[:MAX_NOTED], now)

    def _end(self) -> None:
        if self._since is not None:
            log.info("the database takes commits again, after %.0f s", self._clock() - self._since)
            self._since = None
