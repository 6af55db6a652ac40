"""Whether something may run here: the dataset, its limits, and the owner's decisions.

Asked when a job offers, when a task arrives and again when it starts: a decision
that changed in between counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from fedjob.common.errors import FedjobError, PlanError
from fedjob.common.messages import Offer, Task
from fedjob.common.preprocess import canonical, hash_of
from fedjob.common.protocols import PROTOCOLS
from fedjob.common.protocols.base import FederatedProtocol
from fedjob.node.datasets import Dataset, Datasets
from fedjob.node.grant import Asked, Grant, Subject, matches_any
from fedjob.node.grants import Grants
from fedjob.node.limits import Limits, tighten
from fedjob.node.settings import NodeConfig

MAX_PLAN_BYTES = 256 * 1024
_REFUSALS = ("revoked", "limits_exceeded", "unknown_researcher")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says.

    Args:
        status: as in `messages.Answer`; `pending` without a grant means that nobody was asked yet.
        reason, detail: why it may not run.
        asked: what came with the question.
        needs: of `plan` and `data`: what the owner has to allow.
        origin: `request`, `rule`, `built-in`, or empty where nothing had to be granted.
        state: of the grant; `expired` also where a new one has to be asked for.
        limits: that it runs under.
    """

    status: str
    subject: Subject | None = None
    dataset: Dataset | None = None
    grant: Grant | None = None
    reason: str = ""
    detail: str = ""
    asked: Asked = field(default_factory=Asked)
    needs: tuple[str, ...] = ()
    origin: str = ""
    state: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def allowed(self) -> bool:
        """Whether it may run now."""
        return self.status in ("granted", "not-needed")

    @property
    def refusal(self) -> tuple[str, str]:
        """Reason and detail for a task that may not run."""
        if self.status == "pending":
            return ("expired" if self.state == "expired" else "plan_not_approved"), self.detail
        if self.status == "rejected" and self.reason not in _REFUSALS:
            return "plan_not_approved", self.detail
        return self.reason, self.detail


def judge(
    wish: Offer | Task,
    *,
    researcher: str,
    key_hex: str,
    datasets: Datasets,
    grants: Grants,
    config: NodeConfig,
    job: str = "",
    version: str = "",
    now: float | None = None,
) -> Verdict:
    """Decide over an offer or a task; it looks only.

    Args:
        key_hex: the researcher's key.
        version: of the dataset's content.
        now: seconds since 1970.
    """
    dataset = datasets.find(wish.dataset) if wish.dataset else None
    if refused := _refused_outright(wish, dataset, config):
        return refused
    protocol = PROTOCOLS.find(wish.protocol)
    operation = operation_of(protocol)
    if not matches_any(config.operations, operation):
        return _no("protocol", f"this node does not run {operation}{ask(config, dataset)}", dataset)
    needs = _needs(wish, operation, config)
    asked = _asked(wish, job, operation, needs)
    ours = grants.projects.limits_of(wish.project)
    verdict = Verdict("not-needed", None, dataset, asked=asked, needs=needs, limits=ours)
    subject = _subject(wish, researcher, key_hex, needs, version)
    verdict = replace(verdict, subject=subject)
    known = grants.known.org_of(researcher, key_hex) is not None
    if config.unknown == "deny" and not known and not _is_named(grants, subject, asked, wish):
        detail = f"this node's owner does not know the key of {researcher}{ask(config, dataset)}"
        return replace(verdict, status="rejected", reason="unknown_researcher", detail=detail)
    if dataset is not None and wish.use == "private" and dataset.num_rows < ours.min_rows:
        return _no("min_rows", _too_few(dataset, wish.project, config), dataset)
    if broken := ours.broken_by(asked.model_args, asked.training_args, asked.protect, asked.rounds):
        detail = f"project {wish.project or 'default'}: {broken}{ask(config, dataset)}"
        return replace(verdict, status="rejected", reason="limits_exceeded", detail=detail)
    if not needs:
        return replace(verdict, origin="built-in" if wish.plan is None else "")
    now = time.time() if now is None else now
    return _decided(verdict, subject, wish, grants, config, now)


