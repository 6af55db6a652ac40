"""Replies that a run before this one made durable: those of the tasks at hand are taken, whose files are as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fedjob.common.codec import to_plain
from fedjob.messaging.messages import Result
from fedjob.parameters.files import FileParams
from fedjob.repository.parts import ref_of
from fedjob.researcher.federation.collector import journaled

NUM_BYTES = 4 << 20


def record(folder: Path, node: str, key: str, size: int = 0) -> dict[str, Any]:
    """Return what the journal has of a reply, with a file of so many bytes beside its head; with none for 0."""
    params, name = None, ""
    if size:
        name = f"step_{node}.safetensors"
        save_file({"w": np.zeros(size, dtype=np.uint8)}, folder / name)
        params = ref_of(folder / name)
    return {"node": node, "result": to_plain(Result(of="", key=key, ok=True, params=params)), "file": name}


def read_bytes() -> int:
    """Return how many bytes this process has read so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_the_replies_of_the_tasks_at_hand_are_taken_with_their_files(tmp_path: Path) -> None:
    records = [record(tmp_path, "a", "k1", 3), record(tmp_path, "b", "k2"), record(tmp_path, "c", "k3")]
    found = list(journaled(records, [("a", "k1"), ("b", "k2"), ("c", "another")], tmp_path))
    assert [(arrival.node, arrival.result.key) for arrival in found] == [("a", "k1"), ("b", "k2")]
    assert isinstance(found[0].params, FileParams)
    assert found[0].params.path == tmp_path / "step_a.safetensors"
    assert found[1].params is None


def test_a_reply_whose_file_is_gone_or_changed_or_which_nobody_can_read_is_asked_for_again(
    tmp_path: Path,
) -> None:
    records = [record(tmp_path, node, "k", 3) for node in "abc"]
    (tmp_path / records[0]["file"]).unlink()
    save_file({"w": np.ones(3, dtype=np.uint8)}, tmp_path / records[1]["file"])
    odd: list[dict[str, Any]] = [{}, {"node": "c", "result": {"odd": 1}, "file": ""}]
    found = list(journaled([*odd, *records], [(node, "k") for node in "abc"], tmp_path))
    assert [arrival.node for arrival in found] == ["c"]


def test_the_files_of_other_tasks_are_not_read(tmp_path: Path) -> None:
    """Every step of a secure sum looks into the journal, where the vectors of all nodes are."""
    records = [record(tmp_path, node, "mask", NUM_BYTES) for node in "abcd"]
    before = read_bytes()
    assert list(journaled(records, [(node, "agree") for node in "abcd"], tmp_path)) == []
    assert read_bytes() - before < NUM_BYTES / 10
    assert len(list(journaled(records, [(node, "mask") for node in "abcd"], tmp_path))) == 4
    assert read_bytes() - before >= 4 * NUM_BYTES, "the figure is of such reads"
