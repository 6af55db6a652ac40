"""Offers: may this plan run on this dataset? Answered at once, and again when the owner decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedjob.common.errors import PlanError
from fedjob.common.gate import parse_address
from fedjob.common.messages import Answer, Message, Offer
from fedjob.common.types import Ref
from fedjob.node.grants import Grant, Waiting
from fedjob.node.parts import Parts, Turn
from fedjob.node.policy import MAX_PLAN_BYTES, Verdict, examine_plan
from fedjob.node.runs import Fetched


class Offers:
    """Handles offers, files grants, announces decisions."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._asking: dict[str, list[Message]] = {}  # by sha256 of the plan that is being fetched

    def handle(self, turn: Turn, message: Message, offer: Offer) -> None:
        """Answer an offer, or fetch its plan first."""
        parts = self._parts
        verdict = parts.judge(message, offer)
        if verdict.subject is None or verdict.status == "rejected":
            return self._answer(turn, message, verdict)
        missing: tuple[str, ...] = ()
        text = b""
        if offer.plan is not None:
            found = parts.text_of(offer.plan.sha256)
            if found is None:
                return self._fetch(turn, message, offer.plan)
            text = found
            try:
                _, missing = examine_plan(text)
            except PlanError as error:
                return self._answer(turn, message, Verdict("unknown", reason="plan", detail=str(error)))
        if missing:
            verdict = replace(
                verdict,
                status="unknown",
                reason="missing_packages",
                detail=f"the node lacks {', '.join(missing)}",
            )
        elif verdict.status == "pending" and not offer.dry:
            verdict = self._file(turn, message, offer, verdict, text)
        elif verdict.allowed and not offer.dry:
            turn.after.append(parts.workers.warm_up)
        return self._answer(turn, message, verdict, missing)

    def _file(self, turn: Turn, message: Message, offer: Offer, verdict: Verdict, text: bytes) -> Verdict:
        """Ask the owner, once; remember whom to tell."""
        grants = self._parts.grants
        grant = verdict.grant
        if grant is None:
            if grants.num_pending(message.sender) >= self._parts.config.max_pending:
                return replace(verdict, status="unknown", reason="busy", detail="too many open requests")
            assert verdict.subject is not None
            grant = grants.file(
                verdict.subject,
                text,
                protocol=offer.protocol,
                job_name=offer.job_name,
                note=offer.note,
            )
        waiting = Waiting(message.id, message.reply_to, message.job)
        turn.rows.append(lambda: grants.wait(grant.id, waiting))
        return replace(verdict, grant=grant, reason="", detail="its owner has not decided yet")

    def _answer(self, turn: Turn, message: Message, verdict: Verdict, missing: tuple[str, ...] = ()) -> None:
        note = verdict.grant.note if verdict.grant is not None and verdict.grant.note else verdict.detail
        answer = Answer(
            of=message.id,
            status=verdict.status,
            reason=verdict.reason,
            note=note[:2000],
            missing=list(missing),
            num_rows=0 if verdict.dataset is None else verdict.dataset.num_rows,
            grant="" if verdict.grant is None else verdict.grant.id,
        )
        self._parts.answer(turn, message, answer)

    # --- plans that have to be fetched ----------------------------------------------------------

    def _fetch(self, turn: Turn, message: Message, plan: Ref) -> None:
        waiting = self._asking.get(plan.sha256)
        if waiting is not None:
            waiting.append(message)
            return
        self._asking[plan.sha256] = [message]
        turn.after.append(lambda: self._parts.runs.fetch(plan, MAX_PLAN_BYTES))

    def take_plan(self, turn: Turn, event: Fetched) -> None:
        """Handle the offers that waited for a plan's text."""
        waiting = self._asking.pop(event.ref.sha256, [])
        if event.data is not None:
            self._parts.keep_text(event.ref.sha256, event.data)
        for message in waiting:
            if event.data is not None and isinstance(message.body, Offer):
                self.handle(turn, message, message.body)
            else:
                detail = event.detail or event.reason
                self._answer(turn, message, Verdict("unknown", reason="repository", detail=detail))

    def snapshot(self) -> Callable[[], None]:
        """Return what brings back the offers that wait now, should the turn fail."""
        held = {plan: list(waiting) for plan, waiting in self._asking.items()}

        def restore() -> None:
            self._asking = held

        return restore

    # --- decisions ------------------------------------------------------------------------------

    def announce(self, turn: Turn) -> None:
        """Tell those who wait what the owner decided."""
        parts = self._parts
        for grant, waiting in parts.grants.decided():
            for one in waiting:
                to = parse_address(one.reply_to)
                turn.outgoing.append(parts.endpoint.prepare(to, self._decision(grant, one), job=one.job))
            turn.rows.append(lambda grant=grant: parts.grants.told(grant.id))  # type: ignore[misc]
            if grant.status == "approved" and waiting:
                turn.after.append(parts.workers.warm_up)

    def _decision(self, grant: Grant, waiting: Waiting) -> Answer:
        dataset = self._parts.datasets.find(grant.subject.dataset)
        return Answer(
            of=waiting.offer,
            status="granted" if grant.status == "approved" else "rejected",
            reason="" if grant.status == "approved" else "rejected",
            note=grant.note,
            num_rows=0 if dataset is None else dataset.num_rows,
            grant=grant.id,
        )
