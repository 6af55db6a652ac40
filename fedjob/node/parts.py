"""What the rooms of one daemon share, and the turn that they fill."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedjob.common.endpoint import Endpoint
from fedjob.common.gate import parse_address
from fedjob.common.messages import Body, Message
from fedjob.common.outbox import Outgoing
from fedjob.common.roster import Roster
from fedjob.node import taskkeeping as keeping
from fedjob.node.database import Database
from fedjob.node.datasets import Datasets
from fedjob.node.grants import Grants
from fedjob.node.ledger import Ledger
from fedjob.node.permissions import Charge, Permissions
from fedjob.node.runs import Runs
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.spool import Spool
from fedjob.node.store import DatabaseStore
from fedjob.node.taskstore import TaskStore
from fedjob.node.versions import Versions
from fedjob.node.worker import Workers


@dataclass
class Turn:
    """What one turn will commit, and do after that.

    Args:
        book: as it will be.
        outgoing: messages that are sent after the commit, the lasting ones committed too.
        settled: messages that are dealt with.
        rows: further changes of the database.
        after: what is done when the commit is through.
        predicted: grant -> predictions that are counted with this commit.
    """

    book: keeping.Book
    commands: list[keeping.Command] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)
    rows: list[Callable[[], None]] = field(default_factory=list)
    after: list[Callable[[], object]] = field(default_factory=list)
    predicted: dict[str, int] = field(default_factory=dict)

    def step(self, event: keeping.Event) -> list[keeping.Command]:
        """Feed the core."""
        self.book, commands = keeping.step(self.book, event)
        self.commands += commands
        return commands

    def charge(self, charge: Charge) -> None:
        """Count what a finished task costs with the commit."""
        if charge.count is not None:
            self.predicted[charge.payer] = self.predicted.get(charge.payer, 0) + charge.predictions
            self.rows.append(charge.count)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.commands or self.outgoing or self.settled or self.rows or self.after)


@dataclass
class Parts:
    """The daemon's parts; `config` is replaced when the owner changes it."""

    home: NodeHome
    config: NodeConfig
    node: str
    roster: Roster
    database: Database
    store: DatabaseStore
    endpoint: Endpoint
    spool: Spool
    workers: Workers
    runs: Runs
    point: Callable[[str], None]
    tasks: TaskStore = field(init=False)
    datasets: Datasets = field(init=False)
    grants: Grants = field(init=False)
    ledger: Ledger = field(init=False)
    versions: Versions = field(default_factory=Versions)
    permissions: Permissions = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = TaskStore(self.database)
        self.datasets = Datasets(self.database)
        self.grants = Grants(self.database)
        self.ledger = Ledger(self.database)
        self.permissions = Permissions(
            config=self.config,
            roster=self.roster,
            database=self.database,
            datasets=self.datasets,
            grants=self.grants,
            versions=self.versions,
            secrets=self.home.secrets,
        )

    def answer(self, turn: Turn, message: Message, body: Body) -> None:
        """Answer a message, and be done with it when that is committed."""
        to = parse_address(message.reply_to)
        turn.outgoing.append(self.endpoint.prepare(to, body, job=message.job, epoch=message.epoch))
        turn.settled.append(message)

    def drop_states(
        self, turn: Turn, job: str, keep: Collection[str] = (), before: int | None = None
    ) -> None:
        """Remove a job's node states, but those to keep and those of rounds from `before` on."""
        gone: list[str] = []
        turn.rows.append(lambda: gone.extend(self.tasks.drop_states(job, keep, before)))
        turn.after.append(
            lambda: self.runs.later(lambda: self.spool.drop_states(job, gone)) if gone else None
        )
