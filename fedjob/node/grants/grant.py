"""Grants: requests to a node's owner, the decisions on them, and which decision covers which request. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from fedjob.node.grants.contract import Deviation, Request, not_in_agreement
from fedjob.node.grants.limits import GrantLimits

STATES = ("pending", "granted", "rejected", "expired", "revoked")
PREDICTIONS = "fedjob.infer."
"""Operations whose results are about single rows."""

SHA256_CHARS = 64
KEY_PREFIX_CHARS = 16
"""Hex digits of a key that are enough to mean it."""


MB = 1_000_000
"""Bytes of a megabyte, as limits count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSubject:
    """The subject of a decision. In a standing agreement all but `use` are patterns.

    Args:
        plan: sha256 of the plan's text; empty for a protocol without a plan, or where any plan will do.
        entry: the plan's class, or, without a plan, the protocol's name; `*` where any plan will do.
        version: hash of the dataset's content; empty for any.
        project: in a standing agreement a pattern; empty for any.
        question: hash of all that decides what is computed, see `contract.hash_of_question`; empty where any will do.
    """

    researcher: str
    key_hex: str
    plan: str
    entry: str
    dataset: str
    use: str = "private"
    version: str = ""
    project: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A request and what became of it, or a standing agreement.

    Args:
        origin: `request` or `rule`.
        status: one of `STATES`.
        note: the owner's; the researcher's is in `asked`.
        approvals: who said yes, and when, as `{by, at, note}`.
        requested, decided: seconds since 1970.
        rule: id of the standing agreement that answered this request.
        uses: jobs that ran under it.
    """

    id: str
    origin: str
    status: str
    subject: GrantSubject
    protocol: str
    asked: Request
    limits: GrantLimits
    approvals: tuple[Mapping[str, Any], ...]
    note: str
    requested: float
    decided: float | None
    decided_by: str
    rule: str
    uses: int
    rows_spent: int
    inferences_spent: int
    moved_bytes: int

    def to_plain(self) -> dict[str, Any]:
        """Return it flat, for lists and JSON."""
        subject, asked = self.subject, self.asked
        return {
            "id": self.id,
            "status": self.status,
            "origin": self.origin,
            "researcher": subject.researcher,
            "org": asked.owner.get("org", ""),
            "dataset": subject.dataset,
            "version": subject.version,
            "use": subject.use,
            "protocol": self.protocol,
            "entry": subject.entry,
            "plan": subject.plan,
            "launches": list(asked.launches),
            "pool": str(asked.resources.get("pool", "")),
            "gpus": list(asked.gpus or ()),
            "project": subject.project or asked.project,
            "job": asked.job,
            "job_name": asked.job_name,
            "request_note": asked.note,
            "rounds": asked.rounds,
            "config": dict(asked.config),
            "model_args": dict(asked.model_args),
            "training_args": dict(asked.training_args),
            "preprocess": asked.preprocess,
            "props": dict(asked.props),
            "items": dict(asked.items),
            "split": dict(asked.split),
            "artifacts": dict(asked.artifacts),
            "models": dict(asked.models),
            "files": asked.files,
            "protect": dict(asked.protect),
            "compress": dict(asked.compress),
            "claimed": dict(asked.claimed),
            "question": subject.question,
            "needs": list(asked.needs),
            "limits": self.limits.to_plain(),
            "uses": self.uses,
            "inferences": self.inferences_spent,
            "moved_bytes": self.moved_bytes,
            "approvals": [dict(approval) for approval in self.approvals],
            "note": self.note,
            "requested": self.requested,
            "decided": self.decided,
            "decided_by": self.decided_by,
            "rule": self.rule,
            "owner": dict(asked.owner),
            "key": subject.key_hex,
        }

    def used_up(self, *, uses_it: bool) -> str:
        """Say which of its counts is used up; empty for none.

        Args:
            uses_it: the job in question is one of those that ran under it.
        """
        limits = self.limits
        if limits.runs and self.uses >= limits.runs and not uses_it:
            return f"its {limits.runs} run{' is' if limits.runs == 1 else 's are'} used up"
        if limits.rows and self.rows_spent >= limits.rows:
            return f"its {limits.rows} rows are used up"
        if limits.inferences and self.inferences_spent >= limits.inferences:
            return f"its {limits.inferences} inferences are used up"
        if limits.moved_mb and self.moved_bytes >= limits.moved_mb * MB:
            return f"its {limits.moved_mb} MB to and from the hub are used up"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question to the owner whether something may run.

    Args:
        protocol: the name of what is to be computed.
        plan: sha256 of the text that would run, empty for none; the subject names none where any will do.
    """

    protocol: str
    plan: str
    subject: GrantSubject
    asked: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OnFile:
    """The owner's decisions that bear on a question.

    Args:
        exact: the requests of this researcher's key about its plan, protocol, dataset and use, whatever the
            question and the version of the data, newest first.
        rules: the standing agreements that are in force for such a use, oldest first.
        ended_use: the revoked or expired agreement that the job ran under.
        used: ids of the grants that the job has run under.
        known_org: the organisation that the owner knows the researcher's key to belong to; None if the key
            is not known.
        project_limits: what limits everything in its project.
        unnamed_limits: what limits it where no request of its own was approved: a job leaves no project's limits
            by naming none.
    """

    exact: tuple[Grant, ...] = ()
    rules: tuple[Grant, ...] = ()
    ended_use: Grant | None = None
    used: frozenset[str] = frozenset()
    known_org: str | None = None
    project_limits: GrantLimits = field(default_factory=GrantLimits)
    unnamed_limits: GrantLimits = field(default_factory=GrantLimits)


