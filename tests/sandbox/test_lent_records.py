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


def test_bytes_that_are_no_record_are_refused(tmp_path: Path) -> None:
    before = record(tmp_path / "before", [1], rows=[1])
    (tmp_path / "after").write_bytes(b"\xff" * 100)
    with pytest.raises(DecodeError, match="can't be read"):
        check_continued(before, tmp_path / "after")


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
