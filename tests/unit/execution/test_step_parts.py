"""The parts of steps of secure sums: a step of a thousand nodes fits into its message, and its work keeps its name."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from fedjob.common.codec import MAX_ITEMS, pack, to_plain
from fedjob.common.errors import DecodeError, EncodeError, SpecError
from fedjob.common.types import Ref
from fedjob.execution.step_parts import (
    MAX_PARTS_BYTES,
    check_parts,
    completed,
    large_parts,
    read_part,
    referring,
)
from fedjob.identity.keys import Identity
from fedjob.messaging.messages import Message, Result, Task, decode_payload, encode_payload, work_key
from fedjob.privacy.secagg.fixed_point import MAX_NODES
from fedjob.privacy.secagg.key_agreement import plain_keys, private_key, sealed_shares, signed_keys
from fedjob.privacy.secagg.neighbours import size_of_graph
from fedjob.privacy.secagg.secret_sharing import SHARE_BYTES
from tests.secure_sums import OUTLINE, terms_for

ADDRESS = {
    "to": "n1/main",
    "id": "0" * 32,
    "reply_to": "ann/s1",
    "job": "j",
    "task": "t" * 64,
    "step": "train",
}


def name_of(number: int, length: int) -> str:
    return f"{hashlib.sha256(str(number).encode()).hexdigest() * 2}"[: length - 5] + f"-{number:04}"


def bodies(num_nodes: int, length: int = 63) -> dict[str, dict[str, Any]]:
    """Return the body of each step of a sum of so many nodes with names of so many characters."""
    terms, signer = terms_for(num_nodes), Identity.generate("signer")
    names = [name_of(number, length) for number in range(num_nodes)]
    one = signed_keys(terms, names[0], private_key(), private_key(), bytes(32), signer.sign)
    keys = plain_keys({name: replace(one, node=name) for name in names})
    signatures = {name: bytes([number % 256]) * 64 for number, name in enumerate(names)}
    size = size_of_graph(num_nodes, 0.2, 0.1)
    degree = num_nodes - 1 if size is None else size.degree
    sealed = sealed_shares(private_key(), one.shares, terms, "a", "b", bytes(2 * SHARE_BYTES))
    return {
        "draw": {"keys": keys},
        "shares": {"lots": {name: bytes(32) for name in names}},
        "mask": {
            "of": "k" * 64,
            "outline": OUTLINE,
            "taking_part": names,
            "sealed": dict.fromkeys(names[:degree], sealed),
        },
        "agree": {"survivors": names, "masked": signatures},
        "reveal": {"signatures": signatures},
    }


def task_of(step: str, body: dict[str, Any]) -> Task:
    terms = to_plain(terms_for(5))
    return Task(dataset="toy", protocol="fedavg", sum={"step": step, "terms": terms, **body})


def sent(task: Task) -> Task:
    """Return a task as its node has it."""
    body = decode_payload(encode_payload(Message(body=task, **ADDRESS)), "ann").body
    assert isinstance(body, Task)
    return body


def key_of(task: Task) -> str:
    return work_key(job="j", round_=1, step="train", node="n1", task=task)


@pytest.mark.parametrize("num_nodes", [300, MAX_NODES])
def test_every_step_of_very_many_nodes_fits_into_a_message_and_is_whole_again_at_the_node(
    num_nodes: int,
) -> None:
    too_large = []
    for step, body in bodies(num_nodes).items():
        task = task_of(step, body)
        try:
            encode_payload(Message(body=task, **ADDRESS))
        except EncodeError:
            too_large.append(step)
        parts = large_parts(task)
        stored = {hashlib.sha256(content).hexdigest(): content for content in parts.values()}
        refs = {name: Ref(hashlib.sha256(part).hexdigest(), len(part)) for name, part in parts.items()}
        came = sent(referring(task, refs))
        check_parts(came)
        assert key_of(came) == key_of(task)
        whole = completed(came, {name: read_part(stored[ref.sha256]) for name, ref in came.sum_parts.items()})
        assert whole.sum == task.sum
        assert key_of(whole) == key_of(task)
    assert too_large == (["draw"] if num_nodes == 300 else ["draw", "shares", "mask", "agree", "reveal"])


def test_a_step_that_has_room_in_its_message_is_sent_as_it_is() -> None:
    for step, body in bodies(20).items():
        assert large_parts(task_of(step, body)) == {}


def test_answers_of_very_many_nodes_with_the_most_neighbours_fit_into_a_message() -> None:
    size = size_of_graph(MAX_NODES, 1 / 3, 0.3)
    assert size is not None
    names = [name_of(number, 63) for number in range(size.degree + 1)]
    shares = {"sealed": [bytes(2 * SHARE_BYTES + 16)] * size.degree, "commitment": bytes(32)}
    revealed = {"own_masks": dict.fromkeys(names, bytes(SHARE_BYTES)), "mask_keys": {}}
    for value in (shares, revealed):
        result = Result(of="0" * 32, key="k" * 64, ok=True, value=value, sandbox="namespaces")
        assert len(encode_payload(Message(body=result, **ADDRESS))) > 30_000  # or EncodeError


def refs_of(*sizes: int) -> dict[str, Ref]:
    return {f"part{number}": Ref("0" * 64, size) for number, size in enumerate(sizes)}


def test_parts_that_are_too_large_together_or_are_in_the_message_as_well_are_refused() -> None:
    task = task_of("draw", {})
    check_parts(replace(task, sum_parts=refs_of(MAX_PARTS_BYTES - 1, 1)))
    with pytest.raises(SpecError, match="at most 10,485,760 bytes, found 10,485,761"):
        check_parts(replace(task, sum_parts=refs_of(MAX_PARTS_BYTES, 1)))
    with pytest.raises(SpecError, match="'terms' in both"):
        check_parts(replace(task, sum_parts={"terms": Ref("0" * 64, 1)}))


@pytest.mark.parametrize(
    "content",
    [pack([[None] * 26_000] * 2), pack([None] * (MAX_ITEMS + 1)), b"\xc1", pack({}) + b"x"],
    ids=["many values", "a long list", "no msgpack", "more behind it"],
)
def test_a_part_that_is_something_else_or_would_fill_the_memory_is_refused(content: bytes) -> None:
    with pytest.raises(DecodeError):
        read_part(content)


def test_a_part_that_has_other_bytes_is_other_work() -> None:
    task = task_of("draw", {"keys": [1, 2]})
    digests = {hashlib.sha256(pack(keys)).hexdigest() for keys in ([1, 2], [2, 1])}
    keys = {key_of(referring(task, {"keys": Ref(digest, 3)})) for digest in digests}
    assert len(keys) == 2
    assert key_of(task) in keys
