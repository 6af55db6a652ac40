"""The verification of senders, for which offers and tasks wait; see `verifiers`. And the end of revoked ones' work.

The daemon never waits: what a verifier has to ask somebody for is asked on one of its
threads, and the message is taken up again when the answer is there. A proof goes no
further than this: it is neither kept nor shown.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedjob.common.errors import FedjobError
from fedjob.identity.roster import Roster
from fedjob.messaging.messages import Message, Offer, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.execution.worker_place import WorkerIdentity
from fedjob.node.queue import task_events as events
from fedjob.node.verifiers import build_verifier
from fedjob.node.verifiers.base import Claim, Verifier

AGAIN_AFTER_S = 10.0
"""For so long a refusal holds: the same proof is not looked at again."""

MAX_REMEMBERED = 1000
MAX_WAITING = 200
"""Messages that wait at once; more are refused, and may be sent again later."""

log = logging.getLogger(__name__)

Key = tuple[int, str, str, str]
"""(Number of the owner's setting, researcher, their key, sha256 of the proof.)"""


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer of a verifier.

    Args:
        until: seconds since 1970; the answer is valid so long.
        refusal: why it does not accept the proof; empty where it does.
        reason: the word for it.
    """

    key: Key
    until: float
    refusal: str = ""
    reason: str = "unverified"


class SenderVerification:
    """The answers of a node's verifier, and the messages that wait for one.

    Args:
        later: runs a function on another thread.
        report: takes a `Checked` from there.
    """

    def __init__(
        self,
        config: NodeConfig,
        roster: Roster,
        later: Callable[[Callable[[], None]], None],
        report: Callable[[Checked], None],
    ) -> None:
        self._roster = roster
        self._later = later
        self._report = report
        self._setting = 0
        self.configure(config)

    def configure(self, config: NodeConfig) -> None:
        """Use the verifier that the owner has set, from now on.

        Raises:
            ConfigError: the verifier can't be built from the setting; the former one stays in use.
        """
        self._verifier = build_verifier(config.verifier, config.verifier_options)
        self._setting += 1
        self._checked: dict[Key, Checked] = {}
        self._waiting: dict[Key, tuple[Message, ...]] = {}

    def check(
        self, turn: Turn, message: Message, wanted: Offer | Task, now: float, *, is_taken: Callable[[], bool]
    ) -> Checked | None:
        """Return what is known of a message's sender; None while that is asked, then `take` gives it back.

        Args:
            now: seconds since 1970.
            is_taken: returns whether it is a task that was taken before, which an expired roster does not end; naming
                its work takes a while, so that this is asked where it matters alone.
        """
        claim = Claim(message.sender, message.sender_key, wanted.proof)
        proof_hash = hashlib.sha256(claim.proof.encode()).hexdigest()
        key = (self._setting, claim.researcher, claim.key_hex, proof_hash)
        if (expired := self._roster.expired) and not is_taken():
            return Checked(key, now, expired, reason="roster_expired")
        known = self._checked.get(key)
        if known is not None and known.until > now:
            return known
        if not self._verifier.waits:
            return _ask(self._verifier, key, claim)
        if sum(map(len, self._waiting.values())) >= MAX_WAITING:
            return Checked(key, now, f"{MAX_WAITING} messages wait for the verifier: ask again")
        waiting = self._waiting.get(key, ())
        if not waiting:
            verifier = self._verifier
            self._later(lambda: self._report(_ask(verifier, key, claim)))
        if all(message.id != other.id for other in waiting):
            turn.keep(self._waiting)
            self._waiting[key] = (*waiting, message)
        return None

    def take(self, turn: Turn, checked: Checked) -> tuple[Message, ...]:
        """Note a verifier's answer; return the messages that waited for it and are to be handled now."""
        if checked.key[0] != self._setting:
            return ()  # the owner has another verifier by now; what waited is sent again
        self._checked.pop(checked.key, None)
        self._checked[checked.key] = checked
        while len(self._checked) > MAX_REMEMBERED:
            del self._checked[next(iter(self._checked))]
        turn.keep(self._waiting)
        return self._waiting.pop(checked.key, ())


class Revocations:
    """Looks whose work goes on here, and ends it where the roster does not have them any more.

    The roster is fetched every half minute, so that a revocation counts within a minute.
    """

    def __init__(self, roster: Roster, context: NodeContext) -> None:
        self._roster = roster
        self._context = context
        self._before: list[str] | None = None

    def end_work(self, turn: Turn) -> Turn:
        """Return the turn with the end of what may not go on; idle workers of these jobs end after it.

        A task is killed and answered as one that the node's owner ends, in case that somebody still listens.
        """
        own = self._roster.refused
        researchers = self._roster.parties("researcher")
        replaced = set()
        for row in turn.book.unfinished():
            now = self._roster.key_of(row.researcher) or ""
            why = ""
            if own or row.researcher not in researchers:
                why = f"{'this node' if own else row.researcher} does not belong to the federation any more"
            elif not self._roster.took_over(row.researcher_key, now):
                why = f"{row.researcher} has another key by now, and the one before did not sign it"
                replaced.add(row.job)
            elif row.researcher_key != now:  # the next signed roster has it, and no more that it was changed
                turn.step(events.KeySucceeded(row.key, now))
            if why:
                log.warning("%s: task %s is ended", why, row.key)
                turn.step(events.Cancel(row.key, "revoked", why))
        if researchers != self._before or own or replaced:
            self._before = researchers
            jobs = {name for name, job in turn.book.jobs.items() if own or job.researcher not in researchers}
            jobs |= replaced

            def may_stay(identity: WorkerIdentity) -> bool:
                return identity.job not in jobs

            if jobs:
                turn.after.append(lambda: self._context.workers.end_idle(may_stay))
        return turn

    def facts(self) -> dict[str, str]:
        """Return what `fedjob node status` shows."""
        roster = self._roster
        return {
            "trust": roster.describe(),
            "waiting": roster.waiting(self._context.node),
            "trouble": f"the hub takes this node for none of its own: {roster.refused}"
            if roster.refused
            else roster.trouble(),
        }


def _ask(verifier: Verifier, key: Key, claim: Claim) -> Checked:
    try:
        found = verifier.verify(claim)
    except FedjobError as error:
        return Checked(key, time.time() + AGAIN_AFTER_S, str(error)[:1000])
    except Exception as error:  # a verifier may be somebody else's code
        log.exception("the verifier %s could not be asked", verifier.name)
        return Checked(key, time.time() + AGAIN_AFTER_S, f"the verifier failed: {type(error).__name__}")
    if claim.proof:
        log.info("%s is %s, says the verifier %s", claim.researcher, found.subject, verifier.name)
    return Checked(key, found.until)


def without_proof(message: Message) -> Message:
    """Return a message as the rest of the node may see and keep it."""
    body = message.body
    return replace(message, body=replace(body, proof="")) if isinstance(body, Offer | Task) else message
