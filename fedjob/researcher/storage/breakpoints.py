"""Committed rounds on disk: one folder each, whole or not there at all.

    round_0007/
        manifest.mpk            version, and each file's size and sha256
        record.mpk              the job's position, but for its tensors
        params.safetensors      one file per set of named tensors in the protocol's state
        spec.mpk  plan.py

A folder is written under a temporary name, large files hard-linked, every new
file fsynced, then renamed, then its parent fsynced. It holds no absolute path
and no secret; it alone is enough to resume, wherever it is moved.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import (
    BreakpointCorrupt,
    BreakpointError,
    BreakpointIncompatible,
    BreakpointMissing,
    DecodeError,
    NoSpace,
)
from fedjob.common.files import (
    FULL,
    fsync_dir,
    link_or_copy,
    new_folder,
    remove_folder,
    replace_durably,
    write_atomic,
)
from fedjob.common.types import party_of
from fedjob.parameters.files import FileParams, save_params
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.position import AggregationRecord, Position, UnfinishedTask, first_position
from fedjob.researcher.storage.spec import load_spec

VERSION = 1
_TENSORS = "\0tensors"
_BLOCK = 1 << 20
_NO_FOLDER = (NotADirectoryError, FileExistsError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakpoint:
    """A breakpoint that was read and checked: every file has the hash that the manifest names."""

    path: Path
    position: Position
    spec: dict[str, Any]
    plan_text: str
    extras: Mapping[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BreakpointRecord:
    round: int
    node_states: dict[str, str]
    state: dict[str, Any]
    rows: list[Measurement]
    ledger: list[AggregationRecord]
    extras: list[str]
    training_args: dict[str, Any]
    under_way: dict[str, UnfinishedTask] = field(default_factory=dict)
    learned: list[dict[str, Any]] = field(default_factory=list)
    stop: str = ""


def save_breakpoint(
    folder: JobFolder,
    position: Position,
    inside: Path | None = None,
    extras: Mapping[str, Path] | None = None,
) -> Path:
    """Write a breakpoint of `position` and return its folder.

    Args:
        inside: the folder that it gets a new folder of its own in, made if need be; nothing else there is touched.
            None for `breakpoints/round_NNNN` in the job's folder, which replaces an earlier one of the round.
        extras: name -> file of a hook's, to travel along.

    Raises:
        NoSpace: the disk is full; breakpoints before are untouched.
        BreakpointError: `inside` is a file, or nothing can be written there.
    """
    if inside is None:
        final = folder.breakpoint(position.round)
        temporary = _write_breakpoint(folder, position, final, extras)
        remove_folder(final)  # the same round again, after a resume from an older one
        replace_durably(temporary, final)
        return final
    try:
        temporary = _write_breakpoint(folder, position, inside / f"round_{position.round:04d}", extras)
        try:
            final = _free_place(inside, position.round)
            replace_durably(temporary, final)
        except BaseException:
            remove_folder(temporary)
            raise
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(
                f"no space left to write a breakpoint into {inside}: free some, then save again"
            ) from error
        what = (
            "it is a file, or a part of the path is"
            if isinstance(error, _NO_FOLDER)
            else error.strerror or error
        )
        raise BreakpointError(
            f"can't save a breakpoint in {inside}: {what}; give a folder that you may write to, or a new one"
        ) from error
    return final


def _free_place(inside: Path, round_: int) -> Path:
    """Make an empty folder for a breakpoint, under a name that nobody has, and return it."""
    place, number = inside / f"round_{round_:04d}", 1
    while True:
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
            place = inside / f"round_{round_:04d}_{number}"
        else:
            return place


def _write_breakpoint(
    folder: JobFolder, position: Position, final: Path, extras: Mapping[str, Path] | None
) -> Path:
    """Write a whole breakpoint under a temporary name beside its place; return that."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    remove_folder(temporary)
    with new_folder(temporary):
        files: dict[str, list[Any]] = {}
        skeleton = _store_state(position.state, temporary, files)
        for name, source in (extras or {}).items():
            _link(source, temporary / f"extra_{name}", files)
        _link(folder.spec, temporary / "spec.mpk", files)
        if folder.plan.exists():
            _link(folder.plan, temporary / "plan.py", files)
        record = _BreakpointRecord(
            round=position.round,
            node_states=dict(position.node_states),
            state=skeleton,
            rows=list(position.rows),
            ledger=list(position.ledger),
            extras=sorted(extras or {}),
            training_args=dict(position.training_args),
            under_way=dict(position.under_way),
            learned=[dict(step) for step in position.learned],
            stop=position.stop,
        )
        _write(temporary / "record.mpk", pack(to_plain(record)), files)
        manifest = pack({"version": VERSION, "round": position.round, "files": files})
        _write(temporary / "manifest.mpk", manifest + hashlib.sha256(manifest).digest(), {})
        fsync_dir(temporary)
    return temporary


