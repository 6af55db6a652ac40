"""The bytes that a job will move, computed before anything is sent: the protocol's own asks, with tensors of zeros.

Counted are the objects that go through the hub: plans, files that the job brings, parameters and answers, the small ones that
are attached to messages among them. Beside them go messages of some kilobytes a task, and where a federation is encrypted
16 bytes for each MiB of an object.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack
from fedjob.common.files import write_atomic
from fedjob.common.items import Items
from fedjob.common.types import ENDLESS, MAX_SIZE_BYTES
from fedjob.messaging.attachments import is_attachable
from fedjob.messaging.messages import MAX_ATTACHED_BYTES
from fedjob.parameters.auxiliary import join
from fedjob.parameters.compression.parcels import most_file_bytes
from fedjob.parameters.files import FileParams, dtype_of, is_params, schema_of
from fedjob.parameters.safetensors_header import Schema, file_size_of, num_bytes_of
from fedjob.privacy.protect import NodeDP, SecAgg, protect_of
from fedjob.privacy.secagg.fixed_point import FixedPoint
from fedjob.privacy.secagg.masked_vector import length_of, vector_schema
from fedjob.protocols import PROTOCOLS
from fedjob.protocols.base import Ask, FederatedProtocol, Gathered, Reply, View
from fedjob.protocols.own import inner_of
from fedjob.protocols.training.base import TrainingProtocol
from fedjob.repository.parts import ref_of
from fedjob.researcher.rounds.compression import Compression, compression_for
from fedjob.researcher.storage.deployment import plan_at
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.spec import BROUGHT, JobSpec

_MAX_ASKS = 3
"""Asks that are played: from the third on a round of these protocols sends what the one before it sent."""
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
        memory_bytes: of the largest set of tensors that a node has at once: those it is sent, their gradients and its
            answer; without the optimizer's state, activations and data.
        bound: why fewer bytes may move; empty where the bytes are exact.
    """

    down: Mapping[str, int] = field(default_factory=dict)
    up: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    memory_bytes: int = 0
    bound: str = ""

    @property
    def total(self) -> int:
        """The bytes of all transfers to and from the hub, those of the researcher among them."""
        return sum(self.down.values()) + sum(self.up.values()) + self.sent + self.received


@dataclass(slots=True, kw_only=True)
class _AskBytes:
    shared: tuple[int, ...]
    own: dict[str, tuple[int, ...]]
    up: int
    memory: int

    def down(self, node: str) -> int:
        return sum(self.shared) + sum(self.own.get(node, ()))

    def sent(self, nodes: Collection[str]) -> int:
        """Return the bytes that the researcher sends, by the rules of `messaging.attachments`."""
        attachable = [size for size in self.shared if is_attachable(size, len(nodes))]
        crowded = [node for node in nodes if self.down(node) > MAX_ATTACHED_BYTES]
        once = sum(self.shared) - (0 if crowded else sum(attachable))
        own = sum(sum(sizes) for sizes in self.own.values())
        return once + own + sum(attachable) * (len(nodes) - len(crowded))


def unknown_traffic(spec: JobSpec) -> str:
    """Return why the bytes of a job are not known before it runs; empty where they are."""
    if not isinstance(inner_of(PROTOCOLS.build(spec.protocol.name, spec.protocol.config)), TrainingProtocol):
        return "an answer is as large as what was found: its bytes are known after the job"
    if spec.items != Items() or spec.rounds == ENDLESS:
        return "the number of rounds, or of batches, is not known before"
    return ""


