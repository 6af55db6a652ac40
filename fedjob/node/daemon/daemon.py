"""The node's daemon: one loop that owns the endpoint, the book of tasks and the database.

A turn takes everything that has come in: messages, what workers and threads
reported, receipts, the owner's decisions. It feeds the pure task machine, commits once,
and only then acts: replies are sent, workers start and end, spool files are removed,
receipts are sent. If the commit fails, nothing has happened and the turn is taken again. A
kill at any point is mended by the next start, see `queue.task_machine`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from fedjob.common.errors import BrokerUnreachable
from fedjob.common.lifecycle import PENDING, State
from fedjob.identity.audit_heads import HeadSigner
from fedjob.identity.keys import Identity
from fedjob.identity.roster import Roster
from fedjob.messaging import messages as wire
from fedjob.messaging.endpoint import Endpoint, seen_entries
from fedjob.messaging.messages import Message
from fedjob.messaging.transport.base import Transport
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.attempts import Attempts
from fedjob.node.daemon.commit import (
    dropped_replies,
    encode_replies,
    encode_states,
    log_ends,
    must_last,
    put_rows,
    reply_ids,
    settle_charges,
)
from fedjob.node.daemon.connection_watch import ConnectionWatch
from fedjob.node.daemon.context import open_context
from fedjob.node.daemon.housekeeping import LOOK_EVERY_S, Housekeeping, sized
from fedjob.node.daemon.offers import MeasuredLine, OfferHandler
from fedjob.node.daemon.searches import Published, SearchHandler
from fedjob.node.daemon.sender_verification import Checked, Revocations, SenderVerification, without_proof
from fedjob.node.daemon.session_liveness import SessionLiveness
from fedjob.node.daemon.settings import InForce
from fedjob.node.daemon.status import pong
from fedjob.node.daemon.sums import SumHandler
from fedjob.node.daemon.tasks import TaskHandler
from fedjob.node.daemon.turn import Reports, Turn
from fedjob.node.execution.transfers import (
    ContributionRead,
    Ensured,
    FetchedBytes,
    PartsFetched,
    TransferEvent,
    VectorStored,
)
from fedjob.node.execution.worker_events import WorkerEvent
from fedjob.node.grants.notifications import Notices
from fedjob.node.hooks.dispatcher import HookCalls
from fedjob.node.monitoring.refused_commits import RefusedCommits
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book
from fedjob.node.queue.state_reports import StateReports
from fedjob.node.sandbox.support import TRIED
from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.audit import Audit
from fedjob.node.storage.database import Database
from fedjob.node.storage.outbox import DatabaseStore, Forgettable
from fedjob.repository.base import Repository

Report = (
    WorkerEvent
    | TransferEvent
    | MeasuredLine
    | Published
    | Checked
    | events.ReplyReceipted
    | events.ReplyGivenUp
)

CONNECT_AGAIN_S = 2.0

log = logging.getLogger(__name__)


class Daemon:
    """A node at work.

    Args:
        settings: those of the owner that hold.
        reload: returns them anew, cheaply: it is called twice a second.
        hub_ahead_s: returns by how many seconds the hub's clock is ahead of this machine's, see `ConnectionWatch`.
        sandboxes: kinds of sandbox that may be used, the best first: see `find_support`.
        crash_at: called with the name of each step between accept and release: `accepted`, `charged`, `started`,
            `receipted`, `fetched`, `returned`, `kept`, `stored`, `done`, `replied`, `released`.
    """

    def __init__(
        self,
        *,
        home: NodeHome,
        settings: InForce,
        identity: Identity,
        federation: str,
        roster: Roster,
        transport: Transport,
        repository: Repository,
        reload: Callable[[], InForce] | None = None,
        hub_ahead_s: Callable[[], float | None] | None = None,
        sandboxes: tuple[str, ...] = TRIED,
        crash_at: Callable[[str], None] | None = None,
    ) -> None:
        home.create()
        config = settings.config
        self._database = Database(home.database)
        self._store = DatabaseStore(self._database, AttachedParams(self._database))
        self.roster = roster
        self._endpoint = Endpoint(
            *(identity, federation, roster, transport, self._store, "node"),
            on_receipt=lambda id_: self._taken.append(events.ReplyReceipted(id_)),
            on_give_up=lambda id_: self._taken.append(events.ReplyGivenUp(id_)),
            audit_head=HeadSigner(identity, federation, Audit(self._database).head),
        )
        self._reports: Reports[Report] = Reports(self._endpoint.wake)
        self._context = open_context(
            home=home,
            config=config,
            node=identity.party,
            roster=roster,
            repository=repository,
            database=self._database,
            store=self._store,
            endpoint=self._endpoint,
            report=self._reports.put,
            sandboxes=sandboxes,
            point=crash_at or (lambda name: None),
        )
        self.pulse = self._context.pulse
        self._hooks = HookCalls(identity.party, home.hooks, config, self._count)
        sums = SumHandler(self._context, identity, roster, federation)
        self._attempts = Attempts(self._context, self._reports, self._hooks, sums)
        self._offers = OfferHandler(self._context, self._reports.put)
        self._searches = SearchHandler(self._context, self._reports.put)
        self._task_handler = TaskHandler(self._context, self._attempts, sums)
        self._verification = SenderVerification(
            config, roster, self._context.transfers.later, self._reports.put
        )
        self._notices = Notices(identity.party, config, self._count)
        self._book = Book()
        self._taken: list[Report] = []
        self._backlog: list[Message] = []
        self._lazy: list[events.Command] = []
        self._forgettable, self._refused = Forgettable(), RefusedCommits(self._endpoint)
        self._liveness, self._state_reports = SessionLiveness(), StateReports()
        self._watch = ConnectionWatch(self._endpoint, hub_ahead_s)
        self._housekeeping = self._open_housekeeping(settings, reload)
        self._stopping, self.ready = threading.Event(), threading.Event()

    def _open_housekeeping(self, settings: InForce, reload: Callable[[], InForce] | None) -> Housekeeping:
        return Housekeeping(
            self._context,
            offers=self._offers,
            task_handler=self._task_handler,
            verification=self._verification,
            hooks=self._hooks,
            notices=self._notices,
            state_reports=self._state_reports,
            liveness=self._liveness,
            settings=settings,
            reload=reload,
            book=lambda: self._book,
            commit=self._commit,
            write_lazily=self._write_lazily,
            watch=self._watch,
            revocations=Revocations(self.roster, self._context),
        )

    def run(self, *, connect_timeout_s: float = 10.0) -> None:
        """Work until `stop` is called from another thread; a broker that is away is waited for.

        Args:
            connect_timeout_s: of one try to connect.
        """
        try:
            self._recover()
            if not self._connect(connect_timeout_s):
                return
            turn = Turn(self._book)
            turn.step(events.Restarted())
            self._commit(turn)
            self.roster.follow(self._context.node, self._endpoint.wake)
            while not self._stopping.is_set():
                self._backlog += self._endpoint.receive(self._patience() if self.ready.is_set() else 0.0)
                steps = (self._turn, self._housekeeping.look_around)
                committed = self._refused.attempt(steps, self._backlog, self._book)
                self.ready.set()  # after the first look around, so that the log and the status say it, too
                if not committed:
                    self._stopping.wait(1.0)
            self._put_down()
        finally:
            self._close()

    def _connect(self, timeout_s: float) -> bool:
        """Connect to the broker, however long it is away; return whether this was not stopped first."""
        problem = ""
        while not self._stopping.is_set():
            try:
                self._endpoint.start(timeout_s)
                return True
            except BrokerUnreachable as error:
                if str(error) != problem:
                    problem = str(error)
                    log.warning("not connected, tried again until it answers: %s", problem)
                self._housekeeping.publish_facts(problem)
            self._stopping.wait(CONNECT_AGAIN_S)
        return False

    def stop(self) -> None:
        """Let `run` return soon; unfinished tasks are stopped, and taken up at the next start."""
        self._stopping.set()
        self._endpoint.wake()

    def _count(self, what: str) -> None:
        self._endpoint.counters[what] += 1

    def _put_down(self) -> None:
        """Stop the running tasks, report it to their researchers, and note it for the next start."""
        turn = Turn(self._book)
        turn.step(events.NodeStops())
        with suppress(sqlite3.Error):  # the next start finds it running, which comes to the same
            self._commit(turn)

    def _close(self) -> None:
        self.roster.stop()
        self._endpoint.stop()
        self._notices.stop()
        self._hooks.stop()
        self._context.workers.stop()
        self._context.transfers.stop()
        with suppress(sqlite3.Error):
            self._write_lazily()
        self._database.close()

    def _recover(self) -> None:
        """Restore the tasks that the last daemon left, however it ended."""
        self._book = sized(self._context.tasks.load(), self._context.config)
        rows = self._book.tasks
        self._context.spool.recover(
            {key for key, row in rows.items() if not row.finished or row.state == State.COMPLETED},
            {key for key, row in rows.items() if row.state == State.COMPLETED},
            set(self._context.tasks.states()),
        )
        self._attempts.recover(self._book)

    def _patience(self) -> float:
        nexts = (self._attempts.next_due(), self._state_reports.next_due(), self._reports.next_due())
        dues = [due for due in nexts if due is not None]
        return max(0.0, min([LOOK_EVERY_S, *(due - time.monotonic() for due in dues)]))

    # --- a turn ------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Act on everything that is there, in one commit; what the database refuses is tried again with the next turn."""
        self._taken += self._reports.take()
        turn = Turn(self._book)
        reports, messages = list(self._taken), self._backlog
        try:
            for report in reports:
                self._guarded(turn, self._take, report)
            for message in messages:
                if not self._guarded(turn, self._handle, message):
                    turn.settled.append(message)
            self._attempts.end_overdue(turn)
            self._attempts.report_logs(turn)
            self._commit(turn)
        finally:
            if turn.committed:  # whatever failed after it: taken again, it would be counted twice
                self._backlog, self._taken = [], self._taken[len(reports) :]
            else:
                turn.bring_back()

    def _guarded(self, turn: Turn, action: Callable[[Turn, Any], None], what: object) -> bool:
        """Run a handler; whatever it raises costs its message and not the node."""
        book, sums = turn.book, dict(turn.sums)
        lists: tuple[list[Any], ...] = (turn.commands, turn.outgoing, turn.rows, turn.after)
        lengths = [len(grown) for grown in lists]
        try:
            action(turn, what)
        except sqlite3.Error:
            raise
        except Exception:
            log.exception("a message or report could not be handled")
            self._endpoint.counters["unhandled"] += 1
            turn.book, turn.sums = book, sums
            for grown, length in zip(lists, lengths, strict=True):
                del grown[length:]
            return False
        return True

    def _handle(self, turn: Turn, message: Message) -> None:
        """Take a message."""
        context = self._context
        self._liveness.note_alive(message.reply_to, time.monotonic())
        match message.body:
            case wire.Ping():
                self._housekeeping.send_released(turn, message)
                answer = pong(
                    message,
                    context.config,
                    context.tasks,
                    num_datasets=len(context.datasets.all()),
                    book=turn.book,
                    busy=len(self._attempts),
                    twin=self._watch.twin,
                    faults=self._housekeeping.num_faults,
                    sandbox=context.workers.sandbox,
                )
                context.answer(turn, message, answer)
            case wire.Search() as search:
                self._searches.handle(turn, message, search)
            case wire.Offer() | wire.Task() as wanted:
                self._verify(turn, message, wanted)
            case wire.End() as end:
                self._task_handler.handle_end(turn, message, end)
            case _:
                turn.settled.append(message)

    def _verify(self, turn: Turn, message: Message, wanted: wire.Offer | wire.Task) -> None:
        """Take an offer or a task once it is known who sent it."""
        has = partial(self._task_handler.has, turn, message, wanted)
        checked = self._verification.check(turn, message, wanted, time.time(), is_taken=has)
        if checked is not None:
            self._act_on(turn, message, checked)

    def _act_on(self, turn: Turn, message: Message, checked: Checked) -> None:
        """Act on an offer or a task, or refuse it where its sender could not be verified."""
        message = without_proof(message)
        match message.body:
            case wire.Offer() if checked.refusal:
                self._offers.refuse(turn, message, checked.reason, checked.refusal)
            case wire.Offer() as offer:
                self._offers.handle(turn, message, offer)
            case wire.Task() as task if checked.refusal:
                self._task_handler.refuse(turn, message, task, checked.reason, checked.refusal)
            case wire.Task() as task:
                self._task_handler.handle_task(turn, message, task)

    def _take(self, turn: Turn, report: Report) -> None:
        """Take what a thread, a worker or the endpoint reported."""
        match report:
            case events.ReplyReceipted(reply=id_) | events.ReplyGivenUp(reply=id_):
                is_there = isinstance(report, events.ReplyReceipted)
                self._forgettable.drop([id_])
                self._liveness.close_question(id_, time.monotonic(), is_there=is_there)
                turn.step(report)
            case FetchedBytes() | MeasuredLine():
                self._offers.take(turn, report)
            case Published():
                self._searches.take(turn, report)
            case Checked():
                for message in self._verification.take(turn, report):
                    self._act_on(turn, message, report)
            case Ensured() | VectorStored() | ContributionRead() | PartsFetched():
                self._task_handler.take(turn, report)
            case _:
                self._attempts.take(turn, report)

    def _commit(self, turn: Turn) -> None:
        """Make a turn durable, then carry out its commands."""
        if turn.empty:
            self._book, turn.committed = turn.book, True
            return
        withdrawn, forgotten = dropped_replies(turn, self._forgettable)
        answered = reply_ids(turn.commands) - forgotten
        outgoing_lasts = any(o.reliable and o.id not in forgotten for o in turn.outgoing)
        seen = seen_entries(turn.settled)
        encoded = partial(encode_replies, self._context, turn.commands)
        if answered or outgoing_lasts or seen or turn.rows or any(map(must_last, turn.commands)):
            with self._database.transaction():
                for change in turn.rows:
                    change()
                put_rows(self._context.tasks, [*self._lazy, *turn.commands])
                settle_charges(self._context.permissions.accounts, self._context.spool, turn.commands)
                # after the rows, so that the head of the audit chain in each reply covers what is replied
                replies = encoded()
                self._store.drop(withdrawn)
                self._store.flush()
                for outgoing in (*replies, *turn.outgoing):
                    if outgoing.reliable and outgoing.id not in forgotten:
                        self._store.add(outgoing)
                if seen:
                    self._store.mark_seen(seen)
            self._lazy = []
        else:  # receipts: they may wait for the next commit, and cost a resend if they are lost
            replies = encoded()
            self._lazy += turn.commands
        self._book, turn.committed = turn.book, True
        point = self._context.point
        if any(isinstance(c, events.PutTask) and c.row.state in PENDING for c in turn.commands):
            point("accepted")
        if replies:
            point("done")
        reached = [command.row for command in turn.commands if isinstance(command, events.ReportState)]
        self._hooks.states(reached)
        log_ends(reached)
        states = encode_states(self._endpoint, self._state_reports.take(reached, time.monotonic()))
        # a reply may be the job's last: what was written on the way to it goes first
        for outgoing in (*turn.outgoing, *states, *replies):
            if outgoing.id not in forgotten:
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

    def _write_lazily(self) -> None:
        """Write what waits for a commit that did not come."""
        attached = self._context.attached
        if self._lazy or self._store.unflushed() or attached.unflushed():
            with self._database.transaction(durable=False):
                put_rows(self._context.tasks, self._lazy)
                self._store.flush()
                attached.flush()
            self._lazy = []
