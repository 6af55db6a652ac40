"""What the rooms of one daemon share, and the turn that they fill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from fedjob.common.endpoint import Endpoint
from fedjob.common.gate import parse_address
from fedjob.common.messages import Body, Message, Offer, Result, Task
from fedjob.common.outbox import Outgoing
from fedjob.common.protocols.steps import SETUP, Steps
from fedjob.common.roster import Roster
from fedjob.common.usage import INFERENCES, usage_of
from fedjob.node import taskkeeping as keeping
from fedjob.node.database import Database
from fedjob.node.datasets import Datasets
from fedjob.node.grants import Grants
from fedjob.node.ledger import Ledger
from fedjob.node.limits import Limits, tighten
from fedjob.node.policy import Verdict, judge
from fedjob.node.runs import Runs
from fedjob.node.secrets import Secrets
from fedjob.node.settings import NodeConfig, NodeHome
from fedjob.node.spool import Spool
from fedjob.node.store import DatabaseStore
from fedjob.node.task import task_of
from fedjob.node.taskstore import TaskStore
from fedjob.node.versions import Versions
from fedjob.node.worker import Workers

MAX_KEPT_TEXTS = 32


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
    _texts: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = TaskStore(self.database)
        self.datasets = Datasets(self.database)
        self.grants = Grants(self.database)
        self.ledger = Ledger(self.database)

    def judge(self, message: Message, wish: Offer | Task) -> Verdict:
        """Ask policy about a message."""
        return self.judge_for(message.sender, message.job, wish)

    def judge_for(self, researcher: str, job: str, wish: Offer | Task) -> Verdict:
        """Ask policy about what a researcher wants for a job."""
        return judge(
            wish,
            researcher=researcher,
            key_hex=self.roster.key_of(researcher) or "",
            datasets=self.datasets,
            grants=self.grants,
            config=self.config,
            job=job,
            version=self.version_of(wish.dataset, wish.use),
        )

    def version_of(self, name: str, use: str) -> str:
        """Return the version of a dataset, or of its mock."""
        dataset = self.datasets.find(name) if name else None
        if dataset is None:
            return ""
        return self.versions.of(dataset.mock if use == "mock" else dataset.path)

    def may_start(self, row: keeping.TaskRow, root: keeping.TaskRow) -> tuple[str, str] | None:
        """Ask policy again when a task begins to run, and count the run; return why it may not.

        Args:
            root: the task of the job that a child belongs to: what was decided on that is the child's too.
        """
        verdict = self.judge_for(root.researcher, root.job, task_of(root))
        if not verdict.allowed:
            return verdict.refusal
        if verdict.grant is not None:
            with self.database.transaction():
                self.grants.usage.begin(verdict.grant.id, row.job)
                self.grants.usage.bind(row.key, verdict.grant.id)
        return None

    def charge(self, turn: Turn, row: keeping.TaskRow, result: Result) -> Result:
        """Count what a finished task used against the grant that it ran under, with the turn's commit.

        Returns:
            The result, which says whether it reached a limit; a failure where other tasks used what was left while
            this one ran.
        """
        made = sum(entry["amount"] for entry in result.used if entry["resource"] == INFERENCES)
        looks = row.step == SETUP and task_of(row).protocol == Steps.name  # that only looks at the items
        if row.parent or looks or not (result.ok or made):
            return result
        limit, payer = self.limits_of(row).inferences, self._payer(row)
        usage = usage_of(self.grants.usage.used(payer) + turn.predicted.get(payer, 0), made, limit)
        if usage is not None and usage.overrun:
            detail = f"{usage.overrun} predictions were over what the owner allows, which other tasks used meanwhile"
            return Result(of="", key=row.key, ok=False, reason="limits_exceeded", detail=detail)
        if usage is not None and result.usage is None:
            result = replace(result, usage=list(usage))
        model = task_of(row).params.get("params")
        sha256 = "" if model is None else model.sha256
        turn.predicted[payer] = turn.predicted.get(payer, 0) + made

        def count() -> None:
            self.grants.usage.spend(row.key, rows=result.num_examples)
            if made:
                self.grants.usage.use(sha256, made, limit, grant=payer)

        turn.rows.append(count)
        return result

    def inferences_left(self, row: keeping.TaskRow) -> int | None:
        """Return how many predictions a task may make; None for any number."""
        limit = self.limits_of(row).inferences
        if not limit or task_of(row).protocol != "inference":
            return None
        return max(0, limit - self.grants.usage.used(self._payer(row)))

    def used_up(self, row: keeping.TaskRow) -> tuple[str, str] | None:
        """Say why a task can't begin for which nothing is left of a limit."""
        if self.inferences_left(row) != 0:
            return None
        return "limits_exceeded", "the predictions that the owner allows are used up"

    def _payer(self, row: keeping.TaskRow) -> str:
        """Return what a task's predictions are counted for: its grant, else its project."""
        return self.grants.usage.bound(row.key) or f"project {task_of(row).project or 'default'}"

    def limits_of(self, row: keeping.TaskRow) -> Limits:
        """Return what limits a task: its grant, its project and its dataset together."""
        task = task_of(row)
        bound = self.grants.usage.bound(row.key)
        limits = self.grants.projects.limits_of(task.project)
        if bound:
            limits = tighten(self.grants.get(bound).limits, limits)
        dataset = self.datasets.find(row.dataset)
        if dataset is not None and task.use == "private":
            limits = tighten(limits, Limits(min_rows=dataset.min_rows))
        return limits

    def secrets_of(self, row: keeping.TaskRow) -> dict[str, str]:
        """Return what a task's grant lets its plan use of the dataset's secrets; none without a grant, or on a mock."""
        bound, task = self.grants.usage.bound(row.key), task_of(row)
        if not bound or task.use != "private" or row.parent:
            return {}
        return Secrets(self.home.secrets).of(task.dataset, self.limits_of(row).secrets)

    def answer(self, turn: Turn, message: Message, body: Body) -> None:
        """Answer a message, and be done with it when that is committed."""
        to = parse_address(message.reply_to)
        turn.outgoing.append(self.endpoint.prepare(to, body, job=message.job, epoch=message.epoch))
        turn.settled.append(message)

    def text_of(self, plan: str) -> bytes | None:
        """Return a plan's text, if it is here."""
        kept = self._texts.get(plan)
        return kept if kept is not None else self.grants.texts.of(plan)

    def keep_text(self, sha256: str, text: bytes) -> None:
        """Remember a plan's text for a while, if it is the one that the hash names."""
        if text and sha256 not in self._texts and hashlib.sha256(text).hexdigest() == sha256:
            while len(self._texts) >= MAX_KEPT_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[sha256] = text

    def drop_states(
        self, turn: Turn, job: str, keep: Collection[str] = (), before: int | None = None
    ) -> None:
        """Remove a job's node states, but those to keep and those of rounds from `before` on."""
        gone: list[str] = []
        turn.rows.append(lambda: gone.extend(self.tasks.drop_states(job, keep, before)))
        turn.after.append(
            lambda: self.runs.later(lambda: self.spool.drop_states(job, gone)) if gone else None
        )