def write_cost(spec: JobSpec, folder: JobFolder) -> None:
    """Write down, for the offers of a job, what its owners are told that it moves and holds at their nodes.

    Of large models the first round is played alone: the offer does not wait for sums over zeros.
    """
    if spec.local or unknown_traffic(spec):
        return
    large = folder.initial_params.exists() and folder.initial_params.stat().st_size > _LARGE_BYTES
    try:
        found = estimate_traffic(spec, folder, asks=1 if large else _MAX_ASKS)
    except Exception:  # a protocol of the researcher's own that can't be played: nothing is said then
        return
    most = {"most": 1} if found.bound else {}
    cost = {
        node: {"down": found.down[node], "up": found.up[node], "memory": found.memory_bytes}
        for node in found.down
    }
    cost = {
        node: {name: min(n, MAX_SIZE_BYTES) for name, n in one.items()} | most for node, one in cost.items()
    }
    write_atomic(folder.cost, pack(cost))


def estimate_traffic(
    spec: JobSpec, folder: JobFolder, *, local: bool = False, asks: int = _MAX_ASKS
) -> TrafficEstimate:
    """Return the bytes that a training job moves.

    Args:
        spec: with its datasets; `unknown_traffic` of it is empty.
        local: nothing moves; only the memory is of interest.
        asks: that are played at most; later rounds are taken to be like the last of them.
    """
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    params = FileParams(folder.initial_params)
    nodes = tuple(sorted(spec.datasets))
    played, whole = _played(protocol, spec, folder, params, nodes, asks)
    rounds = _rounds(played, spec.rounds)
    memory = max((ask.memory for ask in rounds), default=0)
    if local:
        nothing = dict.fromkeys(nodes, 0)
        return TrafficEstimate(down=nothing, up=nothing, memory_bytes=memory)
    sent = sum(ask.sent(nodes) for ask in rounds)
    down = {node: sum(ask.down(node) for ask in rounds) for node in nodes}
    up = {node: sum(ask.up for ask in rounds) for node in nodes}
    if spec.validate_at_end:
        way = compression_for(spec, folder, ref_of)
        model = file_size_of(params.schema)
        if way is not None:
            model = most_file_bytes(params.schema, way.compressor, way.exact)
        once = _AskBytes(shared=(model,), own={}, up=0, memory=0)
        sent, down = sent + once.sent(nodes), {node: size + model for node, size in down.items()}
    files = _files(spec, folder)
    sent += sum({path: path.stat().st_size for paths in files.values() for path in paths}.values())
    down = {node: size + sum(path.stat().st_size for path in files[node]) for node, size in down.items()}
    return TrafficEstimate(
        down=down,
        up=up,
        sent=sent,
        received=sum(up.values()),
        memory_bytes=memory,
        bound=_bound(spec, whole=whole),
    )


def _rounds(asks: list[_AskBytes], rounds: int) -> list[_AskBytes]:
    return [asks[min(place, len(asks) - 1)] for place in range(rounds)]


def _bound(spec: JobSpec, *, whole: bool) -> str:
    if spec.selector.text or spec.selector.name != "all":
        return "not every node takes part in every round"
    if "secagg" in spec.protect:
        return (
            f"if no node falls out; room is left for {_MOST_NUMBERS} counts and metrics in each masked vector"
        )
    if spec.compress is not None:
        return "how far compressed parameters can be packed shows when they are"
    return "" if whole else "later rounds are taken to send what the first one sends"


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
    protocol: FederatedProtocol,
    spec: JobSpec,
    folder: JobFolder,
    params: Mapping[str, Any],
    nodes: tuple[str, ...],
    most: int,
) -> tuple[list[_AskBytes], bool]:
    """Return the bytes of the first asks, and whether the protocol could be played on with answers of zeros."""
    state = protocol.start(params)
    view = View(rounds=spec.rounds, nodes=nodes, seed=spec.seed)
    asks: list[_AskBytes] = []
    way, before = compression_for(spec, folder, ref_of), _NO_SCHEMA
    while len(asks) < min(most, spec.rounds):
        try:
            ask = protocol.instruct(state, view)
            if not isinstance(ask, Ask):
                return asks, False
            plain = _masked(_bytes_of(ask, spec), ask, spec, len(nodes))
            asks.append(plain if way is None else _compressed(plain, ask, way, before))
            before = _sent_schema(ask)
            if len(asks) == most:  # nothing is computed for an ask that nobody looks at
                break
            answer = _zeros(_answer_schema(ask))
            gathered = _gathered(ask, answer, nodes)
            state = protocol.finish(state, gathered)
            view = View(rounds=spec.rounds, nodes=nodes, seed=spec.seed, last=gathered)
        except Exception:  # a protocol may look at answers more closely than zeros allow
            if not asks:
                raise
            return asks, False
    return asks, most >= min(_MAX_ASKS, spec.rounds)


