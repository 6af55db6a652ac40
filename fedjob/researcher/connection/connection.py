"""A connection to a federation: messages to nodes and answers from them, the repository and the roster."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedjob.common.config import load_config
from fedjob.common.errors import NotPermitted
from fedjob.common.notebooks import html
from fedjob.common.types import Address, party_of
from fedjob.identity.encryption import encryption_text, is_encrypted
from fedjob.identity.keys import Identity
from fedjob.identity.membership import Membership
from fedjob.identity.roster import Roster
from fedjob.messaging.clock import misdated_text
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.messages import Answer, Body, Found, Message, Pong
from fedjob.messaging.outbox import CourierStore
from fedjob.repository.base import Repository
from fedjob.repository.job_secrets import FOLDER_NAME, JobSecrets
from fedjob.researcher.connection.home import ResearcherConfig
from fedjob.researcher.connection.known_nodes import FILE_NAME, KnownNodes
from fedjob.researcher.connection.login import Proving

_log = logging.getLogger("fedjob")

ASK_AGAIN_S = 0.7
"""Time after which a question without an answer is sent again, to those who owe one; it doubles with each time."""

EACH_NODE_S = 0.004
"""Longer for each node that is asked, both that pause and the time for answers: asked again too early, many nodes and the hub
are busy with questions that they are about to answer."""

STILL_COMING_S = 1.0
"""While no pause between answers is longer, the time for them is not up: a thousand nodes need more than ten. Late answers
to earlier questions count, too: who sends them is about to come to this one."""

MAX_EXTENSION = 4.0
"""Times `timeout_s`, and `EACH_NODE_S` for each node, that answers are waited for at most, while they come."""

NODE_BACK_S = 60
"""Seconds after an outage of the hub in which nodes connect again: each waits longer from try to try, up to half a minute."""

PRESENCE_GRACE_S = 2.0
"""Time in which a node that shows no presence may answer all the same: presence is a hint, which may be wrong."""


class Connection:
    """An open connection, used by one thread at a time.

    Args:
        home: the researcher's home folder.
        start: reaches the hub.
    """

    def __init__(
        self,
        home: Path,
        membership: Membership,
        identity: Identity,
        endpoint: Endpoint,
        repository: Repository,
        roster: Roster,
        outbox: CourierStore,
        *,
        start: Callable[[], None] | None = None,
    ) -> None:
        self.home = home
        self.membership = membership
        self.identity = identity
        self.endpoint = endpoint
        self.repository = repository
        self.roster = roster
        self.lock = threading.RLock()
        config = load_config(ResearcherConfig, home)
        self.strict = config.strict
        """True if nodes that `known_nodes` does not name are refused."""
        self.encrypted = endpoint.encrypted = is_encrypted(config.encryption, roster)
        """True if messages and objects are encrypted for their readers, and plain ones refused."""
        self.encryption = encryption_text(config.encryption, encrypted=self.encrypted)
        """The same in words, with the reason."""
        repository.encrypt(JobSecrets(home / "keys" / FOLDER_NAME), encrypted=self.encrypted)
        self.prove: Callable[[], str] = Proving(home)
        """Returns the proof that nodes' verifiers are given beside the signature; see docs/identity.md."""
        self.clock = ""
        """The fault of this machine's clock, compared with the hub's; empty where there is none."""
        self.closed = False
        self._outbox = outbox
        self._start = start
        # a lock of its own: a running job has the other one for as long as it runs
        self._start_lock = threading.Lock()

    def reach(self) -> None:
        """Reach the hub, where it was away when this connection was opened.

        Raises:
            RepositoryUnreachable, BrokerUnreachable: it is still away.
            NotPermitted: it does not take this party any more.
        """
        with self._start_lock:
            if self._start is not None:
                self._start()
                self._start = None

    @property
    def party(self) -> str:
        """This researcher's id, the same every time this home is used."""
        return self.identity.party

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.membership.federation

    @property
    def repo(self) -> Repository:
        """The file repository."""
        return self.repository

    def unreceipted(self) -> set[str]:
        """Return the ids of messages whose receipts have not come."""
        return {outgoing.id for outgoing in self._outbox.outgoing()}

    def ask(
        self,
        nodes: Sequence[str] | None,
        body: Body,
        *,
        timeout_s: float,
        patient: bool = False,
        **header: Any,
    ) -> dict[str, Message]:
        """Send a question to nodes and return the answers that came in time.

        Args:
            nodes: None asks everybody, and waits for every node of the roster.
            timeout_s: after which, and `EACH_NODE_S`, silence is an answer too, unless others' are still coming in; without
                `patient` it is for a node that shows no presence after `PRESENCE_GRACE_S`.
            patient: wait as long for nodes that show no presence.
        """
        self.reach()
        self.check_admitted()
        with self.lock:
            endpoint = self.endpoint
            ids: set[str] = set()
            started = again = time.monotonic()
            more_s = EACH_NODE_S * len(self.roster.parties("node") if nodes is None else nodes)
            deadline, pause_s = started + timeout_s + more_s, ASK_AGAIN_S + more_s
            answers: dict[str, Message] = {}
            late: set[str] = set()
            left = timeout_s
            while (
                left > 0
            ):  # once more when the time is up: what came while this process stood still did come in time
                now = time.monotonic()
                left = deadline - now
                waited_for = set(self._expected(started, patient=patient) if nodes is None else nodes)
                if ids and waited_for <= answers.keys():
                    break
                if now >= again and left > 0:
                    # questions are not receipted: one may get lost, or reach a node whose roster does not have us yet
                    again, pause_s = now + pause_s, 2 * pause_s
                    to = [Address(n) for n in sorted(waited_for) if n not in answers]
                    everybody = nodes is None and not ids
                    ids |= {
                        endpoint.send(address, body, **header) for address in ([None] if everybody else to)
                    }
                messages = endpoint.receive(max(0.0, min(left, again - now, 0.1)))
                coming = _take_answers(messages, ids, answers, late)
                endpoint.settle(messages)
                if coming:
                    came = time.monotonic()
                    latest = started + MAX_EXTENSION * timeout_s + more_s
                    deadline = max(deadline, min(came + STILL_COMING_S, latest))
                    again = max(again, came + ASK_AGAIN_S)  # who is busy with answers is not asked once more
            endpoint.withdraw(ids)
            return answers

    def ask_each(self, bodies: Mapping[str, Body], *, timeout_s: float, **header: Any) -> dict[str, Message]:
        """Send each node a question of its own, of a kind that is resent until it is receipted.

        Args:
            bodies: node -> what to ask.
            timeout_s: after which silence is an answer too.

        Returns:
            node -> its answer, for those that answered in time.
        """
        self.reach()
        self.check_admitted()
        with self.lock:
            endpoint = self.endpoint
            ids = {
                endpoint.send(Address(party_of(node)), body, **header): node for node, body in bodies.items()
            }
            answers: dict[str, Message] = {}
            deadline = time.monotonic() + timeout_s
            left = timeout_s
            while len(answers) < len(ids) and left > 0:  # once more when it is up, as in `ask`
                left = deadline - time.monotonic()
                messages = endpoint.receive(max(0.0, min(left, 0.2)))
                for message in messages:
                    node = ids.get(getattr(message.body, "of", ""))
                    if node is not None and party_of(node) == message.sender:
                        answers[node] = message
                endpoint.settle(messages)
            endpoint.withdraw(ids)
            return answers

    def meet(self, nodes: Iterable[str]) -> None:
        """Compare the keys of the nodes that a job uses with those that this home knows; see `known_nodes`.

        Where the federation signs a roster that this home pinned, that alone says which key is a node's: `known_nodes`
        is neither written nor read, unless this home is strict.

        Raises:
            NotPermitted: a node has another key than before, or is new and this home is strict; the roster has expired.
        """
        self.check_admitted()
        if self.roster.expired:
            raise NotPermitted(self.roster.expired)
        if self.roster.is_pinned and not self.strict:
            return
        parties = dict.fromkeys(party_of(node) for node in nodes)
        keys = {node: key for node in parties if (key := self.roster.key_of(node)) is not None}
        new = KnownNodes(self.home).meet(keys, strict=self.strict)
        self.roster.pin(keys)
        if new:
            _log.info("new nodes, whose keys are trusted from now on (%s): %s", FILE_NAME, ", ".join(new))

    def check_admitted(self) -> None:
        """Refuse to ask nodes that would not listen.

        Raises:
            NotPermitted: this researcher waits for the federation's signature, or was revoked.
        """
        if self.roster.waiting(self.party):
            self.roster.refresh()
        if text := self.roster.waiting(self.party):
            raise NotPermitted(text)
        self.check_refused()

    def check_refused(self) -> None:
        """Refuse to go on where the hub takes this researcher for none of its own any more.

        Raises:
            NotPermitted: it does.
        """
        if self.roster.refused:
            raise NotPermitted(
                f"{self.party} does not belong to the federation any more: {self.roster.refused}"
            )

    def _expected(self, started: float, *, patient: bool) -> list[str]:
        nodes = self.roster.parties("node")
        if patient or time.monotonic() - started < PRESENCE_GRACE_S:
            return nodes
        presence = self.endpoint.presence()
        return [node for node in nodes if presence.get(node)]

    def silence_of(self, node: str, timeout_s: float) -> str:
        """Return why a node that did not answer is taken to be away, in words.

        Args:
            timeout_s: that it was given.
        """
        ahead_s = self.endpoint.misdated.get(party_of(node))
        if ahead_s is not None:
            return f"no answer counts: {misdated_text(ahead_s)}"
        if party_of(node) in self.endpoint.plain_from:
            return (
                "no answer counts: it answers without encryption, which this side requires: its owner sets "
                "`encryption = on`, or you set it `off` here"
            )
        present = bool(self.endpoint.presence().get(party_of(node)))
        known = no_answer_text(
            connected=self.endpoint.connected, present=present, encrypted=bool(self.encrypted)
        )
        return f"it did not answer within {timeout_s:.0f} s{known}"

    def close(self) -> None:
        """Leave the federation's broker and repository."""
        self.closed = True
        self.roster.stop()
        self.endpoint.stop()
        self.repository.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        trust = self.roster.waiting(self.party) or self.roster.trouble() or self.roster.describe()
        return f"<{type(self).__name__} of {self.party} with {self.membership.hub_url}; {trust}>"

    def _repr_html_(self) -> str:
        roster = self.roster
        facts = {
            "hub": self.membership.hub_url,
            "nodes": len(roster.parties("node")),
            "home": str(self.home),
            "roster": roster.waiting(self.party) or roster.trouble() or roster.describe(),
        }
        return html.panel(f"{type(self).__name__} of {self.party}", html.facts(facts))