def load_breakpoint(path: Path) -> Breakpoint:
    """Read a breakpoint, every byte checked before any is used.

    Raises:
        BreakpointMissing: nothing there.
        BreakpointCorrupt: names the file that is not as its manifest says, and
            the newest valid breakpoint beside it, if there is one.
        BreakpointIncompatible: another version of fedjob wrote it.
    """
    if path.is_file():
        raise BreakpointIncompatible(
            f"{path.name} is a file: a breakpoint is a folder such as round_0007, which Job.resume takes. Parameters in "
            "a safetensors file are for Job(init=...); a pickle or msgpack file of another program can't be resumed"
        )
    if not path.is_dir():
        raise BreakpointMissing(f"there is no breakpoint at {path}: expected a folder such as round_0007")
    try:
        return _load(path)
    except BreakpointCorrupt as error:
        newest = newest_valid(path.parent, but=path)
        offer = (
            f"; the newest valid one beside it is {newest}: Job.resume({str(newest)!r})"
            if newest is not None
            else "; no valid breakpoint lies beside it"
        )
        raise BreakpointCorrupt(f"{error}{offer}") from error


def find_breakpoint(path: Path) -> Breakpoint:
    """Return the breakpoint at `path`; for a job's folder the newest one, or the job's beginning."""
    folder = JobFolder(path)
    if not folder.breakpoints.is_dir():
        return load_breakpoint(only_breakpoint(path))
    newest = newest_valid(folder.breakpoints)
    if newest is not None:
        return load_breakpoint(newest)
    spec = load_spec(folder.spec)
    if not spec.datasets or not folder.initial_params.exists():
        raise BreakpointMissing(f"{spec.id} was cut before it knew its nodes: make the job anew")
    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    first = FileParams(folder.initial_params)
    return Breakpoint(
        path=folder.breakpoint(0),
        position=first_position(spec, protocol.start(first)),
        spec=to_plain(spec),
        plan_text=folder.plan.read_bytes().decode(),
        extras={},
    )


def adopt(
    loaded: Position, position: Position, folder: JobFolder, extras: Mapping[str, Path]
) -> tuple[Position, dict[str, Path]]:
    """Link a breakpoint's tensors into the job's spool, so that dropping the breakpoint leaves them."""
    spool = folder.make_spool(loaded.round)

    def link(name: str, source: Path) -> Path:
        target = spool / f"resumed_{name}"
        target.unlink(missing_ok=True)
        link_or_copy(source, target)
        return target

    state = {
        key: FileParams(link(f"{key}.safetensors", value.path)) if isinstance(value, FileParams) else value
        for key, value in position.state.items()
    }
    return replace(position, state=state), {name: link(name, path) for name, path in extras.items()}


def only_breakpoint(path: Path) -> Path:
    """Return a breakpoint's folder; of a folder into which a single one was saved, that one.

    Raises:
        BreakpointMissing: several were saved there: names them.
    """
    saved = [] if (path / "manifest.mpk").exists() else list_breakpoints(path)
    if len(saved) > 1:
        names = ", ".join(found.name for found in saved)
        raise BreakpointMissing(f"{path} holds several breakpoints, {names}: give the path of one of them")
    return saved[0] if saved else path


def newest_valid(breakpoints: Path, *, but: Path | None = None) -> Path | None:
    """Return the newest breakpoint of a folder that is whole, None if there is none."""
    for path in sorted(list_breakpoints(breakpoints), reverse=True):
        if path != but:
            try:
                _load(path)
            except (BreakpointCorrupt, BreakpointIncompatible):
                continue
            return path
    return None


def list_breakpoints(breakpoints: Path) -> list[Path]:
    """Return the folders that look like breakpoints, oldest first."""
    return sorted(path for path in breakpoints.glob("round_*") if path.is_dir())


def states_of(path: Path) -> dict[str, str]:
    """Return node -> id of the node state that a breakpoint names; nothing for an unreadable one."""
    try:
        return from_plain(_BreakpointRecord, unpack((path / "record.mpk").read_bytes())).node_states
    except (OSError, DecodeError):
        return {}


def states_at(named: Mapping[str, Collection[str]], node: str) -> list[str]:
    """Return the ids of the node states that a party is to keep, whichever of its datasets they belong to."""
    party = party_of(node)
    return sorted({state for each, states in named.items() if party_of(each) == party for state in states})


