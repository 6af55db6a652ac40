"""The bytes that a job will move, computed before anything is sent: the protocol's own asks, with tensors of zeros.

Counted are the objects that go through the hub: plans, files that the job brings, parameters and answers, the small ones that
are attached to messages among them. Beside them go messages of some kilobytes a task, and where a federation is encrypted
16 bytes for each MiB of an object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack
from fedjob.common.errors import SpecError
from fedjob.common.files import write_atomic
from fedjob.common.items import Items
from fedjob.common.types import ENDLESS, MAX_SIZE_BYTES, party_of
from fedjob.data.node_names import ByName
from fedjob.execution import compressed_work
from fedjob.parameters.auxiliary import join
from fedjob.parameters.compression.parcels import most_file_bytes
from fedjob.parameters.files import FileParams, dtype_of, is_params, schema_of
from fedjob.parameters.safetensors_header import Schema, file_size_of, num_bytes_of
from fedjob.privacy.protect import NodeDP, RecordDP, SecAgg, protect_of
from fedjob.privacy.secagg.fixed_point import FixedPoint
from fedjob.privacy.secagg.masked_vector import length_of, vector_schema
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import LOSS, MEASURING, VALIDATE, Ask, FederatedProtocol, Gathered, Reply, View
from fedjob.protocols.evaluation import Evaluation
from fedjob.protocols.function import Function
from fedjob.protocols.inference import Inference
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.repository.parts import ref_of
from fedjob.researcher.hooks.early_stopping import EarlyStopping
from fedjob.researcher.rounds.compression import Compression, compression_for
from fedjob.researcher.runner.ask_bytes import MAX_ROUNDS, AskBytes, PlayedAsks, step_sizes
from fedjob.researcher.selection import SELECTORS
from fedjob.researcher.storage.deployment import plan_at
from fedjob.researcher.storage.folder import JobFolder, read_optimizer
from fedjob.researcher.storage.spec import BROUGHT, JobSpec
from fedjob.training_plans.private import torch_steps
from fedjob.training_plans.private.record_gradients import MAX_RECORDS

_MOST_ASIDE = 8
"""Asks after the last round, such as a validation, that are played, and asks of a round beside one to each node."""
_MAX_STACKED_BYTES = 256 * 1024 * 1024
"""Bytes of all answers of a round for which a total of their shapes is computed."""
_ANSWERS_SHOW = (Inference, Function)
"""Protocols of which it is known what nodes are sent, and not what they answer."""
_LARGE_BYTES = 64 * 1024 * 1024
_MOST_NUMBERS = 1000
"""Numbers beside the tensors of a masked vector, such as counts and metrics, that an estimate leaves room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficEstimate:
    """The bytes of objects that a job moves through the hub, if every node takes part in every round.

    Args:
        down, up: node -> bytes that it fetches and that it stores, over the whole job.
        sent, received: bytes that the researcher sends and fetches; what several nodes get is stored once, and sent to each
            of them where it is attached to its task.
        memory_bytes: of the largest set of tensors that a node's worker has at once: those it is sent, their gradients, its
            answer, and what optimizer, protocol, compression and protection hold; without activations and data.
        lacks_optimizer: what the optimizer holds is not known, and not in it.
        bound: why fewer bytes may move; empty where the bytes are exact.
        unknown_up: why it is not known what nodes store, which is not in it then; empty where it is.
    """

    down: Mapping[str, int] = field(default_factory=dict)
    up: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    memory_bytes: int = 0
    lacks_optimizer: bool = False
    bound: str = ""
    unknown_up: str = ""

    @property
    def total(self) -> int:
        """The bytes of all transfers to and from the hub, those of the researcher among them."""
        return sum(self.down.values()) + sum(self.up.values()) + self.sent + self.received


def unknown_traffic(spec: JobSpec) -> str:
    """Return why the bytes of a job are not known before it runs; empty where they are."""
    inner = inner_of(PROTOCOLS.build(spec.protocol.name, spec.protocol.config))
    if not isinstance(inner, (TrainingProtocol, Evaluation, *_ANSWERS_SHOW)):
        return "an answer is as large as what was found: its bytes are known after the job"
    if spec.items != Items() or spec.rounds == ENDLESS:
        return "the number of rounds, or of batches, is not known before"
    return ""


