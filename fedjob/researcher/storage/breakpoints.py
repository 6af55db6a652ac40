"""Committed rounds on disk: one folder each, whole or not there at all.

    round_0007/
        manifest.mpk            version, and each file's size and sha256; signed by the home's key
        record.mpk              the job's position, but for its tensors
        params.safetensors      one file per set of named tensors in the protocol's state
        spec.mpk  plan.py

A folder is written under a temporary name, large files hard-linked, then the folder and every new
file in it fsynced, then renamed, then its parent fsynced. It holds no absolute path
and no secret; it alone is enough to resume, wherever it is moved.

Whoever resumes a breakpoint runs the plan in it. So the manifest, which has the hash of every file, is signed by the
key of the home that wrote it, and whoever loads one may look at the signature before anything else in it is used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, pack, packed_list, packed_map, to_plain, unpack
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
    PRIVATE,
    PRIVATE_FOLDER,
    copy_file,
    fsync_together,
    link_or_copy,
    new_folder,
    remove_folder,
    replace_durably,
    write_atomic,
)
from fedjob.common.types import party_of
from fedjob.identity.keys import SealKey, verify
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.measurements import Measurement
from fedjob.researcher.storage.position import AggregationRecord, Position, UnfinishedTask, first_position
from fedjob.researcher.storage.spec import JobSpec, load_spec, plain_spec

VERSION = 2
_SIGNED = b"fedjob breakpoint\0"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_TENSORS = "\0tensors"
_BLOCK = 1 << 20
MAX_NAMED_STATES = 512
"""Node states that a message names; each takes 34 bytes, and a message with them has room for other things."""

_NO_FOLDER = (NotADirectoryError, FileExistsError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakpoint:
    """A breakpoint that was read and checked: every file has the hash that the manifest names."""

    path: Path
    position: Position
    spec: dict[str, Any]
    plan_text: str
    extras: Mapping[str, Path]
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Whose breakpoint it is, known before anything in it is used.

    Args:
        path: of the breakpoint, or of the job's folder for a job's beginning.
        signer: public key in hex of the home that signed it; empty for none.
        digest: sha256 of all that it holds, in hex.
        spec: of its job, plain data that nobody has vouched for.
        plan_text: of its plan.
    """

    path: Path
    signer: str
    digest: str
    spec: Mapping[str, Any]
    plan_text: str


Admit = Callable[[Seal], None]
"""Raises where a breakpoint must not be used."""


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


class PackedEntries:
    """The bytes of a growing list of frozen entries, each packed once for all breakpoints of an attempt."""

    def __init__(self) -> None:
        self._entries: list[object] = []
        self._packed: list[bytes] = []

    def pack(self, entries: Sequence[object]) -> bytes:
        """Return what `codec.pack` returns for a list of these entries in plain form.

        Args:
            entries: those of the last call with others behind them cost no more than the others; any may be gone.
        """
        known = 0
        for entry, before in zip(entries, self._entries, strict=False):
            if entry is not before:
                break
            known += 1
        del self._entries[known:], self._packed[known:]
        self._entries += entries[known:]
        self._packed += [pack(to_plain(entry)) for entry in entries[known:]]
        return packed_list(self._packed)


@dataclass(frozen=True, slots=True)
class PackedHistory:
    """The parts of a record that grow with every round, as they were packed for the breakpoint before."""

    rows: PackedEntries = field(default_factory=PackedEntries)
    ledger: PackedEntries = field(default_factory=PackedEntries)

    def pack(self, record: _BreakpointRecord) -> bytes:
        """Return the bytes of a record, the same that it has without any that was packed before."""
        grown = {"rows": self.rows.pack(record.rows), "ledger": self.ledger.pack(record.ledger)}
        return packed_map(
            {
                each.name: grown.get(each.name) or pack(to_plain(getattr(record, each.name)))
                for each in fields(record)
            }
        )


