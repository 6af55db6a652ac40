"""What a worker gives is taken by descriptor: no link, no device, nothing too large, nothing that changes meanwhile."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedjob.common.codec import MAX_ELEMENTS, from_plain, unpack
from fedjob.common.errors import DecodeError, ObjectTooLarge
from fedjob.execution.orders import WorkResult
from fedjob.node.execution.collection import MAX_KEPT_FILES, output_folder, take_output
from fedjob.node.execution.link import Link

LIMIT = 1 << 20
DONE = WorkResult(key="k" * 64, ok=True, params_path="/worker/output/x/params.safetensors")
PARAMS = "params.safetensors"


@pytest.fixture
def given(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a worker's output folder, which holds one of a task, `task`."""
    (tmp_path / "output" / "task").mkdir(parents=True)
    (tmp_path / "attempt").mkdir()
    (tmp_path / "secret").write_text("of the node")
    descriptor = os.open(tmp_path / "output", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def take(tmp_path: Path, given: int, result: WorkResult = DONE, limit_bytes: int = LIMIT) -> WorkResult:
    with output_folder(given, "task") as source:
        return take_output(result, source, tmp_path / "attempt", limit_bytes=limit_bytes)


def test_a_regular_file_is_copied_and_the_daemon_alone_names_it(tmp_path: Path, given: int) -> None:
    (tmp_path / "output" / "task" / PARAMS).write_bytes(b"numbers")
    (tmp_path / "output" / "task" / "result.mpk").write_bytes(b"forged")
    taken = take(tmp_path, given)
    assert (tmp_path / "attempt" / PARAMS).read_bytes() == b"numbers"
    assert taken.params_path == PARAMS, "a path of the worker's is not believed"
    named = from_plain(WorkResult, unpack((tmp_path / "attempt" / "result.mpk").read_bytes()))
    assert named == taken
    assert (tmp_path / "attempt" / PARAMS).stat().st_mode & 0o777 == 0o600


def link_outside(folder: Path) -> None:
    (folder / PARAMS).symlink_to(folder.parents[1] / "secret")


def second_name(folder: Path) -> None:
    os.link(folder.parents[1] / "secret", folder / PARAMS)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / PARAMS)


def folder_in_its_place(folder: Path) -> None:
    (folder / PARAMS).mkdir()


def nothing(folder: Path) -> None:
    pass


def sparse(folder: Path) -> None:
    with open(folder / PARAMS, "wb") as file:
        file.truncate(1 << 40)


def linked_folder(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to(folder.parents[1])


@pytest.mark.parametrize(
    ("trick", "refused"),
    [
        (link_outside, DecodeError),
        (second_name, DecodeError),
        (pipe, DecodeError),
        (folder_in_its_place, DecodeError),
        (nothing, DecodeError),
        (linked_folder, DecodeError),
        (sparse, ObjectTooLarge),
    ],
)
def test_what_is_no_file_of_its_own_is_refused(
    tmp_path: Path, given: int, trick: Callable[[Path], None], refused: type[Exception]
) -> None:
    trick(tmp_path / "output" / "task")
    with pytest.raises(refused):
        take(tmp_path, given)
    assert not (tmp_path / "attempt" / "result.mpk").exists(), "nothing is named a result"


def test_files_that_stay_here_are_held_to_the_same(tmp_path: Path, given: int) -> None:
    plain = replace(DONE, params_path="")
    kept = tmp_path / "output" / "task" / "kept"
    kept.mkdir()
    (kept / "scores.csv").write_text("1\n")
    take(tmp_path, given, plain)
    assert (tmp_path / "attempt" / "kept" / "scores.csv").read_text() == "1\n"
    (kept / "secret").symlink_to(tmp_path / "secret")
    with pytest.raises(DecodeError):
        take(tmp_path, given, plain)
    (kept / "secret").unlink()
    (kept / "large").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(ObjectTooLarge):
        take(tmp_path, given, plain)
    (kept / "large").unlink()
    (kept / ".hidden").write_text("x")
    with pytest.raises(DecodeError, match="hidden"):
        take(tmp_path, given, plain)
    (kept / ".hidden").unlink()
    for number in range(MAX_KEPT_FILES + 1):
        (kept / str(number)).touch()
    with pytest.raises(ObjectTooLarge, match="at most"):
        take(tmp_path, given, plain)


def test_all_files_together_are_held_to_the_limit(tmp_path: Path, given: int) -> None:
    folder = tmp_path / "output" / "task"
    for name in (PARAMS, "state.safetensors"):
        (folder / name).write_bytes(b"x" * 600)
    with pytest.raises(ObjectTooLarge):
        take(tmp_path, given, replace(DONE, state_path="s"), limit_bytes=1000)


def test_a_linked_folder_of_files_that_stay_is_refused(tmp_path: Path, given: int) -> None:
    (tmp_path / "output" / "task" / "kept").symlink_to(tmp_path)
    with pytest.raises(DecodeError):
        take(tmp_path, given, replace(DONE, params_path=""))


@pytest.mark.parametrize(
    "forged",
    [
        {"num_examples": -1},
        {"num_examples": 1 << 63},
        {"used": {"inferences": -1000}},
        {"used": {"inferences": (1 << 64) - 1}},
        {"used": {"other": -1}},
        {"overrun": -5, "used": {"inferences": 5}},
        {"overrun": 6, "used": {"inferences": 5}, "ok": False},
        {"rows": {"used": -1}},
        {"items": {"processed": 1 << 63}},
        {"threads": -1},
    ],
    ids=str,
)
def test_what_the_node_counts_with_goes_up_only_and_is_a_number(
    tmp_path: Path, given: int, forged: dict[str, Any]
) -> None:
    with pytest.raises(DecodeError, match="the worker"):
        take(tmp_path, given, WorkResult(**{"key": "k" * 64, "ok": True, **forged}))
    assert not (tmp_path / "attempt" / "result.mpk").exists()
    (tmp_path / "output" / "task").mkdir(exist_ok=True)
    honest = {"used": {"inferences": 5}, "num_examples": 5, "timing": {"total": 0.5}, "rows": {"used": 5}}
    take(tmp_path, given, WorkResult(**{"key": "k" * 64, "ok": True, **honest}))


def test_what_a_plan_with_a_clock_of_its_own_measured_is_left_out(tmp_path: Path, given: int) -> None:
    odd = {"total": -1.0, "train": float("nan"), "setup": float("inf"), "queued": 0.5}
    taken = take(tmp_path, given, WorkResult(key="k" * 64, ok=True, timing=odd))
    assert taken.timing == {"queued": 0.5}


def test_a_value_of_a_worker_has_no_more_parts_than_a_peers(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    bomb = Link(theirs)
    many = [[[]] * 99_999] * 20
    sending = threading.Thread(target=lambda: bomb.send(["result", {"value": many}]))
    sending.start()
    with pytest.raises(DecodeError, match="more than 1000000 values"):
        Link(ours, max_elements=MAX_ELEMENTS).receive()
    sending.join(30)
    ours.close()
    theirs.close()