def _unknown_up(protocol: FederatedProtocol) -> str:
    shows = isinstance(inner_of(protocol), _ANSWERS_SHOW)
    return "an answer is as large as what is found, known after the job" if shows else ""


def write_cost(spec: JobSpec, folder: JobFolder) -> None:
    """Write down, for the offers of a job, what its owners are told that it moves and holds at their nodes.

    Of large models the first round is played alone: the offer does not wait for sums over zeros. Where answers are as large
    as what is found, it says what goes to the nodes alone.
    """
    if spec.local or unknown_traffic(spec):
        return
    large = folder.initial_params.exists() and folder.initial_params.stat().st_size > _LARGE_BYTES
    try:
        found = estimate_traffic(spec, folder, played=1 if large else MAX_ROUNDS)
    except Exception:  # a protocol of the researcher's own that can't be played: nothing is said then
        return
    most = {"most": 1} if found.bound else {}
    up = {} if found.unknown_up else found.up
    cost = {
        node: {"down": down, "memory": found.memory_bytes} | ({"up": up[node]} if node in up else {})
        for node, down in found.down.items()
    }
    cost = {
        node: {name: min(n, MAX_SIZE_BYTES) for name, n in one.items()} | most for node, one in cost.items()
    }
    write_atomic(folder.cost, pack(cost))


def estimate_traffic(
    spec: JobSpec, folder: JobFolder, *, local: bool = False, played: int = MAX_ROUNDS
) -> TrafficEstimate:
    """Return the bytes that a job moves.

    Args:
        spec: with its datasets; `unknown_traffic` of it is empty.
        local: nothing moves; only the memory is of interest.
        played: rounds that are played at most; later ones are taken to be like the last of them, or to grow as it grew.
    """
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    nodes = tuple(sorted(spec.datasets))
    found, late = _played(protocol, spec, folder, nodes, played), _answers_late(protocol)
    asks = found.asks(spec.rounds if _trains(protocol) else _times_sent(protocol, spec, found))
    if late:  # nodes at work are sent again what they were sent in an earlier round
        most = max((ask.shared for ask in asks), key=sum)
        asks = [replace(ask, shared=most) for ask in asks]
    memory = max((ask.memory for ask in asks), default=0)
    lacks = _trains(protocol) and read_optimizer(folder) is None
    if local:
        nothing = dict.fromkeys(nodes, 0)
        return TrafficEstimate(down=nothing, up=nothing, memory_bytes=memory, lacks_optimizer=lacks)
    files = _files(spec, folder)
    sent = sum(ask.sent(len(nodes)) for ask in asks)
    sent += sum({path: path.stat().st_size for paths in files.values() for path in paths}.values())
    brought = {node: sum(path.stat().st_size for path in files[node]) for node in nodes}
    down = {node: brought[node] + sum(ask.down(node) for ask in asks) for node in nodes}
    up = {node: sum(ask.up.get(node, 0) for ask in asks) for node in nodes}
    return TrafficEstimate(
        down=down,
        up=up,
        sent=sent,
        received=sum(up.values()),
        memory_bytes=memory,
        lacks_optimizer=lacks,
        bound=_bound(spec, found, late=late),
        unknown_up=_unknown_up(protocol),
    )


def _times_sent(protocol: FederatedProtocol, spec: JobSpec, played: PlayedAsks) -> int:
    """Return how often the one ask of a protocol without training is sent: the same parameters go to a node once."""
    repeats = isinstance(inner_of(protocol), Inference)
    attached = all(ask.is_attached(len(spec.datasets)) for ask in played.rounds[0])
    return spec.rounds if repeats and attached else 1


def _trains(protocol: FederatedProtocol) -> bool:
    return isinstance(inner_of(protocol), TrainingProtocol)


def _answers_late(protocol: FederatedProtocol) -> bool:
    inner = inner_of(protocol)
    return isinstance(inner, TrainingProtocol) and inner.answers_late


