"""The handler of the steps of secure sums: none of them waits in the queue, for they cost little and others wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fedjob.common.errors import FedjobError, SpecError
from fedjob.common.lifecycle import State
from fedjob.execution.step_parts import check_parts, completed
from fedjob.identity.keys import Identity, verify
from fedjob.identity.roster import Roster
from fedjob.messaging.frame_checks import parse_address
from fedjob.messaging.messages import Message, Result, Task, shared_inputs, work_key
from fedjob.node.daemon.context import NodeContext
from fedjob.node.daemon.turn import Turn
from fedjob.node.execution.transfers import ContributionRead, PartsFetched, VectorStored
from fedjob.node.grants.limits import GrantLimits
from fedjob.node.grants.policy import Permission
from fedjob.node.protection.sum_sessions import SessionsOfTurn, SumSessions
from fedjob.node.queue.book import TaskRow
from fedjob.node.queue.task import failure, objects_of, task_of
from fedjob.privacy.protect import SecAgg, protect_of
from fedjob.privacy.protections import least_nodes
from fedjob.privacy.secagg.key_agreement import IsSignedBy
from fedjob.privacy.secagg.node_session import NodeSession
from fedjob.privacy.secagg.steps import SumAnswer, SumSteps, VectorOrder, bound_to, read_step

MAX_MASKING = 50
"""Vectors that are masked and stored at once; of more the researcher asks again."""

MAX_FETCHING = 50
"""Steps whose parts are fetched at once; of more the researcher asks again."""


class SumHandler:
    """Answers the steps of secure sums.

    Args:
        federation: name of the federation, which the terms of a sum name.
    """

    def __init__(self, context: NodeContext, identity: Identity, roster: Roster, federation: str) -> None:
        self._context = context
        self._federation = federation
        self._sessions = SumSessions(context.database)
        self._identity = identity
        self._is_signed_by = signed_by_nodes_of(roster)
        self._masking: dict[str, tuple[Message, SumAnswer]] = {}  # by message id
        self._fetching: dict[str, Message] = {}  # by id, while parts of the step are fetched

    def handle(self, turn: Turn, message: Message, task: Task, verdict: Permission) -> None:
        """Answer a step of a job that may run here; a vector is answered when it is stored."""
        if message.id in self._masking or message.id in self._fetching:  # asked again while it is under way
            return
        try:
            _check_runner(turn, message)
            if task.sum_parts:
                self._fetch(turn, message, task)
                return
            answer = self._answer(turn, message, task, verdict.limits)
        except FedjobError as error:
            self._reply(turn, message, task, failure("", error.reason, str(error)))
            return
        self._put(turn, answer.session)
        if answer.vector is None:
            self._reply(turn, message, task, Result(of="", key="", ok=True, value=answer.value))
            return
        self._mask(turn, message, answer, answer.vector)

    def _fetch(self, turn: Turn, message: Message, task: Task) -> None:
        """Let the parts of a step be fetched that its message had no room for."""
        check_parts(task)
        if len(self._fetching) >= MAX_FETCHING:
            raise FedjobError(f"this node fetches what {MAX_FETCHING} steps need already: ask again")
        turn.keep(self._fetching)
        self._fetching[message.id] = message
        turn.after.append(lambda: self._context.transfers.fetch_parts(message.id, task.sum_parts))

    def whole(self, turn: Turn, fetched: PartsFetched) -> tuple[Message, Task] | None:
        """Return a step with the parts that were fetched for it, to be judged as it is now; None where it has failed."""
        turn.keep(self._fetching)
        message = self._fetching.pop(fetched.message, None)
        if message is None or not isinstance(message.body, Task):
            return None
        count, about = self._context.permissions.count_moved, message.body
        turn.rows.append(lambda: count(about, message.job, bytes_in=fetched.num_bytes))
        if fetched.parts is None:
            self._reply(turn, message, message.body, failure("", fetched.reason, fetched.detail))
            return None
        task = completed(message.body, fetched.parts)
        return replace(message, body=task), task

    def bind(self, turn: Turn, read: ContributionRead) -> None:
        """Bind a session to the contribution that was read for it, and let that leave, masked, when it is on the disk."""
        found = self._masking.get(read.message)
        if found is None or not isinstance(found[0].body, Task) or found[1].vector is None:
            self._context.transfers.leave_masked(read.message)
            return
        (message, answer), task = found, found[0].body
        try:
            _check_runner(turn, message)
            session = self._sessions_of(turn).find(found[1].vector.terms)
            if session is None or found[1].vector.of not in turn.book.tasks:
                raise SpecError("this node takes no part in that sum any more, or in another attempt at it")
            session, order = bound_to(found[1].vector, session, read.digest)
        except FedjobError as error:
            turn.keep(self._masking)
            del self._masking[read.message]
            turn.after.append(lambda: self._context.transfers.leave_masked(read.message))
            self._reply(turn, message, task, failure("", error.reason, str(error)))
            return
        self._put(turn, session)
        self._mask(turn, message, replace(answer, session=session, vector=order), order)

    def _mask(self, turn: Turn, message: Message, answer: SumAnswer, order: VectorOrder) -> None:
        """Let a vector be masked and stored after the commit."""
        row = turn.book.tasks[order.of]
        min_rows = self._context.permissions.limits_of(row).min_rows
        turn.keep(self._masking)
        self._masking[message.id] = (message, answer)
        attached = self._context.attached.of(objects_of(task_of(row)))
        mask = self._context.transfers.mask
        turn.after.append(lambda: mask(row, message.id, order, min_rows=min_rows, attached=attached))

    def _put(self, turn: Turn, session: NodeSession) -> None:
        """Keep a session with the commit; whatever comes in the same turn finds it."""
        turn.sums[session.terms.digest] = session
        turn.rows.append(lambda: self._sessions.put(session))

    def _sessions_of(self, turn: Turn) -> SessionsOfTurn:
        return SessionsOfTurn(self._sessions, turn.sums)

    def _steps(self, turn: Turn) -> SumSteps:
        sign, sessions = self._identity.sign, self._sessions_of(turn)
        return SumSteps(self._context.node, sign, self._is_signed_by, sessions)

    def take(self, turn: Turn, stored: VectorStored) -> None:
        """Answer with a vector that was stored."""
        turn.keep(self._masking)
        found = self._masking.pop(stored.message, None)
        if found is None or not isinstance(found[0].body, Task):
            return
        (message, answer), task = found, found[0].body
        if stored.ref is None:
            self._reply(turn, message, task, failure("", stored.reason, stored.detail))
            return
        self._note_leaving(turn, message, task, stored.ref.size_bytes)
        self._reply(
            turn, message, task, Result(of="", key="", ok=True, params=stored.ref, value=answer.value)
        )

    def _note_leaving(self, turn: Turn, message: Message, task: Task, size_bytes: int) -> None:
        """Record that a masked contribution leaves: of it alone nobody can read anything but its size."""
        body = {
            "job": message.job,
            "researcher": message.sender,
            "dataset": task.dataset,
            "round": message.round,
            "step": message.step,
            "state": "masked",
            "departure": {"bytes": size_bytes, "numbers": 0, "use": task.use, "parameters_bytes": size_bytes},
        }
        turn.rows.append(lambda: self._context.grants.audit.add("sum", message.job, body))
        count = self._context.permissions.count_moved
        turn.rows.append(lambda: count(task, message.job, bytes_out=size_bytes))

    def under_way(self) -> Iterator[Message]:
        """Yield the messages whose parts are fetched or whose vectors are being masked: their researchers wait."""
        yield from self._fetching.values()
        for message, _ in self._masking.values():
            yield message

    def end_job(self, turn: Turn, job: str) -> None:
        """Forget the secrets of a job's sums; of a contribution with noise on it there is no second sum, ever."""
        turn.ended.add(job)
        turn.rows.append(lambda: self._sessions.end_job(job))

    def with_keys(self, turn: Turn, row: TaskRow, result: Result) -> Result:
        """Return the answer to a computation with the node's keys for its sum, which nobody has to wait for then."""
        task = task_of(row)
        if row.job in turn.ended or not (task.ahead and result.ok and isinstance(result.value, dict)):
            return result
        about = (self._federation, row.job, row.round, row.step)
        plain = {"step": "keys", "terms": task.ahead}
        try:
            protect = protect_of(task.protect)
            wanted = read_step(plain, protect, task.rounds, shared_inputs(task), *about)
            answer = self._steps(turn).answer(wanted, SecAgg(), min_nodes=0)
        except FedjobError:  # the step by itself, which follows, says why
            return result
        self._put(turn, answer.session)
        keys = {"keys": answer.value["keys"], "terms": wanted.terms.digest}
        return replace(result, value={**result.value, **keys})

    def _answer(self, turn: Turn, message: Message, task: Task, limits: GrantLimits) -> SumAnswer:
        protect = protect_of(task.protect)
        settings = protect.secagg
        if not isinstance(settings, SecAgg):
            raise SpecError("the job has no secure aggregation")
        about = (self._federation, message.job, message.round, message.step)
        wanted = read_step(task.sum, protect, task.rounds, shared_inputs(task), *about)
        least = max(least_nodes(limits.protections), settings.min_nodes)
        answer = self._steps(turn).answer(wanted, settings, min_nodes=least)
        if answer.vector is not None:
            self._check_held(turn, message, task, answer.vector.of)
        if len(self._masking) >= MAX_MASKING:
            raise FedjobError(f"this node masks {MAX_MASKING} contributions already: ask again")
        return answer

    def _check_held(self, turn: Turn, message: Message, task: Task, key: str) -> None:
        """Refuse to mask anything but the finished computation that this very ask is about."""
        row = turn.book.tasks.get(key)
        is_it = (
            row is not None
            and (row.job, row.round, row.step, row.dataset)
            == (message.job, message.round, message.step, task.dataset)
            and row.state == State.COMPLETED
            and "secagg" in task_of(row).protect
            and work_key(
                job=message.job,
                round_=message.round,
                step=message.step,
                node=self._context.node,
                task=without_step(task),
            )
            == key
        )
        if not is_it:
            raise FedjobError("this node holds no contribution to that ask, or of another computation")

    def _reply(self, turn: Turn, message: Message, task: Task, result: Result) -> None:
        key = work_key(
            job=message.job, round_=message.round, step=message.step, node=self._context.node, task=task
        )
        turn.outgoing.append(
            self._context.endpoint.prepare(
                parse_address(message.reply_to),
                replace(result, of=message.id, key=key, sandbox=self._context.workers.sandbox),
                job=message.job,
                task=key,
                round=message.round,
                step=message.step,
                attempt=message.attempt,
                epoch=message.epoch,
            )
        )
        turn.settled.append(message)


def _check_runner(turn: Turn, message: Message) -> None:
    """Refuse the message of an outdated runner, or about a job that has ended or is another researcher's."""
    job = turn.book.jobs.get(message.job)
    if job is None:
        raise FedjobError("this node has computed nothing for that job")
    if (
        job.researcher != message.sender
        or message.epoch < job.epoch
        or (job.ended and message.epoch == job.epoch)
        or message.job in turn.ended
    ):
        raise FedjobError(
            "the job has ended, another runner has taken it over, or it is another researcher's"
        )


def signed_by_nodes_of(roster: Roster) -> IsSignedBy:
    """Return the check of other nodes' signatures against this node's own roster: neither researcher nor hub can make one.

    A node that has other keys since the roster was fetched is looked for in a newer one.
    """

    def fits(node: str, signature: bytes, data: bytes) -> bool:
        key = roster.key_of(node)
        return key is not None and roster.role_of(node) == "node" and verify(key, signature, data)

    def is_signed(node: str, signature: bytes, data: bytes) -> bool:
        return fits(node, signature, data) or (roster.refresh() and fits(node, signature, data))

    return is_signed


def without_step(task: Task) -> Task:
    """Return the computation that a step of a secure sum is about."""
    return replace(task, sum={}, sum_parts={})
