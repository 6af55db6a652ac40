"""The owner's approvals, rejections, revocations and standing agreements, as the commands and the page give them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fedjob.common.checks import printable
from fedjob.common.errors import PlanError, SpecError
from fedjob.common.types import check_given
from fedjob.node.config.config import NodeConfig
from fedjob.node.data.datasets import Datasets
from fedjob.node.grants.deciders import decider, names_of
from fedjob.node.grants.decisions import Grants
from fedjob.node.grants.grant import (
    KEY_PREFIX_CHARS,
    SHA256_CHARS,
    Grant,
    GrantSubject,
    matches_any,
)
from fedjob.node.grants.limits import GrantLimits, describe_limits, parse_limits
from fedjob.node.storage.database import Database
from fedjob.training_plans.source.plan_source import syntax_tree


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a grant by a decision.

    Args:
        lines: the sentences that say it; no sign in them steers a terminal.
        answered: ids of waiting requests that a standing agreement granted.
    """

    grant: Grant
    lines: tuple[str, ...]
    answered: tuple[str, ...] = ()


def approve_request(
    database: Database, config: NodeConfig, id_: str, *, by: str | None, note: str = "", **options: Any
) -> Decided:
    """Approve a request, or another person's approval of it.

    Args:
        options: limits as `parse_limits` takes them; where all are empty those of an earlier approver stay.

    Raises:
        SpecError: see `Grants.approve` and `parse_limits`.
    """
    is_limited = any(value is not None and value is not False and value != () for value in options.values())
    limits = parse_limits(**options) if is_limited else None
    store = Grants(database)
    asked = store.get(id_)
    grant = store.approve(
        asked.id,
        by=decider(by),
        note=note,
        limits=limits,
        approvers=config.approvers,
        version=_version(Datasets(database), asked),
        anybody=config.unknown == "allow",
    )
    if grant.status == "pending":
        return Decided(grant, (_waits_for_more(grant, config),))
    lines = [f"approved: {what_is_allowed(grant)}"]
    if grant.subject.version != asked.subject.version and asked.subject.version:
        lines.append("the data have changed since the request; the approval is for the data as they are now")
    return Decided(grant, tuple(lines))


def reject_request(database: Database, id_: str, *, by: str | None, reason: str) -> Decided:
    """Reject a request; its researcher is sent the reason.

    Raises:
        SpecError: see `Grants.reject`.
    """
    store = Grants(database)
    grant = store.reject(store.get(id_).id, by=decider(by), note=reason)
    subject = grant.subject
    line = printable(f"rejected: {subject.entry} of {subject.researcher} on {subject.dataset}")
    return Decided(grant, (line,))


def revoke_grant(database: Database, id_: str, *, by: str | None, reason: str = "") -> Decided:
    """Withdraw an approval; tasks that use it end.

    Raises:
        SpecError: see `Grants.revoke`.
    """
    store = Grants(database)
    grant = store.revoke(store.get(id_).id, by=decider(by), note=reason)
    return Decided(
        grant, (f"revoked: {what_is_allowed(grant).replace(' may run ', ' may no longer run ', 1)}",)
    )


def make_agreement(
    database: Database,
    config: NodeConfig,
    *,
    who: str,
    plan: str | None,
    data: str | None,
    use: str = "private",
    project: str | None = None,
    by: str | None = None,
    note: str = "",
    may_read_files: bool = True,
    **options: Any,
) -> Decided:
    """Make a standing agreement: jobs that match its patterns run without a request of their own.

    Args:
        who: a researcher's id, `key:FINGERPRINT`, `org:NAME`, a pattern, or `*`.
        may_read_files: False where a plan may not be named by a file of this machine.
        plan: a hash, the class of an approved plan, `FILE.py:CLASS`, or operations such as `fedjob.*`.
        data: a dataset or a pattern.
        options: limits as `parse_limits` takes them.

    Raises:
        SpecError: one of them is not in its form, or names nothing that there is.
    """
    if use == "private" and (plan is None or data is None):
        raise SpecError(
            "--use private needs --plan and --data: name the plan and the dataset; '*' stands for any"
        )
    for option, text in (("who", who), ("plan", plan), ("data", data), ("project", project), ("by", by)):
        if text is not None:
            check_given(text, f"a value of --{option}")
    limits, store = parse_limits(**options), Grants(database)
    sha256, entry = _plan(store, plan or "*", may_read_files=may_read_files)
    rule = GrantSubject(
        researcher=_checked_who(who),
        key_hex="",
        plan=sha256,
        entry=entry,
        dataset=_data(Datasets(database), data or "*"),
        use=use,
        project=project or "",
    )
    waited = {grant.id for grant in store.all("pending")}
    grant = store.allow(
        rule,
        limits=limits,
        by=decider(by),
        note=note,
        approvers=config.approvers,
        anybody=config.unknown == "allow",
    )
    answered = tuple(g.id for g in store.all("granted") if g.id in waited and g.rule == grant.id)
    if grant.status == "pending":
        return Decided(grant, (_waits_for_more(grant, config),))
    return Decided(grant, tuple(_agreed(grant, limits, len(answered))), answered)


