"""What a finished task would contribute, held back for a secure sum."""

from __future__ import annotations

from dataclasses import dataclass

from fedjob.execution.orders import WorkResult
from fedjob.node.storage.spool import Spool
from fedjob.privacy.secagg.contribution_numbers import contribution_numbers
from fedjob.privacy.secagg.masked_vector import TensorFile
from fedjob.privacy.secagg.vector import Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldContribution:
    """A contribution that stays at the node until it is masked.

    Args:
        tensors: None where there are none.
        staying: the metrics that do not add, as `phase.name`.
    """

    tensors: TensorFile | None
    numbers: Numbers
    staying: list[str]
    weight: float


def held_contribution(key: str, found: WorkResult, spool: Spool, *, limit_bytes: int) -> HeldContribution:
    """Return what a finished result contributes.

    Raises:
        SpecError: something of it can't be added.
        DecodeError, ObjectTooLarge: its file of tensors is none, or too large.
    """
    tensors = TensorFile(spool.params_of(key, limit_bytes=limit_bytes)) if found.params_path else None
    wholes = {} if tensors is None else tensors.wholes()
    numbers, staying = contribution_numbers(found.value, found.weight, found.metrics, wholes)
    return HeldContribution(tensors=tensors, numbers=numbers, staying=staying, weight=found.weight)
