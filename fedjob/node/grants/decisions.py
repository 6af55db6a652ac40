"""The decisions of a node's owner on requests, in the node's database.

The node keeps the text of each plan that was asked for, and what it runs is
compiled from these bytes. A new node has approved nothing. Every change is
audited in the transaction that makes it.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.types import check_given, check_prefix
from fedjob.node.grants.contract import Request, defaults_of
from fedjob.node.grants.deciders import is_same_decider
from fedjob.node.grants.grant import (
    Grant,
    GrantSubject,
    OnFile,
    Question,
    counted_org,
    is_about,
    names_somebody,
    outside_agreement,
)
from fedjob.node.grants.grant_rows import MAX_NOTE_CHARS, GrantRows
from fedjob.node.grants.limits import GrantLimits, agreed
from fedjob.node.grants.plan_texts import PlanTexts
from fedjob.node.grants.projects import Projects
from fedjob.node.grants.researchers import KnownResearchers
from fedjob.node.grants.waiting_offers import WaitingOffers
from fedjob.node.storage.burden import Burden
from fedjob.node.storage.costs import CostLedger, arguments_hash, kind_of_work, passes_in
from fedjob.node.storage.database import Database
from fedjob.node.storage.usage import UsageLedger


class Grants:
    """The grants: requests with what became of them, and standing agreements."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = GrantRows(database)
        self.audit = self._rows.audit
        self.texts = PlanTexts(database)
        self.waiting = WaitingOffers(database)
        self.known = KnownResearchers(database)
        self.projects = Projects(database)
        self.usage = UsageLedger(database)

    # --- asking ---------------------------------------------------------------------------------

    def on_file(self, question: Question) -> OnFile:
        """Return all that policy has to know of the decisions to answer a question."""
        subject, job = question.subject, question.asked.job
        self._bind_agreements(subject)
        return OnFile(
            exact=tuple(self.of(subject, question.protocol)),
            rules=tuple(self.rules(subject.use)),
            ended_use=self.ended_use(job, subject),
            used=self.usage.grants_of(job),
            known_org=self.known.org_of(subject.researcher, subject.key_hex),
            project_limits=self.projects.limits_of(subject.project),
            unnamed_limits=self.projects.unnamed_limits_of(subject.project),
        )

    def _bind_agreements(self, subject: GrantSubject) -> None:
        """Bind agreements that name this researcher, made before a key of theirs was met, to the first one."""
        unbound = self._rows.select(
            "WHERE origin = 'rule' AND status = 'granted' AND key_hex = '' AND researcher = ?",
            (subject.researcher,),
        )
        if not unbound or not subject.key_hex or not names_somebody(subject.researcher):
            return
        keys = self.keys_of(subject.researcher) or {subject.key_hex}
        if len(keys) == 1:
            with self._database.transaction():
                for rule in unbound:
                    self._rows.bind(rule, next(iter(keys)))

    def keys_of(self, researcher: str) -> set[str]:
        """Return the keys that the owner knows of a researcher, or else those that have asked for something."""
        known = {row["key_hex"] for row in self.known.all() if row["researcher"] == researcher}
        asked = {grant.subject.key_hex for grant in self.all() if grant.subject.researcher == researcher}
        return known or asked - {""}

    def of(self, subject: GrantSubject, protocol: str) -> list[Grant]:
        """Return the requests of a key about a plan, dataset and use, whatever the question, newest first.

        Args:
            protocol: that would use it: a plan that may train on the data may not predict from them.
        """
        return self._rows.select(
            "WHERE origin = 'request' AND researcher = ? AND key_hex = ? AND plan = ? AND entry = ? "
            "AND dataset = ? AND use = ? AND protocol = ? ORDER BY requested DESC, rowid DESC",
            (
                subject.researcher,
                subject.key_hex,
                subject.plan,
                subject.entry,
                subject.dataset,
                subject.use,
                protocol,
            ),
        )

    def file(
        self,
        subject: GrantSubject,
        text: bytes,
        *,
        protocol: str,
        asked: Request | None = None,
    ) -> Grant:
        """Ask the owner; where the same waits for a decision already, that is returned.

        Raises:
            PlanError: the text does not have the hash it is asked for by.
        """
        asked = asked or Request()
        plan = subject.plan or asked.reading
        if plan and hashlib.sha256(text).hexdigest() != plan:
            raise PlanError("the plan's text does not have the hash that names it")
        with self._database.transaction():
            for found in self.of(subject, protocol):
                is_same = found.status == "pending" and found.subject == subject
                if is_same and found.asked.rounds >= asked.rounds:
                    return found
            if plan:
                self.texts.keep(plan, text)
            asked = replace(asked, job_name=asked.job_name[:200], note=asked.note[:MAX_NOTE_CHARS])
            return self._rows.insert("request", subject, protocol, asked, GrantLimits())

    def num_pending(self, researcher: str) -> int:
        """Return how many of a researcher's requests are undecided."""
        row = self._database.row(
            "SELECT count(*) AS n FROM grants WHERE researcher = ? AND status = 'pending' "
            "AND origin = 'request'",
            (researcher,),
        )
        return 0 if row is None else int(row["n"])

    def rules(self, use: str) -> list[Grant]:
        """Return the standing agreements that are in force, oldest first."""
        return self._rows.select(
            "WHERE origin = 'rule' AND status = 'granted' AND use = ? ORDER BY requested, rowid", (use,)
        )

    def all(self, status: str | None = None) -> list[Grant]:
        """Return the grants, newest first."""
        rows = self._rows.select("ORDER BY requested DESC, rowid DESC")
        return [grant for grant in rows if status is None or grant.status == status]

    def get(self, prefix: str) -> Grant:
        """Return the one grant whose id begins so.

        Raises:
            SpecError: none, several, or too little is given of the id.
        """
        check_given(prefix, "the id of a grant")
        found = self._rows.select("WHERE id = ?", (prefix,)) or self._rows.select(
            "WHERE substr(id, 1, ?) = ? ORDER BY requested DESC", (len(prefix), prefix)
        )
        if len(found) != 1:
            several = ", ".join(grant.id for grant in found[:5])
            raise SpecError(
                f"{prefix!r} begins several grants: {several}"
                if found
                else f"there is no grant {prefix!r}; see `fedjob node grants list`"
            )
        check_prefix(prefix, found[0].id)
        return found[0]

    def approved_plans(self) -> list[Grant]:
        """Return the grants by which a text was approved, newest first."""
        return self._rows.select(
            "WHERE length(plan) = 64 AND status IN ('granted', 'expired') ORDER BY decided DESC"
        )

    # --- deciding -------------------------------------------------------------------------------

    def approve(
        self,
        id_: str,
        *,
        by: str,
        note: str = "",
        limits: GrantLimits | None = None,
        approvers: int = 1,
        version: str | None = None,
        anybody: bool = False,
    ) -> Grant:
        """Record an approval; the grant is in force once as many different people as required have approved it.

        Args:
            limits: of the grant; None keeps what an earlier approver set.
            approvers: how many have to agree.
            version: of the data as they are now, None to keep the one that was asked for.
            anybody: an agreement counts for researchers who are not known, too.

        Raises:
            SpecError: it is granted, or this person has approved it already.
        """
        with self._database.transaction():
            grant = self.get(id_)
            if grant.status == "granted" and limits is None:
                raise SpecError(
                    f"grant {grant.id} is granted already, by {grant.decided_by or 'a standing agreement'}; "
                    "give limits to change them, or revoke it"
                )
            earlier = grant.approvals if grant.status == "pending" else ()
            if any(is_same_decider(str(approval["by"]), by) for approval in earlier):
                raise SpecError(
                    f"{by} has approved grant {grant.id} already: it waits for another person's approval, "
                    f"{len(earlier)} of {approvers} are there"
                )
            chosen = grant.limits if limits is None else limits
            if earlier and limits is not None:  # nobody widens what another approver agreed to
                chosen = agreed(grant.limits, limits)
            now = time.time()
            approvals = (*earlier, {"by": by, "at": now, "note": note[:MAX_NOTE_CHARS]})
            status = "granted" if len(approvals) >= approvers else "pending"
            if version is not None and grant.origin == "request":
                self._database.execute("UPDATE grants SET version = ? WHERE id = ?", (version, grant.id))
            self._rows.decide(
                grant,
                status,
                note=note or grant.note,
                by=", ".join(str(a["by"]) for a in approvals),
                limits=chosen,
                approvals=approvals,
            )
            if status == "granted":
                self._take_up(self.get(grant.id), now, by, anybody)
            return self.get(grant.id)

    def reject(self, id_: str, *, by: str, note: str) -> Grant:
        """Write down a no.

        Raises:
            SpecError: it is rejected, or in force.
        """
        with self._database.transaction():
            grant = self.get(id_)
            if grant.status == "granted":
                raise SpecError(f"grant {grant.id} is in force: revoke it")
            if grant.status == "rejected":
                raise SpecError(f"grant {grant.id} is rejected already, by {grant.decided_by}")
            self._rows.decide(grant, "rejected", note=note, by=by, limits=grant.limits, approvals=())
            return self.get(grant.id)

    def revoke(self, id_: str, *, by: str, note: str = "") -> Grant:
        """Take a yes back; what runs under it is ended by the node.

        Raises:
            SpecError: it is not in force.
        """
        with self._database.transaction():
            grant = self.get(id_)
            if grant.status != "granted":
                raise SpecError(
                    f"grant {grant.id} is {grant.status}: only one that is granted can be revoked"
                )
            self._close(grant, "revoked", note=note, by=by)
            return self.get(grant.id)

    def allow(
        self,
        rule: GrantSubject,
        *,
        limits: GrantLimits,
        by: str,
        note: str = "",
        approvers: int = 1,
        anybody: bool = False,
    ) -> Grant:
        """Make a standing agreement; requests that it covers are answered by it once it is in force.

        Args:
            rule: patterns; see `grant.agreement_covers`. One that names a researcher is bound to their key.

        Raises:
            SpecError: several keys are known of the researcher.
        """
        with self._database.transaction():
            asked = Request(project=rule.project, needs=())
            grant = self._rows.insert("rule", pinned(rule, self), "", asked, limits)
            return self.approve(
                grant.id, by=by, note=note, limits=limits, approvers=approvers, anybody=anybody
            )

    def expire(self, now: float) -> list[Grant]:
        """Close the grants whose time has passed; return them."""
        due = self._database.rows(
            "SELECT id FROM grants WHERE status = 'granted' AND until > 0 AND until <= ?", (now,)
        )
        if not due:
            return []
        with self._database.transaction():
            closed = [self.get(row["id"]) for row in due]
            for grant in closed:
                if grant.status == "granted":
                    self._close(grant, "expired", note="its time has passed", by="")
        return closed

    def ended_use(self, job: str, subject: GrantSubject) -> Grant | None:
        """Return the revoked or expired agreement that a job ran under on this dataset."""
        found = self._rows.select(
            "WHERE origin = 'rule' AND status IN ('revoked', 'expired') AND use = ? AND id IN "
            "(SELECT grant_id FROM uses WHERE job = ?) ORDER BY decided DESC",
            (subject.use, job),
        )
        return found[0] if found else None

    # --- telling --------------------------------------------------------------------------------

    def unannounced(self) -> list[Grant]:
        """Return decisions that nobody was told of yet."""
        return self._rows.select("WHERE announced = 0 AND status <> 'pending'")

    def mark_announced(self, id_: str) -> None:
        """Mark a decision as announced; the offers stay, for the owner may change it."""
        self._database.execute("UPDATE grants SET announced = 1 WHERE id = ?", (id_,))

    def unnoticed(self) -> list[Grant]:
        """Return what waits for a decision and the owner was not told of."""
        return self._rows.select("WHERE noticed = 0 AND status = 'pending' ORDER BY requested")

    def noticed(self, id_: str) -> None:
        """Mark a request as one that the owner was told of."""
        self._database.execute("UPDATE grants SET noticed = 1 WHERE id = ?", (id_,))

    # --- inside ---------------------------------------------------------------------------------

    def _close(self, grant: Grant, status: str, *, note: str, by: str) -> None:
        """End a grant that is in force, and the requests that it had answered."""
        answered = self._rows.select("WHERE rule = ? AND status = 'granted'", (grant.id,))
        for one in (grant, *answered):
            self._rows.decide(
                one, status, note=note, by=by, limits=one.limits, approvals=one.approvals, rule=one.rule
            )

    def _take_up(self, grant: Grant, now: float, by: str, anybody: bool) -> None:
        """Act on a yes that counts: who was asked about is known, what an agreement covers is answered."""
        if grant.origin == "request":
            subject = grant.subject
            if self.known.org_of(subject.researcher, subject.key_hex) is None:
                self.known.add(
                    subject.researcher, subject.key_hex, "", by
                )  # an organisation is the owner's to write
            return
        if grant.limits.over(now):
            return
        for pending in self._rows.select(
            "WHERE origin = 'request' AND status = 'pending' ORDER BY requested"
        ):
            subject, asked = pending.subject, pending.asked
            question = Question(
                protocol=pending.protocol, plan=subject.plan or asked.reading, subject=subject, asked=asked
            )
            known_org = self.known.org_of(subject.researcher, subject.key_hex)
            org = counted_org(known_org, anybody=anybody)
            beyond = asked.breaks(grant.limits) or outside_agreement(grant, question)
            if not beyond and is_about(grant, question, known_org=org):
                self._rows.decide(
                    pending,
                    "granted",
                    note=grant.note,
                    by=by,
                    limits=grant.limits,
                    approvals=(),
                    rule=grant.id,
                )