def save_breakpoint(
    folder: JobFolder,
    position: Position,
    inside: Path | None = None,
    extras: Mapping[str, Path] | None = None,
    history: PackedHistory | None = None,
) -> Path:
    """Write a breakpoint of `position` and return its folder.

    Args:
        inside: the folder that it gets a new folder of its own in, made if need be; nothing else there is touched.
            None for `breakpoints/round_NNNN` in the job's folder, which replaces an earlier one of the round.
        extras: name -> file of a hook's, to travel along.
        history: of the job's breakpoints before, so that what they have is not packed again.

    Raises:
        NoSpace: the disk is full; breakpoints before are untouched.
        BreakpointError: `inside` is a file, or nothing can be written there.
    """
    if inside is None:
        final = folder.breakpoint(position.round)
        temporary = _write_breakpoint(folder, position, final, extras, history)
        aside = _set_aside(final)  # the same round again, after a resume from an older one
        replace_durably(temporary, final)
        remove_folder(aside)
        return final
    try:
        place = inside / f"round_{position.round:04d}"
        temporary = _write_breakpoint(folder, position, place, extras, history)
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
    folder: JobFolder,
    position: Position,
    final: Path,
    extras: Mapping[str, Path] | None,
    history: PackedHistory | None,
) -> Path:
    """Write a whole breakpoint under a temporary name beside its place; return that."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    remove_folder(temporary)
    # elsewhere it is a file of the user's, with a mode and bytes of its own
    outside = final.parent != folder.breakpoints
    mode = 0o666 if outside else PRIVATE
    with new_folder(temporary, mode=0o777 if outside else PRIVATE_FOLDER):
        files: dict[str, list[Any]] = {}
        skeleton = _store_state(position.state, temporary, files, mode)
        for name, source in (extras or {}).items():
            _link(source, temporary / f"extra_{name}", files, mode)
        new = [*files]
        _link(folder.spec, temporary / "spec.mpk", files, mode)
        if folder.plan.exists():
            _link(folder.plan, temporary / "plan.py", files, mode)
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
        _write(temporary / "record.mpk", (history or PackedHistory()).pack(record), files, mode)
        manifest = pack({"version": VERSION, "round": position.round, "files": files})
        key = SealKey(folder.path.parent.parent)
        seal = bytes.fromhex(key.public_key_hex) + key.sign(_SIGNED + manifest)
        _write(temporary / "manifest.mpk", manifest + hashlib.sha256(manifest).digest() + seal, {}, mode)
        # spec and plan are links to files that were synced when the job was made, or copies that were
        fsync_together([temporary, *(temporary / name for name in (*new, "record.mpk", "manifest.mpk"))])
    return temporary


def load_breakpoint(path: Path, admit: Admit | None = None) -> Breakpoint:
    """Read a breakpoint, every byte checked before any is used.

    Args:
        admit: is asked before anything but the definition of the job is read; see `Seal`. None admits all.

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
        raise BreakpointMissing(
            f"there is no breakpoint at {path}: expected a folder such as round_0007, or a job's, <home>/jobs/<job id>"
        )
    try:
        return _load(path, admit)
    except BreakpointCorrupt as error:
        newest = newest_valid(path.parent, but=path)
        offer = (
            f"; the newest valid one beside it is {newest}: Job.resume({str(newest)!r})"
            if newest is not None
            else "; no valid breakpoint lies beside it"
        )
        raise BreakpointCorrupt(f"{error}{offer}") from error


def find_breakpoint(path: Path, admit: Admit | None = None) -> Breakpoint:
    """Return the breakpoint at `path`; for a job's folder the newest one, or the job's beginning.

    Args:
        admit: see `load_breakpoint`; a job's beginning is signed by nobody.
    """
    folder = JobFolder(path)
    if not folder.breakpoints.is_dir():
        return load_breakpoint(only_breakpoint(path), admit)
    newest = newest_valid(folder.breakpoints)
    if newest is not None:
        return load_breakpoint(newest, admit)
    spec = load_spec(folder.spec)
    if admit is not None:
        admit(_seal_of_beginning(folder, spec))
    if not spec.datasets or not folder.initial_params.exists():
        raise BreakpointMissing(f"{spec.id} was cut before it knew its nodes: make the job anew")
    from fedjob.parameters.files import (
        FileParams,  # imports torch, which takes seconds: only where tensors are read
    )

    protocol = PROTOCOLS.build(spec.protocol.name, spec.protocol.config)
    first = FileParams(folder.initial_params)
    return Breakpoint(
        path=folder.breakpoint(0),
        position=first_position(spec, protocol.start(first)),
        spec=plain_spec(spec),
        plan_text=folder.plan.read_bytes().decode(),
        extras={},
    )


def _seal_of_beginning(folder: JobFolder, spec: JobSpec) -> Seal:
    files = [folder.spec, folder.plan, folder.initial_params, *sorted((folder.path / "plans").glob("*.py"))]
    hashes = [[path.name, hash_file(path)] for path in files if path.exists()]
    text = folder.plan.read_bytes().decode() if folder.plan.exists() else ""
    digest = hashlib.sha256(pack(hashes)).hexdigest()
    return Seal(path=folder.path, signer="", digest=digest, spec=plain_spec(spec), plan_text=text)


