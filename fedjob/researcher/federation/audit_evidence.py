"""The heads of the nodes' audit chains on their way from replies into a job's folder, and what is said of a contradiction."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable

from fedjob.common.types import party_of
from fedjob.identity.audit_heads import HeldHead
from fedjob.messaging.messages import Answer, Message, Result
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.storage.audit_heads import AuditHeads
from fedjob.researcher.storage.event_log import EventLog
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import JobSpec

MAX_QUESTIONS = 10_000
"""Offers and tasks of which it is remembered what was known when they were sent; the oldest are forgotten."""

MAX_NOTED = 5
"""Contradictions of one node that are noted in the job's log; all that are signed are kept."""

_log = logging.getLogger("fedjob")


class AuditEvidence:
    """The keeper of the heads that a job's nodes send, in one attempt at it."""

    def __init__(self, connection: Connection, spec: JobSpec, folder: JobFolder, events: EventLog) -> None:
        self._connection = connection
        self._job = spec.id
        self._parties = {party_of(node) for node in spec.datasets}
        self._events = events
        self._heads = AuditHeads(folder.audit_heads)
        self._known_when_asked: dict[str, int] = {}
        self._noted: Counter[str] = Counter()

    def newest(self, party: str) -> int:
        """Return the number of the newest record of a node's chain that is known; 0 where none is."""
        return self._heads.newest(party)

    def note_question(self, message: str, known: int) -> None:
        """Remember the newest record that was known when a message was sent: its answers can't have an older head."""
        self._known_when_asked[message] = known
        while len(self._known_when_asked) > MAX_QUESTIONS:
            del self._known_when_asked[next(iter(self._known_when_asked))]

    def take(self, messages: Iterable[Message]) -> None:
        """Keep the heads that replies to the job's offers and tasks carry, and say what contradicts them.

        They have to be durable, see `sync`, before any of these messages is confirmed.
        """
        heads, rounds = [], {}
        for message in messages:
            body = message.body
            if not isinstance(body, (Answer, Result)) or body.audit is None:
                continue
            if message.job != self._job or message.sender not in self._parties:
                continue
            rounds[message.sender] = message.round
            heads.append(
                HeldHead(
                    node=message.sender,
                    federation=self._connection.federation,
                    key=self._connection.roster.key_of(message.sender) or "",
                    seq=body.audit.seq,
                    hash=body.audit.hash,
                    signature=body.audit.signature,
                    about=body.about,
                    round=message.round,
                    received=round(time.time(), 3),
                    asked_at=self._known_when_asked.get(body.of, 0),
                )
            )
        for node, problems in self._heads.keep(heads).items():
            for problem in problems:
                self._say(node, problem, rounds[node])

    def sync(self, *descriptors: int) -> None:
        """Make the heads that were taken durable, and other open files along with them."""
        self._heads.sync(*descriptors)

    def _say(self, node: str, problem: str, round_: int) -> None:
        self._noted[node] += 1
        if self._noted[node] > MAX_NOTED:
            return
        _log.warning("%s: %s", node, problem)
        text = f"{problem}; `fedjob verify {self._job} --heads FILE` writes down what proves it, for its owner and for auditors"
        self._events.add("note", round_=round_, node=node, text=text)
