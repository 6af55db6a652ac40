"""Messages: a closed set, checked field by field."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, EncodeError, MessageError
from fedjob.common.types import MAX_FRAME_BYTES, Ref, new_job_id
from fedjob.messaging.messages import (
    MAX_RECEIPTS,
    MAX_RIDING,
    Answer,
    Body,
    End,
    Event,
    Found,
    Message,
    Offer,
    Ping,
    Pong,
    Receipt,
    Result,
    Search,
    Task,
    decode_payload,
    encode_payload,
    work_key,
)

REF = Ref("ab" * 32, 40_000)
TASK = Task(
    dataset="heart",
    protocol="fedavg",
    plan=REF,
    entry="Net",
    values={"mu": 0.1},
    params={"params": Ref("cd" * 32, 1 << 30, parts=True)},
    training_args={"lr": 0.1},
    seed=7,
    state="s" * 32,
)
BODIES: list[Body] = [
    Ping(),
    Search(tags=["heart"]),
    Offer(dataset="heart", protocol="fedavg", plan=REF, entry="Net"),
    TASK,
    End(outcome="completed", keep_states=["s"]),
    Pong(of="x", num_datasets=2),
    Found(of="x", datasets=[{"name": "heart", "tags": ["a"]}]),
    Answer(of="x", status="granted", num_rows=303),
    Result(
        of="x", key="k" * 64, ok=True, params=REF, weight=2.0, metrics={"train": {}}, timing={"total": 1.5}
    ),
    Event(type="lease", data={"node": "a"}),
    Receipt(of=["a", "b"]),
]


def _message(body: Body) -> Message:
    return Message(
        to="clinic/main", id="a" * 32, body=body, sender="lab", reply_to="lab/1", job=new_job_id(), round=3
    )


@pytest.mark.feature("FB-53")
@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_kind_of_message_comes_back_equal(body: Body) -> None:
    message = _message(body)
    assert decode_payload(encode_payload(message), "lab") == message


@pytest.mark.feature("FB-25")
@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_missing_field_is_named(body: Body) -> None:
    plain = unpack(encode_payload(_message(body)))
    for name in ("to", "kind", "id", "job", "round", "body"):
        with pytest.raises(MessageError, match=name):
            decode_payload(pack({key: value for key, value in plain.items() if key != name}), "lab")
    required = [
        f.name
        for f in fields(body)
        if f.name in ("of", "dataset", "protocol", "type", "outcome", "key", "ok")
    ]
    for name in required:
        inner = {key: value for key, value in plain["body"].items() if key != name}
        with pytest.raises(MessageError, match=name):
            decode_payload(pack({**plain, "body": inner}), "lab")


@pytest.mark.feature("FB-15")
def test_a_task_names_plan_and_parameters_by_their_hashes_and_never_by_url() -> None:
    plain = unpack(encode_payload(_message(TASK)))["body"]
    named = {"sha256": "ab" * 32, "size_bytes": 40_000, "parts": False}
    assert plain["plan"] == {**named, "cipher": "", "key": ""}
    assert plain["params"]["params"]["sha256"] == "cd" * 32
    assert "://" not in repr(plain)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round", "3"),
        ("round", True),
        ("round", 1.5),
        ("to", 5),
        ("issued", "now"),
        ("body", []),
        ("kind", "exec"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    plain = unpack(encode_payload(_message(Ping())))
    with pytest.raises(MessageError):
        decode_payload(pack({**plain, field: value}), "lab")


@pytest.mark.parametrize("field", ["round", "attempt", "epoch", "seq"])
@pytest.mark.parametrize("value", [-1, -(2**63), 2**53 + 1, 2**63, 2**64 - 1])
def test_a_count_that_no_database_has_room_for_is_refused_before_anybody_acts_on_it(
    field: str, value: int
) -> None:
    plain = unpack(encode_payload(_message(Ping())))
    with pytest.raises(MessageError, match=field):
        decode_payload(pack({**plain, field: value}), "lab")
    decode_payload(pack({**plain, field: 2**53}), "lab")


@pytest.mark.parametrize(
    ("body", "riding", "fits"),
    [
        (Ping(), MAX_RIDING, True),
        (Ping(), MAX_RIDING + 1, False),
        (TASK, 20_000, False),
        (Receipt(of=["a"] * MAX_RECEIPTS), 0, True),
        (Receipt(of=["a"] * (MAX_RECEIPTS + 1)), 0, False),
        (Receipt(of=["a"] * 20_000), 0, False),
    ],
)
def test_more_receipts_than_any_endpoint_sends_at_once_are_refused(
    body: Body, riding: int, fits: bool
) -> None:
    payload = encode_payload(replace(_message(body), receipts=["a"] * riding))
    with contextlib.nullcontext() if fits else pytest.raises(MessageError, match="a receipt is of at most"):
        assert decode_payload(payload, "alice").body == body


@pytest.mark.parametrize("value", [-1, 2**53 + 1, 2**63])
def test_a_ref_of_a_size_that_no_object_has_is_refused(value: int) -> None:
    plain = unpack(encode_payload(_message(TASK)))
    plain["body"]["plan"]["size_bytes"] = value
    with pytest.raises(MessageError, match="size"):
        decode_payload(pack(plain), "lab")


def test_a_ref_that_is_not_a_hash_is_refused() -> None:
    plain = unpack(encode_payload(_message(TASK)))
    for sha256 in ("../../etc/passwd", "AB" * 32, "ab" * 31, 5):
        plain["body"]["plan"]["sha256"] = sha256
        with pytest.raises(MessageError):
            decode_payload(pack(plain), "lab")


def test_a_message_too_large_for_a_frame_is_not_sent() -> None:
    with pytest.raises(EncodeError, match="at most"):
        encode_payload(_message(Event(type="log", data={"text": "x" * MAX_FRAME_BYTES})))


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_payload(data, "lab")


def test_work_is_named_by_what_it_is_and_not_by_when_it_is_asked() -> None:
    def key(task: Task = TASK, round_: int = 1, node: str = "a") -> str:
        return work_key(job="job", round_=round_, step="train", node=node, task=task)

    assert key() == key(replace(TASK, keep_states=["x"], limit_s=3.0))
    assert key() == key(replace(TASK, training_args=dict(TASK.training_args)))
    others = [
        key(round_=2),
        key(node="b"),
        key(replace(TASK, state=None)),
        key(replace(TASK, training_args={"lr": 0.2})),
        key(replace(TASK, params={"params": REF})),
        key(replace(TASK, seed=8)),
    ]
    assert len({key(), *others}) == 7


@pytest.mark.feature("FB-13")
def test_job_ids_are_unique_and_have_one_form() -> None:
    import re

    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    form = re.compile(r"job_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(form.fullmatch(i) for i in ids)
    from fedjob.common.errors import SpecError
    from fedjob.common.types import check_job_id

    for bad in ("job_1", "../" + next(iter(ids)), next(iter(ids)).upper()):
        with pytest.raises(SpecError):
            check_job_id(bad)


def test_an_offer_and_a_task_are_flat_on_the_wire_whatever_their_classes_share() -> None:
    shared = {
        "artifacts", "compress", "config", "dataset", "entry", "files", "items", "launches", "model_args", "models", "owner", "plan",
        "preprocess", "project", "proof", "props", "protect", "protocol", "resources", "split", "training_args", "use",
    }  # fmt: skip
    offer = {"cost", "dry", "job_name", "line_bytes", "note", "reserve", "rounds"}
    task = {
        "ahead", "attached", "blobs", "keep_states", "limit_s", "params", "round_args", "rounds", "seed", "state", "sum", "sum_parts",
            "values",
    }  # fmt: skip
    for body, keys in ((Offer(dataset="d", protocol="p"), offer), (Task(dataset="d", protocol="p"), task)):
        payload = unpack(encode_payload(Message(to="a/b", id="0" * 32, body=body)))
        assert set(payload["body"]) == shared | keys


def test_the_key_of_work_is_the_one_that_nodes_have_in_their_databases() -> None:
    plain = Task(dataset="d", protocol="p")
    full = Task(
        dataset="d", protocol="p", config={"a": 1}, plan=Ref("0" * 64, 9), entry="E", use="mock", project="x",
        owner={"name": "q"}, files=Ref("1" * 64, 8), model_args={"a": 1}, training_args={"b": 2},
        preprocess=[{"c": 1}], props={"a": 1}, resources={"cpus": 2}, launches=["1"], values={"v": 1},
        blobs={"b": Ref("2" * 64, 1)}, params={"p": Ref("3" * 64, 1)}, seed=4, split={"a": 1},
        artifacts={"p": Ref("4" * 64, 1)}, state="s", keep_states=["a"], limit_s=1.0, proof="p",
    )  # fmt: skip
    assert [work_key(job="j", round_=1, step="s", node="n", task=task) for task in (plain, full)] == [
        "f86dc1821a83d939d5c3234c2189f9bdc708f21c4814b37697ded7e1a330c687",
        "1f8b7497ed8baa5450f59c8ceafb168b35c7a4c8de5e8f8696981fb4a00589b4",
    ]


def test_the_rounds_of_a_job_change_work_with_noise_for_so_many_rounds_and_no_other() -> None:
    dp = {"kind": "record", "epsilon": 1.0, "delta": 1e-5, "max_grad_norm": 1.0}
    for protect, alike in (({}, True), ({"dp": dp}, False)):
        keys = {
            work_key(
                job="j", round_=1, step="train", node="n",
                task=Task(dataset="d", protocol="fedavg", protect=protect, rounds=rounds),
            )
            for rounds in (1, 5)
        }  # fmt: skip
        assert (len(keys) == 1) is alike


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            Task(dataset="d", protocol="p", training_args={"words": "w" * 50_000}, props={"p": "q" * 20_000}),
            r"this task has 70,\d+ \(training_args 50,\d+, props 20,\d+\): make that smaller; a Plan can have a file instead, Job\(artifacts=",
        ),
        (Result(of="", key="k", ok=True, value=["v" * 70_000]), r"this reply has 70,\d+ \(value 70,\d+\)$"),
    ],
    ids=["task", "reply"],
)
def test_a_message_that_is_too_large_names_what_takes_most_of_it(body: Task | Result, words: str) -> None:
    message = Message(to="clinic/main", id="1" * 32, body=body, issued=1.0, expires=2.0, sender="ann")
    with pytest.raises(EncodeError, match=words):
        encode_payload(message)