def _take_answers(
    messages: Sequence[Message], ids: Collection[str], answers: dict[str, Message], late: set[str]
) -> bool:
    """Add the answers to some questions among messages; return whether answers are still coming in.

    Args:
        late: senders of answers to earlier questions. Each counts once, so that nobody makes others wait by a stream of them.
    """
    num_before = len(answers) + len(late)
    for message in messages:
        if getattr(message.body, "of", None) in ids:
            answers.setdefault(message.sender, message)
        elif isinstance(message.body, (Pong, Found, Answer)):
            late.add(message.sender)
    return len(answers) + len(late) > num_before


def no_answer_text(*, connected: bool, present: bool, encrypted: bool) -> str:
    """Return what is known of a node that did not answer, as the end of a sentence.

    Args:
        connected: this side has a connection to the broker.
        present: the node's presence stands at the broker; after an outage it may be that of before.
        encrypted: this side requires encryption.
    """
    if not connected:
        return ": this side has no connection to the broker, and goes on trying"
    if not present:
        return ", and shows no presence at the broker"
    back = f"it may not be back yet if the hub was away in the last {NODE_BACK_S} s"
    if encrypted:
        return f", though it is there: {back}"
    return f", though it is there: {back}; otherwise, does it require encryption, which is off on this side?"
