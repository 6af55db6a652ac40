"""The messages that travel over MQTT: a closed set of frozen dataclasses under one header.

A payload is one msgpack map: the header's fields and the body's. The kind says
which dataclass the body is; for kind `reply` the body's `about` says it. There
are no class names and no URLs on this wire. Bytes over 32 KiB are objects in the
repository and travel as refs; parameters always have a ref, and where they are few
their bytes are attached to the message that names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from fedjob.common.codec import MAX_ELEMENTS, from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError, EncodeError, MessageError
from fedjob.common.items import Items
from fedjob.common.types import MAX_FRAME_BYTES, Ref
from fedjob.identity.audit_heads import AuditHead

VERSION = 1
MAX_INLINE_BYTES = 32 * 1024
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 3 * 1024
"""Of one message, so that its frame has room for the signature and what encryption adds."""

MAX_ATTACHED_BYTES = 44 * 1024
"""Of all parameters that are attached to one message; the rest of it needs room, too."""

_HEADER_BYTES = 4 * 1024
"""Kept free in a message that is filled up, for its header and for what is added to its body last."""

ROOM_BYTES = MAX_PAYLOAD_BYTES - _HEADER_BYTES
"""Of the body of a message that is filled up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A request to report presence, load and versions; answered by `Pong`."""

    kind: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A request for the datasets that have all of these tags, or this name; answered by `Found`.

    Args:
        project: only nodes that are enrolled in it answer with data.
        mock: put the mock of the dataset of that name into the repository, and report its ref.
    """

    kind: ClassVar[str] = "search"
    tags: list[str] = field(default_factory=list)
    name: str = ""
    project: str = ""
    mock: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings:
    """The settings of work, which its offer, its task, its grant and its order have in common.

    Args:
        config: the protocol's configuration, plain data.
        model_args, training_args: what the plan runs with, schedules among them as data; a grant binds them to
            these values, or to ranges.
        project: namespace of the job; selects the node's rules.
    """

    config: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)
    training_args: dict[str, Any] = field(default_factory=dict)
    project: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDescription(WorkSettings):
    """The work that a researcher wants of a node, which its offer and its task both describe.

    Args:
        entry: name of the plan's class in its text.
        use: `private` or `mock`.
        owner: who asks, as they describe themselves: `{name, org, role}`. Their key is in the frame.
        preprocess: steps that the node runs on the data before the plan sees them, see `data/preprocessing`.
        resources: `{cpus, memory, gpus, labels, pool}` that the node would have to spare.
        launches: sha256 of further plans that this one may launch as child tasks.
        proof: what the node's verifier wants beside the signature, such as an ID token.
        files: data that the researcher brings, unpacked read-only at the node; `dataset` is then empty.
        props: the job's free properties, which the plan can read.
        items: which items of the dataset it is computed on, and how.
        split: how a `Plan` divides them into parts, see `training_plans.step_plan.check_split`.
        artifacts: refs of files that the job sends along, by name.
        models: name -> sha256 of a file of parameters that the node has already, see `parameters.model_files`.
        protect: how what nodes contribute is protected, see `privacy.protect.Protect`; empty for not at all.
        compress: how parameters travel, `{name, config}` and in a task `{down, up, num_bytes}`, see
            `execution.compressed_work`; empty for as they are.
    """

    dataset: str
    protocol: str
    plan: Ref | None = None
    entry: str = ""
    use: str = "private"
    owner: dict[str, str] = field(default_factory=dict)
    preprocess: list[dict[str, Any]] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    launches: list[str] = field(default_factory=list)
    proof: str = field(default="", repr=False)
    files: Ref | None = None
    props: dict[str, Any] = field(default_factory=dict)
    items: Items = field(default_factory=Items)
    split: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Ref] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    protect: dict[str, Any] = field(default_factory=dict)
    compress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(WorkDescription):
    """A request to allow a plan on a dataset; a node that does not know the plan fetches it and asks its owner.

    Args:
        rounds: that the job is for.
        reserve: hold the resources for a short lease; a task takes them.
        cost: bytes that the whole job will move and hold at this node, as the researcher says: `down`, `up`, `memory`; `most` of 1
            where fewer may move. Without `up` where its answers are as large as what is found; empty for not known.
        dry: look only; nothing is filed with the owner.
        line_bytes: to a dry offer, time the line with an object of so many bytes that goes there and back, before it is
            answered; 0 for not to.
    """

    kind: ClassVar[str] = "offer"
    job_name: str = ""
    note: str = ""
    rounds: int = 1
    cost: dict[str, int] = field(default_factory=dict)
    reserve: bool = False
    dry: bool = False
    line_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(WorkDescription):
    """Compute one step on one dataset.

    Args:
        values: small values of the instruction, `shared` and `each` merged.
        blobs: refs of msgpack values too large for the message, merged into `values`.
        params: refs of safetensors files, by name.
        seed: the job's seed; see `seeds.seed_for`.
        state: id of the node state to load, None for a fresh one.
        keep_states: ids of the node states that kept breakpoints name; others of rounds before
            this one may go. None keeps all.
        limit_s: seconds of work after which the node ends it, None for the node's own limit.
        round_args: training arguments of this step alone, over `training_args`.
        sum: a step of a secure sum over what is computed, see `privacy.secagg`; empty for the computation itself.
        sum_parts: refs of what of that step is too large for the message, merged into `sum`; see `step_parts`.
        rounds: of the job, among which a budget of differential privacy is divided.
        ahead: the terms of a secure sum of what is computed, so that the node's keys for it come with the answer; empty
            for none.
        attached: sha256 -> the bytes of parameters that `params` names and that are in no repository.
    """

    kind: ClassVar[str] = "task"
    values: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, Ref] = field(default_factory=dict)
    params: dict[str, Ref] = field(default_factory=dict)
    seed: int = 0
    round_args: dict[str, Any] = field(default_factory=dict)
    state: str | None = None
    keep_states: list[str] | None = None
    limit_s: float | None = None
    sum: dict[str, Any] = field(default_factory=dict)
    sum_parts: dict[str, Ref] = field(default_factory=dict)
    rounds: int = 1
    ahead: dict[str, Any] = field(default_factory=dict)
    attached: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The job is over for this node: running work stops, its spool goes.

    Args:
        outcome: the job's final state.
        keep_states: ids of the node states that breakpoints name; all others go. None keeps all.
    """

    kind: ClassVar[str] = "end"
    outcome: str
    keep_states: list[str] | None = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Reply to a ping.

    Args:
        busy, free: workers that compute, and that do not.
        ready: a task would begin now.
        last_task: when one ended last, seconds since 1970; 0 for never.
        versions: package -> version.
        jobs: that the asking researcher has tasks of here; what it does not know it can end.
        projects: that the node is enrolled in.
        twin: another daemon runs under the node's name, such as one on a copy of its home.
        faults: number of its owner's settings that can't be read; while there are any, its strictest hold.
        sandbox: around its workers: `namespaces`, `landlock`, `none`, `refused` where it starts none without, or the
            name of a launcher that has one of its own.
        audit: the head of the node's audit chain, which every reply carries; None from a party that keeps no chain.
    """

    kind: ClassVar[str] = "reply"
    about: ClassVar[str] = "ping"
    of: str
    version: str = ""
    num_datasets: int = 0
    busy: int = 0
    free: int = 0
    ready: bool = False
    last_task: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    workers: int = 0
    contacts: list[dict[str, str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    projects: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    twin: bool = False
    faults: int = 0
    sandbox: str = ""
    audit: AuditHead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Reply to a search: each dataset as `{name, tags, reader, num_rows, columns, has_mock, ...}`; `audit`: see `Pong`."""

    kind: ClassVar[str] = "reply"
    about: ClassVar[str] = "search"
    of: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    audit: AuditHead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Reply to an offer, sent again whenever the owner decides.

    Args:
        status: `granted`, `pending`, `rejected`, `not-needed` or `unknown` (see `reason`).
        reason: why it is `unknown`: `no_dataset`, `missing_packages`, `plan`, `repository`, ...
        missing: packages that the plan imports and the node lacks.
        num_rows: of the dataset; what a reply claims is held against it.
        grant_state: `pending`, `granted`, `rejected`, `expired`, `revoked`, or empty where there is none.
        origin: of the grant: `request`, `rule` or `built-in`.
        needs: what the owner has to allow: of `plan` and `data`; empty when it is free to use.
        until: seconds since 1970 when the grant ends, 0 for never.
        limits: of the grant, by name.
        by, decided: who decided, and when (seconds since 1970).
        contact: whom to ask, in words.
        version: hash of the dataset's present content.
        schedule: whether it could start: empty for yes, else one of `no_workers`, `no_free_worker`,
            `resources`, `outside_hours`.
        short: which resources are short.
        workers, ahead: how many workers the node has, and how many tasks wait before this one.
        privacy: of a job with differential privacy, the `epsilon` and `delta` that hold here, which may be less than
            what was asked for, and the epsilon that the whole job would `cost`. Where the dataset has a budget, also
            `budget_epsilon` and `budget_delta`, what of it is `left`, and what would be left `after` the job. Empty
            without differential privacy.
        sandbox, audit: see `Pong`.
        speed: to a look that files nothing, how fast earlier work went here, as far as it was measured and the owner lets it be
            known: `examples_s` that tasks of this plan and model trained a second, `down_bytes_s` and `up_bytes_s` of the last
            transfers, `start_s` of a job's beginning, `round_s` of a round beside these, and `core`, see `work_speed`.
    """

    kind: ClassVar[str] = "reply"
    about: ClassVar[str] = "offer"
    of: str
    status: str
    reason: str = ""
    note: str = ""
    missing: list[str] = field(default_factory=list)
    num_rows: int = 0
    grant: str = ""
    grant_state: str = ""
    origin: str = ""
    needs: list[str] = field(default_factory=list)
    until: float = 0.0
    limits: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    decided: float = 0.0
    contact: str = ""
    version: str = ""
    schedule: str = ""
    short: list[str] = field(default_factory=list)
    workers: int = 0
    ahead: int = 0
    privacy: dict[str, float] = field(default_factory=dict)
    sandbox: str = ""
    speed: dict[str, float] = field(default_factory=dict)
    audit: AuditHead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Reply to a task.

    Args:
        key: the work that was done, see `work_key`.
        reason: empty when `ok`; else one word such as `exception`, `worker_died`, `not_permitted`.
        detail: what the researcher may know of it.
        trace: the traceback, where mock data were used.
        value: a msgpack value, or None.
        blob: ref of a msgpack map `{value, metrics}`, where these are too large for the message.
        params: ref of a safetensors file.
        weight: of the contribution in a weighted mean, usually `num_examples`.
        metrics: `{phase: {name: state}}`, states that add (`metrics/states.py`).
        timing: seconds by stage: queued, fetch, setup, train, validate, total, store.
        state: id of the node state that this work proposes.
        threads: torch threads that computed it.
        optimizer_args: what the optimizer of a training plan used, such as its learning rate.
        used: what is charged for it, `{resource, amount}` each.
        usage: `[over, allowed]` where it reached a limit of the owner's; it is not `ok` where some were over, and
            `value` is then of what was allowed.
        items: how many were `processed` and `failed`, in how many `batches`; empty where there are none.
        rows: of the dataset: `registered` by its owner, `read` for this work, and `used` after filters and
            incomplete rows; without what is not known, and for a mock without `registered`.
        privacy: the `epsilon` that the job has spent at this node with this task, and its `delta`; empty where nothing
            is charged.
        sandbox: see `Pong`; empty where nothing was sent.
        audit: see `Pong`; it covers the records of this task.
        attached: sha256 -> the bytes of `params`, where these are in no repository.
    """

    kind: ClassVar[str] = "reply"
    about: ClassVar[str] = "task"
    of: str
    key: str
    ok: bool
    reason: str = ""
    detail: str = ""
    trace: str = ""
    value: Any = None
    blob: Ref | None = None
    params: Ref | None = None
    weight: float = 0.0
    num_examples: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    state: str | None = None
    threads: int = 0
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    used: list[dict[str, Any]] = field(default_factory=list)
    usage: list[int] | None = None
    items: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    privacy: dict[str, float] = field(default_factory=dict)
    sandbox: str = ""
    audit: AuditHead | None = None
    attached: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact on the way: `lease` (still working), `progress`, `metrics`, `log`, `state`, or a plan's own.

    Args:
        lasting: it is resent until it is receipted, as tasks are; others may be lost.
    """

    kind: ClassVar[str] = "event"
    type: str
    data: dict[str, Any] = field(default_factory=dict)
    lasting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """These messages are durable here; stop resending them."""

    kind: ClassVar[str] = "receipt"
    of: list[str]


Body = Ping | Search | Offer | Task | End | Pong | Found | Answer | Result | Event | Receipt
_BODIES: dict[str, type[Any]] = {c.kind: c for c in (Ping, Search, Offer, Task, End, Event, Receipt)}
_REPLIES: dict[str, type[Any]] = {c.about: c for c in (Pong, Found, Answer, Result)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A body with its header.

    Args:
        to: the addressee, `party/session`; empty for everybody.
        sender: the party that signed; not part of the payload, set from the frame.
        sender_key: hex of the public key that the signature was verified with; set as `sender` is.
        id: 32 hex digits; a resend carries the same.
        reply_to: `party/session` that answers and receipts go to.
        job, task, round, step: what it is about; empty or 0 where it is about none.
        attempt: of the job, from 1; orders messages only.
        epoch: counts the runner starts of a job; nodes refuse an older one.
        seq: counts the sender's messages.
        issued, expires: seconds since 1970, by the sender's clock.
        receipts: ids of messages of the addressee that are durable at the sender, as in a `Receipt`.
    """

    to: str
    id: str
    body: Body
    sender: str = ""
    sender_key: str = ""
    reply_to: str = ""
    job: str = ""
    task: str = ""
    round: int = 0
    step: str = ""
    attempt: int = 0
    epoch: int = 0
    seq: int = 0
    issued: float = 0.0
    expires: float = 0.0
    receipts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payload:
    """The map on the wire."""

    to: str
    kind: str
    id: str
    reply_to: str
    job: str
    task: str
    round: int
    step: str
    attempt: int
    epoch: int
    seq: int
    issued: float
    expires: float
    body: dict[str, Any]
    receipts: list[str]


MAX_RECEIPTS = 500
"""Ids in one `Receipt`; more go in several."""

MAX_RIDING = 32
"""Receipts that ride along in another message; those beyond go by themselves."""

MAX_COUNT = 1 << 53
"""The largest number of rounds, tries, runners or messages that a header names: every party's database has room for it."""

_COUNTS = ("round", "attempt", "epoch", "seq")
_HEADER = tuple(f.name for f in fields(_Payload) if f.name not in ("kind", "body"))


def encode_payload(message: Message) -> bytes:
    """Return the exact bytes that are signed.

    Raises:
        EncodeError: not plain data, or larger than a frame may be.
    """
    body = to_plain(message.body)
    about = getattr(type(message.body), "about", None)
    if about is not None:
        body["about"] = about
    header = {name: getattr(message, name) for name in _HEADER}
    data = pack({**header, "kind": type(message.body).kind, "body": body})
    if len(data) > MAX_PAYLOAD_BYTES:
        raise EncodeError(_too_large(message.body, body, len(data)))
    return data


def _too_large(body: Body, plain: Mapping[str, Any], num_bytes: int) -> str:
    """Return the words about a message that is too large: what takes most of it, and what to do."""
    sizes = {name: len(pack(value)) for name, value in plain.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    listed = ", ".join(f"{name} {sizes[name]:,}" for name in largest if sizes[name] > MAX_PAYLOAD_BYTES // 16)
    text = (
        f"a message holds at most {MAX_PAYLOAD_BYTES:,} bytes, this {body.kind} has {num_bytes:,} ({listed})"
    )
    if isinstance(body, (Offer, Task)) and not (isinstance(body, Task) and body.sum):
        text += ": make that smaller; a Plan can have a file instead, Job(artifacts={name: path}), see ctx.fetch(name)"
    return text


def decode_head(data: bytes) -> dict[str, Any]:
    """Return the map of a payload, with what the checks before the schema need in it, of the right types.

    Raises:
        DecodeError: not msgpack, no map, or `to`, `kind` or `expires` is missing or of another type.
    """
    head = unpack(data, limit_bytes=MAX_FRAME_BYTES, max_elements=MAX_ELEMENTS)
    if not isinstance(head, dict):
        raise DecodeError("a payload is a map")
    if not all(isinstance(head.get(name), str) for name in ("to", "kind")):
        raise DecodeError("to and kind are strings")
    if type(head.get("expires")) not in (float, int):
        raise DecodeError("expires is a number")
    return head


def decode_payload(data: bytes, sender: str) -> Message:
    """Return the message in signed bytes.

    Raises:
        DecodeError: not msgpack, or too long.
        MessageError: a field is missing, has the wrong type or is beyond its range; it is named.
    """
    return message_of(unpack(data, limit_bytes=MAX_FRAME_BYTES, max_elements=MAX_ELEMENTS), sender)


def message_of(plain: Any, sender: str) -> Message:
    """Return the message in the map of a payload.

    Raises:
        MessageError: see `decode_payload`.
    """
    payload = from_plain(_Payload, plain)
    for name in _COUNTS:
        if not 0 <= getattr(payload, name) <= MAX_COUNT:
            raise MessageError(f"{name} is from 0 to {MAX_COUNT}, found {getattr(payload, name)}")
    if payload.kind == "reply":
        kind = _REPLIES.get(str(payload.body.get("about")))
    else:
        kind = _BODIES.get(payload.kind)
    if kind is None:
        raise MessageError(f"unknown kind of message {payload.kind[:40]!r}")
    header = {name: getattr(payload, name) for name in _HEADER}
    body = from_plain(kind, payload.body)
    if len(payload.receipts) > MAX_RIDING or (isinstance(body, Receipt) and len(body.of) > MAX_RECEIPTS):
        raise MessageError(
            f"a receipt is of at most {MAX_RECEIPTS} messages, and {MAX_RIDING} ride along in another message"
        )
    if isinstance(body, (Task, Result)):
        _check_attached(body)
    return Message(sender=sender, body=body, **header)


def named_params(body: Task | Result) -> dict[str, Ref]:
    """Return sha256 -> ref of the parameters that a message names."""
    refs = body.params.values() if isinstance(body, Task) else filter(None, (body.params,))
    return {ref.sha256: ref for ref in refs}


def attached_bytes(body: Body) -> int:
    """Return how many bytes are attached to a message."""
    return sum(map(len, body.attached.values())) if isinstance(body, (Task, Result)) else 0


def may_attach(body: Task | Result) -> bool:
    """Return whether the parameters that a message names, and that it does not have yet, may be attached to it."""
    size_bytes = sum(ref.size_bytes for ref in named_params(body).values())
    if size_bytes > MAX_ATTACHED_BYTES or any(ref.parts for ref in named_params(body).values()):
        return False
    return size_bytes + len(pack(to_plain(body))) <= ROOM_BYTES


def _check_attached(body: Task | Result) -> None:
    """Hold what is attached to a message against the refs in it.

    Raises:
        MessageError: nothing in the message has that name, or the bytes are others.
    """
    named = named_params(body)
    for sha256, content in body.attached.items():
        ref = named.get(sha256)
        if ref is None:
            raise MessageError(f"attached: the message names no parameters {sha256[:64]!r}")
        if len(content) != ref.size_bytes or hashlib.sha256(content).hexdigest() != sha256:
            raise MessageError(
                f"attached: expected the {ref.size_bytes} bytes with sha256 {sha256}, found {len(content)} others"
            )


def keyless_task(task: Task) -> Task:
    """Return a task without the bytes of the objects that it names and what opens them: for what is kept."""
    return replace(with_refs(task, lambda ref: ref.keyless), attached={})


def with_refs(task: Task, change: Callable[[Ref], Ref]) -> Task:
    """Return a task with each object's ref replaced by that which `change` returns."""
    return replace(
        task,
        plan=None if task.plan is None else change(task.plan),
        files=None if task.files is None else change(task.files),
        artifacts={name: change(ref) for name, ref in task.artifacts.items()},
        blobs={name: change(ref) for name, ref in task.blobs.items()},
        params={name: change(ref) for name, ref in task.params.items()},
        sum_parts={name: change(ref) for name, ref in task.sum_parts.items()},
    )


def packed_parts(step: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the parts of a step of a secure sum, by name: equal ones have equal bytes, in a message or in the repository."""
    return {name: pack(_sorted(part)) for name, part in step.items()}


def keyless_offer(offer: Offer) -> Offer:
    """Return an offer without what opens the objects that it names: for what is kept."""
    return replace(offer, plan=None if offer.plan is None else offer.plan.keyless)


def keyless_result(result: Result) -> Result:
    """Return a result without the bytes of the objects that it names and what opens them: for what is kept."""
    return replace(
        result,
        blob=None if result.blob is None else result.blob.keyless,
        params=None if result.params is None else result.params.keyless,
        attached={},
    )


def work_key(*, job: str, round_: int, step: str, node: str, task: Task, child: str = "") -> str:
    """Name work by what it is.

    The key covers everything that decides the result and nothing that does not:
    no attempt, no epoch, no session, no deadline.

    Returns:
        64 hex digits.
    """
    # who asks and what the node has to spare decide whether it is computed, not what comes out
    what = to_plain(task) | {
        "keep_states": None,
        "limit_s": None,
        "owner": {},
        "project": "",
        "resources": {},
        "launches": [],
        "proof": "",
    }
    # nor do keys, nor the way on which parameters and parts of a step come
    del what["ahead"], what["attached"], what["sum_parts"]
    what["sum"] = _part_names(task)
    if not task.models:
        del what["models"]
    if not task.compress:
        del what["compress"]
    if not task.protect.get("dp"):  # under which noise is for so many rounds
        del what["rounds"]
    refs = (what["plan"], what["files"], *what["artifacts"].values(), *what["blobs"].values())
    for ref in filter(None, (*refs, *what["params"].values())):
        del ref["cipher"], ref["key"]  # the same content is the same work, however it is stored
    return hashlib.sha256(pack([job, round_, step, node, task.dataset, child, _sorted(what)])).hexdigest()


def _part_names(task: Task) -> dict[str, str]:
    """Return the sha256 of each part of a step of a secure sum, whether it is in the message or in the repository."""
    here = {name: hashlib.sha256(part).hexdigest() for name, part in packed_parts(task.sum).items()}
    return here | {name: ref.sha256 for name, ref in task.sum_parts.items()}


def shared_inputs(task: Task) -> str:
    """Return the sha256 of what all nodes of an ask are given alike, where they are to be added up.

    A node that is given another model than the others agrees with them on nothing.
    """
    params = {name: ref.sha256 for name, ref in sorted(task.params.items())}
    blobs = {name: ref.sha256 for name, ref in sorted(task.blobs.items())}
    return hashlib.sha256(pack([task.protocol, params, blobs, _sorted(task.values)])).hexdigest()


_LEAVES = (str, int, float, bool, bytes, type(None))


def _sorted(value: Any) -> Any:
    """Give equal maps equal order, and so equal bytes."""
    if isinstance(value, dict):
        return {
            key: found if type(found := value[key]) in _LEAVES else _sorted(found) for key in sorted(value)
        }
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _LEAVES else _sorted(item) for item in value]
    return _sorted(dict(value)) if isinstance(value, Mapping) else value
