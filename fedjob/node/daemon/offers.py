"""The handler of offers, which ask whether a plan may run on a dataset: answered now, and again on a decision."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedjob.common.errors import PlanError, SpecError
from fedjob.common.lifecycle import ACTIVE, PENDING
from fedjob.common.requirements import read_need
from fedjob.common.types import Ref
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Answer, Message, Offer, keyless_offer
from fedjob.node.config.config import NodeConfig
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.execution.preload import lacking_libraries
from fedjob.node.execution.transfers import FetchedBytes
from fedjob.node.grants.deciders import names_of
from fedjob.node.grants.plan_texts import examine_plan
from fedjob.node.grants.policy import Permission, ask, contact_of
from fedjob.node.grants.question import MAX_PLAN_BYTES
from fedjob.node.grants.waiting_offers import Waiting
from fedjob.node.queue import task_events as events
from fedjob.node.queue.allocation import Judgement, granted, judge, need_of
from fedjob.repository.line_check import MAX_CHECK_BYTES, LineCheck, check_line

log = logging.getLogger(__name__)

MAX_WAITING, MAX_WAITING_OF_ONE = 200, 50
"""Offers that wait for the text of a plan: of all researchers, and of one."""


MAX_MEASURING = 4
"""Offers for which this node times its line at the same time; more are answered without."""


@dataclass(frozen=True, slots=True)
class MeasuredLine:
    """The node's line was timed for an offer; `check` is None where that failed.

    Args:
        message: id of the offer.
    """

    message: str
    check: LineCheck | None


class OfferHandler:
    """Handles offers, files grants, announces decisions.

    Args:
        report: takes a `MeasuredLine` from a thread.
    """

    def __init__(self, context: NodeContext, report: Callable[[MeasuredLine], None]) -> None:
        self._context = context
        self._report = report
        self._measuring: dict[str, Message] = {}  # by id
        self._measured: dict[str, LineCheck | None] = {}  # by the id of the offer that is answered next
        self._waiting_for_plan: dict[
            str, tuple[Message, ...]
        ] = {}  # by the name of the stored plan that is being fetched

    def handle(self, turn: Turn, message: Message, offer: Offer) -> None:
        """Answer an offer, or fetch its plan first."""
        context = self._context
        verdict = context.permissions.judge(message, offer)
        if verdict.dataset is not None and offer.use == "private":
            context.redescriber.is_changed(verdict.dataset)
        if verdict.subject is None or verdict.status == "rejected":
            return self._answer(turn, message, verdict)
        missing: tuple[str, ...] = ()
        text = b""
        if offer.plan is not None:
            found = context.grants.texts.of(offer.plan.sha256)
            if found is None:
                return self._fetch(turn, message, offer.plan)
            text = found
            try:
                _, missing = examine_plan(text)
            except PlanError as error:
                return self._answer(turn, message, Permission("unknown", reason="plan", detail=str(error)))
        if lacking := lacking_libraries(context.config.launcher):
            verdict = replace(verdict, status="unknown", reason="missing_packages", detail=lacking)
        elif missing:
            verdict = replace(
                verdict,
                status="unknown",
                reason="missing_packages",
                detail=f"the node lacks {', '.join(missing)}",
            )
        elif verdict.status == "pending" and not offer.dry:
            verdict = self._file(turn, message, offer, verdict, text)
        elif verdict.allowed and not offer.dry:
            turn.after.append(context.workers.warm_up)
        if self._is_to_measure(message, offer, verdict):
            return self._measure(turn, message, offer.line_bytes)
        return self._answer(turn, message, verdict, missing)

    def refuse(self, turn: Turn, message: Message, reason: str, detail: str) -> None:
        """Refuse an offer without judging it."""
        self._answer(turn, message, Permission("rejected", reason=reason, detail=detail))

    def _file(
        self, turn: Turn, message: Message, offer: Offer, verdict: Permission, text: bytes
    ) -> Permission:
        """File the request with the owner, once; remember the offer that is to be answered again."""
        grants = self._context.grants
        grant = verdict.grant
        if grant is None:
            if grants.num_pending(message.sender) >= self._context.config.max_pending:
                return replace(verdict, status="unknown", reason="busy", detail="too many open requests")
            assert verdict.subject is not None
            grant = grants.file(verdict.subject, text, protocol=offer.protocol, asked=verdict.asked)
        waiting = Waiting(message.id, message.reply_to, message.job, message.sender, keyless_offer(offer))
        turn.rows.append(lambda: grants.waiting.add(grant.id, waiting))
        detail = f"its owner has not decided yet{ask(self._context.config, verdict.dataset)}"
        return replace(verdict, grant=grant, reason="", detail=detail, origin="request", state="pending")

    def _answer(
        self, turn: Turn, message: Message, verdict: Permission, missing: tuple[str, ...] = ()
    ) -> None:
        answer = self._answer_of(message.id, verdict, missing)
        if isinstance(message.body, Offer):
            answer = self._scheduled(turn, message.sender, message.job, message.body, verdict, answer)
        self._context.answer(turn, message, answer)
        turn.forgettable.append(turn.outgoing[-1].id)

    def _scheduled(
        self, turn: Turn, sender: str, job: str, offer: Offer, verdict: Permission, answer: Answer
    ) -> Answer:
        """Add whether the job could start here; reserve what it needs if it is allowed."""
        judgement = consider(
            turn,
            self._context.config,
            researcher=sender,
            job=job,
            resources=offer.resources,
            gpus=verdict.gpus,
            reserve=offer.reserve and verdict.allowed and not offer.dry,
        )
        speed = self._context.permissions.speed_for(offer) if offer.dry and _may_run(verdict) else {}
        if speed and (line := self._measured.get(answer.of)) is not None:
            rates = {"down": line.size_bytes / line.down_s, "up": line.size_bytes / line.up_s}
            speed |= {f"{way}_bytes_s": round(rate, 3) for way, rate in rates.items()}
        return replace(
            answer,
            speed=speed,
            schedule=judgement.schedule,
            short=list(judgement.short),
            workers=judgement.workers,
            ahead=judgement.ahead,
        )

    def _answer_of(self, offer: str, verdict: Permission, missing: tuple[str, ...] = ()) -> Answer:
        """Return the message that answers an offer with a verdict."""
        grant = verdict.grant
        note = grant.note if grant is not None and grant.note else verdict.detail
        return Answer(
            of=offer,
            status=verdict.status,
            reason=verdict.reason,
            note=note[:2000],
            missing=list(missing),
            num_rows=0 if verdict.dataset is None else verdict.dataset.num_rows,
            grant="" if grant is None else grant.id,
            grant_state=verdict.state,
            origin=verdict.origin,
            needs=list(verdict.needs),
            until=verdict.limits.until,
            limits=verdict.limits.to_plain(),
            by="" if grant is None else names_of(grant.decided_by),
            decided=0.0 if grant is None else grant.decided or 0.0,
            contact=contact_of(self._context.config, verdict.dataset),
            version="" if verdict.subject is None else verdict.subject.version,
            privacy=dict(verdict.privacy),
            sandbox=self._context.workers.sandbox,
        )

    # --- plans that have to be fetched ----------------------------------------------------------

    def _fetch(self, turn: Turn, message: Message, plan: Ref) -> None:
        """Let an offer wait for its plan's text."""
        waiting = self._waiting_for_plan.get(plan.stored_as, ())
        every = [one for some in self._waiting_for_plan.values() for one in some]
        if (
            len(every) >= MAX_WAITING
            or sum(one.sender == message.sender for one in every) >= MAX_WAITING_OF_ONE
        ):
            detail = f"{len(every)} offers wait for the text of their plans here: ask again"
            self._answer(turn, message, Permission("unknown", reason="busy", detail=detail))
            return
        turn.keep(self._waiting_for_plan)
        self._waiting_for_plan[plan.stored_as] = (*waiting, message)
        if not waiting:
            turn.after.append(lambda: self._context.transfers.fetch(plan, MAX_PLAN_BYTES))

    def take(self, turn: Turn, report: FetchedBytes | MeasuredLine) -> None:
        """Handle the offers that waited for what a thread reports."""
        if isinstance(report, FetchedBytes):
            self._take_plan(turn, report)
        else:
            self._take_line(turn, report)

    def _take_plan(self, turn: Turn, event: FetchedBytes) -> None:
        """Handle the offers that waited for a plan's text."""
        turn.keep(self._waiting_for_plan)
        waiting = self._waiting_for_plan.pop(event.ref.stored_as, ())
        if event.data is not None:
            self._context.grants.texts.remember(event.ref.sha256, event.data)
        for message in waiting:
            if event.data is not None and isinstance(message.body, Offer):
                self.handle(turn, message, message.body)
            else:
                detail = event.detail or event.reason
                self._answer(turn, message, Permission("unknown", reason="repository", detail=detail))

    # --- lines that have to be timed ------------------------------------------------------------

    def _is_to_measure(self, message: Message, offer: Offer, verdict: Permission) -> bool:
        """Tell whether the line is to be timed for an offer: for one that may run, where the owner lets speeds be known."""
        wanted = offer.dry and 0 < offer.line_bytes <= MAX_CHECK_BYTES and _may_run(verdict)
        known = message.id in self._measured or message.id in self._measuring
        return (
            wanted
            and not known
            and len(self._measuring) < MAX_MEASURING
            and self._context.permissions.lets_speeds_out(offer)
        )

    def _measure(self, turn: Turn, message: Message, size_bytes: int) -> None:
        """Let an offer wait for what the line takes."""
        turn.keep(self._measuring)
        self._measuring[message.id] = message
        context = self._context

        def measure() -> None:
            found = None
            try:
                found = check_line(context.transfers.repository, context.home.spool, (), size_bytes)
            except Exception as error:  # nobody would notice an exception of this thread
                log.warning("the line could not be timed: %s", type(error).__name__)
            self._report(MeasuredLine(message.id, found))

        turn.after.append(lambda: context.transfers.later(measure))

    def _take_line(self, turn: Turn, event: MeasuredLine) -> None:
        """Answer the offer that waited for the line, and note what it took."""
        turn.keep(self._measuring)
        message = self._measuring.pop(event.message, None)
        if event.check is not None:
            check = event.check
            turn.rows.append(lambda: self._context.permissions.note_line(check))
        if message is None or not isinstance(message.body, Offer):
            return
        self._measured[message.id] = event.check
        try:
            self.handle(turn, message, message.body)
        finally:
            del self._measured[message.id]

    # --- decisions ------------------------------------------------------------------------------

    def announce(self, turn: Turn) -> None:
        """Announce the owner's decisions to the researchers whose offers wait for them."""
        context = self._context
        for grant in context.grants.unannounced():
            for one in context.grants.waiting.of(grant.id):
                verdict = context.permissions.judge_for(
                    one.sender, context.roster.key_of(one.sender) or "", one.job, one.body
                )
                answer = self._answer_of(one.offer, verdict)
                answer = self._scheduled(turn, one.sender, one.job, one.body, verdict, answer)
                to = parse_address(one.reply_to)
                turn.outgoing.append(context.endpoint.prepare(to, answer, job=one.job))
                if verdict.allowed:
                    turn.after.append(context.workers.warm_up)
            turn.rows.append(lambda grant=grant: context.grants.mark_announced(grant.id))  # type: ignore[misc]


def _may_run(verdict: Permission) -> bool:
    """Tell whether what was offered may run here, or would be if its owner agreed."""
    return verdict.subject is not None and (verdict.allowed or verdict.status == "pending")


def consider(
    turn: Turn,
    config: NodeConfig,
    *,
    researcher: str,
    job: str,
    resources: Mapping[str, Any],
    gpus: tuple[int, ...] | None,
    reserve: bool,
) -> Judgement:
    """Judge whether a job could start, and hold what it needs if it wants that and nothing is short.

    Args:
        gpus: those that its grant names; None for any that the node lends.
    """
    book = turn.book
    try:
        read_need(resources)
        need = need_of(granted(resources, gpus))
    except SpecError as error:
        return Judgement(schedule="resources", short=(str(error)[:200],), workers=config.workers)
    judgement = judge(
        book.ledger,
        job,
        need,
        workers=config.workers,
        active=sum(row.state in ACTIVE for row in book.tasks.values()),
        ahead=sum(row.state in PENDING for row in book.tasks.values()),
        is_open=book.is_open,
    )
    if reserve and need.holds and not judgement.short and job:
        turn.step(
            events.Reserve(job, researcher, granted(resources, gpus), time.monotonic() + config.reserve_s)
        )
    return judgement