def burden_of(grant: Grant, database: Database) -> Burden | None:
    """Return what a request costs its node; None for a standing agreement.

    Of a decision about data alone, whatever would run on them, the time is not known.
    """
    asked, subject = grant.asked, grant.subject
    if grant.origin != "request":
        return None
    ledger = CostLedger(database)
    time_ = None
    if asked.needs != ("data",):
        entry = subject.entry if asked.has_plan else ""
        work = kind_of_work(subject.plan, entry, grant.protocol, subject.dataset, subject.use)
        config = {**defaults_of(grant.protocol), **asked.config}
        args = arguments_hash(config, asked.model_args, asked.training_args)
        time_ = ledger.time_of(work, args, passes_in(asked.training_args))
    return Burden(claimed=asked.claimed, rounds=asked.rounds, time=time_, moved=ledger.of_grant(grant.id))


def pinned(rule: GrantSubject, grants: Grants) -> GrantSubject:
    """Return an agreement that names a researcher, bound to the one key that is known of them.

    Where no key is known it is bound to the first one that is met.

    Raises:
        SpecError: several keys are known.
    """
    if rule.key_hex or not names_somebody(rule.researcher) or rule.researcher.startswith("key:"):
        return rule
    keys = sorted(grants.keys_of(rule.researcher))
    if len(keys) > 1:
        listed = ", ".join(f"key:{key[:16]}" for key in keys[:5])
        raise SpecError(
            f"{len(keys)} keys are known of {rule.researcher}: {listed}; say which one is meant, --who key:HEX"
        )
    return replace(rule, key_hex=keys[0]) if keys else rule


def approved_before(grants: Grants, grant: Grant) -> Grant | None:
    """Return the newest approved request of the same key that is most like one: by text, by class, by data."""
    subject = grant.subject
    found = [
        other
        for other in grants.all()
        if other.origin == "request"
        and other.status in ("granted", "expired")
        and other.id != grant.id
        and other.protocol == grant.protocol
        and (other.subject.researcher, other.subject.key_hex) == (subject.researcher, subject.key_hex)
        and other.subject.use == subject.use
        and (other.subject.plan == subject.plan or other.subject.entry == subject.entry)
    ]

    def likeness(other: Grant) -> tuple[bool, bool, float]:
        is_same_plan = other.subject.plan == subject.plan
        return is_same_plan, other.subject.dataset == subject.dataset, other.decided or 0.0

    return max(found, key=likeness, default=None)
