"""The context of a daemon's handlers: the collaborators that they share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedjob.identity.encryption import encryption_text, is_encrypted
from fedjob.identity.roster import Roster
from fedjob.messaging.endpoint import Endpoint
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Body, Message
from fedjob.node.config.config import NodeConfig
from fedjob.node.config.home import NodeHome
from fedjob.node.daemon.turn import Turn
from fedjob.node.data.datasets import Datasets
from fedjob.node.data.item_ledger import ItemLedger
from fedjob.node.data.redescription import Redescriber
from fedjob.node.data.versions import Versions
from fedjob.node.execution.pool import Workers
from fedjob.node.execution.transfers import TransferEvent, Transfers
from fedjob.node.execution.worker_events import WorkerEvent
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.permissions import Permissions
from fedjob.node.monitoring.pulse import Pulse
from fedjob.node.queue.store import TaskStore
from fedjob.node.sandbox.support import find_support
from fedjob.node.storage.attached import AttachedParams
from fedjob.node.storage.database import Database
from fedjob.node.storage.outbox import DatabaseStore
from fedjob.node.storage.spool import Spool
from fedjob.repository.base import Repository
from fedjob.repository.job_secrets import FOLDER_NAME, JobSecrets

SCRUB_AFTER_S = 2.5
"""By then the messages of a job that has ended are out of the outbox, too."""


@dataclass(kw_only=True)
class NodeContext:
    """The collaborators of one daemon.

    Args:
        config: is replaced when the owner changes it.
        node: the node's name.
        point: called with the name of each step between accept and release; a test may end the process there.
    """

    home: NodeHome
    config: NodeConfig
    node: str
    database: Database
    store: DatabaseStore
    endpoint: Endpoint
    spool: Spool
    workers: Workers
    transfers: Transfers
    tasks: TaskStore
    datasets: Datasets
    grants: Grants
    ledger: ItemLedger
    versions: Versions
    redescriber: Redescriber
    permissions: Permissions
    roster: Roster
    job_secrets: JobSecrets
    attached: AttachedParams
    point: Callable[[str], None]
    pulse: Pulse = field(default_factory=Pulse)
    scrub_at: float = math.inf
    """When what a job left is removed from the database's log; monotonic seconds."""

    @property
    def encryption(self) -> str:
        """Whether messages and objects are encrypted, and why, in words."""
        return encryption_text(self.config.encryption, encrypted=self.endpoint.encrypted)

    def forget_soon(self) -> None:
        """Have the keys of a job that has ended removed from the database's log, once its rows are gone."""
        self.scrub_at = time.monotonic() + SCRUB_AFTER_S

    def follow_encryption(self) -> None:
        """Encrypt what goes out, and refuse what comes in plain, as the owner's settings and the roster say."""
        encrypted = is_encrypted(self.config.encryption, self.roster)
        self.endpoint.encrypted = encrypted
        self.transfers.repository.encrypt(self.job_secrets, encrypted=encrypted)

    def answer(self, turn: Turn, message: Message, body: Body) -> None:
        """Answer a message; it counts as handled once the answer is committed."""
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
            lambda: self.transfers.later(lambda: self.spool.drop_states(job, gone)) if gone else None
        )


def open_context(
    *,
    home: NodeHome,
    config: NodeConfig,
    node: str,
    roster: Roster,
    repository: Repository,
    database: Database,
    store: DatabaseStore,
    endpoint: Endpoint,
    report: Callable[[WorkerEvent | TransferEvent], None],
    sandboxes: tuple[str, ...],
    point: Callable[[str], None],
) -> NodeContext:
    """Put the collaborators of a daemon together.

    Args:
        report: takes what threads and workers report; must not block.
        sandboxes: kinds that may be used, the best first.
    """
    spool = Spool(home, repository)
    datasets, grants = Datasets(database), Grants(database)
    versions = datasets.versions()
    transfers = Transfers(
        home=home, config=config, node=node, spool=spool, repository=repository, notify=report, point=point
    )
    context = NodeContext(
        home=home,
        config=config,
        node=node,
        database=database,
        store=store,
        endpoint=endpoint,
        spool=spool,
        workers=Workers(home, config, find_support(sandboxes), report),
        transfers=transfers,
        tasks=TaskStore(database),
        datasets=datasets,
        grants=grants,
        ledger=ItemLedger(database),
        versions=versions,
        redescriber=Redescriber(home.root, versions, transfers.later),
        permissions=Permissions(
            config=config,
            database=database,
            datasets=datasets,
            grants=grants,
            versions=versions,
            secrets=home.secrets,
            models=home.models,
        ),
        roster=roster,
        job_secrets=JobSecrets(home.keys / FOLDER_NAME),
        attached=store.attached,
        point=point,
    )
    context.follow_encryption()
    return context