def saved_elsewhere(folder: JobFolder) -> tuple[Path, ...]:
    """Return the breakpoints that were written outside of the job's folder and are still there."""
    try:
        paths = [Path(str(path)) for path in unpack(folder.elsewhere.read_bytes())]
    except (OSError, DecodeError):
        return ()
    return tuple(path for path in paths if path.exists())


def note_elsewhere(folder: JobFolder, path: Path) -> None:
    """Remember a breakpoint outside of the job's folder: nodes keep the states that it names."""
    paths = [str(known) for known in saved_elsewhere(folder) if known != path]
    write_atomic(folder.elsewhere, pack([*paths, str(path)]))


def drop_breakpoints(folder: JobFolder, keep: int) -> None:
    """Remove all but the newest `keep` breakpoints of a job."""
    for path in list_breakpoints(folder.breakpoints)[:-keep]:
        remove_folder(path)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _load(path: Path) -> Breakpoint:
    files = _read_manifest(path)
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file():
            raise BreakpointCorrupt(f"breakpoint {path.name}: its file {name} is missing")
        if file.stat().st_size != size:
            raise BreakpointCorrupt(
                f"breakpoint {path.name}: its file {name} has {file.stat().st_size} bytes, expected {size}"
            )
        if hash_file(file) != sha256:
            raise BreakpointCorrupt(f"breakpoint {path.name}: the bytes of its file {name} have been changed")
    try:
        record = from_plain(_BreakpointRecord, unpack((path / "record.mpk").read_bytes()))
        spec = unpack((path / "spec.mpk").read_bytes())
        plan = path / "plan.py"
        return Breakpoint(
            path=path,
            position=Position(
                round=record.round,
                state=_load_state(record.state, path),
                node_states=record.node_states,
                rows=tuple(record.rows),
                ledger=tuple(record.ledger),
                training_args=record.training_args,
                under_way=record.under_way,
                learned=tuple(record.learned),
                stop=record.stop,
            ),
            spec=spec,
            plan_text=plan.read_bytes().decode() if plan.exists() else "",
            extras={name: path / f"extra_{name}" for name in record.extras},
        )
    except (DecodeError, UnicodeDecodeError, OSError) as error:
        raise BreakpointCorrupt(f"breakpoint {path.name} can't be read: {error}") from error


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    try:
        raw = (path / "manifest.mpk").read_bytes()
    except OSError as error:
        raise BreakpointCorrupt(
            f"breakpoint {path.name}: its manifest.mpk can't be read: {error.strerror}"
        ) from error
    body, digest = raw[:-32], raw[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise BreakpointCorrupt(f"breakpoint {path.name}: its manifest.mpk has been changed or cut short")
    manifest = unpack(body)
    if manifest.get("version") != VERSION:
        raise BreakpointIncompatible(
            f"breakpoint {path.name} is of version {manifest.get('version')}, this fedjob reads version {VERSION}"
        )
    return {name: (size, sha256) for name, (size, sha256) in manifest["files"].items()}


def _write(path: Path, data: bytes, files: dict[str, list[Any]]) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    files[path.name] = [len(data), hashlib.sha256(data).hexdigest()]


def _link(source: Path, target: Path, files: dict[str, list[Any]]) -> None:
    link_or_copy(source, target)
    files[target.name] = [target.stat().st_size, hash_file(target)]


def _store_state(state: Mapping[str, Any], folder: Path, files: dict[str, list[Any]]) -> dict[str, Any]:
    """Store each set of named tensors as a file of its own; return the rest, their places marked."""
    skeleton: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, FileParams):
            _link(value.path, folder / f"{key}.safetensors", files)
            skeleton[key] = {_TENSORS: key}
        elif isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values()):
            save_params(value, folder / f"{key}.safetensors")
            target = folder / f"{key}.safetensors"
            files[target.name] = [target.stat().st_size, hash_file(target)]
            skeleton[key] = {_TENSORS: key}
        else:
            skeleton[key] = value
    return skeleton


def _load_state(skeleton: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        key: FileParams(folder / f"{value[_TENSORS]}.safetensors")
        if isinstance(value, dict) and value.keys() == {_TENSORS}
        else value
        for key, value in skeleton.items()
    }


def chain(
    ledger: tuple[AggregationRecord, ...], aggregator: AggregationRecord
) -> tuple[AggregationRecord, ...]:
    """Append an aggregation to the ledger, bound to the record before it."""
    previous = hashlib.sha256(pack(to_plain(ledger[-1]))).hexdigest() if ledger else ""
    return (*ledger, replace(aggregator, previous_hash=previous))