def counted_org(known_org: str | None, *, anybody: bool) -> str | None:
    """Return the organisation that a researcher counts as being of: what the owner wrote, never their own words.

    Args:
        known_org: that the owner knows the key to belong to; None if the key is not known.
        anybody: researchers who are not known count, as being of no organisation.
    """
    return "" if known_org is None and anybody else known_org


def is_about(rule: Grant, question: Question, *, known_org: str | None) -> bool:
    """Tell whether a standing agreement is about what is asked, whatever its limits say.

    Args:
        known_org: see `agreement_covers`.
    """
    return agreement_covers(
        rule.subject, question.subject, question.asked, plan=question.plan, known_org=known_org
    )


def agreement_covers(
    rule: GrantSubject, subject: GrantSubject, asked: Request, *, plan: str, known_org: str | None
) -> bool:
    """Tell whether a standing agreement is about this.

    Args:
        plan: sha256 of the text that would run, empty for none.
        known_org: the organisation that the owner knows this researcher's key to belong to; None if the
            key is not known, and then only an agreement that names the researcher or the key covers it.
    """
    return (
        rule.use == subject.use
        and _who_covers(rule, subject, known_org)
        and _plan_covers(rule, subject, asked, plan)
        and fnmatchcase(subject.dataset, rule.dataset)
        and rule.version in ("", subject.version)
        and (not rule.project or fnmatchcase(asked.project, rule.project))
    )


def outside_agreement(rule: Grant, question: Question) -> list[Deviation]:
    """Return what is asked beyond the ranges of a standing agreement."""
    return not_in_agreement(question.asked, rule.limits, question.protocol)


def names_somebody(who: str) -> bool:
    """Tell whether this names one researcher or one key, rather than many."""
    return who.startswith("key:") or not (who.startswith("org:") or set(who) & set("*?["))


def matches_any(patterns: str, text: str) -> bool:
    """Tell whether a comma-separated list of patterns has one for this text."""
    return any(fnmatchcase(text, pattern.strip()) for pattern in patterns.split(",") if pattern.strip())


def _who_covers(rule: GrantSubject, subject: GrantSubject, known_org: str | None) -> bool:
    who = rule.researcher
    if rule.key_hex and rule.key_hex != subject.key_hex:
        return False
    if who.startswith("key:"):
        return len(who) >= 4 + KEY_PREFIX_CHARS and subject.key_hex.startswith(who[4:])
    if who.startswith("org:"):
        return bool(known_org) and who[4:] == known_org
    if names_somebody(who):  # whose key was met, or is known
        return who == subject.researcher and (bool(rule.key_hex) or known_org is not None)
    return known_org is not None and fnmatchcase(subject.researcher, who)


def _plan_covers(rule: GrantSubject, subject: GrantSubject, asked: Request, plan: str) -> bool:
    if asked.operation.startswith(PREDICTIONS) and rule.plan != "*":
        # what leaves is about single rows: that a text may train does not cover it
        return fnmatchcase(asked.operation, rule.plan)
    if rule.plan == "*":
        return True
    if len(rule.plan) == SHA256_CHARS:
        return rule.plan == plan and rule.entry in ("", "*", subject.entry)
    return not plan and fnmatchcase(asked.operation, rule.plan)
