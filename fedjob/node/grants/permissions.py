"""The permissions of tasks, as the policy decides them, and the charges against their grants."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.types import Ref
from fedjob.execution.private_work import PrivateWork, private_work
from fedjob.execution.tree_stretches import tree_of
from fedjob.execution.work_speed import core_speed, examples_in, rows_trained_on
from fedjob.messaging.messages import Message, Offer, Result, Task
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets, RegisteredDataset
from fedjob.node.data.models import OwnModels
from fedjob.node.data.versions import Versions
from fedjob.node.grants.contract import defaults_of
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import MB, Grant, Question
from fedjob.node.grants.limits import GrantLimits, tighten
from fedjob.node.grants.policy import Permission, ask, judge, not_possible
from fedjob.node.grants.question import question_of
from fedjob.node.protection.privacy_accounts import PrivacyAccounts
from fedjob.node.protection.privacy_ledger import Quote, Wanted, unprotected
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import task_of
from fedjob.node.storage.costs import CostLedger, TaskCost, arguments_hash, kind_of_work, passes_in
from fedjob.node.storage.database import Database
from fedjob.node.storage.secrets import Secrets
from fedjob.node.storage.speeds import SpeedLedger, TaskSpeed
from fedjob.privacy.dp.mechanisms import Mechanism
from fedjob.privacy.dp.tree_terms import TreeStretch, fresh_seed
from fedjob.privacy.protect import NodeDP, RecordDP, dp_of
from fedjob.privacy.protections import lowered
from fedjob.protocols.steps import SETUP, Steps
from fedjob.protocols.usage import INFERENCES, usage_of
from fedjob.repository.line_check import LineCheck

MAX_QUESTIONS = 64
"""Questions that are kept beside what raised them, so that a task that was judged and begins is not read again."""

Came = Callable[[Ref], bool] | None
"""Tells of an object that a task names whether it was fetched; None: all were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The cost of a finished task.

    Args:
        result: that it is answered with: a failure where nothing was left to pay with.
        count: writes the cost down, as part of the caller's transaction; None where there is none.
        payer: the grant, or what stands for it, that pays.
        predictions: that are counted.
    """

    result: Result
    count: Callable[[], None] | None = None
    payer: str = ""
    predictions: int = 0


class Permissions:
    """Asks policy for the daemon, with all that it decides on.

    Args:
        config: is replaced when the owner changes it.
        secrets: file of the owner's secrets.
        models: file that lists the owner's models.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        database: Database,
        datasets: Datasets,
        grants: Grants,
        versions: Versions,
        secrets: Path,
        models: Path,
    ) -> None:
        self.config = config
        self._database = database
        self._datasets = datasets
        self._grants = grants
        self._versions = versions
        self._secrets = secrets
        self._models = OwnModels(models)
        self._costs, self._speeds = CostLedger(database), SpeedLedger(database)
        self.accounts = PrivacyAccounts(database)
        self._questions: dict[int, tuple[Offer | Task, dict[str, Any], Question | Permission]] = {}

    def judge(self, message: Message, wanted: Offer | Task) -> Permission:
        """Ask policy about a message."""
        return self.judge_for(
            message.sender,
            message.sender_key,
            message.job,
            wanted,
            round_=message.round,
            step=message.step,
        )

    def judge_row(self, row: TaskRow) -> Permission:
        """Ask policy about a task of the node's book."""
        return self.judge_for(
            row.researcher, row.researcher_key, row.job, task_of(row), round_=row.round, step=row.step
        )

    def judge_for(
        self,
        researcher: str,
        key_hex: str,
        job: str,
        wanted: Offer | Task,
        *,
        round_: int = 0,
        step: str = "",
    ) -> Permission:
        """Ask policy about what a researcher wants for a job.

        Args:
            key_hex: the key that the researcher asked with.
            round_, step: of a task.
        """
        dataset = self._datasets.find(wanted.dataset) if wanted.dataset else None
        question = self._question(
            wanted,
            researcher=researcher,
            key_hex=key_hex,
            job=job,
            dataset=dataset,
            version=self._version_of(dataset, wanted.use),
            config=self.config,
            round_=round_,
            step=step,
        )
        if isinstance(question, Permission):
            return question
        if lacking := self._models.lacking(wanted.models):
            return not_possible("no_model", f"{lacking}{ask(self.config, dataset)}", dataset)
        verdict = judge(question, self._grants.on_file(question), dataset, self.config, time.time())
        return self._within_budget(verdict, wanted, job, researcher)

    def _question(self, wanted: Offer | Task, **about: Any) -> Question | Permission:
        """Return what `question_of` returns; for the same object and the same of all else, the answer of last time."""
        known = self._questions.pop(id(wanted), None)
        if known is None or known[0] is not wanted or known[1] != about:
            known = wanted, about, question_of(wanted, **about)
        self._questions[id(wanted)] = known
        while len(self._questions) > MAX_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        return known[2]

    def _version_of(self, dataset: RegisteredDataset | None, use: str) -> str:
        """Return the version of a dataset, or of its mock."""
        if dataset is None:
            return ""
        return self._versions.of_parts(dataset.parts(use))

    def may_start(self, row: TaskRow, root: TaskRow) -> tuple[str, str] | None:
        """Ask policy again when a task begins to run, and count the run; return why it may not.

        Args:
            root: the task of the job that a child belongs to: what was decided on that is the child's too.
        """
        verdict = self.judge_row(root)
        if not verdict.allowed:
            return verdict.refusal
        usage, grant = self._grants.usage, verdict.grant
        if grant is not None and not (
            usage.uses_it(grant.id, row.job) and usage.bound(row.key) == grant.id
        ):  # a later task of a job was bound when it came
            with self._database.transaction():
                usage.begin(grant.id, row.job)
                usage.bind(row.key, grant.id)
        return None

    def charge(
        self,
        row: TaskRow,
        result: Result,
        counted: Mapping[str, int],
        started: float,
        *,
        moved: Mapping[str, float] | None = None,
        here: Collection[str] = (),
        came: Came = None,
    ) -> Charge:
        """Return what a finished task costs the grant that it ran under.

        Args:
            counted: payer -> predictions that are to be counted with the same commit.
            started: seconds of `time.monotonic`, when its attempt began.
            moved: seconds that it spent in transfers: `fetch`, `store`.
            here: hashes of objects that it names and has not fetched, for they were here.
            came: tells which of its other objects were fetched; None for all of them.

        Returns:
            A result that says whether it reached a limit, or a failure where other tasks used what was left
            while this one ran; and the change that counts it.
        """
        made = sum(entry["amount"] for entry in result.used if entry["resource"] == INFERENCES)
        if row.parent:
            return Charge(result=result)
        if not (result.ok or made) or _only_looks(row):
            return Charge(result=result, count=lambda: self._count_cost(row, result, started, {}, here, came))
        limit, payer = self.limits_of(row).inferences, _payer_of(row, self._grants)
        usage = usage_of(self._grants.usage.used(payer) + counted.get(payer, 0), made, limit)
        if usage is not None and usage.overrun:
            detail = f"{usage.overrun} predictions were over what the owner allows, which other tasks used meanwhile"
            failed = Result(of="", key=row.key, ok=False, reason="limits_exceeded", detail=detail)
            return Charge(result=failed, count=lambda: self._count_cost(row, failed, started, {}, here))
        if usage is not None and result.usage is None:
            result = replace(result, usage=list(usage))
        asked = made + (result.usage[0] if result.usage else 0)
        model = task_of(row).params.get("params")
        sha256 = "" if model is None else model.sha256

        def count() -> None:
            self._grants.usage.spend(row.key, rows=result.num_examples)
            self._count_cost(row, result, started, moved or {}, here)
            if made:
                self._grants.usage.use(sha256, asked, limit, grant=payer)

        return Charge(result=result, count=count, payer=payer, predictions=made)

    def _count_cost(
        self,
        row: TaskRow,
        result: Result,
        started: float,
        moved: Mapping[str, float],
        here: Collection[str],
        came: Came = None,
    ) -> None:
        """Count the time and the bytes of a finished task, of one that failed the bytes; part of the caller's transaction."""
        task = task_of(row)
        bound = self._grants.usage.bound(row.key)
        claimed = self._grants.get(bound).asked.claimed if bound else {}
        left = [
            ref for ref in (result.params, result.blob) if ref is not None and "secagg" not in task.protect
        ]
        config = {**defaults_of(task.protocol), **task.config}
        cost = TaskCost(
            job=row.job,
            grant=bound,
            work=_kind_of(task),
            args=arguments_hash(config, task.model_args, task.training_args),
            passes=passes_in(task.training_args),
            round=row.round,
            seconds=max(0.0, time.monotonic() - started),
            bytes_in=_fetched_bytes(self._costs, row, here, came),
            bytes_out=sum(ref.size_bytes for ref in left),
            # without what goes out there is nothing to hold it against
            claimed=claimed.get("down", 0) + claimed["up"] if "up" in claimed else 0,
            failed=not result.ok or _only_looks(row),  # how long it looks says nothing about a round
        )
        self._costs.add(cost)
        if result.ok and dp_of(task.protect) is None:
            self._speeds.add(speed_of(task, result, cost, moved))

    def count_moved(self, task: Task, job: str, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count what moves for a secure sum after its task was counted; part of the caller's transaction."""
        self._costs.add_moved(job, _kind_of(task), bytes_in=bytes_in, bytes_out=bytes_out)

    def speed_for(self, offer: Offer) -> dict[str, float]:
        """Return how fast this node has been at an offered kind of work, see `messages.Answer`; only what the owner lets out."""
        if not self.lets_speeds_out(offer):
            return {}
        return self._speeds.of(_kind_of(offer), arguments_hash(offer.model_args)) | {"core": core_speed()}

    def lets_speeds_out(self, offer: Offer) -> bool:
        """Tell whether researchers may know how fast this node is at an offered kind of work."""
        return self.config.publish_speed == "on" and dp_of(offer.protect) is None

    def note_line(self, check: LineCheck) -> None:
        """Note what a check of the line took; part of the caller's transaction."""
        self._speeds.add_line(check.size_bytes, check.down_s, check.up_s)

    def inferences_left(self, row: TaskRow) -> int | None:
        """Return how many predictions a task may make; None for any number."""
        if task_of(row).protocol != "inference" or not (limit := self.limits_of(row).inferences):
            return None
        return max(0, limit - self._grants.usage.used(_payer_of(row, self._grants)))

    def used_up(self, row: TaskRow, here: Collection[str] = ()) -> tuple[str, str] | None:
        """Say why a task can't begin for which nothing is left of a limit.

        Of the bytes of a task those count that it will fetch: how large its answer will be, nobody knows yet.

        Args:
            here: hashes of objects that it names and that are here already.
        """
        if self.inferences_left(row) == 0:
            return "limits_exceeded", "the predictions that the owner allows are used up"
        if not (allowed_mb := self.limits_of(row).moved_mb) or row.parent:
            return None
        moved = self._costs.moved_by(row.job, self._grants.usage.bound(row.key) or "")
        wanted = moved + _fetched_bytes(self._costs, row, here)
        if wanted <= allowed_mb * MB:
            return None
        return "limits_exceeded", (
            f"with this task {wanted / MB:,.1f} MB would have gone to and from the hub, and the owner allows {allowed_mb} MB: send "
            f"less, such as with `compress=`, or ask for a grant with more"
        )

    def limits_of(self, row: TaskRow) -> GrantLimits:
        """Return what limits a task: its grant, its project and its dataset together."""
        task = task_of(row)
        bound = self._grants.usage.bound(row.key)
        grant, projects = self._grants.get(bound) if bound else None, self._grants.projects
        if grant is not None and grant.origin == "request":
            limits = tighten(grant.limits, projects.limits_of(task.project))
        else:
            limits = projects.unnamed_limits_of(task.project)
            limits = limits if grant is None else tighten(grant.limits, limits)
        dataset = self._datasets.find(row.dataset)
        if dataset is not None and task.use == "private":
            limits = tighten(limits, GrantLimits(min_rows=dataset.min_rows))
        return limits

    def private_work_of(self, row: TaskRow) -> PrivateWork | None:
        """Return the noise and the cost of a task, as the node finds them; None for one without differential privacy.

        Raises:
            SpecError: it can't be done with differential privacy.
        """
        task = task_of(row)
        dp = dp_of(task.protect)
        if dp is None:
            return None
        dataset = self._datasets.find(task.dataset) if task.dataset else None
        dp = lowered(dp, self.limits_of(row).protections)
        return private_work(task, dp, num_rows=_rows_of(dataset), step=row.step, assets=_assets_of(dataset))

    def pay(self, row: TaskRow, work: PrivateWork, version: str) -> str:
        """Charge for a private task before it begins; return why it can't be paid, empty where it is.

        Args:
            version: of its dataset's content, as it is now.
        """
        task = task_of(row)
        dp = dp_of(task.protect)
        if dp is None or task.use != "private":
            return ""
        dp = lowered(dp, self.limits_of(row).protections)
        wanted = _wanted(task, row.job, row.researcher, work.mechanisms, dp)
        if work.tree is not None:
            name = tree_of(task, work.tree, researcher=row.researcher, job=row.job, version=version)
            wanted = replace(wanted, tree=work.tree, tree_name=name)
        return self.accounts.reserve(wanted, task=row.key, round_=row.round, step=row.step)

    def noise_of(self, row: TaskRow, work: PrivateWork) -> Mapping[str, Any]:
        """Return what the worker of a paid task computes by: its terms, or the steps of the trees that it was given."""
        if work.tree is None:
            return work.noise
        if task_of(row).use != "private":
            return TreeStretch(terms=work.tree, seed=fresh_seed(), first=0).to_plain()
        return self.accounts.stretch_of(row.key, work.tree).to_plain()

    def spent_by(self, row: TaskRow) -> dict[str, float]:
        """Return what a task's job has spent at this node, with that task, as its result says it."""
        task = task_of(row)
        dp = dp_of(task.protect)
        if dp is None or task.use != "private":
            return {}
        delta = lowered(dp, self.limits_of(row).protections).delta
        return {"epsilon": round(self.accounts.spent_by(row.job, row.dataset, delta), 6), "delta": delta}

    def _within_budget(
        self, verdict: Permission, wanted: Offer | Task, job: str, researcher: str
    ) -> Permission:
        """Refuse what the privacy budgets of a dataset do not allow, and add what it would cost.

        A task is charged, and refused where it is too much, when it begins.
        """
        if verdict.subject is None or not (verdict.allowed or verdict.status == "pending"):
            return verdict
        dp, dataset = dp_of(wanted.protect), verdict.dataset
        if dp is None:
            if dataset is None or wanted.use != "private" or not self.accounts.budgets(dataset.name):
                return verdict
            detail = unprotected(dataset.name) + ask(self.config, dataset)
            return replace(verdict, status="rejected", reason="budget", detail=detail)
        if isinstance(wanted, Task):
            return verdict
        dp = lowered(dp, verdict.limits.protections)
        try:
            quote = quote_of(wanted, dp, job, researcher, dataset, self.accounts)
        except SpecError as error:
            return not_possible("privacy", str(error), dataset)
        if wanted.use != "private":
            return replace(
                verdict, privacy={"epsilon": quote.epsilon, "delta": quote.delta, "cost": quote.cost}
            )
        verdict = replace(verdict, privacy=quote.to_plain())
        if not quote.refusal:
            return verdict
        detail = quote.refusal + ask(self.config, dataset)
        return replace(verdict, status="rejected", reason="budget", detail=detail)

    def secrets_of(self, row: TaskRow) -> dict[str, str]:
        """Return what a task's grant lets its plan use of the dataset's secrets; none without a grant, or on a mock."""
        bound, task = self._grants.usage.bound(row.key), task_of(row)
        if not bound or task.use != "private" or row.parent:
            return {}
        return Secrets(self._secrets).of(task.dataset, self.limits_of(row).secrets)


def _payer_of(row: TaskRow, grants: Grants) -> str:
    """Return what a task's predictions are counted for: its grant, else its project."""
    return grants.usage.bound(row.key) or f"project {task_of(row).project or 'default'}"


def _only_looks(row: TaskRow) -> bool:
    """Tell whether a task looks at the items of a job of steps, and computes nothing: what it fetches counts."""
    return row.step == SETUP and task_of(row).protocol == Steps.name


def _fetched_bytes(costs: CostLedger, row: TaskRow, here: Collection[str], came: Came = None) -> int:
    """Return the bytes of the objects that a task names and fetches; what a job's tasks share counts with the first one.

    Args:
        here: hashes of those that it does not fetch.
        came: tells which of the others were fetched; None for all of them.
    """
    if row.deaths:
        return 0  # they are still here, and counted when the first worker died
    task = task_of(row)
    named = [ref for ref in (*task.params.values(), *task.blobs.values()) if ref.sha256 not in here]
    if not costs.has_job(row.job):
        named += [ref for ref in (task.plan, task.files, *task.artifacts.values()) if ref is not None]
    return sum(ref.size_bytes for ref in named if came is None or came(ref))


def _kind_of(task: Offer | Task) -> str:
    plan = "" if task.plan is None else task.plan.sha256
    return kind_of_work(plan, task.entry, task.protocol, task.dataset, task.use)


def speed_of(task: Task, result: Result, cost: TaskCost, moved: Mapping[str, float]) -> TaskSpeed:
    """Return the time of a finished task in its parts.

    Args:
        moved: seconds of its transfers.
    """
    fetch_s, store_s = moved.get("fetch", 0.0), moved.get("store", 0.0)
    trained_s = sum(max(0.0, result.timing.get(name, 0.0)) for name in ("train", "validate"))
    arguments = {**task.training_args, **task.round_args}
    # as researchers count, who know the rows and not what a plan makes of them
    read = result.rows.get("read", 0)
    return TaskSpeed(
        job=cost.job,
        work=cost.work,
        model=arguments_hash(task.model_args),
        examples=examples_in(arguments, rows_trained_on(arguments, read) if read else result.num_examples),
        trained_s=trained_s,
        fetched=cost.bytes_in if fetch_s else 0,
        fetch_s=fetch_s,
        stored=cost.bytes_out if store_s else 0,
        store_s=store_s,
        other_s=max(0.0, cost.seconds - trained_s - fetch_s - store_s),
    )


def quote_of(
    wanted: Offer,
    dp: RecordDP | NodeDP,
    job: str,
    researcher: str,
    dataset: RegisteredDataset | None,
    accounts: PrivacyAccounts,
) -> Quote:
    """Return what an offered job would cost in differential privacy, and what the dataset's budgets have for it.

    Args:
        dp: the epsilon and delta that hold at this node.

    Raises:
        SpecError: it can't be done with differential privacy.
    """
    work = private_work(wanted, dp, num_rows=_rows_of(dataset), assets=_assets_of(dataset))
    return accounts.quote(_wanted(wanted, job, researcher, work.whole, dp))


def price_of(
    grant: Grant, limits: GrantLimits, dataset: RegisteredDataset | None, accounts: PrivacyAccounts
) -> Quote | None:
    """Return what the job of a request would cost; None where it asks for no differential privacy, or uses a mock.

    Args:
        limits: of its project.

    Raises:
        SpecError: it can't be done with differential privacy.
    """
    asked, subject = grant.asked, grant.subject
    dp = dp_of(asked.protect)
    if dp is None or subject.use != "private" or grant.origin != "request":
        return None
    offer = Offer(
        dataset=subject.dataset,
        protocol=grant.protocol,
        config=dict(asked.config),
        training_args=dict(asked.training_args),
        model_args=dict(asked.model_args),
        project=asked.project,
        protect=dict(asked.protect),
        rounds=asked.rounds,
    )
    dp = lowered(dp, tighten(grant.limits, limits).protections)
    return quote_of(offer, dp, asked.job, subject.researcher, dataset, accounts)


def _rows_of(dataset: RegisteredDataset | None) -> int:
    if dataset is None:
        raise SpecError(
            "differential privacy is of the records of a node's dataset, and this job uses none of them"
        )
    return dataset.num_rows


def _assets_of(dataset: RegisteredDataset | None) -> list[str]:
    return [] if dataset is None else [asset.name for asset in dataset.assets]


def _wanted(
    wanted: Offer | Task,
    job: str,
    researcher: str,
    mechanisms: tuple[Mechanism, ...],
    dp: RecordDP | NodeDP,
) -> Wanted:
    return Wanted(
        dataset=wanted.dataset,
        job=job,
        researcher=researcher,
        project=wanted.project,
        mechanisms=mechanisms,
        epsilon=dp.epsilon,
        delta=dp.delta,
    )