def _bound(spec: JobSpec, played: PlayedAsks, *, late: bool) -> str:
    if late:
        return "a round ends with its first answers, whosesoever they are"
    if spec.selector.text or spec.selector.name != "all":
        return "not every node takes part in every round"
    if any(hook.name == EarlyStopping.name for hook in spec.hooks):
        return "early stopping may end it before its last round"
    if "secagg" in spec.protect:
        return (
            f"if no node falls out; room is left for {_MOST_NUMBERS} counts and metrics in each masked vector"
        )
    if spec.compress is not None:
        return "how far compressed parameters can be packed shows when they are"
    if played.grows and spec.rounds > MAX_ROUNDS:
        return "what nodes fetch grows with the rounds, up to the ranks of the layers"
    return "" if played.whole else "later rounds are taken to send what the first one sends"


def _zeros(schema: Schema) -> dict[str, torch.Tensor]:
    """Return tensors of these dtypes and shapes, of pages that the system does not fill before they are written.

    They are numpy's: torch writes its zeros, so that a large model would be in memory for nothing.
    """
    return {name: _zero(dtype_of(kind), shape) for name, (kind, shape) in schema.items()}


def _zero(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not math.prod(shape):
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(dtype.itemsize * math.prod(shape), np.uint8)).view(dtype).view(shape)


def _played(
    protocol: FederatedProtocol, spec: JobSpec, folder: JobFolder, nodes: tuple[str, ...], most: int
) -> PlayedAsks:
    """Return the bytes of the first rounds and of what comes after the last, by answers of zeros."""
    measure = _Measure(protocol, spec, folder, nodes)
    params = FileParams(folder.initial_params) if folder.initial_params.exists() else {}
    state = protocol.start(params)
    view = View(rounds=spec.rounds, nodes=nodes, seed=spec.seed, validate_at_end=spec.validate_at_end)
    if not _trains(protocol):  # one ask; where rounds follow, nodes have its parameters
        ask = protocol.instruct(state, view)
        return PlayedAsks(rounds=[measure(ask) if isinstance(ask, Ask) else []], whole=True)
    played = PlayedAsks()
    asks: list[AskBytes] = []
    rounds = min(most, spec.rounds)
    try:
        while len(played.rounds) < rounds and len(asks) < len(nodes) + _MOST_ASIDE:
            ask = protocol.instruct(state, view)
            if not isinstance(ask, Ask):
                break
            asks += measure(ask)
            if ask.commit:
                played.rounds.append(asks)
                asks = []
            if len(played.rounds) < rounds:  # nothing is computed for an ask that nobody looks at
                gathered = _gathered(ask, nodes)
                state, view = protocol.finish(state, gathered), replace(view, last=gathered)
        if not played.rounds:
            raise SpecError(
                "the protocol ends no round with answers of zeros: its bytes are known after the job"
            )
        view = replace(view, rounds=0)  # no further round
        for _ in range(_MOST_ASIDE):
            if not isinstance(ask := protocol.instruct(state, view), Ask):
                played.whole = len(played.rounds) == rounds >= min(MAX_ROUNDS, spec.rounds)
                break
            played.last += measure(ask, as_file=False)
            gathered = _gathered(ask, nodes)
            state, view = protocol.finish(state, gathered), replace(view, last=gathered)
    except Exception:  # a protocol may look at answers more closely than zeros allow
        if not played.rounds:
            raise
    if spec.validate_at_end and not played.last:
        played.last = measure(Ask(step=VALIDATE, shared={"params": params}, commit=False))
    return played


def _gathered(ask: Ask, nodes: tuple[str, ...]) -> Gathered:
    to = tuple(ask.to or nodes)
    aux = {module: _zeros(schema) for module, schema in ask.aux.items()}
    names = sorted(to)

    def reply_at(place: int) -> Reply:
        return Reply(node=names[place], num_examples=1, weight=1.0, metrics={"train": {}}, aux=aux)

    replies = ByName(names, reply_at)
    total = Contribution(_total(ask, to), float(len(to)), {}, aux=aux)
    return Gathered(total=total, replies=replies, left_out={}, num_nodes=len(nodes))