def _gathered(ask: Ask, answer: Mapping[str, Any], nodes: tuple[str, ...]) -> Gathered:
    aux = {module: _zeros(schema) for module, schema in ask.aux.items()}
    replies = {
        node: Reply(node=node, num_examples=1, weight=1.0, metrics={"train": {}}, aux=aux) for node in nodes
    }
    total = Contribution(answer or None, float(len(nodes)), {}, aux=aux)
    return Gathered(total=total, replies=replies, left_out={}, num_nodes=len(nodes))


def _masked(plain: _AskBytes, ask: Ask, spec: JobSpec, num_nodes: int) -> _AskBytes:
    """Return the most bytes of an ask whose answers leave as masked vectors; as they are without secure aggregation.

    A vector has as many whole numbers as its tensors have numbers, whatever these are.
    """
    if "secagg" not in spec.protect or not plain.up:
        return plain
    protect = protect_of(spec.protect)
    secagg = protect.secagg
    assert isinstance(secagg, SecAgg)  # `True` is for those who write a job; a spec names every number
    noised = isinstance(protect.dp, NodeDP)
    schema = join(_answer_schema(ask), ask.aux)
    length = length_of(schema, noised=noised)
    others = sum(math.prod(shape) for _, shape in schema.values()) - length
    fixed = FixedPoint(num_nodes, secagg.clip, secagg.bits)
    return replace(plain, up=file_size_of(vector_schema(length, others + _MOST_NUMBERS, fixed)))


def _compressed(plain: _AskBytes, ask: Ask, way: Compression, before: Schema) -> _AskBytes:
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
    others.remove(_size(ask.shared["params"]))
    shared = (*others, most_file_bytes(params, way.compressor, way.exact | new))
    answer = _answer_schema(ask)
    modules = join({}, ask.aux)
    up = most_file_bytes(answer, way.compressor, way.exact, aux=modules) if plain.up else 0
    return replace(plain, shared=shared, up=up)


def _answer_schema(ask: Ask) -> Schema:
    return _sent_schema(ask) if ask.schema is None else ask.schema


def _sent_schema(ask: Ask) -> Schema:
    return schema_of(ask.shared["params"]) if is_params(ask.shared.get("params")) else _NO_SCHEMA


_NO_SCHEMA: Schema = MappingProxyType({})


def _bytes_of(ask: Ask, spec: JobSpec) -> _AskBytes:
    shared = _sizes(ask.shared)
    own = {node: _sizes(values) for node, values in ask.each.items()}
    answered = join(_answer_schema(ask), ask.aux)
    up = file_size_of(answered) if answered else 0
    tensors = sum(num_bytes_of(schema_of(value)) for value in ask.shared.values() if is_params(value))
    model: Any = ask.shared.get("params")
    gradients = num_bytes_of(schema_of(model)) if is_params(model) else 0
    return _AskBytes(
        shared=shared,
        own=own,
        up=up,
        memory=tensors + max(map(sum, own.values()), default=0) + gradients + up,
    )


def _sizes(values: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(size for value in values.values() if (size := _size(value)))


def _size(value: Any) -> int:
    """Return the bytes of the object that a value of an ask becomes; what rides in the message counts nothing."""
    if isinstance(value, FileParams):
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
