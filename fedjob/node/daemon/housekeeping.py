"""The housekeeping of a daemon: leases, the owner's decisions and settings, hours, lost sessions, old files."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from fedjob.common.codec import pack
from fedjob.common.errors import ConfigError
from fedjob.common.lifecycle import State
from fedjob.messaging import messages as wire
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Message
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.hours import is_open_now
from fedjob.node.daemon.commit import encode_states
from fedjob.node.daemon.connection_watch import ConnectionWatch
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.offers import OfferHandler
from fedjob.node.daemon.sender_verification import Revocations, SenderVerification
from fedjob.node.daemon.session_liveness import SessionLiveness
from fedjob.node.daemon.settings import InForce, write_facts
from fedjob.node.daemon.tasks import TaskHandler
from fedjob.node.daemon.turn import Turn
from fedjob.node.grants.decisions import burden_of
from fedjob.node.grants.notifications import Notices
from fedjob.node.hooks.dispatcher import HookCalls
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book
from fedjob.node.queue.state_reports import StateReports
from fedjob.node.queue.task import header_of
from fedjob.node.storage.logs import released, tidy_logs

LEASE_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
TIDY_EVERY_S = 5.0
FACTS_EVERY_S = 1.0
SILENT_JOB_S = 30 * 24 * 3600.0
"""After which the tasks and node states of a job that nobody ended are removed."""

log = logging.getLogger(__name__)


class Housekeeping:
    """Does what is due from time to time, between the daemon's turns.

    Args:
        settings: those of the owner that hold.
        reload: returns them anew, cheaply; None where they never change.
        book: returns the book as it is.
        commit: makes a turn durable and carries out its commands.
        write_lazily: writes what waits for a commit that did not come.
        watch: over the connection, the clock, and a second daemon of this node's name.
        revocations: of parties whose work is to end.
    """

    def __init__(
        self,
        context: NodeContext,
        *,
        offers: OfferHandler,
        task_handler: TaskHandler,
        verification: SenderVerification,
        hooks: HookCalls,
        notices: Notices,
        state_reports: StateReports,
        liveness: SessionLiveness,
        settings: InForce,
        reload: Callable[[], InForce] | None,
        book: Callable[[], Book],
        commit: Callable[[Turn], None],
        write_lazily: Callable[[], None],
        watch: ConnectionWatch,
        revocations: Revocations,
    ) -> None:
        self._context = context
        self._offers = offers
        self._task_handler = task_handler
        self._verification = verification
        self._hooks = hooks
        self._notices = notices
        self._state_reports = state_reports
        self._liveness = liveness
        self._settings = settings
        self._reload = reload
        self._book = book
        self._commit = commit
        self._write_lazily = write_lazily
        self._watch = watch
        self._revocations = revocations
        self._leased = self._looked = self._tidied = self._published = 0.0
        self._facts = b""
        if settings.faults:
            log_faults(settings)
        self._undecided = True  # there may be decisions of the time when no daemon ran

    @property
    def num_faults(self) -> int:
        """Number of the owner's settings that can't be read; while there are any, the strictest hold."""
        return len(self._settings.faults)

    def look_around(self) -> None:
        """Do what is due from time to time.

        Raises:
            sqlite3.Error: the database refused a commit.
        """
        now = time.monotonic()
        self._context.pulse.beat(now)
        for outgoing in encode_states(self._context.endpoint, self._state_reports.due(now)):
            self._context.endpoint.post(outgoing)
        if now - self._leased >= LEASE_EVERY_S:
            self._leased = now
            self._send_leases()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._watch.look(now)
            self._follow_decisions()
            self._commit(self._revocations.end_work(Turn(self._book())))
            self._notify_owner()
            self._follow_config()
            self._follow_time()
            self._look_for_orphans()
        if now - self._tidied >= TIDY_EVERY_S:
            self._tidied = now
            self._context.workers.tidy()
            self._context.transfers.later(
                lambda: tidy_logs(self._context.home, self._context.config.logs_mb << 20)
            )
            self._end_silent_jobs()
        if now - self._published >= FACTS_EVERY_S:
            self._published = now
            self._context.transfers.later(self._context.workers.look_at_memory)
            self._write_lazily()
            if now >= self._context.scrub_at and self._context.database.scrub():
                self._context.scrub_at = math.inf
            self.publish_facts()

    def _send_leases(self) -> None:
        """Send a lease for each unfinished task: the node still takes care of it."""
        for row in self._book().unfinished():
            lease = wire.Event(type="lease", data={"status": str(row.state)})
            self._context.endpoint.send(parse_address(row.reply_to), lease, **header_of(row))
        for message in self._task_handler.sums.under_way():
            lease = wire.Event(type="lease", data={"status": str(State.RUNNING)})
            self._context.endpoint.send(
                parse_address(message.reply_to),
                lease,
                job=message.job,
                round=message.round,
                step=message.step,
            )

    def _follow_decisions(self) -> None:
        """Look for decisions that the owner made on the command line, and announce them to the researchers."""
        expired = self._context.grants.expire(time.time())
        if not (expired or self._context.database.changed() or self._undecided):
            return
        self._undecided = True  # until it is committed
        turn = Turn(self._book())
        self._obey_owner(turn)
        self._offers.announce(turn)
        self._task_handler.stop_forbidden(turn)
        turn.after.append(self._task_handler.end_forbidden_workers)
        self._commit(turn)
        self._undecided = False

    def _notify_owner(self) -> None:
        """Notify the owner, as the settings ask for it, that requests wait for a decision."""
        context = self._context
        notified = self._notices.look(
            context.grants.unnoticed, lambda grant: burden_of(grant, context.database)
        )
        if notified:
            with self._context.database.transaction():
                for grant in notified:
                    self._context.grants.noticed(grant)

    def _obey_owner(self, turn: Turn) -> None:
        """Carry out the owner's orders from the command line: end tasks, release their logs."""
        tasks = self._context.tasks
        for seq, verb, key in tasks.orders():
            turn.rows.append(lambda seq=seq: tasks.ordered(seq))  # type: ignore[misc]
            asker = tasks.asker_of(key)
            if verb == "kill":
                turn.step(events.Cancel(key, "killed_by_owner", "the node's owner ended it"))
            elif asker is not None:
                turn.rows.append(lambda asker=asker: tasks.mark_released(asker))  # type: ignore[misc]
                self._send_log(turn, asker, asker["reply_to"], lasting=True)

    def send_released(self, turn: Turn, message: Message) -> None:
        """Send again the logs that were released of a job, to a researcher who asks after its end."""
        if message.job:
            for task in self._context.tasks.released_of(message.job, message.sender):
                self._send_log(turn, task, message.reply_to, lasting=False)

    def _send_log(self, turn: Turn, task: Mapping[str, Any], reply_to: str, *, lasting: bool) -> None:
        """Send all that a task wrote."""
        header = {name: task[name] for name in ("job", "round", "step")}
        for data in released(self._context.home, task["key"]):
            event = wire.Event(type="log", data=data, lasting=lasting)
            to = parse_address(reply_to)
            turn.outgoing.append(self._context.endpoint.prepare(to, event, task=task["key"], **header))

    def _follow_config(self) -> None:
        """Apply the owner's changed settings; while they can't be read, the strictest hold."""
        if self._reload is None:
            return
        settings = self._reload()
        if settings.faults != self._settings.faults:
            log_faults(settings)
        self._settings = settings
        config, before = settings.config, self._context.config
        if config == before:
            return
        self._use(config)
        self._context.workers.end_idle()  # each was started under the old settings
        if (config.verifier, config.verifier_options) != (before.verifier, before.verifier_options):
            try:
                self._verification.configure(config)
            except ConfigError as error:  # it could be built a moment ago, when the settings were checked
                log.error("nobody is verified: %s", error)
                self._verification.configure(replace(config, verifier="nobody", verifier_options=""))
        if (config.hooks, config.hook_options) != (before.hooks, before.hook_options):
            try:
                self._hooks.configure(config)
            except ConfigError as error:
                log.error("the hooks stay as they were: %s", error)
        turn = Turn(sized(self._book(), config))
        turn.step(events.TimePassed(time.monotonic()))  # it fills the new slots
        self._commit(turn)

    def _use(self, config: NodeConfig) -> None:
        """Hand the owner's settings to every collaborator that uses them."""
        context = self._context
        context.config = context.permissions.config = config
        context.workers.config = context.transfers.config = self._notices.config = config
        context.follow_encryption()

    def _follow_time(self) -> None:
        """Free what was reserved and not taken; begin when the working hours do."""
        is_open = is_open_now(self._context.config.hours)
        if is_open != self._book().is_open or self._book().ledger.holdings:
            turn = Turn(replace(self._book(), is_open=is_open))
            turn.step(events.TimePassed(time.monotonic()))
            self._commit(turn)

    def _look_for_orphans(self) -> None:
        """Give up the unfinished work of sessions that are gone; ask the silent ones."""
        rows = self._book().unfinished()
        after_s = self._context.config.orphan_after_s
        gone, ask = self._liveness.look(
            {row.reply_to for row in rows},
            time.monotonic(),
            after_s=after_s,
            connected=self._context.endpoint.connected,
        )
        turn = Turn(self._book())
        for session in gone:
            for job in sorted({row.job for row in rows if row.reply_to == session}):
                log.warning(
                    "nothing is heard of %s for %g s: job %s is given up",
                    session,
                    after_s,
                    job,
                    extra={"job": job},
                )
                turn.step(events.OrphanTimeout(job))
        for row in {row.reply_to: row for row in rows if row.reply_to in ask}.values():
            lease = wire.Event(type="lease", data={"status": str(row.state)}, lasting=True)
            asked = self._context.endpoint.prepare(
                parse_address(row.reply_to), lease, ttl_s=after_s, **header_of(row)
            )
            self._liveness.note_question(asked.id, row.reply_to)
            turn.outgoing.append(asked)
        self._commit(turn)

    def _end_silent_jobs(self) -> None:
        """Remove what is left of jobs that nobody ended and nobody came back to."""
        turn = Turn(self._book())
        for job in self._context.tasks.silent_jobs(time.time() - SILENT_JOB_S):
            turn.step(events.Forgotten(job))
            self._task_handler.sums.end_job(turn, job)
            self._context.drop_states(turn, job)
        self._commit(turn)

    def publish_facts(self, trouble: str = "") -> None:
        """Write down what `fedjob node status` shows of a running daemon, when it has changed.

        Args:
            trouble: why it is not connected, where that is known better here.
        """
        watched = self._watch.facts()
        facts = {
            **watched,
            "trouble": trouble or watched["trouble"],
            "roster": self._revocations.facts(),
            "connected": self._context.endpoint.connected,
            "encrypted": self._context.endpoint.encrypted,
            "encryption": self._context.encryption,
            "counters": dict(self._context.endpoint.counters),
            "undelivered": self._context.endpoint.undelivered(),
            "workers": self._context.workers.facts(),
            "resources": self._book().ledger.facts(),
            "is_open": self._book().is_open,
            "settings": asdict(self._context.config),
            "readable_settings": dict(self._settings.readable or {}),
            "faults": list(self._settings.faults),
        }
        self._context.pulse.take(facts, self._state_reports.reached)
        packed = pack(facts)
        if packed != self._facts:
            with self._context.database.transaction(durable=False):
                write_facts(self._context.database, packed)
            self._facts = packed


def log_faults(settings: InForce) -> None:
    """Write into the log that the owner's settings can't be read, or can again."""
    if settings.faults:
        log.error(
            "the settings can't be read, so the strictest hold (approval on, nothing without a grant): %s",
            "; ".join(settings.faults),
        )
    else:
        log.info("the settings can be read again, and hold")


def sized(book: Book, config: NodeConfig) -> Book:
    """Return the book with the bounds that the owner has set."""
    return replace(
        book,
        slots=config.workers,
        per_job=config.job_workers,
        ledger=replace(book.ledger, capacity=config.capacity()),
        is_open=is_open_now(config.hours),
    )