def _total(ask: Ask, to: tuple[str, ...]) -> Any:
    """Return a total of zeros, of the shapes that the aggregator gives it."""
    if ask.step in MEASURING:
        return None
    if not ask.schemas:
        return _zeros(_answer_schema(ask, "")) or None
    schemas = [_answer_schema(ask, node) for node in to]
    if sum(map(num_bytes_of, schemas)) > _MAX_STACKED_BYTES:
        raise SpecError("the total of these answers is too large to be computed for an estimate")
    return ask.aggregator.aggregate([Contribution(_zeros(schema), 1.0) for schema in schemas]).value


class _Measure:
    """The measure of the bytes of asks, which remembers what the last one sent: compressed changes count from that."""

    def __init__(
        self, protocol: FederatedProtocol, spec: JobSpec, folder: JobFolder, nodes: tuple[str, ...]
    ) -> None:
        self._protocol, self._spec, self._nodes = protocol, spec, nodes
        self._way, self._before = compression_for(spec, folder, ref_of), _NO_SCHEMA
        self._optimizer = read_optimizer(folder) or {"state": 0, "step": 0}
        self._asks_losses = SELECTORS[spec.selector.name].asks_losses if not spec.selector.text else False

    def __call__(self, ask: Ask, *, as_file: bool = True) -> list[AskBytes]:
        """Return the bytes of an ask, and of what its selector asks first.

        Args:
            as_file: parameters that lie in a file are sent as it is, with its metadata.
        """
        found = []
        if self._asks_losses and ask.to is None:
            first = Ask(step=LOSS, shared={"params": ask.shared["params"]}, commit=False)
            found = self(replace(first, to=self._nodes), as_file=as_file)
        held = 0 if ask.step in MEASURING else self._held(_sent_schema(ask))
        plain = _masked(_bytes_of(ask, self._nodes, as_file=as_file), ask, self._spec, len(self._nodes))
        way, before = self._way, self._before
        one = plain if way is None else _compressed(plain, ask, way, before, as_file=as_file)
        found.append(replace(one, memory=one.memory + held))
        self._before = _sent_schema(ask)
        return found

    def _held(self, params: Schema) -> int:
        """Return the bytes that a training node holds beside model, gradients and answer, as the parts of its work say."""
        inner = inner_of(self._protocol)
        if not isinstance(inner, TrainingProtocol):
            return 0
        held = inner.copies * num_bytes_of(params)
        state = inner.optimizers * self._optimizer["state"]
        saved = state  # as a copy, when nothing is being compressed any more
        if self._way is not None:
            saved = max(saved, compressed_work.num_bytes_held(params, self._way.compressor))
        held += state + saved + self._optimizer["step"]
        if isinstance(protect_of(self._spec.protect).dp, RecordDP):
            sizes = [num_bytes_of({name: form}) for name, form in params.items()]
            batch = self._spec.training_args.get("batch_size")
            held += torch_steps.num_bytes_held(sizes, batch if isinstance(batch, int) else MAX_RECORDS)
        return held


def _masked(plain: AskBytes, ask: Ask, spec: JobSpec, num_nodes: int) -> AskBytes:
    """Return the most bytes of an ask whose answers leave as masked vectors; as they are without secure aggregation.

    A vector has as many whole numbers as its tensors have numbers, whatever these are.
    """
    if "secagg" not in spec.protect:
        return plain
    plain = replace(plain, steps=step_sizes({party_of(node) for node in plain.nodes}))
    if not plain.up and ask.step not in MEASURING:
        return plain
    protect = protect_of(spec.protect)
    secagg = protect.secagg
    assert isinstance(secagg, SecAgg)  # `True` is for those who write a job; a spec names every number
    noised = isinstance(protect.dp, NodeDP)
    measures = ask.step in MEASURING  # whose answer is metrics alone
    schema = _NO_SCHEMA if measures else join(_answer_schema(ask, ""), ask.aux)
    length = length_of(schema, noised=noised and not measures)
    others = sum(math.prod(shape) for _, shape in schema.values()) - length
    fixed = FixedPoint(num_nodes, secagg.clip, secagg.bits)
    size = file_size_of(vector_schema(length, others + _MOST_NUMBERS, fixed))
    return replace(plain, up=dict.fromkeys(plain.nodes if measures else plain.up, size))


