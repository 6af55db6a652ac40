"""The replies of a job's nodes as they came, and the files that their bodies are kept in.

The journal holds the replies of a round, durable before their receipts: an append-only file.
A record is 4 bytes of length, 4 of CRC-32, and msgpack. A torn tail, which a
kill or a power cut may leave, is cut off when the file is read.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.files import fsync_dir, make_folder, private
from fedjob.messaging.messages import Result
from fedjob.parameters.files import FileParams
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import AggregationRecord

if TYPE_CHECKING:
    import torch

_FILE = re.compile(r"round_(\d+)_(.+)\.mpk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A node's answer with its tensors on disk."""

    node: str
    result: Result
    params: FileParams | None = None


def keep_replies(folder: JobFolder, round_: int, step: str, arrivals: Mapping[str, Arrival]) -> None:
    """Keep the bodies of an ask's replies as they came over the wire, without the tensors.

    What was too large for the message is kept with it, under `large`.
    """
    bodies = {}
    for node, arrival in arrivals.items():
        result = arrival.result
        if result.blob is None:
            bodies[node] = {"body": to_plain(result)}
        else:
            body = to_plain(replace(result, value=None, metrics={}))
            bodies[node] = {"body": body, "large": {"value": result.value, "metrics": result.metrics}}
    path = folder.reply(round_, step)
    make_folder(path.parent)
    # not fsynced: nothing is computed from it, and an ask should cost no more than it must
    temporary = path.with_suffix(".new")
    with open(temporary, "wb", opener=private) as file:
        file.write(pack(bodies))
    os.replace(temporary, path)


def keep_summed(folder: JobFolder, round_: int, step: str, metrics: Mapping[str, Any]) -> None:
    """Keep the metrics of a secure sum, phase -> name -> state: no reply has them."""
    if not metrics:
        return
    path = _summed(folder, round_, step)
    make_folder(path.parent)
    temporary = path.with_suffix(".new")
    with open(temporary, "wb", opener=private) as file:
        file.write(pack({phase: dict(states) for phase, states in metrics.items()}))
    os.replace(temporary, path)


def read_summed(folder: JobFolder, round_: int, step: str) -> dict[str, Any]:
    """Return the metrics of a secure sum, phase -> name -> state; nothing where there was none."""
    return read_reply(_summed(folder, round_, step))


def _summed(folder: JobFolder, round_: int, step: str) -> Path:
    return folder.reply(round_, step).with_suffix(".sum")


def raw_replies(folder: JobFolder) -> dict[int, dict[str, Any]]:
    """Return round -> step -> node -> body."""
    found: dict[int, dict[str, Any]] = {}
    for round_, step, path in reply_files(folder):
        found.setdefault(round_, {})[step] = {node: kept["body"] for node, kept in read_reply(path).items()}
    return found


def reply_files(folder: JobFolder) -> list[tuple[int, str, Path]]:
    """Return round, step and path of each ask that was answered, oldest first."""
    found = []
    for path in folder.replies.glob("round_*.mpk"):
        if match := _FILE.fullmatch(path.name):
            found.append((int(match[1]), match[2], path))
    return sorted(found)


def read_reply(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing for one that a power cut damaged."""
    try:
        bodies = unpack(path.read_bytes())
    except (OSError, DecodeError):
        return {}
    return bodies if isinstance(bodies, dict) else {}


def read_aux(
    folder: JobFolder, aggregator: AggregationRecord
) -> dict[str, dict[str, Mapping[str, torch.Tensor]]]:
    """Return module -> node -> name -> tensor, of the files that are still there; a tensor is read when asked for."""
    from fedjob.parameters.auxiliary import split
    from fedjob.parameters.files import FileParams

    found: dict[str, dict[str, Mapping[str, torch.Tensor]]] = {module: {} for module in aggregator.aux_hashes}
    for node, _, _ in aggregator.inputs:
        for path in folder.counted(aggregator.round, aggregator.step, str(node)):
            for module, tensors in split(FileParams(path))[1].items():
                found.setdefault(module, {})[str(node)] = tensors
    return found


class Journal:
    """A round's journal, open for appending."""

    def __init__(self, path: Path) -> None:
        fresh = not path.exists()
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        if fresh:
            fsync_dir(path.parent)
        else:
            os.ftruncate(self._descriptor, sum(8 + len(raw) for raw in _records(path)))

    def append(self, records: Sequence[Any]) -> None:
        """Write records; they are durable after the next `sync`."""
        data = b"".join(
            len(raw).to_bytes(4, "little") + zlib.crc32(raw).to_bytes(4, "little") + raw
            for raw in map(pack, records)
        )
        os.write(self._descriptor, data)

    def sync(self, sync: Callable[[int], None] = os.fsync) -> None:
        """Make all records durable, those of a process that was killed among them: one fsync for all.

        Args:
            sync: makes an open file durable; other files may go to the disk along with it.
        """
        sync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_journal(path: Path) -> list[Any]:
    """Return the whole records of a journal, none if there is no file."""
    try:
        return [unpack(raw) for raw in _records(path)]
    except DecodeError:
        return []


def _records(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    data, found, at = path.read_bytes(), [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        raw = data[at + 8 : at + 8 + length]
        if len(raw) != length or zlib.crc32(raw) != int.from_bytes(data[at + 4 : at + 8], "little"):
            break
        found.append(raw)
        at += 8 + length
    return found
