"""The result of a job so far: the nodes' last replies, and the last committed round."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import checked_methods
from fedjob.common.codec import from_plain
from fedjob.common.values import decode
from fedjob.messaging.messages import Result
from fedjob.protocols.inference import STEP
from fedjob.protocols.predictions import merged
from fedjob.protocols.usage import Usage
from fedjob.researcher.storage.replies import Arrival, read_reply, reply_files

if TYPE_CHECKING:
    import torch

    from fedjob.researcher.results.training_replies import Replies
    from fedjob.researcher.storage.folder import JobFolder
    from fedjob.researcher.storage.measurements import Measurement
    from fedjob.researcher.storage.spec import JobSpec


@checked_methods
@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """The part of a result that exists before, or without, the end of its job.

    Args:
        round: the last committed round, 0 before the first.
        values: node -> what it returned last, where that is a value; of an inference all its passes together.
        params: of the last committed round; None for a job that has none.
        rows: the measurements of all rounds so far.
        usage: node -> `overrun` and `allowed`, for the nodes whose last reply reached a limit of the owner's.
    """

    round: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    params: dict[str, torch.Tensor] | None = None
    rows: tuple[Measurement, ...] = ()
    usage: dict[str, Usage] = field(default_factory=dict)


def kept_replies(folder: JobFolder, spec: JobSpec) -> dict[int, Replies]:
    """Return round -> the replies that were kept."""
    return _kept_replies(folder, spec, ())


def training_replies_kept(folder: JobFolder, spec: JobSpec) -> dict[int, Replies]:
    """Return round -> the replies that were kept, but for those that only measured; without their tensors."""
    return _kept_replies(folder, spec, ("validate",))


def _kept_replies(folder: JobFolder, spec: JobSpec, but: Collection[str]) -> dict[int, Replies]:
    from fedjob.researcher.results.training_replies import make_replies

    found = {}
    for round_, step, path in reply_files(folder):
        if step in but:
            continue
        arrivals = {
            node: Arrival(node=node, result=from_plain(Result, {**kept["body"], **kept.get("large", {})}))
            for node, kept in read_reply(path).items()
        }
        found[round_] = make_replies(arrivals, {}, spec.datasets)
    return found


def load_partial(folder: JobFolder) -> Partial:
    """Return the part of a job's result that exists now; an empty one for a job that has not begun."""
    from fedjob.researcher.storage.breakpoints import load_breakpoint, newest_valid

    values = {node: decode(value) for node, value in _last_values(folder).items()}
    usage = _last_usage(folder)
    newest = newest_valid(folder.breakpoints)
    if newest is None:
        return Partial(values=values, usage=usage)
    position = load_breakpoint(newest).position
    shared = position.state.get("params")
    params = None if shared is None else {name: shared[name].clone() for name in shared}
    return Partial(
        round=position.round, values=values, params=params or None, rows=position.rows, usage=usage
    )


def _last_usage(folder: JobFolder) -> dict[str, Usage]:
    """Return node -> the limit that its last reply reached, where it reached one."""
    last = {
        node: kept["body"].get("usage")
        for _, _, path in reply_files(folder)
        for node, kept in read_reply(path).items()
    }
    return {node: Usage(*usage) for node, usage in last.items() if usage is not None}


def _last_values(folder: JobFolder) -> dict[str, Any]:
    """Return node -> its last value, encoded; of an inference those of all passes."""
    passes: dict[str, list[tuple[int, Any]]] = {}
    for round_, step, path in reply_files(folder):
        for node, kept in read_reply(path).items():
            value = {**kept["body"], **kept.get("large", {})}.get("value")
            if value is not None:
                before = passes.get(node, []) if step == STEP else []
                passes[node] = [*before, (round_, value)]
    return {node: merged(values) for node, values in passes.items()}