def _compressed(plain: AskBytes, ask: Ask, way: Compression, before: Schema, *, as_file: bool) -> AskBytes:
    """Return the most bytes that an ask moves whose parameters travel compressed.

    Args:
        before: of the parameters that nodes have, from which changes count; a tensor that is none of these is sent as it is.
    """
    params = _sent_schema(ask)
    if not params:
        return plain
    new = (
        set() if way.compressor.takes_whole else {name for name in params if before.get(name) != params[name]}
    )
    others = list(plain.shared)
    others.remove(_size(ask.shared["params"], as_file=as_file))
    shared = (*others, most_file_bytes(params, way.compressor, way.exact | new))
    modules = join({}, ask.aux)
    sizes = {
        node: most_file_bytes(_answer_schema(ask, node), way.compressor, way.exact, aux=modules)
        for node in (*ask.schemas, "")
    }
    up = {node: sizes.get(node, sizes[""]) for node in plain.up}
    return replace(plain, shared=shared, up=up, packed=True)


def _answer_schema(ask: Ask, node: str) -> Schema:
    if node in ask.schemas:
        return ask.schemas[node]
    return _sent_schema(ask) if ask.schema is None else ask.schema


def _sent_schema(ask: Ask) -> Schema:
    return schema_of(ask.shared["params"]) if is_params(ask.shared.get("params")) else _NO_SCHEMA


_NO_SCHEMA: Schema = MappingProxyType({})


def _bytes_of(ask: Ask, nodes: tuple[str, ...], *, as_file: bool) -> AskBytes:
    values, measures = ask.shared, ask.step in MEASURING
    if measures:  # see `rounds.tasks.only_the_model`
        values = {name: value for name, value in values.items() if name == "params" or not is_params(value)}
    own = {} if measures else {node: _sizes(its, as_file=as_file) for node, its in ask.each.items()}
    to = tuple(ask.to or nodes)
    up = {} if measures else _up(ask, to)
    tensors = sum(num_bytes_of(schema_of(value)) for value in values.values() if is_params(value))
    gradients = num_bytes_of(_sent_schema(ask))
    return AskBytes(
        nodes=frozenset(to),
        shared=_sizes(values, as_file=as_file),
        own=own,
        up=up,
        memory=tensors + max(map(sum, own.values()), default=0) + gradients + max(up.values(), default=0),
    )


def _up(ask: Ask, to: tuple[str, ...]) -> dict[str, int]:
    """Return node -> the bytes of its answer's tensors; none where it has none."""
    schemas = {node: join(_answer_schema(ask, node), ask.aux) for node in (*ask.schemas, "")}
    sizes = {node: file_size_of(schema) if schema else 0 for node, schema in schemas.items()}
    return {node: size for node in to if (size := sizes.get(node, sizes[""]))}


def _sizes(values: Mapping[str, Any], *, as_file: bool) -> tuple[int, ...]:
    return tuple(size for value in values.values() if (size := _size(value, as_file=as_file)))


def _size(value: Any, *, as_file: bool) -> int:
    """Return the bytes of the object that a value of an ask becomes; what rides in the message counts nothing."""
    if isinstance(value, FileParams) and as_file:
        return value.path.stat().st_size  # sent as it is, with its metadata
    return file_size_of(schema_of(value)) if is_params(value) else 0


def _files(spec: JobSpec, folder: JobFolder) -> dict[str, list[Path]]:
    """Return node -> the files that it fetches once: its plan, and what the job brings."""
    found = {}
    for node, info in spec.datasets.items():
        plan = plan_at(spec, node).get("hash", "")
        paths = [] if not plan else [folder.plan if plan == spec.plan_hash else folder.plan_of(plan)]
        paths += [folder.artifact_of(name) for name in spec.artifacts]
        paths += [folder.brought] if BROUGHT in info and spec.files else []
        found[node] = paths
    return found
