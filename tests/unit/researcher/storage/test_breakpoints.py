"""Breakpoints: whole or refused by name, movable, and cheap."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedjob.common.codec import pack, packed_map, to_plain
from fedjob.common.errors import BreakpointCorrupt, BreakpointIncompatible, BreakpointMissing, EncodeError
from fedjob.common.types import Ref, new_job_id
from fedjob.messaging.messages import End, Message, Task, decode_payload, encode_payload, may_attach
from fedjob.parameters.files import FileParams, save_params
from fedjob.researcher.storage.breakpoints import (
    MAX_NAMED_STATES,
    PackedEntries,
    PackedHistory,
    chain,
    load_breakpoint,
    newest_valid,
    save_breakpoint,
    states_at,
)
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.position import AggregationRecord, Position
from fedjob.researcher.storage.spec import Component, JobSpec
from tests.on_disk import in_memory_alone, need_a_disk_that_waits


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    found = JobFolder(tmp_path / "jobs" / new_job_id())
    found.create()
    JobSpec(id=found.path.name, protocol=Component(name="fedavg"), rounds=9, seed=1).save(found.spec)
    found.plan.write_text("class Net: ...\n")
    return found


def _position(folder: JobFolder, round_: int) -> Position:
    path = folder.make_spool(round_) / "total.safetensors"
    save_params({"w": torch.full((20,), float(round_))}, path)
    row = Measurement(round=round_, phase="train", metric="loss", node="all", value=0.5, num_examples=10)
    return Position(
        round=round_,
        state={"params": FileParams(path), "round": round_, "moment": {"m": torch.ones(2)}},
        node_states={"a": "s" * 32},
        rows=(row,) * round_,
        ledger=chain(
            (),
            AggregationRecord(
                round=round_, step="train", aggregator="weighted_mean", left_out={"b": "silent"}
            ),
        ),
        training_args={"lr": 0.1},
    )


def _equal(a: Position, b: Position) -> bool:
    same = all(
        torch.equal(a.state[key][name], b.state[key][name])
        for key in ("params", "moment")
        for name in a.state[key]
    )
    plain = [
        (p.round, dict(p.node_states), p.rows, p.ledger, dict(p.training_args), p.state["round"])
        for p in (a, b)
    ]
    return same and plain[0] == plain[1]


def test_a_position_comes_back_as_it_was_saved(folder: JobFolder) -> None:
    position = _position(folder, 3)
    found = load_breakpoint(save_breakpoint(folder, position))
    assert _equal(found.position, position)
    assert found.plan_text == "class Net: ...\n"
    assert found.spec["rounds"] == 9


def test_it_can_be_moved_and_holds_no_path(folder: JobFolder, tmp_path: Path) -> None:
    position = _position(folder, 3)
    path = save_breakpoint(folder, position)
    for file in path.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    moved = tmp_path / "elsewhere" / "mine"
    moved.parent.mkdir()
    shutil.move(path, moved)
    shutil.rmtree(folder.path)
    found = load_breakpoint(moved).position
    assert found.state["params"]["w"].tolist() == [3.0] * 20
    assert found.ledger == position.ledger


def test_what_breakpoints_before_have_is_not_packed_again_and_the_bytes_are_the_same(
    folder: JobFolder,
) -> None:
    history, position = PackedHistory(), _position(folder, 1)
    for round_ in range(1, 5):
        record = AggregationRecord(
            round=round_, step="train", aggregator="mean", inputs=[["a", "0" * 64, 2.0]]
        )
        row = Measurement(round=round_, phase="train", metric="loss", node="a", value=0.1, num_examples=3)
        rows = (
            *position.rows[:-1],
            row,
            replace(row, node="all"),
        )  # what was measured of all is measured anew
        position = replace(
            _position(folder, round_), rows=rows, ledger=chain(position.ledger, record), stop="x" * round_
        )
        written = (save_breakpoint(folder, position, history=history) / "record.mpk").read_bytes()
        assert written == (save_breakpoint(folder, position) / "record.mpk").read_bytes()
        assert _equal(load_breakpoint(save_breakpoint(folder, position, history=history)).position, position)


def test_entries_that_are_gone_or_replaced_are_not_in_the_bytes() -> None:
    entries = [
        Measurement(round=k, phase="train", metric="loss", node="all", value=k / 3, num_examples=1)
        for k in range(40)
    ]
    packed = PackedEntries()
    for found in (entries[:20], entries, entries[:3], [*entries[:3], *entries[30:]], [], entries[::-1]):
        assert packed.pack(found) == pack(to_plain(found))


def test_a_map_of_packed_items_has_the_bytes_of_the_map() -> None:
    for count in (0, 1, 15, 16, 70_000):
        plain = {f"k{number}": [number, "v"] for number in range(count)}
        assert packed_map({name: pack(value) for name, value in plain.items()}) == pack(plain)


def test_large_files_are_linked_not_copied(folder: JobFolder) -> None:
    position = _position(folder, 1)
    path = save_breakpoint(folder, position)
    source = position.state["params"].path
    assert os.stat(path / "params.safetensors").st_ino == os.stat(source).st_ino


def test_all_of_it_is_on_the_disk_though_its_parameters_were_in_memory_alone(
    folder: JobFolder, tmp_path: Path
) -> None:
    need_a_disk_that_waits(tmp_path)
    spooled = folder.make_spool(2) / "total.safetensors"
    save_params({"w": torch.randn(300_000)}, tmp_path / "params", durable=False)
    shutil.copyfile(
        tmp_path / "params", spooled
    )  # a new file; ext4 begins to write one that was made empty before
    assert in_memory_alone(spooled)
    extra = folder.make_spool(2) / "extra"
    extra.write_bytes(os.urandom(100_000))
    position = replace(_position(folder, 2), state={"params": FileParams(spooled), "round": 2})
    path = save_breakpoint(folder, position, extras={"of_a_hook": extra})
    assert {file.name for file in path.iterdir() if in_memory_alone(file)} == set()


def test_any_flipped_byte_is_refused_and_the_newest_valid_one_offered(folder: JobFolder) -> None:
    older = save_breakpoint(folder, _position(folder, 1))
    path = save_breakpoint(folder, _position(folder, 2))
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        file.unlink()  # not through the hard link
        step = 1 if file.name == "manifest.mpk" else max(1, len(whole) // 60)
        for index in range(0, len(whole), step):
            damaged = bytearray(whole)
            damaged[index] ^= 1 << (index % 8)
            file.write_bytes(damaged)
            with pytest.raises(BreakpointCorrupt) as caught:
                load_breakpoint(path)
            assert "round_0002" in str(caught.value)
            assert str(older) in str(caught.value)
        file.write_bytes(whole)
    load_breakpoint(path)


def test_any_file_cut_short_or_gone_is_refused_by_name(folder: JobFolder) -> None:
    path = save_breakpoint(folder, _position(folder, 2))
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(BreakpointCorrupt, match=file.name.replace(".", r"\.")):
            load_breakpoint(path)
        for length in {0, 1, len(whole) // 2, len(whole) - 1}:
            file.write_bytes(whole[:length])
            with pytest.raises(BreakpointCorrupt, match=file.name.replace(".", r"\.")):
                load_breakpoint(path)
        file.write_bytes(whole)


def test_the_newest_whole_one_is_found(folder: JobFolder) -> None:
    for round_ in (1, 2, 3):
        save_breakpoint(folder, _position(folder, round_))
    (folder.breakpoint(3) / "record.mpk").write_bytes(b"")
    shutil.rmtree(folder.breakpoint(2))
    assert newest_valid(folder.breakpoints) == folder.breakpoint(1)


def test_nothing_there_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(BreakpointMissing, match="round_0007"):
        load_breakpoint(tmp_path / "round_0099")


def test_another_version_is_refused(folder: JobFolder) -> None:
    import hashlib

    from fedjob.common.codec import pack, unpack

    path = save_breakpoint(folder, _position(folder, 1))
    manifest = unpack((path / "manifest.mpk").read_bytes()[:-128])
    raw = pack({**manifest, "version": 99})
    (path / "manifest.mpk").write_bytes(raw + hashlib.sha256(raw).digest())
    with pytest.raises(BreakpointIncompatible, match="version 99"):
        load_breakpoint(path)


def test_a_failed_save_leaves_neither_a_part_nor_a_temporary_folder(folder: JobFolder) -> None:
    position = _position(folder, 1)
    bad = Position(round=1, state={**position.state, "odd": object()})
    with pytest.raises(EncodeError):
        save_breakpoint(folder, bad)
    assert list(folder.breakpoints.iterdir()) == []


def test_the_ledger_is_a_chain() -> None:
    first = chain((), AggregationRecord(round=1, step="train", aggregator="weighted_mean"))
    second = chain(first, AggregationRecord(round=2, step="train", aggregator="weighted_mean"))
    assert second[0].previous_hash == ""
    assert len(second[1].previous_hash) == 64
    other = chain(
        chain((), AggregationRecord(round=1, step="train", aggregator="sum")),
        AggregationRecord(round=2, step="train", aggregator="weighted_mean"),
    )
    assert other[1].previous_hash != second[1].previous_hash


def test_states_that_breakpoints_name_are_named_to_nodes_as_long_as_a_message_has_room_for_them() -> None:
    """A job that keeps thousands of breakpoints failed in the round in which its tasks had outgrown a message."""
    rounds = [f"{number:032x}" for number in range(MAX_NAMED_STATES)]
    named = {"clinic.scans": rounds[1:], "clinic.labs": {rounds[0]}, "other": {"f" * 32}}
    kept = states_at(named, "clinic")
    assert kept == rounds
    end, task = End(outcome="completed", keep_states=kept), Task(dataset="d", protocol="p", keep_states=kept)
    for body in (end, task):
        message = Message(to="clinic/main", id="1" * 32, body=body, issued=1.0, expires=2.0, sender="ann")
        assert decode_payload(encode_payload(message), "ann").body == body
    assert may_attach(replace(task, params={"params": Ref("0" * 64, 36 << 10)}))
    assert states_at({**named, "clinic": {"e" * 32}}, "clinic") is None, "it is to keep all of the job"
    assert states_at({"clinic": {""}}, "clinic") == []
