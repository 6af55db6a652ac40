"""The record of released numbers is lent to one task at a time, and what comes back forgets nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from fedjob.common.errors import DecodeError
from fedjob.node.execution.release_desk import RECORD_NAME, ReleaseDesk
from fedjob.parameters.files import save_params
from fedjob.privacy.record_continuity import check_continued


def record(path: Path, ids: list[int], **labels: list[int]) -> Path:
    save_params({"ids": torch.tensor(ids), **{name: torch.tensor(of) for name, of in labels.items()}}, path)
    return path


@pytest.mark.parametrize(
    ("ids", "labels", "continued"),
    [
        ([1, 2, 3, 4], {"rows": [1, 1, 2, 2]}, True),
        ([1, 2, 3, 4], {"rows": [1, 3, 2, 2]}, True),
        ([1, 2, 3, 4, 5], {"rows": [1, 1, 2, 2, 0], "of.a": [0, 0, 1, 1, 0]}, True),
        ([1, 2, 3, 4], {"rows": [1, 1, 1, 1]}, False),
        ([1, 2, 3, 4], {"rows": [1, 1, 2, 0]}, False),
        ([1, 2, 3], {"rows": [1, 1, 2]}, False),
        ([2, 1, 3, 4], {"rows": [1, 1, 2, 2]}, False),
        ([1, 2, 3, 4], {"of.a": [1, 1, 2, 2]}, False),
    ],
)
def test_a_proposal_may_cut_finer_and_forget_nothing(
    tmp_path: Path, ids: list[int], labels: dict[str, list[int]], continued: bool
) -> None:
    before = record(tmp_path / "before", [1, 2, 3, 4], rows=[1, 1, 2, 2])
    after = record(tmp_path / "after", ids, **labels)
    check_continued(tmp_path / "none", after)
    if continued:
        check_continued(before, after)
    else:
        with pytest.raises(DecodeError, match=r"forgets|can't be read"):
            check_continued(before, after)


def text(points: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(points.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("points", "continued"),
    [
        ('{"q": [[1.0], [2.0]]}', True),
        ('{"q": [[1.0], [2.0], [3.0]], "p": []}', True),
        ('{"q": [[1.0]]}', False),
        ('{"q": [[2.0], [1.0]]}', False),
        ('{"q": [[1.5], [2.0]]}', False),
        ('{"p": [[1.0], [2.0]]}', False),
        ("{}", False),
        (None, False),
    ],
)
def test_a_proposal_forgets_no_point_at_which_a_question_was_answered(
    tmp_path: Path, points: str | None, continued: bool
) -> None:
    rows = {"ids": torch.tensor([1]), "rows": torch.tensor([1])}
    save_params({**rows, "points": text('{"q": [[1.0], [2.0]]}')}, tmp_path / "before")
    save_params({**rows, **({} if points is None else {"points": text(points)})}, tmp_path / "after")
    if continued:
        check_continued(tmp_path / "before", tmp_path / "after")
    else:
        with pytest.raises(DecodeError, match="forgets"):
            check_continued(tmp_path / "before", tmp_path / "after")


ONE = torch.tensor([1])
POISON: dict[str, dict[str, torch.Tensor]] = {
    "no ids": {"rows": ONE},
    "ids in a table": {"ids": torch.tensor([[1]]), "rows": torch.tensor([[1]])},
    "ids that are a number": {"ids": torch.tensor(1), "rows": torch.tensor(1)},
    "ids with fractions": {"ids": torch.tensor([1.0]), "rows": ONE},
    "labels with fractions": {"ids": ONE, "rows": torch.tensor([float("nan")])},
    "labels in a table": {"ids": ONE, "rows": torch.tensor([[1, 1]])},
    "too many labels": {"ids": ONE, "rows": torch.tensor([1, 1])},
    "too few labels": {"ids": ONE, "rows": ONE, "of.a": torch.tensor([], dtype=torch.int64)},
    "narrow labels": {"ids": ONE, "rows": torch.tensor([1], dtype=torch.int8)},
    "points that are a list": {"ids": ONE, "rows": ONE, "points": text("[]")},
    "points that are a number": {"ids": ONE, "rows": ONE, "points": text('{"q": 1}')},
    "points that are a map": {"ids": ONE, "rows": ONE, "points": text('{"q": {"0": 1}}')},
    "points that are no JSON": {"ids": ONE, "rows": ONE, "points": text("{")},
    "points in half a character": {
        "ids": ONE,
        "rows": ONE,
        "points": torch.tensor([0xC3], dtype=torch.uint8),
    },
    "deep points": {"ids": ONE, "rows": ONE, "points": text('{"q": ' + "[" * 100_000 + "]" * 100_000 + "}")},
    "wide points": {"ids": ONE, "rows": ONE, "points": torch.tensor([1])},
    "many columns": {"ids": ONE, **{f"of.{number}": ONE for number in range(20_001)}},
}


@pytest.mark.parametrize("found", POISON)
@pytest.mark.parametrize("is_first", [True, False])
def test_what_the_next_task_could_not_read_is_no_record_even_where_there_was_none(
    tmp_path: Path, found: str, is_first: bool
) -> None:
    save_params(POISON[found], tmp_path / "after")
    if not is_first:
        record(tmp_path / "before", [1], rows=[1])
    with pytest.raises(DecodeError, match="can't be read"):
        check_continued(tmp_path / "before", tmp_path / "after")


@pytest.mark.parametrize("is_first", [True, False])
def test_bytes_that_are_no_record_are_refused(tmp_path: Path, is_first: bool) -> None:
    if not is_first:
        record(tmp_path / "before", [1], rows=[1])
    (tmp_path / "after").write_bytes(b"\xff" * 100)
    with pytest.raises(DecodeError, match="can't be read"):
        check_continued(tmp_path / "before", tmp_path / "after")


def test_only_the_borrower_changes_a_record_and_the_next_one_sees_the_change(tmp_path: Path) -> None:
    desk, inbox, output = ReleaseDesk(), tmp_path / "inbox", tmp_path / "output"
    output.mkdir()
    kept = record(tmp_path / "toy.safetensors", [1, 2], rows=[1, 1])
    assert desk.lend(str(kept), "worker_1", inbox, lambda: True)
    assert (inbox / RECORD_NAME).read_bytes() == kept.read_bytes()
    record(output / RECORD_NAME, [1, 2], rows=[1, 2])
    given = os.open(output, os.O_RDONLY)
    before = kept.read_bytes()
    desk.commit(str(kept), "worker_2", given)
    assert kept.read_bytes() == before, "somebody else has it"

    seen: list[bytes] = []
    second = threading.Thread(
        target=lambda: (
            desk.lend(str(kept), "worker_2", tmp_path / "second", lambda: True),
            seen.append((tmp_path / "second" / RECORD_NAME).read_bytes()),
        )
    )
    second.start()
    desk.commit(str(kept), "worker_1", given)
    assert seen == [], "it waits until the first has given it back"
    desk.take_back("worker_1")
    second.join(30)
    assert seen == [(output / RECORD_NAME).read_bytes()] == [kept.read_bytes()]
    record(output / RECORD_NAME, [1, 2], rows=[1, 1])
    with pytest.raises(DecodeError, match="forgets"):
        desk.commit(str(kept), "worker_2", given)
    os.close(given)


def test_a_worker_that_is_gone_does_not_wait(tmp_path: Path) -> None:
    desk = ReleaseDesk()
    kept = record(tmp_path / "toy.safetensors", [1], rows=[1])
    assert desk.lend(str(kept), "worker_1", tmp_path / "a", lambda: True)
    assert not desk.lend(str(kept), "worker_2", tmp_path / "b", lambda: False)