def _agreed(grant: Grant, limits: GrantLimits, num_answered: int) -> list[str]:
    lines = [f"allowed: {what_is_allowed(grant)}; agreement {grant.id}"]
    if not limits.args and not limits.any_args:
        lines.append("it names no arguments, so jobs may give any; --arg NAME=MIN..MAX binds them")
    if num_answered:
        lines.append(f"{num_answered} waiting request{' is' if num_answered == 1 else 's are'} granted by it")
    return lines


def _version(datasets: Datasets, grant: Grant) -> str | None:
    """Return the version of the dataset as it is now, which the approval is for."""
    dataset = datasets.find(grant.subject.dataset)
    if dataset is None or not grant.subject.version:
        return None
    return datasets.versions().of_parts(dataset.parts(grant.subject.use))


def _checked_who(who: str) -> str:
    if who.startswith("key:") and not re.fullmatch(rf"key:[0-9a-f]{{{KEY_PREFIX_CHARS},64}}", who):
        raise SpecError(f"--who key:HEX takes {KEY_PREFIX_CHARS} to 64 hex digits of the public key")
    if not who or who in ("key:", "org:"):
        raise SpecError("--who is a researcher's id, key:FINGERPRINT, org:NAME, or '*'")
    return who


def _data(datasets: Datasets, data: str) -> str:
    if not set(data) & set("*?["):
        datasets.get(data)  # a dataset that does not exist is a typing error
    return data


def _plan(store: Grants, words: str, *, may_read_files: bool) -> tuple[str, str]:
    """Return hash (or pattern) and class of the plan that the option `--plan` names."""
    if words == "*":
        return "*", "*"
    if re.search(r"\.py(:|$)", words):
        if not may_read_files:
            raise SpecError(
                "a plan is named here by its hash or by operations; files are the command's alone"
            )
        return _plan_of_file(store, words)
    if re.fullmatch(rf"[0-9a-f]{{{SHA256_CHARS}}}", words):
        return words, ""
    found = store.texts.like(words)
    if len({sha256 for sha256, _ in found}) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{entry} {sha256[:12]}" for sha256, entry in found[:5])
        raise SpecError(f"--plan {words!r} matches several plans: {listed}; give more digits of the hash")
    operations = known_operations()
    if "." in words:
        if any(matches_any(words, operation) for operation in operations):
            return words, ""
        raise SpecError(f"--plan {words!r} matches no operation; known: {', '.join(operations)}")
    raise SpecError(
        f"--plan {words!r}: no request has this hash, and no approved plan has a class of this name; give "
        "its hash, FILE.py:CLASS, or a pattern of operations such as fedjob.train.*"
    )


def _plan_of_file(store: Grants, words: str) -> tuple[str, str]:
    import ast
    from pathlib import Path

    from fedjob.training_plans.source.extraction import extract
    from fedjob.training_plans.source.text_checks import decode_plan

    file, _, entry = words.partition(":")
    if not entry:
        try:
            tree = syntax_tree(decode_plan(Path(file).read_bytes(), path=file))
        except PlanError:
            raise
        except (OSError, SyntaxError, ValueError) as error:
            raise SpecError(f"--plan {file}: {error}") from error
        names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        if len(names) != 1:
            raise SpecError(f"--plan {file} has {len(names)} classes: name one as {file}:CLASS")
        entry = names[0]
    source = extract(f"{file}:{entry}")
    store.texts.keep(source.sha256, source.text.encode())
    return source.sha256, source.entry


def known_operations() -> list[str]:
    """Return the public names of the operations that can be computed here."""
    from fedjob.node.grants.question import operation_of
    from fedjob.protocols import PROTOCOLS

    return sorted(operation_of(PROTOCOLS.find(name)) for name in PROTOCOLS.names())


def what_is_allowed(grant: Grant) -> str:
    """Return in words who may run what on which data, within which limits."""
    subject = grant.subject
    plan = (
        subject.entry if subject.entry not in ("", "*") else "any plan" if subject.plan in ("", "*") else ""
    )
    if len(subject.plan) == SHA256_CHARS:
        plan = f"plan {plan} ({subject.plan[:12]})".replace("  ", " ")
    elif subject.plan not in ("", "*"):
        plan = subject.plan
    who = "any known researcher" if subject.researcher == "*" else subject.researcher
    where = "any dataset" if subject.dataset == "*" else subject.dataset or "no data"
    limits = describe_limits(grant.limits)
    project = f" in project {subject.project}" if subject.project else ""
    text = f"{who} may run {plan} on {where} ({subject.use}){project}"
    return printable(text + ("; " + "; ".join(limits) if limits else ""))


def _waits_for_more(grant: Grant, config: NodeConfig) -> str:
    approvers = ", ".join(names_of(str(approval["by"])) for approval in grant.approvals)
    return (
        f"noted: {len(grant.approvals)} of {config.approvers} approvals of grant {grant.id} are given ({approvers}); "
        f"another person approves it with: fedjob node grants approve {grant.id} --by NAME"
    )