def operation_of(protocol: type[FederatedProtocol]) -> str:
    """Return the public name of what a protocol computes: package, family where it has one, name."""
    words = (protocol.__module__.partition(".")[0], protocol.family, protocol.name)
    return ".".join(word for word in words if word)


def ask(config: NodeConfig, dataset: Dataset | None = None) -> str:
    """Return whom to ask, as the end of a sentence."""
    whom = contact_of(config, dataset)
    return f"; ask {whom}" if whom else ""


def contact_of(config: NodeConfig, dataset: Dataset | None) -> str:
    """Return whom to ask: about this dataset, or else about the node."""
    return (dataset.contact if dataset is not None else "") or config.contact


def examine_plan(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Return a plan's text and the packages that this node lacks for it; nothing is executed.

    Raises:
        PlanError: it does not read as it runs, or is no Python.
    """
    from fedjob.common.plans.hidden import check_plan_text
    from fedjob.common.plans.packages import missing_packages

    text = check_plan_text(data)
    if text.encode() != data:
        raise PlanError("the plan's text is not in the form that fedjob extracts")
    return text, missing_packages(text)


def _refused_outright(wish: Offer | Task, dataset: Dataset | None, config: NodeConfig) -> Verdict | None:
    """Return a verdict where no decision of the owner could help."""
    if wish.project and not matches_any(config.projects, wish.project):
        return _no("project", f"this node takes no part in project {wish.project[:60]!r}{ask(config)}")
    if dataset is None and wish.dataset:
        return _no("no_dataset", f"there is no dataset {wish.dataset[:80]!r} here")
    brings = wish.brings if isinstance(wish, Offer) else wish.files is not None
    if brings and config.bring == "off":
        return _no("bring", f"this node takes no data that researchers bring (bring = off){ask(config)}")
    if not wish.dataset and not brings and wish.plan is None:
        return _no("no_dataset", f"{wish.protocol} computes on a dataset, and the job names none here")
    if wish.use not in ("private", "mock"):
        return _no("spec", f"data are used as 'private' or 'mock', not {wish.use[:40]!r}")
    if dataset is not None and wish.use == "mock" and not dataset.mock:
        return _no("no_mock", f"dataset {dataset.name} has no mock{ask(config, dataset)}")
    if dataset is not None and wish.use == "private" and dataset.num_rows < dataset.min_rows:
        return _no("min_rows", _too_few(dataset, "", config))
    try:
        needs_plan = PROTOCOLS.find(wish.protocol).needs_plan
    except FedjobError as error:
        return _no("protocol", str(error))
    if needs_plan and wish.plan is None:
        return _no("plan", f"{wish.protocol} needs a training plan")
    if wish.plan is not None and (wish.plan.parts or wish.plan.size_bytes > MAX_PLAN_BYTES):
        return _no("plan", f"a plan's text has at most {MAX_PLAN_BYTES} bytes")
    if wish.plan is not None and not wish.entry.isidentifier():
        return _no("plan", "the name of the plan's class is missing")
    return None


def _needs(wish: Offer | Task, operation: str, config: NodeConfig) -> tuple[str, ...]:
    """Return what the owner has to allow."""
    needs = []
    if config.approval == "on" and (wish.plan is not None or not matches_any(config.plans, operation)):
        needs.append("plan")
    if wish.dataset and matches_any(config.ask_data, wish.dataset):
        needs.append("data")
    return tuple(needs)


def _subject(
    wish: Offer | Task, researcher: str, key_hex: str, needs: tuple[str, ...], version: str
) -> Subject:
    plan = "" if wish.plan is None else wish.plan.sha256
    entry = wish.protocol if wish.plan is None else wish.entry
    if needs == ("data",):
        plan, entry = "", "*"  # one decision for whatever would run
    return Subject(
        researcher=researcher,
        key_hex=key_hex,
        plan=plan,
        entry=entry,
        dataset=wish.dataset,
        use=wish.use,
        version=f"{version}+{hash_of(wish.preprocess)}" if wish.preprocess else version,
        project=wish.project,
    )


def _asked(wish: Offer | Task, job: str, operation: str, needs: tuple[str, ...]) -> Asked:
    more = {}
    if isinstance(wish, Offer):
        more = {"job_name": wish.job_name, "note": wish.note, "rounds": wish.rounds}
    return Asked(
        job=job,
        project=wish.project,
        owner=wish.owner,
        operation=operation,
        config=wish.config,
        model_args=wish.model_args,
        training_args=wish.training_args,
        resources=wish.resources,
        preprocess=canonical(wish.preprocess) if wish.preprocess else "",
        launches=tuple(wish.launches),
        protect=tuple(wish.protect),
        needs=needs,
        reading=wish.plan.sha256 if wish.plan is not None and needs == ("data",) else "",
        **more,  # type: ignore[arg-type]
    )


def _decided(
    verdict: Verdict, subject: Subject, wish: Offer | Task, grants: Grants, config: NodeConfig, now: float
) -> Verdict:
    """Look for the owner's decision: on exactly this first, then in the standing agreements."""
    asked = verdict.asked
    every = grants.of(subject, wish.protocol)
    exact = [grant for grant in every if grant.subject.version == subject.version]
    newest = exact[0] if exact else None
    closed = newest is not None and newest.status in ("rejected", "revoked")
    plan = "" if wish.plan is None else wish.plan.sha256
    anybody = config.unknown == "allow"
    tried = [grant for grant in exact if grant.status == "granted" and not grant.rule]
    tried += [
        rule
        for rule in grants.rules(wish.use)
        if grants.is_about(rule, subject, asked, plan=plan, anybody=anybody)
    ]
    over, broken = "", ""
    for grant in tried:
        uses_it = grants.usage.uses_it(grant.id, asked.job)
        if closed and not uses_it:
            continue  # a later no counts for later jobs
        if grant.limits.over(now):
            over = "its time has passed"
        elif used := grant.used_up(uses_it=uses_it):
            over = used
        elif outside := grant.limits.broken_by(
            asked.model_args, asked.training_args, asked.protect, asked.rounds
        ):
            broken = broken or outside
        else:
            return replace(
                verdict,
                status="granted",
                grant=grant,
                origin=grant.origin,
                state="granted",
                limits=tighten(grant.limits, verdict.limits),
            )
    if closed and newest is not None:
        return _closed(verdict, newest, config)
    ended = grants.ended_use(asked.job, subject) if asked.job and newest is None else None
    if ended is not None and ended.status == "revoked":
        return _closed(verdict, ended, config)
    if broken:
        detail = broken + ask(config, verdict.dataset)
        return replace(verdict, status="rejected", reason="limits_exceeded", detail=detail)
    if newest is not None and newest.status == "pending":
        return replace(
            verdict,
            status="pending",
            grant=newest,
            origin=newest.origin,
            state="pending",
            detail=f"its owner has not decided yet{ask(config, verdict.dataset)}",
        )
    expired = over or any(grant.status == "expired" for grant in exact) or ended is not None
    detail = "its owner was not asked yet"
    if expired:
        detail = (
            f"what was granted has ended ({over or 'its time has passed'}): its owner has to be asked anew"
        )
    elif every:
        detail = "the data have changed since its owner was asked, or the steps that prepare them"
    state = "expired" if expired else ""
    return replace(verdict, status="pending", reason="not_requested", detail=detail, state=state)


def _closed(verdict: Verdict, grant: Grant, config: NodeConfig) -> Verdict:
    said = grant.note or f"its owner has {grant.status} it"
    return replace(
        verdict,
        status="rejected",
        grant=grant,
        origin=grant.origin,
        state=grant.status,
        reason=grant.status,
        detail=said + ask(config, verdict.dataset),
    )


def _is_named(grants: Grants, subject: Subject, asked: Asked, wish: Offer | Task) -> bool:
    """Tell whether an agreement names this researcher or this key."""
    plan = "" if wish.plan is None else wish.plan.sha256
    return any(grants.is_about(rule, subject, asked, plan=plan) for rule in grants.rules(subject.use))


def _too_few(dataset: Dataset, project: str, config: NodeConfig) -> str:
    whose = f"project {project} requires" if project else "its owner's minimum"
    return f"dataset {dataset.name} has fewer rows than {whose}{ask(config, dataset)}"


def _no(reason: str, detail: str, dataset: Dataset | None = None) -> Verdict:
    return Verdict("unknown", dataset=dataset, reason=reason, detail=detail)