def adopt(found: Breakpoint, position: Position, folder: JobFolder) -> tuple[Position, dict[str, Path]]:
    """Link a breakpoint's tensors into the job's spool, so that dropping the breakpoint leaves them.

    Args:
        position: the breakpoint's own, as the job begins there now.

    Raises:
        BreakpointCorrupt: a file that had to be copied was changed since it was checked.
    """
    spool = folder.make_spool(found.position.round)

    def link(name: str, source: Path) -> Path:
        target = spool / f"resumed_{name}"
        target.unlink(missing_ok=True)
        link_or_copy(source, target)
        expected = found.hashes.get(source.name)
        if expected and not target.samefile(source) and hash_file(target) != expected:
            target.unlink()
            raise BreakpointCorrupt(
                f"breakpoint {found.path.name}: the bytes of its file {source.name} have been changed"
            )
        return target

    from fedjob.parameters.files import FileParams

    state = {
        key: FileParams(link(f"{key}.safetensors", value.path)) if isinstance(value, FileParams) else value
        for key, value in position.state.items()
    }
    return replace(position, state=state), {name: link(name, path) for name, path in found.extras.items()}


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


def history_of(path: Path) -> tuple[tuple[Measurement, ...], tuple[AggregationRecord, ...]]:
    """Return what was measured and aggregated by a breakpoint, to be looked at: no file of tensors is read or checked.

    Nothing for an unreadable one.
    """
    try:
        record = from_plain(_BreakpointRecord, unpack((path / "record.mpk").read_bytes()))
    except (OSError, DecodeError):
        return (), ()
    return tuple(record.rows), tuple(record.ledger)


def states_at(named: Mapping[str, Collection[str]], node: str) -> list[str] | None:
    """Return the ids of the node states that a party is to keep, whichever of its datasets they belong to.

    Returns:
        None, for all of the job, where they are too many for a message.
    """
    party = party_of(node)
    found = {state for each, states in named.items() if party_of(each) == party for state in states if state}
    return sorted(found) if len(found) <= MAX_NAMED_STATES else None


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
        remove_folder(_set_aside(path))


def drop_later(folder: JobFolder, round_: int) -> None:
    """Remove the breakpoints of later rounds: those of an attempt that went on from an older one than they are."""
    for path in reversed(list_breakpoints(folder.breakpoints)):
        if round_of(path) > round_:
            remove_folder(_set_aside(path))


def drop_unfinished(folder: JobFolder) -> None:
    """Remove the breakpoints that a process was writing or removing when it was killed.

    The caller holds the job's lock.
    """
    for path in folder.breakpoints.glob(".round_*.tmp"):
        remove_folder(path)


def _set_aside(path: Path) -> Path:
    """Take the name from a breakpoint that is to be removed, so that one with a name is whole; return where it is."""
    aside = path.with_name(f".{path.name}_0.{os.getpid()}.tmp")
    remove_folder(aside)
    with suppress(FileNotFoundError):
        path.rename(aside)
    return aside


def round_of(path: Path) -> int:
    """Return the round of a breakpoint in a job's folder, by its name."""
    return int(path.name.removeprefix("round_"))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _load(path: Path, admit: Admit | None = None) -> Breakpoint:
    files, signer, digest = _read_manifest(path)
    small: dict[str, bytes] = {}
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file():
            raise BreakpointCorrupt(f"breakpoint {path.name}: its file {name} is missing")
        if file.stat().st_size != size:
            raise BreakpointCorrupt(
                f"breakpoint {path.name}: its file {name} has {file.stat().st_size} bytes, expected {size}"
            )
        if name in _READ_ONCE:  # what was checked is what is read
            small[name] = file.read_bytes()
            found = hashlib.sha256(small[name]).hexdigest()
        else:
            found = hash_file(file)
        if found != sha256:
            raise BreakpointCorrupt(f"breakpoint {path.name}: the bytes of its file {name} have been changed")
    try:
        spec = unpack(small.get("spec.mpk", b""))
        plan_text = small.get("plan.py", b"").decode()
        if admit is not None:
            admit(Seal(path=path, signer=signer, digest=digest, spec=spec, plan_text=plan_text))
        record = from_plain(_BreakpointRecord, unpack(small.get("record.mpk", b"")))
        for name in record.extras:
            _check_listed(f"extra_{name}", files)
        return Breakpoint(
            path=path,
            position=Position(
                round=record.round,
                state=_load_state(record.state, path, files),
                node_states=record.node_states,
                rows=tuple(record.rows),
                ledger=tuple(record.ledger),
                training_args=record.training_args,
                under_way=record.under_way,
                learned=tuple(record.learned),
                stop=record.stop,
            ),
            spec=spec,
            plan_text=plan_text,
            extras={name: path / f"extra_{name}" for name in record.extras},
            hashes={name: sha256 for name, (_, sha256) in files.items()},
        )
    except (DecodeError, UnicodeDecodeError, OSError) as error:
        raise BreakpointCorrupt(f"breakpoint {path.name} can't be read: {error}") from error


