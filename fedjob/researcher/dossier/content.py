"""The content of a dossier as plain data: who asked what of whom, who allowed it, what was computed, what left each node."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedjob._version import __version__
from fedjob.common.checks import is_number
from fedjob.common.codec import from_plain, pack, to_plain
from fedjob.common.errors import BreakpointMissing
from fedjob.common.lifecycle import HISTORY
from fedjob.researcher.monitoring.participation import participation_of
from fedjob.researcher.rounds.verification import SECURE, Check, verify_job
from fedjob.researcher.storage.audit_heads import read_heads, summaries
from fedjob.researcher.storage.breakpoints import hash_file, load_breakpoint, newest_valid
from fedjob.researcher.storage.event import as_json
from fedjob.researcher.storage.event_log import read_events
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import AggregationRecord, Position
from fedjob.researcher.storage.record import JobRecord
from fedjob.researcher.storage.replies import read_reply, reply_files
from fedjob.researcher.storage.spec import JobSpec

FORMAT = 1
PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "pyarrow", "safetensors", "cryptography", "msgpack")
"""Packages whose versions stand in a dossier, where they are installed."""

Plain = dict[str, Any]


def dossier_content(folder: JobFolder, spec: JobSpec, record: JobRecord) -> Plain:
    """Return everything that a dossier says, as plain data of JSON.

    Every aggregation is computed again for it, as `fedjob verify` does.
    """
    newest = newest_valid(folder.breakpoints)
    position = None if newest is None else load_breakpoint(newest).position
    checks = _verified(folder)
    heads = [head.to_line() for head in read_heads(folder.audit_heads)]
    content: Plain = {
        "format": FORMAT,
        "made": _made(),
        "job": _job(spec, record, position),
        "permissions": _permissions(spec, record),
        "data": _data(spec, record, position),
        "plan": _plan(spec, folder),
        "protections": _protections(spec, record),
        "rounds": [to_plain(entry) for entry in position.ledger] if position else [],
        "measured": [asdict(row) for row in position.rows] if position else [],
        "left_the_nodes": _left_the_nodes(folder),
        "result": _result(folder),
        "verification": [asdict(check) for check in checks],
        "audit_logs": [asdict(each) for each in summaries(folder.audit_heads)],
        "audit_heads": heads,
        "not_checked": not_checked(spec, record, checks, heads),
    }
    plain: Plain = as_json(content)
    return plain


def ledger_problem(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return where the chain of a dossier's rounds is broken, in words; empty where each follows from the one before."""
    previous = ""
    for number, entry in enumerate(entries, 1):
        if entry.get("previous_hash") != previous:
            return f"aggregation {number} (round {entry.get('round')}) does not follow from the one before"
        previous = hashlib.sha256(pack(to_plain(from_plain(AggregationRecord, dict(entry))))).hexdigest()
    return ""


def not_checked(spec: JobSpec, record: JobRecord, checks: Sequence[Check], heads: Sequence[str]) -> list[str]:
    """Return what nobody has checked for this dossier, in sentences."""
    found = [
        "The numbers of rows are those that the nodes reported; nobody else can count them.",
        "That a node ran exactly this plan on exactly this dataset is the node's own word. Its audit log says so, too, and its "
        "owner can compare that log with the heads below: fedjob node audit verify --against FILE.",
        "Whether the people who allowed the job were entitled to, and read what they allowed.",
        "What the result says about single patients, beyond the protections that are listed.",
    ]
    if spec.local:
        found.append("The job ran on this machine alone: no owner was asked, and no sandbox was in force.")
    elif not heads:
        found.append("No heads of the nodes' audit logs came with their answers.")
    left = [check for check in checks if check.verdict == "not kept"]
    if left:
        found.append(
            f"{len(left)} of {len(checks)} aggregations were not computed again: their replies are no longer "
            "there, or the aggregator can't be repeated here (run with keep=True to keep replies)."
        )
    if sums := sum(check.verdict == SECURE for check in checks):
        found.append(f"{sums} secure sums were not computed again: nobody holds the single contributions.")
    without = sorted(node for node, sandbox in record.sandboxes.items() if sandbox in ("", "none"))
    if without:
        found.append(
            f"No sandbox was in force at {', '.join(without)}: what the plan did there was not confined."
        )
    if record.state not in HISTORY:
        found.append(f"The job has not ended: it is {record.state}, and this is how it stood.")
    return found


# -- sections ------------------------------------------------------------------


def _made() -> Plain:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "fedjob": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }


def _job(spec: JobSpec, record: JobRecord, position: Position | None) -> Plain:
    return {
        "id": spec.id,
        "name": spec.name,
        "note": spec.note,
        "project": spec.project,
        "researcher": spec.researcher,
        "researcher_key": spec.owner_key,
        "about_the_researcher": spec.owner,
        "federation": spec.federation,
        "local": spec.local,
        "protocol": to_plain(spec.protocol),
        "rounds_asked": record.rounds or spec.rounds,
        "rounds_done": position.round if position else 0,
        "seed": spec.seed,
        "use": spec.use,
        "state": record.state,
        "reason": record.reason,
        "detail": record.detail,
        "created": record.created,
        "submitted": record.submitted,
        "started": record.started,
        "finished": record.finished,
        "attempt": record.attempt,
        "earlier_attempts": [asdict(each) for each in record.past],
        "cloned_from": spec.cloned_from,
        "content_hash": record.content_hash,
    }


