"""The steps of a secure sum as a node answers them, whatever keeps its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.privacy.protect import SecAgg
from fedjob.privacy.secagg import node_session
from fedjob.privacy.secagg.contribution_numbers import CLIPPED, by_rule, contribution_numbers, factor_of
from fedjob.privacy.secagg.key_agreement import IsSignedBy, Sign, read_keys
from fedjob.privacy.secagg.masked_vector import TensorFile, write_vector
from fedjob.privacy.secagg.node_session import Mask, NodeSession
from fedjob.privacy.secagg.terms import Terms
from fedjob.privacy.secagg.vector import NamedNumbers, Outline

STEPS = ("keys", "shares", "mask", "agree", "reveal")


class Sessions(Protocol):
    """What keeps a node's sessions."""

    def find(self, terms: Terms) -> NodeSession | None:
        """Return the session of these very terms."""

    def latest(self, terms: Terms) -> tuple[int, bool]:
        """Return the newest attempt at this ask, 0 for none, and whether the node has revealed in any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStep:
    """One step of a secure sum.

    Args:
        of: key of the computation whose contribution is added; of the step `mask`.
        body: what else the step needs.
    """

    step: str
    terms: Terms
    of: str = ""
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOrder:
    """A vector that is to be masked; `of` is the key of the computation that it comes from."""

    of: str
    terms: Terms
    outline: Outline
    masks: list[Mask]


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
class HeldContribution:
    """A contribution that stays at the node until it is masked.

    Args:
        tensors: None where there are none.
        staying: the metrics that do not add, as `phase.name`.
    """

    tensors: TensorFile | None
    numbers: NamedNumbers
    staying: list[str]
    weight: float


def held_contribution(
    value: Any, weight: float, metrics: Mapping[str, Mapping[str, Any]], tensors: Path | None
) -> HeldContribution:
    """Return what a finished computation contributes.

    Args:
        tensors: file of the named tensors.

    Raises:
        SpecError: something of it can't be added.
        DecodeError: the file is malformed.
    """
    file = None if tensors is None else TensorFile(tensors)
    numbers, staying = contribution_numbers(value, weight, metrics, {} if file is None else file.exact())
    return HeldContribution(tensors=file, numbers=numbers, staying=staying, weight=weight)


def read_step(plain: Mapping[str, Any], settings: SecAgg, shared: str, *about: Any) -> SumStep:
    """Read and check a step in a message.

    Args:
        settings: the job's.
        shared: sha256 of what the node was given to begin with.
        about: federation, job, round and step that the message is about.

    Raises:
        FedjobError: it is no step, or its terms are about something else.
    """
    rest = dict(plain)
    step = str(rest.pop("step", ""))
    if step not in STEPS:
        raise SpecError(f"a secure sum has the steps {', '.join(STEPS)}, found {step[:20]!r}")
    terms = from_plain(Terms, rest.pop("terms", None))
    if (terms.federation, terms.job, terms.round, terms.step) != about:
        raise SpecError("the terms of a secure sum are about the job, round and step of their message")
    if terms.shared != shared:
        raise SpecError("the terms of a secure sum are about what this node was given to begin with")
    if (terms.clip, terms.bits) != (settings.clip, settings.bits):
        raise SpecError("the terms of a secure sum have other settings than the job")
    return SumStep(step=step, terms=terms, of=str(rest.pop("of", "")), body=rest)


class SumSteps:
    """A node's answers to the steps of secure sums.

    Args:
        node: its name.
        sign: with its key of the roster.
    """

    def __init__(self, node: str, sign: Sign, is_signed_by: IsSignedBy, sessions: Sessions) -> None:
        self._node = node
        self._sign = sign
        self._is_signed_by = is_signed_by
        self._sessions = sessions

    def answer(self, wanted: SumStep, settings: SecAgg, *, min_nodes: int) -> SumAnswer:
        """Answer a step.

        Args:
            settings: the job's.
            min_nodes: that a sum is of by the owner's limits and the job's own settings.

        Raises:
            FedjobError: the node does not go on with this sum; nothing is shown.
        """
        match wanted.step:
            case "keys":
                return self._keys(wanted.terms)
            case "shares":
                return self._shares(self._found(wanted.terms), wanted, settings, min_nodes)
            case "mask":
                return self._mask(self._found(wanted.terms), wanted)
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

    def _shares(self, session: NodeSession, wanted: SumStep, settings: SecAgg, min_nodes: int) -> SumAnswer:
        keys = read_keys(wanted.body.get("keys"))
        needed = settings.threshold_of(len(keys))
        if wanted.terms.threshold < needed:
            raise SpecError(f"the threshold of {len(keys)} nodes is {needed} by the job's settings, or more")
        session = node_session.shared(session, keys, self._is_signed_by, min_nodes=min_nodes)
        return SumAnswer(session=session, value={"sealed": session.sealed, "commitment": session.commitment})

    def _mask(self, session: NodeSession, wanted: SumStep) -> SumAnswer:
        outline = Outline.from_plain(wanted.body.get("outline"))
        what = f"{wanted.of} {outline.digest}"
        session, masks = node_session.masked(session, _bytes(wanted.body.get("sealed")), what)
        order = VectorOrder(of=wanted.of, terms=wanted.terms, outline=outline, masks=masks)
        return SumAnswer(session=session, value={}, vector=order)


def write_masked(path: Path, order: VectorOrder, held: HeldContribution, origin: Path | None) -> None:
    """Write the masked vector of a held contribution to a new file.

    Args:
        origin: file of the parameters that the round began with.

    Raises:
        FedjobError: it can't be added.
    """
    terms = order.terms
    write_vector(
        path,
        held.tensors,
        None if origin is None else TensorFile(origin),
        order.outline.relative,
        factor_of(held.weight, terms),
        by_rule(held.numbers, order.outline, terms),
        terms.fixed_point,
        order.masks,
        order.outline.names.index(CLIPPED),
    )


def _texts(plain: Any) -> list[str]:
    if not isinstance(plain, list) or not all(isinstance(one, str) for one in plain):
        raise DecodeError("expected a list of nodes")
    return list(plain)


def _bytes(plain: Any) -> dict[str, bytes]:
    if not isinstance(plain, Mapping) or not all(isinstance(one, bytes) for one in plain.values()):
        raise DecodeError("expected a map from nodes to bytes")
    return dict(plain)
