"""The files that a `Plan` makes: what it returns by file name, written beside the job's value.

A plan with a `primary` returns a map from names of files to what is in them: a table,
text, bytes, or plain data, which becomes JSON. Tables of several nodes become one with a
column `node`; of anything else there is a file for each node, `ward.notes.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjob.common.durable import write_atomic
from fedjob.common.plans.compilation import make_plan
from fedjob.common.plans.pipeline import Pipeline
from fedjob.common.plans.step import is_file_name
from fedjob.common.protocols.steps import Steps
from fedjob.researcher.spec import JobSpec
from fedjob.researcher.table import ResultTable, frame_of


def primary_of(spec: JobSpec, plan_text: str) -> str:
    """Return the file that matters most, as a job's plan names it; empty for a job without."""
    if spec.protocol.name != Steps.name or spec.plans:
        return ""
    plan = make_plan(plan_text, spec.plan_entry)
    return plan.whole.primary if isinstance(plan, Pipeline) else ""


def write_files(folder: Path, value: Any, *, of_nodes: bool) -> list[str]:
    """Write the files that a value is a map of; return their names.

    What is under a name that is none of a file is left out: it stands in the value.

    Args:
        value: name -> content.
        of_nodes: node -> that.
    """
    contents = _contents(value, of_nodes)
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        frame = frame_of(content)
        if frame is not None:
            ResultTable(frame).to_csv(folder / name)
        else:
            write_atomic(folder / name, _bytes_of(content))
    return list(contents)


def _contents(value: Any, of_nodes: bool) -> dict[str, Any]:
    if not of_nodes:
        return _named(value)
    each: dict[str, dict[str, Any]] = {}
    for node, files in value.items():
        for name, content in _named(files).items():
            each.setdefault(name, {})[str(node)] = content
    found: dict[str, Any] = {}
    for name, contents in each.items():
        joined = frame_of(contents)
        found |= {name: joined} if joined is not None else {f"{n}.{name}": c for n, c in contents.items()}
    return found


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {name: content for name, content in value.items() if is_file_name(name)}


def _bytes_of(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return json.dumps(content, indent=1, default=str).encode() + b"\n"