def _permissions(spec: JobSpec, record: JobRecord) -> list[Plain]:
    nodes = sorted({*spec.datasets, *record.grants, *record.absent})
    found = []
    for node in nodes:
        grant = record.grants.get(node, {})
        found.append(
            {
                "node": node,
                "decision": grant.get("state", "" if not spec.local else "not asked: a local job"),
                "by": grant.get("by", ""),
                "decided": _time(grant.get("when", 0.0)),
                "until": _time(grant.get("until", 0.0)),
                "grant": grant.get("grant", ""),
                "origin": grant.get("origin", ""),
                "limits": grant.get("limits", {}),
                "note": grant.get("note", ""),
                "contact": grant.get("contact", ""),
                "reason": grant.get("reason", "") or record.absent.get(node, ""),
            }
        )
    return found


def _data(spec: JobSpec, record: JobRecord, position: Position | None) -> list[Plain]:
    found = []
    for part in participation_of(spec, record, position):
        described = spec.datasets.get(part.node, {})
        found.append(
            {
                "node": part.node,
                "dataset": "" if spec.local else described.get("name", ""),
                "version": described.get("version", ""),
                "rows_registered": part.rows_registered,
                "rows_read": part.rows_read,
                "rows_used": part.rows_used,
                "took_part": part.took_part,
                "rounds": part.num_rounds,
                "why_not": part.reason,
            }
        )
    return found


def _plan(spec: JobSpec, folder: JobFolder) -> Plain:
    texts = {"": folder.plan} | {each["hash"]: folder.plan_of(each["hash"]) for each in spec.plans.values()}
    return {
        "entry": spec.plan_entry,
        "sha256": spec.plan_hash,
        "text": _text(folder.plan),
        "per_node": spec.plans,
        "texts_per_node": {hash_: _text(path) for hash_, path in texts.items() if hash_},
        "model_args": spec.model_args,
        "training_args": spec.training_args,
        "training_args_per_node": spec.each,
        "preprocess": spec.preprocess,
        "items": to_plain(spec.items),
        "files_brought": spec.files,
        "artifacts": spec.artifacts,
        "child_tasks": spec.launches,
    }


def _protections(spec: JobSpec, record: JobRecord) -> Plain:
    return {
        "protect": spec.protect,
        "guard": spec.guard,
        "quorum": spec.quorum,
        "aggregator": to_plain(spec.aggregator) if spec.aggregator else {},
        "selector": to_plain(spec.selector),
        "sandboxes": record.sandboxes,
        "privacy_spent": record.privacy,
    }


def _left_the_nodes(folder: JobFolder) -> list[Plain]:
    """Return what came from each node: answers, bytes of tensors and of all else, names of metrics, events."""
    found: dict[str, Plain] = {}

    def entry(node: str) -> Plain:
        empty = {
            "answers": 0,
            "tensor_bytes": 0,
            "other_bytes": 0,
            "metrics": set(),
            "events": {},
            "log_lines": 0,
        }
        return found.setdefault(node, {"node": node, **empty})

    for _, _, path in reply_files(folder):
        for node, kept in read_reply(path).items():
            body, one = kept.get("body", {}), entry(str(node))
            tensors = _size(body.get("params"))
            one["answers"] += 1
            one["tensor_bytes"] += tensors
            one["other_bytes"] += len(pack(body)) + _size(body.get("blob"))
            metrics = kept.get("large", {}).get("metrics", body.get("metrics", {}))
            one["metrics"] |= {f"{name}/{phase}" for phase, names in metrics.items() for name in names}
    if folder.events.exists():
        for event in read_events(folder.events):
            if event.node and event.type in ("log", "metrics", "progress", "result", "batch"):
                events = entry(event.node)["events"]
                events[event.type] = events.get(event.type, 0) + 1
    return [{**found[node], "metrics": sorted(found[node]["metrics"])} for node in sorted(found)]


def _result(folder: JobFolder) -> list[Plain]:
    if not folder.result.is_dir():
        return []
    files = [path for path in sorted(folder.result.rglob("*")) if path.is_file()]
    return [
        {
            "file": str(path.relative_to(folder.result)),
            "bytes": path.stat().st_size,
            "sha256": hash_file(path),
        }
        for path in files
    ]


def _verified(folder: JobFolder) -> list[Check]:
    try:
        return verify_job(folder)
    except BreakpointMissing:
        return []


def _size(ref: Any) -> int:
    size = ref.get("size_bytes", 0) if isinstance(ref, Mapping) else 0
    return int(size) if is_number(size) else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _time(seconds: Any) -> str:
    if not is_number(seconds) or not seconds:
        return ""
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="seconds")
