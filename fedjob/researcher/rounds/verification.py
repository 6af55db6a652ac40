"""The verification of a job: every committed fold is made again from its recorded replies.

The replies are taken from their files, each held to the hash that the ledger names,
and folded by the rule that the ledger names; the total must have the recorded bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.aggregation import FOLDS
from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, to_plain
from fedjob.common.errors import BreakpointMissing
from fedjob.parameters.auxiliary import split
from fedjob.parameters.files import FileParams, hash_params, raw_bytes
from fedjob.repository.parts import ref_of
from fedjob.researcher.storage.breakpoints import load_breakpoint, newest_valid
from fedjob.researcher.storage.folder import JobFolder
from fedjob.researcher.storage.position import AggregationRecord

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
)
"""Folds of the contributions alone; others need what the nodes began with, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What became of one committed fold.

    Args:
        verdict: `equal`, `different`, or `not kept`: its replies are no longer there.
    """

    round: int
    step: str
    verdict: str
    detail: str = ""


def verify_job(folder: JobFolder) -> list[Check]:
    """Fold every committed round of a job again and compare the bytes.

    Raises:
        BreakpointMissing: no valid breakpoint tells what was folded.
    """
    newest = newest_valid(folder.breakpoints)
    if newest is None:
        raise BreakpointMissing(
            f"{folder.breakpoints} holds no valid breakpoint: there is nothing to verify against"
        )
    ledger = load_breakpoint(newest).position.ledger
    checks, previous = [], ""
    counted: dict[str, int] = {}
    for fold in ledger:
        if fold.previous_hash != previous:
            checks.append(_check(fold, "different", "its record does not follow from the one before"))
        elif problem := _odd_arrival(fold, counted):
            checks.append(_check(fold, "different", problem))
        elif fold.fold != "collect" and _has_total(fold):  # collect only lists what came
            checks.append(_fold_again(fold, folder))
        counted |= {str(node): fold.round for node, _ in fold.arrived}
        previous = hashlib.sha256(pack(to_plain(fold))).hexdigest()
    return checks


def _check(fold: AggregationRecord, verdict: str, detail: str = "") -> Check:
    return Check(round=fold.round, step=fold.step, verdict=verdict, detail=detail)


def _has_total(fold: AggregationRecord) -> bool:
    return bool(fold.output_hash) or any(sha256 for _, sha256, _ in fold.inputs)


def _odd_arrival(fold: AggregationRecord, counted: dict[str, int]) -> str:
    """Return what can't be about the order in which contributions came in, or nothing.

    Args:
        counted: node -> round in which it counted last: it was asked again after that.
    """
    if fold.arrived and sorted(str(node) for node, _ in fold.arrived) != [
        str(node) for node, _, _ in fold.inputs
    ]:
        return "those who came in are not those who were folded"
    for node, asked in fold.arrived:
        if not counted.get(str(node), 0) < asked <= fold.round:
            return f"{node} can't answer in round {fold.round} what it was asked in round {asked}"
    return ""


def _fold_again(fold: AggregationRecord, folder: JobFolder) -> Check:
    if fold.fold not in RECOMPUTED:
        return _check(fold, "not kept", f"{fold.fold} is not recomputed here")
    if not fold.output_hash:
        return _check(fold, "not kept", "its total was not recorded; run jobs with keep=True to verify them")
    paths = []
    for node, params_hash, _ in fold.inputs:
        kept = folder.contributions(fold.round, fold.step, str(node))
        if not kept:
            return _check(
                fold, "not kept", f"the reply of {node} is gone; run jobs with keep=True to verify them"
            )
        path = next((p for p in kept if ref_of(p).sha256 == params_hash), None)
        if path is None:
            return _check(fold, "different", f"the file of {node} is not the one that was folded")
        paths.append(path)
    total, aux = split(_again(fold, paths))
    output = folder.spool(fold.round) / f"total_{fold.step}.safetensors"
    if output.exists():
        if ref_of(output).sha256 != fold.output_hash:
            return _check(fold, "different", "the file of the total is not the recorded one")
        recorded = FileParams(output)
        for name in recorded:
            if name not in total or raw_bytes(total[name]) != raw_bytes(recorded[name]):
                return _check(fold, "different", f"{name} does not follow from the replies")
    elif hash_params(total) != fold.output_hash:
        return _check(fold, "different", "the total does not follow from the replies")
    for module, expected_hash in fold.aux_hashes.items():
        if expected_hash and hash_params(aux.get(module, {})) != expected_hash:
            return _check(
                fold, "different", f"the auxiliary variables {module} do not follow from the replies"
            )
    return _check(fold, "equal")


def _again(fold: AggregationRecord, paths: Sequence[Path]) -> Mapping[str, torch.Tensor]:
    """Return what the fold of files is; an older contribution is one of a node that was asked earlier."""
    asked = {str(node): int(round_) for node, round_ in fold.arrived}
    given = [
        Contribution(FileParams(path), float(weight), staleness=fold.round - asked.get(str(node), fold.round))
        for path, (node, _, weight) in zip(paths, fold.inputs, strict=True)
    ]
    total: Mapping[str, torch.Tensor] = FOLDS.build(fold.fold, fold.fold_config).fold(given).value
    return total
