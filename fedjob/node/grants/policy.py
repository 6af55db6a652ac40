"""The rules by which a node decides whether something may run. Pure: all that is on file is handed in.

They are asked when a job offers, when a task arrives and again when it starts: a
decision that changed in between counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedjob.common.types import Contact, contacts_text
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import RegisteredDataset
from fedjob.node.grants.contract import Request, is_bounded, not_allowed
from fedjob.node.grants.grant import (
    Grant,
    GrantSubject,
    OnFile,
    Question,
    counted_org,
    is_about,
    outside_agreement,
)
from fedjob.node.grants.limits import GrantLimits, tighten

_REFUSALS = ("revoked", "limits_exceeded", "unknown_researcher", "budget")


@dataclass(frozen=True, slots=True)
class Permission:
    """The decision of the policy on whether something may run.

    Args:
        status: as in `messages.Answer`; `pending` without a grant means that nobody was asked yet.
        reason, detail: why it may not run.
        asked: what came with the question.
        needs: of `plan` and `data`: what the owner has to allow.
        origin: `request`, `rule`, `built-in`, or empty where nothing had to be granted.
        state: of the grant; `expired` also where a new one has to be asked for.
        limits: those that it runs under.
        privacy: what it would cost in differential privacy, by name, see `messages.Answer`.
    """

    status: str
    subject: GrantSubject | None = None
    dataset: RegisteredDataset | None = None
    grant: Grant | None = None
    reason: str = ""
    detail: str = ""
    asked: Request = field(default_factory=Request)
    needs: tuple[str, ...] = ()
    origin: str = ""
    state: str = ""
    limits: GrantLimits = field(default_factory=GrantLimits)
    privacy: Mapping[str, float] = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        """True if it may run now."""
        return self.status in ("granted", "not-needed")

    @property
    def gpus(self) -> tuple[int, ...] | None:
        """The GPUs that its grant names; None where it runs under none that was asked for, so that any may serve."""
        if self.grant is None or self.grant.origin != "request":
            return None
        return tuple(self.grant.asked.gpus or ())

    @property
    def refusal(self) -> tuple[str, str]:
        """Reason and detail for a task that may not run."""
        if self.status == "pending":
            return ("expired" if self.state == "expired" else "plan_not_approved"), self.detail
        if self.status == "rejected" and self.reason not in _REFUSALS:
            return "plan_not_approved", self.detail
        return self.reason, self.detail


def judge(
    question: Question, on_file: OnFile, dataset: RegisteredDataset | None, config: NodeConfig, now: float
) -> Permission:
    """Decide whether what is asked for may run.

    Args:
        on_file: what the owner's decisions say about the subject.
        now: seconds since 1970.
    """
    subject, asked = question.subject, question.asked
    limits = on_file.project_limits if asked.needs else on_file.unnamed_limits
    verdict = Permission("not-needed", subject, dataset, asked=asked, needs=asked.needs, limits=limits)
    is_stranger = config.unknown == "deny" and on_file.known_org is None
    if is_stranger and not _rules_about(question, on_file):
        detail = f"this node's owner does not know the key of {subject.researcher}{ask(config, dataset)}"
        return replace(verdict, status="rejected", reason="unknown_researcher", detail=detail)
    if _has_too_few_rows(verdict, limits):
        return not_possible("min_rows", too_few_rows(dataset, subject.project, config), dataset)
    if broken := asked.breaks(limits):
        detail = f"project {subject.project or 'default'}: {broken}{ask(config, dataset)}"
        return replace(verdict, status="rejected", reason="limits_exceeded", detail=detail)
    if not asked.needs:
        return replace(verdict, origin="" if question.plan else "built-in")
    return _decided(verdict, question, on_file, config, now)


def ask(config: NodeConfig, dataset: RegisteredDataset | None = None) -> str:
    """Return whom to ask, as the end of a sentence."""
    whom = contact_of(config, dataset)
    return f"; ask {whom}" if whom else ""


def contact_of(config: NodeConfig, dataset: RegisteredDataset | None) -> str:
    """Return whom to ask: about this dataset, or else about the node."""
    return contacts_text(contacts_of(config, dataset))


def contacts_of(config: NodeConfig, dataset: RegisteredDataset | None = None) -> tuple[Contact, ...]:
    """Return the contacts of this dataset, or else those of the node."""
    return (dataset.contacts if dataset is not None else ()) or config.contacts


def not_possible(reason: str, detail: str, dataset: RegisteredDataset | None = None) -> Permission:
    """Return the verdict on what no decision of the owner would let run."""
    return Permission("unknown", dataset=dataset, reason=reason, detail=detail)


def too_few_rows(dataset: RegisteredDataset | None, project: str, config: NodeConfig) -> str:
    """Return the words for a dataset with fewer rows than are required."""
    whose = f"project {project} requires" if project else "its owner's minimum"
    name = "" if dataset is None else dataset.name
    return f"dataset {name} has fewer rows than {whose}{ask(config, dataset)}"


def _decided(
    verdict: Permission, question: Question, on_file: OnFile, config: NodeConfig, now: float
) -> Permission:
    """Look for the owner's decision: on exactly this first, then within ranges, then in the standing agreements."""
    asked = question.asked
    of_now = [grant for grant in on_file.exact if grant.subject.version == question.subject.version]
    exact = [grant for grant in of_now if not not_allowed(grant.asked, asked, GrantLimits())]
    newest = exact[0] if exact else None
    closed = newest is not None and newest.status in ("rejected", "revoked")
    tried = [grant for grant in of_now if grant.status == "granted" and not grant.rule]
    tried += _rules_about(question, on_file, anybody=config.unknown == "allow")
    if closed:  # a later no counts for later jobs
        tried = [grant for grant in tried if grant.id in on_file.used]
    over, broken = "", ""
    for grant in tried:
        beyond = asked.breaks(grant.limits)
        if _is_another(verdict, question, grant, on_file, outside=bool(beyond)):
            continue
        if ended := _ended(grant, on_file, now):
            over = ended
        elif beyond:
            broken = broken or beyond
        else:
            ours = verdict.limits if grant.origin == "request" else on_file.unnamed_limits
            limits = tighten(grant.limits, ours)
            return _on(verdict, grant, status="granted", state="granted", limits=limits)
    if closed and newest is not None:
        return _closed(verdict, newest, config)
    ended_use = _ended_use(question, on_file) if newest is None else None
    if ended_use is not None and ended_use.status == "revoked":
        return _closed(verdict, ended_use, config)
    if broken:
        detail = broken + ask(config, verdict.dataset)
        return replace(verdict, status="rejected", reason="limits_exceeded", detail=detail)
    if newest is not None and newest.status == "pending":
        detail = f"its owner has not decided yet{ask(config, verdict.dataset)}"
        return _on(verdict, newest, status="pending", state="pending", detail=detail)
    has_expired = ended_use is not None or any(grant.status == "expired" for grant in exact)
    over = over or ("its time has passed" if has_expired else "")
    return _not_requested(verdict, over, on_file, of_now, question)


