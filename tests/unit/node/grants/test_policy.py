"""The rules by which a node decides, asked with what is on file and without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fedjob.node.config.config import NodeConfig
from fedjob.node.grants.contract import Request
from fedjob.node.grants.grant import Grant, GrantSubject, OnFile, Question
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.grants.policy import Permission, judge

SUBJECT = GrantSubject(researcher="ann", key_hex="ab" * 32, plan="0" * 64, entry="Net", dataset="toy")
QUESTION = Question(protocol="fedavg", plan=SUBJECT.plan, subject=SUBJECT, asked=Request(job="job-a"))


def grant(id_: str, status: str, *, origin: str = "request", **changes: Any) -> Grant:
    fields: Mapping[str, Any] = {
        "subject": SUBJECT,
        "protocol": "fedavg",
        "asked": Request(),
        "limits": GrantLimits(),
        "approvals": (),
        "note": "",
        "requested": 1.0,
        "decided": 2.0,
        "decided_by": "owner",
        "rule": "",
        "uses": 0,
        "rows_spent": 0,
        "inferences_spent": 0,
        "moved_bytes": 0,
        **changes,
    }
    return Grant(id=id_, origin=origin, status=status, **fields)


def ask(on_file: OnFile, config: NodeConfig | None = None) -> Permission:
    return judge(QUESTION, on_file, None, config or NodeConfig(), 100.0)


def test_where_nothing_is_on_file_the_owner_has_to_be_asked() -> None:
    found = ask(OnFile())
    assert (found.status, found.reason, found.state) == ("pending", "not_requested", "")


@pytest.mark.parametrize(
    ("status", "verdict"), [("granted", "granted"), ("pending", "pending"), ("rejected", "rejected")]
)
def test_the_newest_decision_on_exactly_this_counts(status: str, verdict: str) -> None:
    found = ask(OnFile(exact=(grant("new", status), grant("old", "granted"))))
    assert found.status == ("granted" if status == "pending" else verdict)
    assert found.grant is not None
    assert found.grant.id == ("old" if status == "pending" else "new")


def test_a_later_no_leaves_alone_the_job_that_runs_under_the_earlier_yes() -> None:
    exact = (grant("new", "revoked"), grant("old", "granted"))
    assert ask(OnFile(exact=exact)).status == "rejected"
    assert ask(OnFile(exact=exact, used=frozenset({"old"}))).status == "granted"


def test_a_job_whose_agreement_was_revoked_is_not_asked_about_anew() -> None:
    revoked = grant("rule", "revoked", origin="rule", note="enough")
    assert ask(OnFile(ended_use=revoked)).refusal == ("revoked", "enough")


def test_a_stranger_is_refused_where_the_node_denies_them_unless_an_agreement_names_them() -> None:
    deny = NodeConfig(unknown="deny")
    named = GrantSubject(researcher="ann", key_hex="", plan="*", entry="*", dataset="*")
    assert ask(OnFile(), deny).reason == "unknown_researcher"
    assert ask(OnFile(known_org=""), deny).status == "pending"
    unbound = grant("rule", "granted", origin="rule", subject=named)
    assert ask(OnFile(rules=(unbound,)), deny).reason == "unknown_researcher"  # it names no key yet
    bound = grant("rule", "granted", origin="rule", subject=replace(named, key_hex=SUBJECT.key_hex))
    assert ask(OnFile(rules=(bound,)), deny).status == "granted"


def test_what_limits_a_project_limits_whatever_was_granted_in_it() -> None:
    asked = Request(job="job-a", training_args={"lr": 0.5})
    question = Question(protocol="fedavg", plan=SUBJECT.plan, subject=SUBJECT, asked=asked)
    limits = GrantLimits(args={"lr": {"max": 0.1}})
    on_file = OnFile(exact=(grant("g", "granted"),), project_limits=limits)
    found = judge(question, on_file, None, NodeConfig(), 100.0)
    assert (found.status, found.reason) == ("rejected", "limits_exceeded")
    assert found.detail.startswith("project default: the argument lr is 0.5")


@pytest.mark.parametrize(
    ("approved", "asked", "count", "status"),
    [
        (None, (0,), 1, "pending"),
        ((), (0,), 1, "pending"),
        ((0,), (0,), 1, "granted"),
        ((0,), (0, 1), 1, "granted"),
        ((0,), (1,), 1, "pending"),
        ((0,), (0, 1), 2, "pending"),
        ((0, 1), (0, 1), 2, "granted"),
        ((0,), (), 0, "granted"),
        ((0,), None, 0, "granted"),
    ],
)
@pytest.mark.parametrize("needs", [("plan",), ("data",)])
def test_a_grant_is_for_the_gpus_that_it_names(
    approved: Any, asked: Any, count: int, status: str, needs: tuple[str, ...]
) -> None:
    wants = Request(job="job-a", gpus=asked, resources={"gpus": count}, needs=needs)
    question = Question(protocol="fedavg", plan=SUBJECT.plan, subject=SUBJECT, asked=wants)
    given = grant("g", "granted", asked=Request(gpus=approved, resources={"gpus": 1}))
    found = judge(question, OnFile(exact=(given,)), None, NodeConfig(), 100.0)
    assert found.status == status
    if status == "granted":
        assert found.gpus == tuple(approved or ())
    else:
        assert "gpus is " in found.detail


def test_a_standing_agreement_names_no_gpus_so_that_any_that_is_lent_may_serve() -> None:
    wants = Request(job="job-a", gpus=(0, 1), resources={"gpus": 1})
    question = Question(protocol="fedavg", plan=SUBJECT.plan, subject=SUBJECT, asked=wants)
    anything = GrantSubject(researcher="ann", key_hex=SUBJECT.key_hex, plan="*", entry="*", dataset="*")
    rule = grant("rule", "granted", origin="rule", subject=anything)
    found = judge(question, OnFile(rules=(rule,), known_org=""), None, NodeConfig(), 100.0)
    assert (found.status, found.gpus) == ("granted", None)


def test_a_grant_whose_bytes_are_used_up_serves_no_further_task() -> None:
    limits = GrantLimits(moved_mb=2)
    assert grant("g1", "granted", limits=limits, moved_bytes=1_999_999).used_up(uses_it=True) == ""
    spent = grant("g1", "granted", limits=limits, moved_bytes=2_000_000)
    assert spent.used_up(uses_it=True) == "its 2 MB to and from the hub are used up"
