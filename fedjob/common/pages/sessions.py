"""The sessions of a page in a browser, and the links that open one: all in memory, gone with the process.

A link is used once. Its secret stands behind the `#` of the URL, which no browser sends to a server or to another
page. A session's id is in a cookie that scripts can't read and that no request of another site carries; kept here is
its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedjob.common.pages.people import PagePerson

LINK_S = 15 * 60.0
"""Seconds after which an unused link ends."""

IDLE_S = 60 * 60.0
SESSION_S = 12 * 3600.0

MAX_SESSIONS = 16
MAX_LINKS = 8
MAX_NOTES = 8


@dataclass(slots=True)
class PageSession:
    """One browser that has signed in.

    Args:
        csrf: the word that every form of this session carries.
        began, used: seconds of the clock of `PageSessions`.
        notes: sentences for the next page that is shown, each with its kind, `good` or `bad`.
        person: who signed in at a provider; None for a link or a password.
    """

    csrf: str
    began: float
    used: float
    notes: list[tuple[str, str]] = field(default_factory=list)
    person: PagePerson | None = None

    def note(self, kind: str, text: str) -> None:
        """Keep a sentence for the next page."""
        self.notes = [*self.notes, (kind, text)][-MAX_NOTES:]

    def take_notes(self) -> list[tuple[str, str]]:
        """Return the sentences that were kept, and forget them."""
        notes, self.notes = self.notes, []
        return notes


class PageSessions:
    """Every session of one page, and the links that were not used yet.

    Args:
        clock: returns seconds that never go back.
        admits: tells whether a person who has signed in may still be here; asked at each use of a session.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        admits: Callable[[PagePerson], bool] = lambda person: False,
    ) -> None:
        self._clock = clock
        self._admits = admits
        self._lock = threading.Lock()
        self._links: dict[str, float] = {}
        self._sessions: dict[str, PageSession] = {}

    def new_link(self) -> str:
        """Return the secret of a link that opens one session; of too many the oldest ends."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._links[_hash(secret)] = self._clock()
            while len(self._links) > MAX_LINKS:
                self._links.pop(next(iter(self._links)))
        return secret

    def use_link(self, secret: str) -> bool:
        """Tell whether this is the secret of a link that was neither used nor too old, and end it."""
        with self._lock:
            made = self._links.pop(_hash(secret), None)
            return made is not None and self._clock() - made <= LINK_S

    def begin(self, person: PagePerson | None = None) -> str:
        """Return the id of a new session; of too many the one that was used longest ago ends.

        Args:
            person: who signed in at a provider.
        """
        id_, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._sessions[_hash(id_)] = PageSession(
                csrf=secrets.token_urlsafe(32), began=now, used=now, person=person
            )
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.pop(min(self._sessions, key=lambda key: self._sessions[key].used))
        return id_

    def find(self, id_: str) -> PageSession | None:
        """Return the session of this id, which is used by that; None if there is none, or it has ended."""
        now = self._clock()
        with self._lock:
            session = self._sessions.get(_hash(id_))
            if session is None:
                return None
            if not self._goes_on(session, now):
                del self._sessions[_hash(id_)]
                return None
            session.used = now
            return session

    def is_open(self, id_: str) -> bool:
        """Tell whether the session of this id goes on, without using it: what a page does by itself keeps none alive."""
        now = self._clock()
        with self._lock:
            session = self._sessions.get(_hash(id_))
            return session is not None and self._goes_on(session, now)

    def _goes_on(self, session: PageSession, now: float) -> bool:
        if now - session.used > IDLE_S or now - session.began > SESSION_S:
            return False
        return session.person is None or self._admits(session.person)

    def end(self, id_: str) -> None:
        """End a session; one that there is not is no error."""
        with self._lock:
            self._sessions.pop(_hash(id_), None)


def same(one: str, other: str) -> bool:
    """Tell whether two secrets are equal, in a time that does not say where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
