"""What came of a job so far: the nodes' replies as they came, and the last committed round."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.codec import from_plain, pack, to_plain, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.messages import Result
from fedjob.common.predictions import merged
from fedjob.common.protocols.inference import STEP
from fedjob.common.values import decode

if TYPE_CHECKING:
    import torch

    from fedjob.researcher.federation import Arrival
    from fedjob.researcher.folder import JobFolder
    from fedjob.researcher.history import Measurement
    from fedjob.researcher.replies import Replies
    from fedjob.researcher.spec import JobSpec

_FILE = re.compile(r"round_(\d+)_(.+)\.mpk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What there is of a result before, or without, the end.

    Args:
        round: the last committed one, 0 before the first.
        values: node -> what it returned last, where that is a value; of an inference all its passes together.
        params: of the last committed round; None for a job that has none.
        rows: what was measured.
    """

    round: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    params: dict[str, torch.Tensor] | None = None
    rows: tuple[Measurement, ...] = ()


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
    path.parent.mkdir(exist_ok=True)
    # not fsynced: nothing is computed from it, and an ask should cost no more than it must
    temporary = path.with_suffix(".new")
    temporary.write_bytes(pack(bodies))
    os.replace(temporary, path)


def raw_replies(folder: JobFolder) -> dict[int, dict[str, Any]]:
    """Return round -> step -> node -> body."""
    found: dict[int, dict[str, Any]] = {}
    for round_, step, path in _files(folder):
        found.setdefault(round_, {})[step] = {node: kept["body"] for node, kept in _read(path).items()}
    return found


def kept_replies(folder: JobFolder, spec: JobSpec) -> dict[int, Replies]:
    """Return round -> replies, of what was kept."""
    from fedjob.researcher.federation import Arrival
    from fedjob.researcher.replies import make_replies

    found = {}
    for round_, _, path in _files(folder):
        arrivals = {
            node: Arrival(node=node, result=from_plain(Result, {**kept["body"], **kept.get("large", {})}))
            for node, kept in _read(path).items()
        }
        found[round_] = make_replies(arrivals, {}, spec.datasets)
    return found


def load_partial(folder: JobFolder) -> Partial:
    """Return what there is of a job's result now; nothing for a job that has not begun."""
    from fedjob.researcher.breakpoints import load_breakpoint, newest_valid

    values = {node: decode(value) for node, value in _last_values(folder).items()}
    newest = newest_valid(folder.breakpoints)
    if newest is None:
        return Partial(values=values)
    position = load_breakpoint(newest).position
    shared = position.state.get("params")
    params = None if shared is None else {name: shared[name].clone() for name in shared}
    return Partial(round=position.round, values=values, params=params or None, rows=position.rows)


def _last_values(folder: JobFolder) -> dict[str, Any]:
    """Return node -> its last value, encoded; of an inference those of all passes."""
    passes: dict[str, list[tuple[int, Any]]] = {}
    for round_, step, path in _files(folder):
        for node, kept in _read(path).items():
            value = {**kept["body"], **kept.get("large", {})}.get("value")
            if value is not None:
                before = passes.get(node, []) if step == STEP else []
                passes[node] = [*before, (round_, value)]
    return {node: merged(values) for node, values in passes.items()}


def _files(folder: JobFolder) -> list[tuple[int, str, Path]]:
    """Return round, step and path of each ask that was answered, oldest first."""
    found = []
    for path in folder.replies.glob("round_*.mpk"):
        if match := _FILE.fullmatch(path.name):
            found.append((int(match[1]), match[2], path))
    return sorted(found)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing for one that a power cut damaged."""
    try:
        bodies = unpack(path.read_bytes())
    except (OSError, DecodeError):
        return {}
    return bodies if isinstance(bodies, dict) else {}
