"""Small files of parameters that go along with tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import MessageError, ObjectCorrupt
from fedjob.common.types import Ref
from fedjob.messaging.attachments import MAX_COPIES_BYTES, Attachments
from fedjob.messaging.messages import (
    MAX_ATTACHED_BYTES,
    MAX_PAYLOAD_BYTES,
    Message,
    Result,
    Task,
    attached_bytes,
    decode_payload,
    encode_payload,
    keyless_result,
    keyless_task,
    may_attach,
    work_key,
)
from fedjob.repository.parts import ref_of


def task_with(*refs: Ref, **more: Any) -> Task:
    return Task(dataset="toy", protocol="fedavg", params={f"p{n}": ref for n, ref in enumerate(refs)}, **more)


def message(body: Task | Result) -> Message:
    return Message(to="clinic/main", id="a" * 32, body=body, reply_to="lab/1")


def sent(body: Task | Result) -> Any:
    return decode_payload(encode_payload(message(body)), "lab").body


def written(path: Path, size_bytes: int, fill: bytes = b"x") -> Path:
    path.write_bytes(fill * size_bytes)
    return path


def test_a_task_takes_its_small_files_along_and_they_arrive_as_they_were(tmp_path: Path) -> None:
    attachments = Attachments()
    ref = attachments.add(written(tmp_path / "a", 40_000), None, 4)
    assert ref is not None
    assert ref in attachments
    task = task_with(ref)
    given = attachments.attach(task)
    assert given is not None
    arrived = sent(given)
    assert arrived.attached == {ref.sha256: b"x" * 40_000}
    assert attached_bytes(arrived) == 40_000
    assert replace(arrived, attached={}) == task


@pytest.mark.parametrize(
    ("size_bytes", "copies", "is_attached"),
    [
        (MAX_ATTACHED_BYTES, 1, True),
        (MAX_ATTACHED_BYTES + 1, 1, False),
        (MAX_ATTACHED_BYTES, MAX_COPIES_BYTES // MAX_ATTACHED_BYTES, True),
        (MAX_ATTACHED_BYTES, MAX_COPIES_BYTES // MAX_ATTACHED_BYTES + 1, False),
        (100, 10_000, True),
        (0, 3, True),
    ],
)
def test_a_file_is_attached_while_it_and_its_copies_are_small(
    tmp_path: Path, size_bytes: int, copies: int, is_attached: bool
) -> None:
    found = Attachments().add(written(tmp_path / "a", size_bytes), None, copies)
    assert (found is not None) is is_attached


def test_a_task_without_room_for_all_of_them_takes_none_and_names_them_in_the_repository(
    tmp_path: Path,
) -> None:
    attachments = Attachments()
    refs = [attachments.add(written(tmp_path / n, 30_000, n.encode()), "clinic", 1) for n in "ab"]
    one, two = (ref for ref in refs if ref is not None)
    task = task_with(one, two)
    assert attachments.attach(task) is None
    found = attachments.not_stored(task)
    assert found == [(one, tmp_path / "a", "clinic"), (two, tmp_path / "b", "clinic")]
    stored = {ref: replace(ref, cipher="c" * 64, key="d" * 64) for ref, _, _ in found}
    for ref, name in stored.items():
        attachments.note_stored(ref, name)
    assert attachments.not_stored(task) == []
    given = attachments.refer(task)
    assert given.attached == {}
    assert [ref.cipher for ref in given.params.values()] == ["c" * 64] * 2
    other = attachments.attach(task_with(one))
    assert other is not None
    assert other.attached == {one.sha256: b"a" * 30_000}, "another task has room"
    taken_back = attachments.take_back([one, two])
    assert [ref.key for ref in taken_back] == ["d" * 64] * 2
    assert one not in attachments


def test_what_was_never_attached_is_taken_back_from_the_repository(tmp_path: Path) -> None:
    attachments, elsewhere = Attachments(), Ref("ab" * 32, 5)
    ref = attachments.add(written(tmp_path / "a", 9), None, 1)
    assert ref is not None
    assert attachments.take_back([ref, elsewhere]) == [elsewhere]


def test_a_task_full_of_values_has_no_room_and_a_frame_holds_what_has(tmp_path: Path) -> None:
    attachments = Attachments()
    ref = attachments.add(written(tmp_path / "a", MAX_ATTACHED_BYTES), None, 1)
    assert ref is not None
    for length in range(0, 20_000, 500):
        task = task_with(ref, values={"text": "v" * length})
        if (given := attachments.attach(task)) is not None:
            assert len(encode_payload(message(given))) < MAX_PAYLOAD_BYTES
    assert may_attach(task_with(ref))
    assert not may_attach(task_with(ref, values={"text": "v" * 20_000}))
    assert not may_attach(task_with(replace(ref, parts=True)))


def test_a_file_that_was_changed_is_not_sent_and_one_that_moved_is(tmp_path: Path) -> None:
    attachments = Attachments()
    path = written(tmp_path / "a", 50)
    ref = attachments.add(path, None, 1)
    assert ref is not None
    path.rename(tmp_path / "b")
    attachments.move(ref, tmp_path / "b")
    given = attachments.attach(task_with(ref))
    assert given is not None
    assert given.attached == {ref.sha256: b"x" * 50}
    other = attachments.add(written(tmp_path / "c", 60), None, 1)
    assert other is not None
    written(tmp_path / "c", 60, b"y")
    with pytest.raises(ObjectCorrupt, match="was changed after it was taken"):
        attachments.attach(task_with(other))


GOOD = b"numbers"
REF = ref_of(GOOD)
BAD: dict[str, dict[Any, Any]] = {
    "nothing names it": {ref_of(b"others").sha256: b"others"},
    "other bytes": {REF.sha256: b"nombres"},
    "too few": {REF.sha256: GOOD[:-1]},
    "too many": {REF.sha256: GOOD + b"!"},
    "none": {REF.sha256: b""},
    "no hash": {"../../etc/passwd": GOOD},
    "no bytes": {REF.sha256: "numbers"},
    "a number": {REF.sha256: 7},
    "one good and one odd": {REF.sha256: GOOD, "x": b""},
}


@pytest.mark.parametrize("attached", BAD.values(), ids=BAD)
@pytest.mark.parametrize(
    "body", [task_with(REF), Result(of="x", key="k" * 64, ok=True, params=REF)], ids=["task", "result"]
)
def test_attached_bytes_that_the_message_does_not_name_are_refused(
    body: Task | Result, attached: dict[Any, Any]
) -> None:
    plain = unpack(encode_payload(message(body)))
    plain["body"]["attached"] = attached
    with pytest.raises(MessageError, match="attached"):
        decode_payload(pack(plain), "lab")
    assert sent(replace(body, attached={REF.sha256: GOOD})).attached == {REF.sha256: GOOD}


def test_the_work_is_the_same_whichever_way_its_parameters_come() -> None:
    task = task_with(REF)
    along = replace(task, attached={REF.sha256: GOOD})
    place: dict[str, Any] = {"job": "j", "round_": 1, "step": "train", "node": "clinic"}
    assert work_key(task=along, **place) == work_key(task=task, **place)


def test_what_is_kept_of_a_message_has_no_attached_bytes() -> None:
    result = Result(of="x", key="k" * 64, ok=True, params=REF, attached={REF.sha256: GOOD})
    assert keyless_result(result) == replace(result, attached={})
    assert keyless_task(task_with(REF, attached={REF.sha256: GOOD})) == task_with(REF)
    assert "numbers" not in repr(result)