def _check_listed(name: str, files: Mapping[str, Any]) -> None:
    if name not in files:
        raise DecodeError(f"it speaks of a file {name[:80]!r} that its manifest does not have")


def _read_manifest(path: Path) -> tuple[dict[str, tuple[int, str]], str, str]:
    """Return each file's size and sha256, the key that signed all of it, empty for none, and its sha256."""
    try:
        raw = (path / "manifest.mpk").read_bytes()
    except OSError as error:
        raise BreakpointCorrupt(
            f"breakpoint {path.name}: its manifest.mpk can't be read: {error.strerror}"
        ) from error
    at = len(raw) - _KEY_BYTES - _SIGNATURE_BYTES
    if at > 0 and hashlib.sha256(raw[: at - 32]).digest() == raw[at - 32 : at]:
        body, digest, key, signature = (
            raw[: at - 32],
            raw[at - 32 : at],
            raw[at : at + _KEY_BYTES],
            raw[at + _KEY_BYTES :],
        )
    else:  # signed by nobody, or cut
        body, digest, key, signature = raw[:-32], raw[-32:], b"", b""
    if hashlib.sha256(body).digest() != digest:
        raise BreakpointCorrupt(f"breakpoint {path.name}: its manifest.mpk has been changed or cut short")
    manifest = unpack(body)
    if not isinstance(manifest, dict):
        raise BreakpointCorrupt(f"breakpoint {path.name}: its manifest.mpk is none")
    if manifest.get("version") != VERSION:
        raise BreakpointIncompatible(
            f"breakpoint {path.name} is of version {manifest.get('version')}, this fedjob reads version {VERSION}"
        )
    try:
        files = {str(name): (int(size), str(sha256)) for name, (size, sha256) in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BreakpointCorrupt(f"breakpoint {path.name}: its manifest.mpk is none") from error
    if odd := [name for name in files if Path(name).name != name]:
        raise BreakpointCorrupt(f"breakpoint {path.name}: its manifest names {odd[0][:80]!r}, no file in it")
    if key and not verify(key.hex(), signature, _SIGNED + body):
        raise BreakpointCorrupt(
            f"breakpoint {path.name}: its manifest.mpk was not signed by the key that it names"
        )
    return files, key.hex(), digest.hex()


_READ_ONCE = ("spec.mpk", "plan.py", "record.mpk")
"""Files that are checked in memory, because what is done depends on them."""


def _write(path: Path, data: bytes, files: dict[str, list[Any]], mode: int) -> None:
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    files[path.name] = [len(data), hashlib.sha256(data).hexdigest()]


def _link(source: Path, target: Path, files: dict[str, list[Any]], mode: int) -> None:
    """Give a file a name in a breakpoint."""
    if mode == PRIVATE:
        link_or_copy(source, target)
    else:
        copy_file(source, target, mode=mode)
    files[target.name] = [target.stat().st_size, hash_file(target)]


def _store_state(
    state: Mapping[str, Any], folder: Path, files: dict[str, list[Any]], mode: int
) -> dict[str, Any]:
    """Store each set of named tensors as a file of its own; return the rest, their places marked."""
    import torch

    from fedjob.parameters.files import FileParams, save_params

    skeleton: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, FileParams):
            _link(value.path, folder / f"{key}.safetensors", files, mode)
            skeleton[key] = {_TENSORS: key}
        elif isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values()):
            target = folder / f"{key}.safetensors"
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, mode))
            save_params(value, target, durable=False)
            files[target.name] = [target.stat().st_size, hash_file(target)]
            skeleton[key] = {_TENSORS: key}
        else:
            skeleton[key] = value
    return skeleton


def _load_state(skeleton: Mapping[str, Any], folder: Path, files: Mapping[str, Any]) -> dict[str, Any]:
    for value in skeleton.values():
        if isinstance(value, dict) and value.keys() == {_TENSORS}:
            _check_listed(f"{value[_TENSORS]}.safetensors", files)
    from fedjob.parameters.files import FileParams

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
