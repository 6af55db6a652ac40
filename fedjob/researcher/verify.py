"""Compute every committed fold again from its recorded replies.

Means are written apart from the round loop, with numpy on the files' own bytes, so
that an error in the one is not repeated in the other. Folds that bear liars are made
again by themselves, from the recorded files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedjob.common.auxiliary import PREFIX
from fedjob.common.codec import pack, to_plain
from fedjob.common.contribution import Contribution
from fedjob.common.errors import BreakpointMissing
from fedjob.common.folds import FOLDS
from fedjob.common.params import FileParams, raw_bytes
from fedjob.common.repository.parts import ref_of
from fedjob.researcher.breakpoints import load_breakpoint, newest_valid
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.position import Fold

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

MEANS = ("weighted_mean", "plain_mean", "buffered_mean")
ROBUST = ("median", "trimmed_mean", "geometric_median", "krum", "bulyan")
"""Folds of the contributions alone; others need what the nodes began with, too."""

Folded = Callable[[str], bytes]
"""Returns the bytes of one tensor of a total by its name."""


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


def _check(fold: Fold, verdict: str, detail: str = "") -> Check:
    return Check(round=fold.round, step=fold.step, verdict=verdict, detail=detail)


def _has_total(fold: Fold) -> bool:
    return bool(fold.output_hash) or any(sha256 for _, sha256, _ in fold.inputs)


def _odd_arrival(fold: Fold, counted: dict[str, int]) -> str:
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


def _fold_again(fold: Fold, folder: JobFolder) -> Check:
    if fold.fold not in (*MEANS, *ROBUST):
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
    like = _read(paths[0])
    own = {name: tensor for name, tensor in like.items() if not name.startswith(PREFIX)}
    folded = _again(fold, paths)
    output = folder.spool(fold.round) / f"total_{fold.step}.safetensors"
    if output.exists():
        if ref_of(output).sha256 != fold.output_hash:
            return _check(fold, "different", "the file of the total is not the recorded one")
        for name, expected in _read(output).items():
            if folded(name) != expected.raw.tobytes():
                return _check(fold, "different", f"{name} does not follow from the replies")
    elif _hash(own, folded) != fold.output_hash:
        return _check(fold, "different", "the total does not follow from the replies")
    for module, expected_hash in fold.aux_hashes.items():
        if expected_hash and _hash(like, folded, f"{PREFIX}{module}.") != expected_hash:
            return _check(
                fold, "different", f"the auxiliary variables {module} do not follow from the replies"
            )
    return _check(fold, "equal")


def _again(fold: Fold, paths: Sequence[Path]) -> Folded:
    """Return what the fold of files is, tensor by tensor."""
    if fold.fold in MEANS:
        inputs, shares = [_read(path) for path in paths], _shares(fold)
        return lambda name: _mean([tensors[name] for tensors in inputs], shares)
    weights = [float(weight) for _, _, weight in fold.inputs]
    given = [Contribution(FileParams(path), weight) for path, weight in zip(paths, weights, strict=True)]
    total = FOLDS.build(fold.fold, fold.fold_config).fold(given).value
    return lambda name: raw_bytes(total[name]).tobytes()


def _shares(fold: Fold) -> list[float]:
    weights = [float(weight) for _, _, weight in fold.inputs]
    whole = sum(weights)
    weighted = fold.fold == "weighted_mean" or fold.fold_config.get("weighted", False)
    if weighted and whole > 0:
        shares = [weight / whole for weight in weights]
    else:
        shares = [1 / len(weights)] * len(weights)
    asked, exponent = (
        {str(node): int(round_) for node, round_ in fold.arrived},
        fold.fold_config.get("exponent", 0),
    )
    return [
        share * float((1 + fold.round - asked.get(str(node), fold.round)) ** -exponent)
        for share, (node, _, _) in zip(shares, fold.inputs, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as it lies in a file: safetensors' name of its dtype, and its bytes."""

    dtype: str
    shape: list[int]
    raw: Any

    def numbers(self) -> Any:
        """Return its elements in float64, one dimension."""
        if self.dtype == "BF16":  # numpy has none: the upper half of a float32
            return (self.raw.view("<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        return self.raw.view(_NUMPY[self.dtype]).astype(np.float64)


def _mean(tensors: Sequence[_Stored], shares: Sequence[float]) -> bytes:
    result = tensors[0].numbers() * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        result += tensor.numbers() * share
    dtype = tensors[0].dtype
    if dtype == "BF16":
        bits = result.astype("<f4").view("<u4")
        to_even = (bits >> 16) & 1
        return bytes(((bits + 0x7FFF + to_even) >> 16).astype("<u2").tobytes())
    kind = np.dtype(_NUMPY[dtype])
    return bytes((np.rint(result) if kind.kind in "iub" else result).astype(kind).tobytes())


def _hash(like: Mapping[str, _Stored], folded: Folded, prefix: str = "") -> str:
    """Return what `hash_params` makes of the fold of the tensors whose names begin with `prefix`."""
    digest = hashlib.sha256()
    for name in sorted(name for name in like if name.startswith(prefix)):
        stored = like[name]
        digest.update(f"{name.removeprefix(prefix)}\0{stored.dtype}\0{stored.shape}\0".encode())
        digest.update(folded(name))
    return digest.hexdigest()


def _read(path: Path) -> dict[str, _Stored]:
    data = np.memmap(path, dtype="u1", mode="r")
    size = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + size].tobytes())
    body = data[8 + size :]
    return {
        name: _Stored(entry["dtype"], list(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }
