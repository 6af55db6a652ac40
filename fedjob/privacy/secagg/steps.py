"""The steps of a secure sum as a node answers them, whatever keeps its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedjob.common.codec import from_plain, to_plain
from fedjob.common.errors import DecodeError, SpecError
from fedjob.parameters.tensor_kinds import NUM_EXAMPLES
from fedjob.privacy.protect import NodeDP, Protect, SecAgg
from fedjob.privacy.secagg import node_session
from fedjob.privacy.secagg.contribution_numbers import (
    CLIPPED,
    by_rule,
    contribution_numbers,
    factor_of,
    noised_numbers,
)
from fedjob.privacy.secagg.key_agreement import IsSignedBy, Sign, read_keys
from fedjob.privacy.secagg.masked_vector import (
    TensorFile,
    UnmaskedVector,
    contribution_digest,
    float_names,
    length_of,
    write_vector,
)
from fedjob.privacy.secagg.node_noise import OwnNoise, key_for
from fedjob.privacy.secagg.node_session import Mask, NodeSession
from fedjob.privacy.secagg.terms import Terms
from fedjob.privacy.secagg.vector import NamedNumbers, Outline

STEPS = ("keys", "draw", "shares", "mask", "agree", "reveal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """What a node has done of an ask.

    Args:
        attempt: the newest, 0 for none.
        is_over: it has revealed its part of a sum, or will never do so again.
        session: of the newest attempt; None where there is none, or nothing of it is kept.
    """

    attempt: int = 0
    is_over: bool = False
    session: NodeSession | None = None


class Sessions(Protocol):
    """What keeps a node's sessions."""

    def find(self, terms: Terms) -> NodeSession | None:
        """Return the session of these very terms."""

    def newest(self, terms: Terms) -> Newest:
        """Return what a node has done of an ask so far."""


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
    """A vector that is to be masked.

    Args:
        of: key of the computation that it comes from.
        contribution: sha256 of the only contribution that may leave; empty where the session is to be bound to it first.
    """

    of: str
    terms: Terms
    outline: Outline
    masks: list[Mask]
    noise: OwnNoise | None = None
    contribution: str = ""

    @property
    def depends(self) -> bool:
        """True if noise or rounding by chance depends on the contribution, so that nothing is written before it is bound."""
        return self.terms.noise is not None or self.terms.fixed_point.is_stochastic


@dataclass(frozen=True, slots=True, kw_only=True)
class SumAnswer:
    """The answer to a step, and the session to keep before it is sent.

    Args:
        value: plain data.
        vector: what is to be written and stored before that, for the step `mask`; see `bound_to`.
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
    value: Any,
    weight: float,
    metrics: Mapping[str, Mapping[str, Any]],
    tensors: Path | None,
    *,
    noised: bool = False,
) -> HeldContribution:
    """Return what a finished computation contributes.

    Args:
        tensors: file of the named tensors.
        noised: noise will be on them, so that nothing else is contributed, and all nodes weigh alike.

    Raises:
        SpecError: something of it can't be added.
        DecodeError: the file is malformed.
    """
    file = None if tensors is None else TensorFile(tensors)
    if noised:
        if file is None or value is not None:
            raise SpecError("under NodeDP a contribution is one update of parameters, and nothing else")
        return HeldContribution(tensors=file, numbers=noised_numbers(), staying=[], weight=1.0)
    numbers, staying = contribution_numbers(value, weight, metrics, {} if file is None else file.exact())
    return HeldContribution(tensors=file, numbers=numbers, staying=staying, weight=weight)


def read_step(plain: Mapping[str, Any], protect: Protect, rounds: int, shared: str, *about: Any) -> SumStep:
    """Read and check a step in a message.

    Args:
        protect: the job's.
        rounds: of the job.
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
    settings = protect.secagg
    if not isinstance(settings, SecAgg):
        raise SpecError("the job has no secure aggregation")
    promised = (settings.clip, settings.bits, settings.colluding, settings.dropouts)
    if (terms.clip, terms.bits, terms.colluding, terms.dropouts) != promised:
        raise SpecError("the terms of a secure sum have other settings than the job")
    if terms.groups not in (1, settings.groups):
        raise SpecError(f"the job has sums of {settings.groups} groups, found terms of {terms.groups}")
    _check_noise(terms, protect.dp if isinstance(protect.dp, NodeDP) else None, rounds)
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
            case "draw":
                session = self._pinned(self._found(wanted.terms), wanted, settings, min_nodes)
                return SumAnswer(session=session, value={"lot": session.lot})
            case "shares":
                return self._shares(self._found(wanted.terms), wanted, settings, min_nodes)
            case "mask":
                return self._mask(self._found(wanted.terms), wanted)
            case "agree":
                names = _texts(wanted.body.get("survivors"))
                if len(names) < min_nodes:
                    raise SpecError(f"the sum would be of {len(names)} nodes, {min_nodes} or more are wanted")
                masked = _bytes(wanted.body.get("masked", {}))
                found = self._found(wanted.terms)
                session, signature = node_session.agreed(found, names, masked, self._sign, self._is_signed_by)
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
            found = self._sessions.newest(terms)
            if found.is_over:
                raise SpecError(
                    "this node has revealed its part of a sum of this ask: there is no second one"
                )
            if found.attempt >= terms.attempt:
                raise SpecError(f"this node is at attempt {found.attempt} of this sum, on other terms")
            session = node_session.begun(self._node, terms, found.session)
        keys = node_session.keys_of(session, self._sign)
        return SumAnswer(session=session, value={"keys": to_plain(keys)})

    def _shares(self, session: NodeSession, wanted: SumStep, settings: SecAgg, min_nodes: int) -> SumAnswer:
        lots = _bytes(wanted.body.get("lots", {}))
        if not lots:  # with lots there was a draw, and the keys came there
            session = self._pinned(session, wanted, settings, min_nodes)
        session = node_session.shared(session, lots)
        # without names, which the researcher knows: with those of many neighbours it would be too large for a message
        sealed = [session.sealed[other] for other in session.neighbours.of(session.node)]
        return SumAnswer(session=session, value={"sealed": sealed, "commitment": session.commitment})

    def _pinned(self, session: NodeSession, wanted: SumStep, settings: SecAgg, min_nodes: int) -> NodeSession:
        keys = read_keys(wanted.body.get("keys"))
        needed = settings.threshold_of(len(keys))
        if wanted.terms.threshold < needed:
            raise SpecError(f"the threshold of {len(keys)} nodes is {needed} by the job's settings, or more")
        return node_session.pinned(session, keys, self._is_signed_by, min_nodes=min_nodes)

    def _mask(self, session: NodeSession, wanted: SumStep) -> SumAnswer:
        outline = Outline.unpacked(wanted.body.get("outline"))
        what = f"{wanted.of} {outline.digest}"
        names = _texts(wanted.body.get("taking_part"))
        sealed = _bytes(wanted.body.get("sealed"))
        session, masks, signature = node_session.masked(session, names, sealed, what, self._sign)
        order = VectorOrder(of=wanted.of, terms=wanted.terms, outline=outline, masks=masks)
        return SumAnswer(session=session, value={"signature": signature}, vector=_bound(order, session))


def bound_to(order: VectorOrder, session: NodeSession, contribution: str) -> tuple[NodeSession, VectorOrder]:
    """Return a session that is bound to a contribution, which is kept before anything is sent, and the order for that.

    Args:
        session: as it is kept now.
        contribution: see `digest_of`.

    Raises:
        OtherContribution: it is bound to another one.
    """
    session = node_session.bound(session, contribution)
    return session, _bound(order, session)


def _bound(order: VectorOrder, session: NodeSession) -> VectorOrder:
    return replace(order, noise=own_noise(session, order.of), contribution=session.contribution)


def digest_of(order: VectorOrder, held: HeldContribution, origin: Path | None) -> str:
    """Return the sha256 of all that goes into the vector of a held contribution.

    Args:
        origin: file of the parameters that the round began with.

    Raises:
        FedjobError: it can't be added.
    """
    return contribution_digest(_contribution(order, held, origin), order.terms.fixed_point)


def write_masked(path: Path, order: VectorOrder, held: HeldContribution, origin: Path | None) -> str:
    """Write the masked vector of a held contribution to a new file, which nobody may see where this raises.

    Args:
        order: bound to its contribution. Where nothing `depends` on that, it may be bound to none yet: then nobody may see
            the file before its session is bound to what is returned, and that is kept.
        origin: file of the parameters that the round began with.

    Returns:
        The sha256 of all that went into the vector, see `digest_of`.

    Raises:
        OtherContribution: the session is bound to another contribution, or to none yet.
        FedjobError: it can't be added.
    """
    found = _contribution(order, held, origin)
    return write_vector(path, found, order.contribution, order.terms.fixed_point, order.masks, order.noise)


def _contribution(order: VectorOrder, held: HeldContribution, origin: Path | None) -> UnmaskedVector:
    terms = order.terms
    if terms.noise is not None:
        _check_noised(order, held, terms.noise.length)
    return UnmaskedVector(
        own=held.tensors,
        origin=None if origin is None else TensorFile(origin),
        relative=order.outline.relative,
        factor=factor_of(held.weight, terms),
        numbers=by_rule(held.numbers, order.outline, terms),
        count_at=order.outline.names.index(CLIPPED),
        is_noised=order.noise is not None,
    )


def _check_noise(terms: Terms, dp: NodeDP | None, rounds: int) -> None:
    """Check that a sum has the noise that the job promises, and room for it."""
    noise = terms.noise
    if dp is None or noise is None:
        if dp is not None or noise is not None:
            raise SpecError("a sum has noise where the job has NodeDP(...), and nowhere else")
        return
    found = (noise.epsilon, noise.delta, noise.clip_norm, noise.rounds)
    if found != (dp.epsilon, dp.delta, dp.clip_norm, rounds):
        raise SpecError(
            "the noise of a sum is by the epsilon, delta, clip_norm and rounds of the job, found other ones"
        )
    if terms.rule != "plain":
        raise SpecError(f"under NodeDP all nodes weigh alike, found a sum by the rule {terms.rule[:20]!r}")
    _ = terms.share  # raises where the grid is too coarse, or a sum has no room


def own_noise(session: NodeSession, of: str) -> OwnNoise | None:
    """Return the noise of a contribution in a session's sum; None for none.

    Args:
        of: key of the computation that it is of. Another contribution under the same key has another noise.
    """
    terms = session.terms
    if terms.noise is None or terms.share is None:
        return None
    return OwnNoise(
        key=key_for(session.noise_secret, f"{of} {session.contribution}", terms.threshold),
        share=terms.share,
        dtype=terms.fixed_point.dtype,
        clip=terms.clip,
        clip_norm=terms.noise.clip_norm,
    )


def _check_noised(order: VectorOrder, held: HeldContribution, length: int) -> None:
    """Check that a vector with noise holds changes of parameters and nothing else, all of them with noise."""
    if held.tensors is None or held.numbers.outline.names != order.outline.names or order.outline.constants:
        raise SpecError("under NodeDP a sum is of one update of parameters, and of nothing beside it")
    schema = held.tensors.schema
    if NUM_EXAMPLES in schema:
        raise SpecError(
            "sums over all examples have no NodeDP: it is for plans that are trained step by step"
        )
    if sorted(order.outline.relative) != float_names(schema, noised=True):
        raise SpecError("under NodeDP all parameters are measured from those that the round began with")
    if length_of(schema, noised=True) != length or order.noise is None:
        raise SpecError(f"the noise of the sum is for {length:,} parameters, and the node has others")


def _texts(plain: Any) -> list[str]:
    if not isinstance(plain, list) or not all(isinstance(one, str) for one in plain):
        raise DecodeError("expected a list of nodes")
    return list(plain)


def _bytes(plain: Any) -> dict[str, bytes]:
    if not isinstance(plain, Mapping) or not all(isinstance(one, bytes) for one in plain.values()):
        raise DecodeError("expected a map from nodes to bytes")
    return dict(plain)
