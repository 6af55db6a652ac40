"""The node's daemon: one loop that owns the endpoint, the book of tasks and the database.

A turn takes everything that is there: messages, what workers and threads
reported, receipts, the owner's decisions. It feeds the pure core, commits once,
and only then acts: replies leave, workers start and end, spools go, receipts are
sent. If the commit fails, nothing has happened and the turn is taken again. A
kill at any point is mended by the next start, see `taskkeeping`.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fedjob import __version__
from fedjob.common import messages as wire
from fedjob.common.codec import pack
from fedjob.common.endpoint import Endpoint, seen_entries
from fedjob.common.errors import FedjobError
from fedjob.common.gate import parse_address
from fedjob.common.identity import Identity
from fedjob.common.lifecycle import PENDING, State
from fedjob.common.messages import Message
from fedjob.common.repository.base import Repository
from fedjob.common.roster import Roster
from fedjob.common.transport.base import Transport
from fedjob.node import taskkeeping as keeping
from fedjob.node.attempts import Attempts
from fedjob.node.committing import encode_replies, encode_states, must_last, put_rows
from fedjob.node.context import open_context
from fedjob.node.database import Database
from fedjob.node.hookcalls import HookCalls
from fedjob.node.hours import is_open_now
from fedjob.node.intake import Intake
from fedjob.node.notices import Notices
from fedjob.node.offers import Offers
from fedjob.node.resources import read_labels
from fedjob.node.runs import Ensured, Fetched, RunEvent
from fedjob.node.saying import Sayings
from fedjob.node.searching import Published, Searches
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.store import DatabaseStore
from fedjob.node.task import header_of
from fedjob.node.tasklog import released, tidy_logs
from fedjob.node.turn import Turn
from fedjob.node.verifying import Checked, Verifying, without_proof
from fedjob.node.vigil import Vigil
from fedjob.node.vitals import vitals
from fedjob.node.worker import WorkerEvent

LEASE_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
TIDY_EVERY_S = 5.0
FACTS_EVERY_S = 1.0
MAX_TOLD_JOBS = 500
SILENT_JOB_S = 30 * 24 * 3600.0
"""After which the tasks and node states of a job that nobody ended are removed."""

Report = WorkerEvent | RunEvent | Published | Checked | keeping.ReplyReceipted | keeping.ReplyGivenUp

log = logging.getLogger(__name__)


class Daemon:
    """A node at work.

    Args:
        config: the owner's settings.
        reload: returns them anew, cheaply: it is called twice a second.
        crash_at: called with the name of each step between accept and release: `accepted`, `started`,
            `receipted`, `fetched`, `returned`, `kept`, `stored`, `done`, `replied`, `released`.
    """

    def __init__(
        self,
        *,
        home: NodeHome,
        config: NodeConfig,
        identity: Identity,
        federation: str,
        roster: Roster,
        transport: Transport,
        repository: Repository,
        reload: Callable[[], NodeConfig] | None = None,
        crash_at: Callable[[str], None] | None = None,
    ) -> None:
        home.create()
        self._reload = reload
        self._database = Database(home.database)
        self._store = DatabaseStore(self._database)
        self._endpoint = Endpoint(
            identity,
            federation,
            roster,
            transport,
            self._store,
            "node",
            on_receipt=lambda id_: self._taken.append(keeping.ReplyReceipted(id_)),
            on_give_up=lambda id_: self._taken.append(keeping.ReplyGivenUp(id_)),
        )
        self._context = open_context(
            home=home,
            config=config,
            node=identity.party,
            roster=roster,
            repository=repository,
            database=self._database,
            store=self._store,
            endpoint=self._endpoint,
            report=self._report,
            point=crash_at or (lambda name: None),
        )
        self._hooks = HookCalls(identity.party, home.hooks, config, self._count)
        self._attempts = Attempts(self._context, self._report, self._hooks)
        self._offers = Offers(self._context)
        self._searches = Searches(self._context, self._report)
        self._intake = Intake(self._context, self._attempts)
        self._verifying = Verifying(config, roster, self._context.runs.later, self._report)
        self._notices = Notices(identity.party, config, self._count)
        self._book = keeping.Book()
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._taken: list[Report] = []
        self._backlog: list[Message] = []
        self._lazy: list[keeping.Command] = []
        self._vigil = Vigil()
        self._sayings = Sayings()
        self._asked: dict[str, str] = {}  # by message id, the session that is asked whether it is there
        self._stopping = threading.Event()
        self._leased = self._looked = self._tidied = self._told = 0.0
        self._facts = b""
        self._undecided = True  # there may be decisions of the time when no daemon ran
        self.ready = threading.Event()

    # --- life ------------------------------------------------------------------------------

    def run(self, *, connect_timeout_s: float = 10.0) -> None:
        """Work until `stop` is called from another thread.

        Raises:
            BrokerUnreachable: the broker does not answer at the start; later breaks are waited out.
        """
        try:
            self._recover()
            self._endpoint.start(connect_timeout_s)
            turn = Turn(self._book)
            turn.step(keeping.Restarted())
            self._commit(turn)
            self.ready.set()
            while not self._stopping.is_set():
                self._backlog += self._endpoint.receive(self._patience())
                if not (self._turn() and self._look_around()):
                    self._stopping.wait(1.0)
            self._put_down()
        finally:
            self._close()

    def stop(self) -> None:
        """Let `run` return soon; unfinished tasks are stopped, and taken up at the next start."""
        self._stopping.set()
        self._endpoint.wake()

    def _count(self, what: str) -> None:
        self._endpoint.counters[what] += 1

    def _put_down(self) -> None:
        """Stop what runs: it is told so, and noted for the next start."""
        turn = Turn(self._book)
        turn.step(keeping.NodeStops())
        with suppress(sqlite3.Error):  # the next start finds it running, which comes to the same
            self._commit(turn)

    def _close(self) -> None:
        self._endpoint.stop()
        self._notices.stop()
        self._hooks.stop()
        self._context.workers.stop()
        self._context.runs.stop()
        with suppress(sqlite3.Error):
            self._write_lazily()
        self._database.close()

    def _recover(self) -> None:
        """Take up what the last daemon left, however it ended."""
        self._book = self._sized(self._context.tasks.load())
        rows = self._book.tasks
        self._context.spool.recover(
            {key for key, row in rows.items() if not row.finished or row.state == State.COMPLETED},
            {key for key, row in rows.items() if row.state == State.COMPLETED},
            set(self._context.tasks.states()),
        )
        self._attempts.recover(self._book)

    def _sized(self, book: keeping.Book) -> keeping.Book:
        """Return the book with the bounds that the owner has set."""
        config = self._context.config
        ledger = replace(book.ledger, capacity=config.capacity())
        return replace(
            book,
            slots=config.workers,
            per_job=config.job_workers,
            ledger=ledger,
            is_open=is_open_now(config.hours),
        )

    def _report(self, event: Report) -> None:
        """Take an event from another thread."""
        self._reports.put(event)
        self._endpoint.wake()

    def _patience(self) -> float:
        dues = [due for due in (self._attempts.next_due(), self._sayings.next_due()) if due is not None]
        return max(0.0, min([LOOK_EVERY_S, *(due - time.monotonic() for due in dues)]))

    # --- a turn ------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Act on everything that is there, in one commit; tell whether that worked."""
        while not self._reports.empty():
            self._taken.append(self._reports.get_nowait())
        turn = Turn(self._book)
        reports, messages = list(self._taken), self._backlog
        restore = (self._offers.snapshot(), self._intake.snapshot(), self._verifying.snapshot())
        try:
            for report in reports:
                self._guarded(turn, self._take, report)
            for message in messages:
                if not self._guarded(turn, self._handle, message):
                    turn.settled.append(message)
            self._attempts.end_overdue(turn)
            self._attempts.tell_logs(turn)
            self._commit(turn)
        except sqlite3.Error as error:
            # nothing was committed, so nothing has happened: the same is tried again
            log.error("the database refused a commit, trying again: %s", error)
            for bring_back in restore:
                bring_back()
            return False
        self._backlog, self._taken = [], self._taken[len(reports) :]
        return True

    def _guarded(self, turn: Turn, action: Callable[[Turn, Any], None], what: object) -> bool:
        """Run a handler; whatever it raises costs its message and not the node."""
        book = turn.book
        lists: tuple[list[Any], ...] = (turn.commands, turn.outgoing, turn.rows, turn.after)
        lengths = [len(grown) for grown in lists]
        try:
            action(turn, what)
        except sqlite3.Error:
            raise
        except Exception:
            log.exception("a message or report could not be handled")
            self._endpoint.counters["unhandled"] += 1
            turn.book = book
            for grown, length in zip(lists, lengths, strict=True):
                del grown[length:]
            return False
        return True

    def _handle(self, turn: Turn, message: Message) -> None:
        """Take a message."""
        context = self._context
        self._vigil.heard(message.reply_to, time.monotonic())
        match message.body:
            case wire.Ping():
                self._tell_released(turn, message)
                context.answer(turn, message, self._pong(turn, message))
            case wire.Search() as search:
                self._searches.handle(turn, message, search)
            case wire.Offer() | wire.Task() as wish:
                self._hear(turn, message, wish)
            case wire.End() as end:
                self._intake.handle_end(turn, message, end)
            case _:
                turn.settled.append(message)

    def _hear(self, turn: Turn, message: Message, wish: wire.Offer | wire.Task) -> None:
        """Take an offer or a task once it is known who sent it."""
        checked = self._verifying.hear(message, wish, time.time())
        if checked is not None:
            self._wish(turn, message, checked.refusal)

    def _wish(self, turn: Turn, message: Message, refusal: str) -> None:
        """Act on an offer or a task; a refusal says why its sender is not listened to."""
        message = without_proof(message)
        match message.body:
            case wire.Offer() if refusal:
                self._offers.refuse(turn, message, "unverified", refusal)
            case wire.Offer() as offer:
                self._offers.handle(turn, message, offer)
            case wire.Task() as task if refusal:
                self._intake.refuse(turn, message, task, "unverified", refusal)
            case wire.Task() as task:
                self._intake.handle_task(turn, message, task)

    def _pong(self, turn: Turn, message: Message) -> wire.Pong:
        config = self._context.config
        now = vitals(config, self._context.tasks, busy=len(self._attempts))
        mine = {row.job for row in turn.book.unfinished() if row.researcher == message.sender}
        return wire.Pong(
            of=message.id,
            version=__version__,
            num_datasets=len(self._context.datasets.all()),
            busy=now.busy,
            free=now.free,
            ready=now.ready,
            last_task=now.last_task,
            versions=now.versions,
            workers=config.workers,
            contact=config.contact,
            labels=sorted(read_labels(config.labels)),
            projects=sorted(read_labels(config.projects)),
            jobs=sorted(mine)[:MAX_TOLD_JOBS],
        )

    def _take(self, turn: Turn, report: Report) -> None:
        """Take what a thread, a worker or the endpoint reported."""
        match report:
            case keeping.ReplyReceipted(reply=id_) | keeping.ReplyGivenUp(reply=id_):
                asked = self._asked.pop(id_, "")
                if asked and isinstance(report, keeping.ReplyReceipted):
                    self._vigil.heard(asked, time.monotonic())
                turn.step(report)
            case Fetched():
                self._offers.take_plan(turn, report)
            case Published():
                self._searches.take(turn, report)
            case Checked():
                for message in self._verifying.take(report):
                    self._wish(turn, message, report.refusal)
            case Ensured(message=message_id):
                self._intake.take_ensured(turn, message_id)
            case _:
                self._attempts.take(turn, report)

    def _commit(self, turn: Turn) -> None:
        """Make a turn durable, then do what it says."""
        if turn.empty:
            self._book = turn.book
            return
        replies = encode_replies(self._endpoint, turn.commands)
        withdrawn = [c.reply for c in turn.commands if isinstance(c, keeping.Unreply)]
        lasting = [outgoing for outgoing in (*replies, *turn.outgoing) if outgoing.reliable]
        seen = seen_entries(turn.settled)
        durable = bool(lasting or seen or turn.rows or any(map(must_last, turn.commands)))
        if durable:
            with self._database.transaction():
                for change in turn.rows:
                    change()
                put_rows(self._context.tasks, [*self._lazy, *turn.commands])
                self._store.drop(withdrawn)
                self._store.flush()
                for outgoing in lasting:
                    self._store.add(outgoing)
                if seen:
                    self._store.mark_seen(seen)
            self._lazy = []
        else:  # receipts: they may wait for the next commit, and cost a resend if they are lost
            self._lazy += turn.commands
        self._book = turn.book
        point = self._context.point
        if any(isinstance(c, keeping.PutTask) and c.row.state in PENDING for c in turn.commands):
            point("accepted")
        if replies:
            point("done")
        reached = [command.row for command in turn.commands if isinstance(command, keeping.Say)]
        self._hooks.states(reached)
        said = encode_states(self._endpoint, self._sayings.take(reached, time.monotonic()))
        # a reply may be the job's last: what was written on the way to it goes first
        for outgoing in (*turn.outgoing, *said, *replies):
            self._endpoint.post(outgoing)
        if replies:
            point("replied")
        if withdrawn:
            self._endpoint.withdraw(withdrawn)
        self._attempts.act(self._book, turn.commands)
        for action in turn.after:
            action()
        if turn.settled:
            self._endpoint.settle(turn.settled)
            point("receipted")

    # --- from time to time ------------------------------------------------------------------------

    def _look_around(self) -> bool:
        """Do what is due from time to time; tell whether the database played along."""
        now = time.monotonic()
        for outgoing in encode_states(self._endpoint, self._sayings.due(now)):
            self._endpoint.post(outgoing)
        try:
            if now - self._leased >= LEASE_EVERY_S:
                self._leased = now
                self._send_leases()
            if now - self._looked >= LOOK_EVERY_S:
                self._looked = now
                self._follow_decisions()
                self._tell_owner()
                self._follow_config()
                self._follow_time()
                self._look_for_orphans()
            if now - self._tidied >= TIDY_EVERY_S:
                self._tidied = now
                self._context.workers.tidy()
                self._context.runs.later(
                    lambda: tidy_logs(self._context.home, self._context.config.logs_mb << 20)
                )
                self._end_silent_jobs()
            if now - self._told >= FACTS_EVERY_S:
                self._told = now
                self._write_lazily()
                self._tell_facts()
        except sqlite3.Error as error:
            log.error("the database refused a commit, trying again: %s", error)
            return False
        return True

    def _send_leases(self) -> None:
        for row in self._book.unfinished():
            lease = wire.Event(type="lease", data={"status": str(row.state)})
            self._endpoint.send(parse_address(row.reply_to), lease, **header_of(row))

    def _follow_decisions(self) -> None:
        """See whether the command line wrote something, and tell those who wait for it."""
        expired = self._context.grants.expire(time.time())
        if not (expired or self._database.changed() or self._undecided):
            return
        self._undecided = True  # until it is committed
        turn = Turn(self._book)
        self._obey_owner(turn)
        self._offers.announce(turn)
        self._intake.stop_forbidden(turn)
        self._commit(turn)
        self._undecided = False

    def _tell_owner(self) -> None:
        """Have it told, as the owner wishes, that something waits for a decision."""
        told = self._notices.look(self._context.grants.unnoticed)
        if told:
            with self._database.transaction():
                for grant in told:
                    self._context.grants.noticed(grant)

    def _obey_owner(self, turn: Turn) -> None:
        """Do what the command line wrote down: end tasks, release their logs."""
        tasks = self._context.tasks
        for seq, verb, key in tasks.orders():
            turn.rows.append(lambda seq=seq: tasks.ordered(seq))  # type: ignore[misc]
            asker = tasks.asker_of(key)
            if verb == "kill":
                turn.step(keeping.Cancel(key, "killed_by_owner", "the node's owner ended it"))
            elif asker is not None:
                turn.rows.append(lambda asker=asker: tasks.mark_released(asker))  # type: ignore[misc]
                self._send_log(turn, asker, asker["reply_to"], lasting=True)

    def _tell_released(self, turn: Turn, message: Message) -> None:
        """Send again what was released of a job, for who asks after its end."""
        if message.job:
            for task in self._context.tasks.released_of(message.job, message.sender):
                self._send_log(turn, task, message.reply_to, lasting=False)

    def _send_log(self, turn: Turn, task: Mapping[str, Any], reply_to: str, *, lasting: bool) -> None:
        """Send all that a task wrote."""
        header = {name: task[name] for name in ("job", "round", "step")}
        for data in released(self._context.home, task["key"]):
            event = wire.Event(type="log", data=data, lasting=lasting)
            to = parse_address(reply_to)
            turn.outgoing.append(self._endpoint.prepare(to, event, task=task["key"], **header))

    def _follow_config(self) -> None:
        if self._reload is None:
            return
        try:
            config = self._reload()
        except FedjobError as error:
            log.warning("the settings are kept as they were: %s", error)
            return
        before = self._context.config
        if config == before:
            return
        try:
            if (config.verifier, config.verifier_options) != (before.verifier, before.verifier_options):
                self._verifying.configure(config)
            if (config.hooks, config.hook_options) != (before.hooks, before.hook_options):
                self._hooks.configure(config)
        except FedjobError as error:
            log.warning("the settings are kept as they were: %s", error)
            return
        self._context.config = self._context.permissions.config = self._context.workers.config = (
            self._context.runs.config
        ) = self._notices.config = config
        turn = Turn(self._sized(self._book))
        turn.step(keeping.TimePassed(time.monotonic()))  # it fills the new slots
        self._commit(turn)

    def _follow_time(self) -> None:
        """Free what was reserved and not taken; begin when the working hours do."""
        is_open = is_open_now(self._context.config.hours)
        if is_open != self._book.is_open or self._book.ledger.holdings:
            turn = Turn(replace(self._book, is_open=is_open))
            turn.step(keeping.TimePassed(time.monotonic()))
            self._commit(turn)

    def _look_for_orphans(self) -> None:
        """Give up the unfinished work of sessions that are gone; ask the silent ones."""
        rows = self._book.unfinished()
        after_s = self._context.config.orphan_after_s
        gone, ask = self._vigil.look(
            {row.reply_to for row in rows},
            time.monotonic(),
            after_s=after_s,
            connected=self._endpoint.connected,
        )
        turn = Turn(self._book)
        for session in gone:
            for job in sorted({row.job for row in rows if row.reply_to == session}):
                log.warning("nothing is heard of %s for %g s: job %s is given up", session, after_s, job)
                turn.step(keeping.OrphanTimeout(job))
        for row in {row.reply_to: row for row in rows if row.reply_to in ask}.values():
            lease = wire.Event(type="lease", data={"status": str(row.state)}, lasting=True)
            asked = self._endpoint.prepare(
                parse_address(row.reply_to), lease, ttl_s=after_s, **header_of(row)
            )
            self._asked[asked.id] = row.reply_to
            turn.outgoing.append(asked)
        self._commit(turn)

    def _end_silent_jobs(self) -> None:
        turn = Turn(self._book)
        for job in self._context.tasks.silent_jobs(time.time() - SILENT_JOB_S):
            turn.step(keeping.Forgotten(job))
            self._context.drop_states(turn, job)
        self._commit(turn)

    def _write_lazily(self) -> None:
        """Write what waits for a commit that did not come."""
        if self._lazy or self._store.unflushed():
            with self._database.transaction(durable=False):
                put_rows(self._context.tasks, self._lazy)
                self._store.flush()
            self._lazy = []

    def _tell_facts(self) -> None:
        """Write down what `fedjob node status` shows of a running daemon, when it has changed."""
        facts = {
            "connected": self._endpoint.connected,
            "counters": dict(self._endpoint.counters),
            "undelivered": self._endpoint.undelivered(),
            "workers": self._context.workers.facts(),
            "resources": self._book.ledger.facts(),
            "is_open": self._book.is_open,
            "verifier": self._context.config.verifier,
        }
        packed = pack(facts)
        if packed != self._facts:
            with self._database.transaction(durable=False):
                self._database.execute("INSERT OR REPLACE INTO live VALUES (1, ?, ?)", (time.time(), packed))
            self._facts = packed