def _is_another(
    verdict: Permission, question: Question, grant: Grant, on_file: OnFile, *, outside: bool
) -> bool:
    """Tell whether a grant is about another question, so that the owner has to be asked.

    Args:
        outside: an argument lies outside of the grant's ranges.
    """
    asked, is_request = question.asked, grant.origin == "request"
    found = (
        not_allowed(grant.asked, asked, grant.limits) if is_request else outside_agreement(grant, question)
    )
    if any(not (outside and is_bounded(one, grant.limits)) for one in found):
        return True
    ours = on_file.unnamed_limits  # nobody was asked about this job's project
    return not is_request and (bool(asked.breaks(ours)) or _has_too_few_rows(verdict, ours))


def _has_too_few_rows(verdict: Permission, limits: GrantLimits) -> bool:
    dataset, subject = verdict.dataset, verdict.subject
    is_private = subject is not None and subject.use == "private"
    return dataset is not None and is_private and dataset.least_rows < limits.min_rows


def _ended_use(question: Question, on_file: OnFile) -> Grant | None:
    """Return what the job ran under and has ended: an agreement, or a request with ranges."""
    ranged = [
        grant
        for grant in on_file.exact
        if grant.status in ("revoked", "expired")
        and grant.id in on_file.used
        and not not_allowed(grant.asked, question.asked, grant.limits)
    ]
    return on_file.ended_use or (ranged[0] if ranged else None)


def _ended(grant: Grant, on_file: OnFile, now: float) -> str:
    """Say why a grant that was given lets nothing run any more; empty where it does."""
    if grant.limits.over(now):
        return "its time has passed"
    return grant.used_up(uses_it=grant.id in on_file.used)


def _not_requested(
    verdict: Permission, over: str, on_file: OnFile, of_now: list[Grant], question: Question
) -> Permission:
    """Return the verdict where the owner has to be asked, perhaps anew.

    Args:
        over: why what was granted has ended; empty where nothing was.
        of_now: the requests on the data as they are.
    """
    detail = "its owner was not asked yet"
    granted = [grant for grant in of_now if grant.status == "granted"]
    if over:
        detail = f"what was granted has ended ({over}): its owner has to be asked anew"
    elif granted:
        found = not_allowed(granted[0].asked, question.asked, granted[0].limits)
        detail = (
            "it is not what its owner approved, who has to be asked anew: "
            + "; ".join(map(str, found))[:1000]
        )
    elif on_file.exact and not of_now:
        detail = "the data have changed since its owner was asked"
    state = "expired" if over else ""
    return replace(verdict, status="pending", reason="not_requested", detail=detail, state=state)


def _closed(verdict: Permission, grant: Grant, config: NodeConfig) -> Permission:
    """Return the verdict where the owner's last word is no."""
    words = grant.note or f"its owner has {grant.status} it"
    detail = words + ask(config, verdict.dataset)
    return _on(verdict, grant, status="rejected", state=grant.status, reason=grant.status, detail=detail)


def _on(
    verdict: Permission,
    grant: Grant,
    *,
    status: str,
    state: str,
    reason: str = "",
    detail: str = "",
    limits: GrantLimits | None = None,
) -> Permission:
    """Return a verdict that rests on a grant."""
    return replace(
        verdict,
        status=status,
        grant=grant,
        origin=grant.origin,
        state=state,
        reason=reason,
        detail=detail,
        limits=verdict.limits if limits is None else limits,
    )


def _rules_about(question: Question, on_file: OnFile, *, anybody: bool = False) -> list[Grant]:
    """Return the standing agreements that are about this, whatever their limits say.

    Args:
        anybody: also for researchers who are not known.
    """
    org = counted_org(on_file.known_org, anybody=anybody)
    return [rule for rule in on_file.rules if is_about(rule, question, known_org=org)]
