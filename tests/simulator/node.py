"""A simulated node: real courier, real task-keeping, a worker that takes its time and may die."""

from __future__ import annotations

from fedjob.common.codec import pack, unpack
from fedjob.common.lifecycle import State
from fedjob.common.types import Address
from fedjob.messaging import courier
from fedjob.node.queue import task_events as events
from fedjob.node.queue.book import Book, JobRow, TaskRow
from fedjob.node.queue.task_machine import step
from tests.simulator.toy import contribute
from tests.simulator.world import Packet, Party, Violation, World

LEASE_S = 1.0


class Node(Party):
    """What a daemon does, in memory that is either durable or gone."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.tasks: dict[str, TaskRow] = {}  # durable from here
        self.jobs: dict[str, JobRow] = {}
        self.spool: dict[str, bytes] = {}
        self.states: dict[str, int] = {}
        self.completed: set[str] = set()  # the judge's memory, not the node's
        self.book = Book()

    @property
    def address(self) -> Address:
        return Address(self.name)

    def start(self) -> None:
        if "volatile_outbox" in self.world.bugs:
            self.outbox.clear()
        # From plain data, as from SQLite.
        tasks = {key: TaskRow.from_plain(row.to_plain()) for key, row in self.tasks.items()}
        self.book = Book(tasks, dict(self.jobs), slots=self.world.config.slots, max_deaths=10_000)
        self.workers: set[str] = set()
        self._packets: list[Packet] = []
        self._events: list[events.Event] = []
        self._acknowledged: list[str] = []
        self.spool = {key: out for key, out in self.spool.items() if key in tasks}  # the sweep
        for packet in list(self.outbox.values()):
            self.post(packet)
        self._events.append(events.Restarted())
        self.turn()
        if not self.world.config.strict:
            self.later(LEASE_S, self._lease)

    def delivered(self, packet: Packet) -> None:
        self._packets.append(packet)
        if packet.kind == "task":
            if "no_dedupe" in self.world.bugs:
                self.book = Book({}, self.book.jobs, slots=1)
            self._events.append(
                events.TaskArrived(
                    **packet.body, researcher=packet.sender, reply_to=str(packet.reply_to), message=packet.id
                )
            )
        elif packet.kind == "end":
            self._events.append(events.EndArrived("job", packet.sender, packet.body))

    def receipted(self, packet: Packet) -> None:
        self._acknowledged.append(packet.id)
        self._events.append(events.ReplyReceipted(packet.id))

    def given_up(self, packet: Packet) -> None:
        self._acknowledged.append(packet.id)
        self._events.append(events.ReplyGivenUp(packet.id))

    def turn(self) -> None:
        """One transaction for all that is there, then the rest, with a boundary before each."""
        taken, self._events = self._events, []
        packets, self._packets = self._packets, []
        acknowledged, self._acknowledged = self._acknowledged, []
        if not taken and not packets:
            return
        if "early_receipt" in self.world.bugs:
            self.settle(packets)
        if self.world.troubled and self.world.rng.random() < self.world.config.disk_full:
            # The commit fails: nothing has happened, and the turn is taken again.
            self._events, self._packets, self._acknowledged = taken, packets, acknowledged
            self.later(0.5, self.turn)
            return
        book, commands = self.book, list[events.Command]()
        for event in taken:
            book, more = step(book, event)
            commands += more
        replies = [self._reply(c) for c in commands if isinstance(c, events.SendReply | events.Refuse)]
        withdrawn = [c.reply for c in commands if isinstance(c, events.Unreply)]
        self.world.boundary()
        self._commit(commands, replies, withdrawn, packets)
        self.book = book
        for reply in replies:
            if reply.id in self.outbox:
                self.post(reply)
        if withdrawn:
            self.obey(courier.Withdraw(tuple(i for i in withdrawn if i not in self.outbox)))
        for command in commands:
            self.world.boundary()
            match command:
                case events.Kill(key):
                    self.workers.discard(key)
                    self.later(self.world.rng.uniform(0.001, 0.1), self._tell, events.Gone(key))
                case events.Start(key) if key in self.spool and "forget_output" not in self.world.bugs:
                    self.later(0.001, self._tell, events.Finished(key, True, self.spool[key]))
                case events.Start(key):
                    self.workers.add(key)
                    self.later(0.01, self._tell, events.Began(key, 1))
                    self.later(self.world.rng.uniform(0.05, 1.0), self._work, key)
                case events.ReleaseSpool(key):
                    self.spool.pop(key, None)
        self.world.boundary()
        for id_ in acknowledged:
            self.outbox.pop(id_, None)
        self.settle(packets)

    def _commit(
        self,
        commands: list[events.Command],
        replies: list[Packet],
        withdrawn: list[str],
        packets: list[Packet],
    ) -> None:
        made = {reply.id: reply for reply in replies}
        for command in commands:
            match command:
                case events.PutTask(row):
                    self.tasks[row.key] = row
                case events.DeleteTask(row):
                    self.tasks.pop(row.key, None)
                    if row.state == State.KILLED:
                        # It was ended before the daemon heard that its worker was through, and what the worker wrote
                        # went with it: a runner that resumes from before that has it computed again.
                        self.completed.discard(row.key)
                case events.ReleaseSpool(key) if self.world.config.buffered:
                    # a runner that resumes from before the next work was asked for wants it again
                    self.completed.discard(key)
                case events.PutJob(job):
                    self.jobs[job.job] = job
                case events.DeleteJob(name):
                    self.jobs.pop(name, None)
                case events.SendReply() | events.Refuse():
                    self.outbox[command.reply] = made[command.reply]
                case events.Unreply(id_):
                    self.outbox.pop(id_, None)
        self.seen.update(f"{p.sender}/{p.id}" for p in packets)

    def _reply(self, command: events.SendReply | events.Refuse) -> Packet:
        if isinstance(command, events.Refuse):
            to, body = command.task.reply_to, (command.task.key, False, command.reason, b"")
        else:
            row = command.row
            to, body = row.reply_to, (row.key, row.state == "completed", row.reason, row.result)
        party, _, session = to.partition("/")
        return self.make(Address(party, session), "reply", body, id_=command.reply)

    def _tell(self, event: events.Event) -> None:
        self._events.append(event)
        self.turn()

    def _work(self, key: str) -> None:
        """The worker is through: its output becomes durable before the daemon hears of it."""
        if key not in self.workers:
            return
        self.workers.discard(key)
        row = self.book.tasks[key]
        if self.world.troubled and self.world.rng.random() < self.world.config.worker_death:
            self._events.append(events.Died(key))
        else:
            if key in self.completed:
                raise Violation(f"{self.name} computed {key} again after it was durably complete")
            params, state = unpack(row.order)
            value, momentum = contribute(params, self.states[state] if state else 0, self.name)
            new_state = f"{self.name}/{key}"
            self.states[new_state] = momentum
            self.spool[key] = pack([value, new_state])
            self.completed.add(key)
            self.world.boundary()
            self._events.append(events.Finished(key, True, self.spool[key]))
        self.turn()

    def _lease(self) -> None:
        for row in self.book.unfinished():
            party, _, session = row.reply_to.partition("/")
            self.world.send(self.make(Address(party, session), "event", "lease"))
        self.later(LEASE_S, self._lease)
