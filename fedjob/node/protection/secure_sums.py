"""A node's side of secure sums: it answers their steps, and masks what it holds.

Every step but `mask` is answered at once. The vector of `mask` may be large: it is written and stored by a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.common.types import Ref
from fedjob.identity.keys import verify
from fedjob.identity.roster import Roster
from fedjob.messaging.messages import Message, Task, shared_inputs
from fedjob.node.protection.held import HeldContribution
from fedjob.node.protection.sum_sessions import SumSessions
from fedjob.privacy.protect import SecAgg, protect_of
from fedjob.privacy.secagg import node_session
from fedjob.privacy.secagg.contribution_numbers import by_rule, factor_of
from fedjob.privacy.secagg.key_agreement import read_keys
from fedjob.privacy.secagg.masked_vector import TensorFile, write_vector
from fedjob.privacy.secagg.node_session import Mask, NodeSession
from fedjob.privacy.secagg.terms import Terms
from fedjob.privacy.secagg.vector import Outline

STEPS = ("keys", "shares", "mask", "agree", "reveal")


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStep:
    """One step of a secure sum, as a task message asks for it.

    Args:
        of: key of the computation whose contribution is added; of the step `mask`.
        body: what else the step needs.
    """

    step: str
    terms: Terms
    of: str = ""
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumAnswer:
    """The answer to a step, and the session to keep before it is sent.

    Args:
        value: plain data.
        vector: what is to be written and stored before that, for the step `mask`.
    """

    session: NodeSession
    value: dict[str, Any]
    vector: VectorOrder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOrder:
    """A vector that is to be masked.

    Args:
        of: key of the computation.
        origin: of the parameters that the round began with; None where there are none.
    """

    of: str
    terms: Terms
    outline: Outline
    origin: Ref | None
    masks: list[Mask]


def read_step(message: Message, task: Task, federation: str) -> SumStep:
    """Read and check what a message asks for.

    Raises:
        FedjobError: it is no step, or its terms are about something else than the message.
    """
    plain = dict(task.sum)
    step = str(plain.pop("step", ""))
    if step not in STEPS:
        raise SpecError(f"a secure sum has the steps {', '.join(STEPS)}, found {step[:20]!r}")
    terms = from_plain(Terms, plain.pop("terms", None))
    about = (terms.federation, terms.job, terms.round, terms.step)
    if about != (federation, message.job, message.round, message.step):
        raise SpecError("the terms of a secure sum are about the job, round and step of their message")
    if terms.shared != shared_inputs(task):
        raise SpecError("the terms of a secure sum are about what this node was given to begin with")
    settings = protect_of(task.protect).to_plain().get("secagg")
    if settings is None:
        raise SpecError("the job has no secure aggregation")
    if (terms.clip, terms.bits) != (settings["clip"], settings["bits"]):
        raise SpecError("the terms of a secure sum have other settings than the job")
    return SumStep(step=step, terms=terms, of=str(plain.pop("of", "")), body=plain)


class SecureSums:
    """The secure sums that a node takes part in.

    Args:
        node: the node's name.
        sign: with the node's key of the roster.
    """

    def __init__(
        self, node: str, sign: Callable[[bytes], bytes], roster: Roster, sessions: SumSessions
    ) -> None:
        self._node = node
        self._sign = sign
        self._roster = roster
        self._sessions = sessions

    def answer(self, wanted: SumStep, task: Task, *, min_nodes: int) -> SumAnswer:
        """Answer a step.

        Args:
            min_nodes: that a sum is of by the owner's limits and the job's own settings.

        Raises:
            FedjobError: the node does not go on with this sum; nothing is shown.
        """
        match wanted.step:
            case "keys":
                return self._keys(wanted.terms)
            case "shares":
                return self._shares(self._found(wanted.terms), wanted, task, min_nodes)
            case "mask":
                return self._mask(self._found(wanted.terms), wanted, task)
            case "agree":
                names = _texts(wanted.body.get("survivors"))
                if len(names) < min_nodes:
                    raise SpecError(f"the sum would be of {len(names)} nodes, {min_nodes} or more are wanted")
                session, signature = node_session.agreed(self._found(wanted.terms), names, self._sign)
                return SumAnswer(session=session, value={"signature": signature})
            case _:
                signatures = _bytes(wanted.body.get("signatures"))
                session, own_masks, mask_keys = node_session.revealed(
                    self._found(wanted.terms), signatures, self._is_signed_by
                )
                return SumAnswer(session=session, value={"own_masks": own_masks, "mask_keys": mask_keys})

    def keep(self, session: NodeSession) -> None:
        """Keep a session, as part of the caller's transaction."""
        self._sessions.put(session)

    def end_job(self, job: str) -> None:
        """Forget a job's sums."""
        self._sessions.end_job(job)

    def _found(self, terms: Terms) -> NodeSession:
        session = self._sessions.find(terms)
        if session is None:
            raise SpecError("this node takes no part in that sum, or in another attempt at it")
        return session

    def _keys(self, terms: Terms) -> SumAnswer:
        session = self._sessions.find(terms)
        if session is None:
            newest, has_revealed = self._sessions.latest(terms)
            if has_revealed:
                raise SpecError(
                    "this node has revealed its part of a sum of this ask: there is no second one"
                )
            if newest >= terms.attempt:
                raise SpecError(f"this node is at attempt {newest} of this sum, on other terms")
            session = node_session.begun(self._node, terms)
        keys = node_session.keys_of(session, self._sign)
        return SumAnswer(session=session, value={"keys": to_plain(keys)})

    def _shares(self, session: NodeSession, wanted: SumStep, task: Task, min_nodes: int) -> SumAnswer:
        keys = read_keys(wanted.body.get("keys"))
        agreed = protect_of(task.protect).secagg
        needed = agreed.threshold_of(len(keys)) if isinstance(agreed, SecAgg) else len(keys)
        if wanted.terms.threshold < needed:
            raise SpecError(f"the threshold of {len(keys)} nodes is {needed} by the job's settings, or more")
        session = node_session.shared(session, keys, self._is_signed_by, min_nodes=min_nodes)
        return SumAnswer(session=session, value={"sealed": session.sealed, "commitment": session.commitment})

    def _mask(self, session: NodeSession, wanted: SumStep, task: Task) -> SumAnswer:
        outline = Outline.from_plain(wanted.body.get("outline"))
        what = f"{wanted.of} {outline.digest}"
        session, masks = node_session.masked(session, _bytes(wanted.body.get("sealed")), what)
        order = VectorOrder(
            of=wanted.of, terms=wanted.terms, outline=outline, origin=task.params.get("params"), masks=masks
        )
        return SumAnswer(session=session, value={}, vector=order)

    def _is_signed_by(self, node: str, signature: bytes, data: bytes) -> bool:
        key = self._roster.key_of(node)
        return key is not None and self._roster.role_of(node) == "node" and verify(key, signature, data)


def write_masked(path: Path, order: VectorOrder, held: HeldContribution, origin: Path | None) -> int:
    """Write the masked vector of a held contribution to a new file; return how many of its numbers were clipped.

    Raises:
        FedjobError: it can't be added.
    """
    terms = order.terms
    return write_vector(
        path,
        held.tensors,
        None if origin is None or terms.rule == "sum" else TensorFile(origin),
        factor_of(held.weight, terms),
        by_rule(held.numbers, order.outline, terms),
        terms.fixed_point,
        order.masks,
    )


def _texts(plain: Any) -> list[str]:
    if not isinstance(plain, list) or not all(isinstance(one, str) for one in plain):
        raise DecodeError("expected a list of nodes")
    return list(plain)


def _bytes(plain: Any) -> dict[str, bytes]:
    if not isinstance(plain, Mapping) or not all(isinstance(one, bytes) for one in plain.values()):
        raise DecodeError("expected a map from nodes to bytes")
    return dict(plain)
