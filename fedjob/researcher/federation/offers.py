"""Offers of a job to its nodes, before anything runs: each node answers whether its owner allows the job."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedjob.common.errors import SpecError
from fedjob.common.types import Ref, contacts_from_plain, contacts_text, new_job_id
from fedjob.messaging.messages import Answer, Offer, Ping, Pong
from fedjob.researcher.connection.catalogue import Listing, alike_together
from fedjob.researcher.connection.connection import Connection
from fedjob.researcher.storage.deployment import Code, Enclosed, enclosed_with, publish_code
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.record import finite
from fedjob.researcher.storage.spec import BROUGHT, JobSpec, resources_of
from fedjob.training_plans.training_args import merged_args

NO_REPLY = "no reply"

_ABSENCE = {
    "offline": "offline: it did not answer the offer",
    "undecided": "undecided: its owner has not decided",
}
LAST_INSTANT = 253_402_300_799.0
"""The end of the year 9999, seconds since 1970."""

_COLUMNS = ("node", "dataset", "grant", "needs", "until", "limits", "resources", "note", "contact")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """The answer of one node to the offer of a job.

    Args:
        grant: `granted`, `pending` (nobody decided, or was asked), `rejected`, `not-needed`, `unknown` (the
            node can't run it, `reason` says why) or `no reply`.
        needs: what its owner has to allow: of `plan` and `data`; empty when it is free to use.
        until: seconds since 1970 when the grant ends, 0 for never.
        limits: of the grant.
        resources: `ok`, or what the node is short of.
        note: the owner's, or the node's.
        contact: whom to ask.
        id: of the grant or request; empty where there is none.
        missing: packages that the plan imports and the node lacks.
        workers, ahead: how many workers it has, and how many tasks wait there.
        state: of the grant: `pending`, `granted`, `rejected`, `expired`, `revoked` or `not-needed`.
        origin: of the grant: `request`, `rule` or `built-in`.
        by, decided: who decided, and when (seconds since 1970).
        sandbox: around the node's workers, see `Pong`.
        privacy: what the job costs there in differential privacy, see `messages.Answer`; empty where it asks for none.
        speed: of earlier work there, see `messages.Answer`; empty where nothing was measured, or is let out.
    """

    node: str
    dataset: str
    grant: str
    reason: str = ""
    needs: tuple[str, ...] = ()
    until: float = 0.0
    limits: Mapping[str, Any]
    resources: str = ""
    note: str = ""
    contact: str = ""
    id: str = ""
    missing: tuple[str, ...] = ()
    workers: int = 0
    ahead: int = 0
    state: str = ""
    origin: str = ""
    by: str = ""
    decided: float = 0.0
    sandbox: str = ""
    privacy: Mapping[str, float] = field(default_factory=dict)
    speed: Mapping[str, float] = field(default_factory=dict)

    @property
    def may_run(self) -> bool:
        """True if the job may run at this node now."""
        return self.grant in ("granted", "not-needed")

    @property
    def verdict(self) -> str:
        """The grant in a word, with the reason where the job may not run."""
        if self.grant in ("granted", "not-needed", "pending", NO_REPLY):
            return self.grant
        why = (self.reason if self.reason != self.grant else "", self.note)
        return ": ".join([self.grant, *filter(None, why)])


class Checks(Listing[NodeAnswer]):
    """One answer per node, in the order of their names; prints as a table."""

    def __init__(self, answers: list[NodeAnswer]) -> None:
        super().__init__(answers, _COLUMNS)

    @property
    def ok(self) -> bool:
        """True if the job may run at every node."""
        return all(answer.may_run for answer in self)

    def of(self, node: str) -> NodeAnswer:
        """Return a node's answer.

        Raises:
            SpecError: the job has no such node.
        """
        for answer in self:
            if answer.node == node:
                return answer
        raise SpecError(f"the job has no node {node!r}; it has {', '.join(answer.node for answer in self)}")

    def _rows(self) -> list[list[Any]]:
        return alike_together([[_cell(column, answer) for column in _COLUMNS] for answer in self])


def absence_text(answer: str) -> str:
    """Return why a node takes no part, from its answer at the scheduling gate."""
    return _ABSENCE.get(answer, answer)


def ask_nodes(
    session: Connection,
    spec: JobSpec,
    folder: JobFolder,
    *,
    dry: bool,
    timeout_s: float,
    epoch: int = 0,
    line_bytes: int = 0,
) -> Checks:
    """Make every node of a job an offer and return the answers.

    Args:
        dry: only look; otherwise a node that needs its owner's consent files a request with the owner.
        timeout_s: after which silence is an answer too.
        epoch: of the job's runner.
        line_bytes: of an object with which nodes time their lines before they answer; 0 for not to.
    """
    if not spec.datasets:
        return Checks([])
    holder = new_job_id()  # the plans are held for this question alone, whatever else the job does

    def publish(path: Any, node: str | None) -> Ref:
        readers = tuple(spec.datasets) if node is None else (node,)
        return session.repository.put(path, job=holder, readers=readers)

    try:
        code = publish_code(spec, folder, publish)
        proof, enclosed = session.prove(), enclosed_with(spec, folder)
        offers: dict[str, Offer] = {
            node: offer_for(spec, node, code.get(node), enclosed, dry=dry, proof=proof, line_bytes=line_bytes)
            for node in spec.datasets
        }
        answers = session.ask_each(offers, timeout_s=timeout_s, job=spec.id, epoch=epoch)
    finally:
        session.repository.forget_keys(holder)
        session.repository.end_job(holder)
    found = []
    for node in sorted(spec.datasets):
        message = answers.get(node)
        body = None if message is None else message.body
        found.append(read_answer(spec, node, body if isinstance(body, Answer) else None))
    return Checks(found)


def read_answer(spec: JobSpec, node: str, answer: Answer | None) -> NodeAnswer:
    """Return a node's answer, or its silence, in the form that is shown to a person."""
    dataset = str(spec.datasets[node]["name"])
    if answer is None:
        return NodeAnswer(node=node, dataset=dataset, grant=NO_REPLY, limits={})
    asked = bool(resources_of(spec, node))
    resources = answer.schedule + (f": {', '.join(answer.short)}" if answer.short else "")
    return NodeAnswer(
        node=node,
        dataset=dataset,
        grant=answer.status,
        reason=answer.reason,
        needs=tuple(sorted(answer.needs)),
        until=_instant(answer.until),
        limits=dict(answer.limits),
        resources=resources or ("ok" if asked else ""),
        note=answer.note,
        contact=answer.contact,
        id=answer.grant,
        missing=tuple(answer.missing),
        workers=answer.workers,
        ahead=answer.ahead,
        state="pending" if answer.status == "pending" else answer.grant_state or answer.status,
        origin=answer.origin,
        by=answer.by,
        decided=_instant(answer.decided),
        sandbox=answer.sandbox,
        privacy=finite(answer.privacy),
        speed={name: value for name, value in finite(answer.speed).items() if value >= 0},
    )


def _instant(seconds: float) -> float:
    """Return a time of a node's, seconds since 1970; 0 for what is none, such as NaN or a year that no calendar has."""
    return seconds if 0.0 <= seconds <= LAST_INSTANT else 0.0


def grant_entry(answer: NodeAnswer, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the entry of a job's record about one node's grant.

    Args:
        before: the entry until now; its `since` stays while the job waits for the same decision.
        now: seconds since 1970.
    """
    same = before.get("state") == answer.state and before.get("grant") == answer.id
    return {
        "state": answer.state,
        "reason": answer.reason,
        "grant": answer.id,
        "origin": answer.origin,
        "needs": list(answer.needs),
        "by": answer.by,
        "note": answer.note,
        "when": answer.decided,
        "until": answer.until,
        "limits": dict(answer.limits),
        "contact": answer.contact,
        "sandbox": answer.sandbox,
        "privacy": dict(answer.privacy),
        "since": before.get("since", now) if same else now,
    }


def check_schemas(
    checks: Checks, schema: Mapping[str, str], columns: Mapping[str, Mapping[str, str]]
) -> Checks:
    """Compare the columns that a job needs with the columns of the nodes' datasets.

    Args:
        schema: column name -> type, or empty for any; whole numbers serve where `float` is asked for.
        columns: node -> column name -> type; a node that publishes no columns passes.
    """
    found = []
    for answer in checks:
        has = columns.get(answer.node, {})
        odd = [
            f"{name} is {has[name]}, expected {wanted}" if name in has else f"no column {name}"
            for name, wanted in schema.items()
            if name not in has or not _serves(has[name], wanted)
        ]
        if odd and has:
            answer = replace(answer, grant="unknown", reason="schema", note="; ".join(odd))
        found.append(answer)
    return Checks(found)


def _serves(type_: str, wanted: str) -> bool:
    return not wanted or type_ == wanted or (wanted == "float" and type_ == "int")


def _cell(column: str, answer: NodeAnswer) -> str:
    if column == "grant":
        return answer.grant if answer.grant != "unknown" else f"unknown ({answer.reason})"
    if column == "needs":
        return " and ".join(answer.needs)
    if column == "until":
        return when(answer.until)
    if column == "limits":
        return ", ".join(f"{name}={value}" for name, value in sorted(answer.limits.items()))
    return str(getattr(answer, column)).replace("\n", " ")


def when(seconds: float) -> str:
    """Return a time as a table shows it: UTC, empty for none."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else ""


TIMEOUT_S = 5.0


class NoWorkersWarning(UserWarning):
    """A node of the job has no workers."""


def warn_of_no_workers(session: Connection, nodes: Iterable[str]) -> None:
    """Warn of every node that reports no workers; a node that does not answer within `TIMEOUT_S` is skipped."""
    for node, message in sorted(session.ask(list(nodes), Ping(), timeout_s=TIMEOUT_S).items()):
        if isinstance(message.body, Pong) and message.body.workers == 0:
            whom = contacts_text(contacts_from_plain(message.body.contacts))
            warnings.warn(no_workers_text(node, whom), NoWorkersWarning, stacklevel=4)


def no_workers_text(node: str, contact: str = "") -> str:
    """Return the warning about a node without workers."""
    ask = f"ask {contact}" if contact else "ask its owner"
    return (
        f"node {node} has no workers: it accepts and queues tasks but runs none; {ask} to start it with "
        "`fedjob node start --workers N`"
    )


def lowered_text(spec: JobSpec, node: str, answer: Answer) -> str:
    """Return the note that a node's owner allows less than the job asks of differential privacy; empty where not."""
    asked, holds = spec.protect.get("dp") or {}, finite(answer.privacy)
    if answer.status not in ("granted", "not-needed", "pending") or not asked:
        return ""
    if all(holds.get(name, asked[name]) >= asked[name] for name in ("epsilon", "delta")):
        return ""
    return (
        f"node {node} has more noise than was asked for: its owner allows epsilon {holds.get('epsilon', asked['epsilon']):g} with delta "
        f"{holds.get('delta', asked['delta']):g}, and the job asks for epsilon {asked['epsilon']:g} with delta "
        f"{asked['delta']:g}"
    )


def offer_for(
    spec: JobSpec,
    node: str,
    code: Code | None,
    enclosed: Enclosed,
    *,
    reserve: bool = False,
    dry: bool = False,
    proof: str = "",
    line_bytes: int = 0,
) -> Offer:
    """Return the offer of a job to one of its nodes.

    Args:
        code: the code that the node is to run; None for a protocol without any.
        enclosed: the files that the job sends along.
        reserve: hold resources for a short lease.
        dry: only look; no request is filed with the owner.
        proof: for the nodes' verifiers.
        line_bytes: see `Offer`.
    """
    dataset = spec.datasets[node]
    return Offer(
        dataset=str(dataset["name"]),
        protocol=spec.protocol.name,
        config=spec.protocol.config,
        plan=None if code is None else code.ref,
        entry="" if code is None else code.entry,
        use=spec.use,
        project=spec.project,
        job_name=spec.name,
        note=spec.note,
        owner=dict(spec.owner),
        model_args=spec.model_args,
        training_args=merged_args(spec.training_args, spec.each.get(node, {})),
        rounds=spec.rounds,
        cost=dict(enclosed.cost.get(node, {})),
        files=enclosed.files if BROUGHT in dataset else None,
        props=spec.props,
        items=spec.items,
        split=spec.split,
        artifacts=dict(enclosed.artifacts),
        models=spec.models,
        protect=spec.protect,
        compress=spec.compression,
        preprocess=list(dataset.get("preprocess") or ()),
        resources=resources_of(spec, node),
        launches=sorted(spec.launches),
        reserve=reserve,
        dry=dry,
        proof=proof,
        line_bytes=line_bytes,
    )
