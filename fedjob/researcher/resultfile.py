"""The folder of a job's result: written once, before the job is completed; read without a network.

<job>/result/
    manifest.mpk          what kind of result it is, what was measured, each file's size and sha256
    params.safetensors    named tensors, where there are any
    value.mpk             any other value
    table.csv             for people, where the value is a table
    files/                those that a `Plan` with a `primary` returned
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.durable import link_or_copy, write_atomic
from fedjob.common.errors import DecodeError, NotReady
from fedjob.common.params import FileParams, is_params, save_params
from fedjob.common.protocols.function import NodeValues
from fedjob.common.values import decode, encode
from fedjob.researcher.breakpoints import hash_file
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.history import Measurement
from fedjob.researcher.namedfiles import write_files
from fedjob.researcher.table import ResultTable, frame_of

MANIFEST, PARAMS, VALUE, TABLE = "manifest.mpk", "params.safetensors", "value.mpk", "table.csv"
FILES = "files"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the folder holds.

    Args:
        kind: `params`; `nodes`, a value of each node; or `value`.
        rounds: that were committed.
        files: name -> `[size, sha256]`.
        primary: the file that matters most; empty for the usual order.
        learned: steps of the preprocessing that found values in the data of all nodes, complete.
    """

    version: int = VERSION
    kind: str
    rounds: int
    rows: list[Measurement] = field(default_factory=list)
    learned: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, list[Any]] = field(default_factory=dict)
    primary: str = ""


def save_result(
    folder: JobFolder,
    value: Any,
    *,
    rounds: int = 0,
    rows: tuple[Measurement, ...] = (),
    num_nodes: int = 1,
    learned: Sequence[Mapping[str, Any]] = (),
    primary: str = "",
) -> dict[str, list[Any]]:
    """Write a protocol's result, durably; return its files, name -> `[size, sha256]`.

    Args:
        num_nodes: of the job; one alone has its value for the result, several a map.
        primary: the file that matters most of those that the value is a map of; empty for none.
    """
    target = folder.result
    target.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, PARAMS, VALUE, TABLE):  # of an earlier end
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(target / FILES, ignore_errors=True)
    kind = "value"
    if isinstance(value, NodeValues):
        kind = "value" if value.folded else "nodes"
        value = value.total if value.folded else value.nodes
        plain = None if isinstance(value, FileParams) else value
    else:
        plain = None if is_params(value) else encode(value, "the result")
    if isinstance(value, FileParams):
        kind = "params"
        link_or_copy(value.path, target / PARAMS)
    elif is_params(value):
        kind = "params"
        save_params(value, target / PARAMS)
    else:
        write_atomic(target / VALUE, pack(plain))
        _write_table(target / TABLE, kind, plain, num_nodes)
        if primary:
            several = kind == "nodes" and not (num_nodes == 1 and len(value) == 1)
            write_files(target / FILES, opened(plain, kind, num_nodes), of_nodes=several)
    paths = {name: target / name for name in (PARAMS, VALUE, TABLE)}
    paths |= {path.name: path for path in sorted((target / FILES).glob("*"))}
    files = {name: [path.stat().st_size, hash_file(path)] for name, path in paths.items() if path.exists()}
    manifest = Manifest(
        kind=kind,
        rounds=rounds,
        rows=list(rows),
        learned=[dict(step) for step in learned],
        files=files,
        primary=primary,
    )
    write_atomic(target / MANIFEST, pack(to_plain(manifest)))
    return files


def load_manifest(folder: JobFolder) -> Manifest:
    """Read what the result's folder holds.

    Raises:
        NotReady: there is none.
        DecodeError: it is damaged.
    """
    try:
        return from_plain(Manifest, unpack((folder.result / MANIFEST).read_bytes()))
    except FileNotFoundError as error:
        raise NotReady(f"{folder.result} holds no result", id=folder.path.name) from error
    except OSError as error:
        raise DecodeError(f"the result in {folder.result} can't be read: {error}") from error


def load_value(path: Path) -> Any:
    """Read a value; a map of nodes stays encoded within."""
    return unpack(path.read_bytes())


def opened(plain: Any, kind: str, num_nodes: int) -> Any:
    """Return a stored value as the researcher sees it: one node's own, or a map from node to value."""
    if kind != "nodes":
        return decode(plain)
    values = {node: decode(item) for node, item in plain.items()}
    return next(iter(values.values())) if num_nodes == 1 and len(values) == 1 else values


def _write_table(path: Path, kind: str, plain: Any, num_nodes: int) -> None:
    """Write a table as csv too; without pandas here the value alone has to do."""
    with contextlib.suppress(ImportError):
        frame = frame_of(opened(plain, kind, num_nodes)) if _holds_frame(plain) else None
        if frame is not None:
            ResultTable(frame).to_csv(path)


def _holds_frame(plain: Any) -> bool:
    """Whether it is a table, or a map of them, without decoding it."""
    if not isinstance(plain, dict) or not plain:
        return False
    return plain.get("\0type") == "frame" or all(
        isinstance(item, dict) and item.get("\0type") == "frame" for item in plain.values()
    )
