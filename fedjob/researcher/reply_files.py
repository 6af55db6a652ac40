"""The replies of a job's nodes as they came, and the files that their bodies are kept in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import DecodeError
from fedjob.common.messages import Result
from fedjob.common.params import FileParams
from fedjob.researcher.folder import JobFolder

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
    path.parent.mkdir(exist_ok=True)
    # not fsynced: nothing is computed from it, and an ask should cost no more than it must
    temporary = path.with_suffix(".new")
    temporary.write_bytes(pack(bodies))
    os.replace(temporary, path)


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
