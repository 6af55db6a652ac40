"""The verification of a job: every committed aggregation is computed again from its recorded replies.

The replies are read from their files, each compared with the hash that the ledger names,
and aggregated by the rule that the ledger names; the total must have the recorded bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.aggregation import AGGREGATORS
from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import BreakpointMissing, DecodeError
from fedjob.parameters.auxiliary import split
from fedjob.parameters.files import FileParams, hash_params, raw_bytes
from fedjob.repository.parts import ref_of
from fedjob.researcher.rounds.compression import opened_again
from fedjob.researcher.storage.breakpoints import load_breakpoint, newest_valid
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import SECURE_SUM, AggregationRecord

if TYPE_CHECKING:
    import torch

RECOMPUTED = (
    "weighted_mean",
    "plain_mean",
    "buffered_mean",
    "median",
    "trimmed_mean",
    "geometric_median",
    "krum",
    "bulyan",
    "stacked_adapters",
)
"""Aggregators that need the contributions only; others also need the parameters that the nodes began with."""


SECURE = "secure sum"
"""The verdict on a secure sum whose total was not changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of checking one committed aggregation.

    Args:
        verdict: `equal`, `different`, `not kept`: its replies are no longer there, or `secure sum`: nobody can compute it
            again, and the file of its total, where it is still there, is the recorded one.
    """

    round: int
    step: str
    verdict: str
    detail: str = ""


def verify_job(folder: JobFolder) -> list[Check]:
    """Aggregate every committed round of a job again and compare the bytes.

    Raises:
        BreakpointMissing: there is no valid breakpoint, which holds the ledger.
    """
    newest = newest_valid(folder.breakpoints)
    if newest is None:
        raise BreakpointMissing(
            f"{folder.breakpoints} holds no valid breakpoint: there is nothing to verify against"
        )
    ledger = load_breakpoint(newest).position.ledger
    checks, previous = [], ""
    counted: dict[str, int] = {}
    for record in ledger:
        if record.previous_hash != previous:
            checks.append(_check(record, "different", "its record does not follow from the one before"))
        elif problem := _odd_arrival(record, counted):
            checks.append(_check(record, "different", problem))
        elif record.aggregator != "collect" and _has_total(record):  # collect only lists what came
            checks.append(_aggregate_again(record, folder))
        counted |= {str(node): record.round for node, _ in record.arrived}
        previous = hashlib.sha256(pack(to_plain(record))).hexdigest()
    return checks


def _check(record: AggregationRecord, verdict: str, detail: str = "") -> Check:
    return Check(round=record.round, step=record.step, verdict=verdict, detail=detail)


def _has_total(record: AggregationRecord) -> bool:
    return bool(record.output_hash) or any(sha256 for _, sha256, _ in record.inputs)


def _odd_arrival(record: AggregationRecord, counted: dict[str, int]) -> str:
    """Return what can't be about the order in which contributions came in, or nothing.

    Args:
        counted: node -> round in which it counted last: it was asked again after that.
    """
    if record.arrived and sorted(str(node) for node, _ in record.arrived) != [
        str(node) for node, _, _ in record.inputs
    ]:
        return "the contributions that arrived are not those that were aggregated"
    for node, asked in record.arrived:
        if not counted.get(str(node), 0) < asked <= record.round:
            return f"{node} can't answer in round {record.round} what it was asked in round {asked}"
    return ""


def _aggregate_again(record: AggregationRecord, folder: JobFolder) -> Check:
    if record.aggregator == SECURE_SUM:
        return _look_at_total(record, folder)
    if record.aggregator not in RECOMPUTED:
        return _check(record, "not kept", f"{record.aggregator} is not recomputed here")
    if not record.output_hash:
        return _check(
            record, "not kept", "its total was not recorded; run jobs with keep=True to verify them"
        )
    paths = []
    for node, params_hash, _ in record.inputs:
        kept = folder.contributions(record.round, record.step, str(node))
        if not kept:
            return _check(
                record, "not kept", f"the reply of {node} is gone; run jobs with keep=True to verify them"
            )
        path = next((p for p in kept if ref_of(p).sha256 == params_hash), None)
        if path is None:
            return _check(record, "different", f"the file of {node} is not the one that was aggregated")
        paths.append(path)
    try:
        total, aux = split(_again(record, paths, folder))
    except DecodeError as error:
        return _check(record, "different", str(error))
    output = folder.spool(record.round) / f"total_{record.step}.safetensors"
    if output.exists():
        if ref_of(output).sha256 != record.output_hash:
            return _check(record, "different", "the file of the total is not the recorded one")
        recorded = FileParams(output)
        for name in recorded:
            if name not in total or raw_bytes(total[name]) != raw_bytes(recorded[name]):
                return _check(record, "different", f"{name} does not follow from the replies")
    elif hash_params(total) != record.output_hash:
        return _check(record, "different", "the total does not follow from the replies")
    for module, expected_hash in record.aux_hashes.items():
        if expected_hash and hash_params(aux.get(module, {})) != expected_hash:
            return _check(
                record, "different", f"the auxiliary variables {module} do not follow from the replies"
            )
    return _check(record, "equal")


def _look_at_total(record: AggregationRecord, folder: JobFolder) -> Check:
    """Compare the file of a secure sum with the ledger: no single contribution is known to compute it again from."""
    output = folder.spool(record.round) / f"total_{record.step}.safetensors"
    if output.exists() and record.output_hash and ref_of(output).sha256 != record.output_hash:
        return _check(record, "different", "the file of the total is not the recorded one")
    return _check(record, SECURE, "a secure sum can't be computed again: no single contribution is known")


def _again(record: AggregationRecord, paths: Sequence[Path], folder: JobFolder) -> Mapping[str, torch.Tensor]:
    """Return the aggregate of files; an older contribution is one of a node that was asked earlier."""
    asked = {str(node): int(round_) for node, round_ in record.arrived}
    origin = folder.spool(record.round) / f"origin_{record.step}.safetensors"
    given = [
        Contribution(
            opened_again(record.compress, path, origin) if record.compress else FileParams(path),
            float(weight),
            staleness=record.round - asked.get(str(node), record.round),
        )
        for path, (node, _, weight) in zip(paths, record.inputs, strict=True)
    ]
    total: Mapping[str, torch.Tensor] = (
        AGGREGATORS.build(record.aggregator, record.aggregator_config).aggregate(given).value
    )
    return total
