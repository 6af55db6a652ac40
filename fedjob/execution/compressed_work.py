"""The compressed way of a node's work: parameters as they came, the answer as it leaves, and what stays at the node for both.

A task says how its parameters came and how its answer is to leave, `{name, config, down, up, num_bytes}`:

    down    `whole`: the parameters themselves; `changes`: since those that came last, which the node state has
    up      `changes`: since the parameters as they came; `values`: for answers that are changes already;
            empty where it leaves as it is, such as into a secure sum
    num_bytes   of the parameters, unpacked

The node state has, under `compression`, what came last, and what the answers owe: error feedback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import DecodeError, EncodeError, FedjobError, NodeFailure
from fedjob.execution.orders import WorkOrder

if TYPE_CHECKING:
    import torch

    from fedjob.parameters.compression.base import Compressor
    from fedjob.parameters.safetensors_header import Schema

KEPT = "compression"
"""Its place in a node state."""

PARAMS = "params"
"""The input that is compressed; all others travel as they are."""


@dataclass(slots=True)
class CompressedWork:
    """The compressed way of one order.

    Args:
        exact: names of the tensors of an answer that leave as they are, such as buffers; auxiliary variables do anyway.
        kept: what the node state has of it; changed by the work.

    Raises:
        NodeFailure: the task's compression is none that this node knows.
    """

    order: WorkOrder
    exact: frozenset[str]
    kept: dict[str, Any] = field(default_factory=dict)
    _compressor: Compressor = field(init=False)
    _came: Mapping[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        from fedjob.parameters.compression import COMPRESSORS

        asked = self.order.compress
        try:
            self._compressor = COMPRESSORS.build(str(asked["name"]), asked["config"])
            if asked.get("down") not in ("whole", "changes") or asked.get("up") not in (
                "changes",
                "values",
                "",
            ):
                raise DecodeError("it does not say how the parameters came and how the answer leaves")
            if type(asked.get("num_bytes")) is not int or asked["num_bytes"] < 0:
                raise DecodeError("it does not say how many bytes the parameters have, a whole number")
        except (FedjobError, KeyError, TypeError, ValueError) as error:
            raise NodeFailure(self.order.node, "decode", str(error)[:500]) from error

    def received(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Return the parameters of an order, from their file of parcels.

        Raises:
            NodeFailure: they can't be had from it.
        """
        from fedjob.parameters.compression.parcels import Opened
        from fedjob.parameters.files import FileParams

        asked = self.order.compress
        try:
            origin = self.kept["came"] if asked["down"] == "changes" else {}
            opened = Opened(FileParams(path), self._compressor, origin, limit_bytes=asked["num_bytes"])
            self._came = {name: opened[name] for name in opened}
        except KeyError as error:
            raise self._failure(f"the node state has no {error} that changes are measured from") from error
        except (DecodeError, ValueError, TypeError) as error:
            raise self._failure(str(error)) from error
        if not self._compressor.takes_whole:
            self.kept["came"] = dict(self._came)
        return self._came

    def parcels(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return an answer's tensors as they leave; what is lost is owed to the next answer of this step.

        Raises:
            NodeFailure: a number can't be had in the compressor's form.
        """
        from fedjob.parameters.auxiliary import PREFIX
        from fedjob.parameters.compression.parcels import pack_tensors

        step, up = self.order.step, self.order.compress["up"]
        if not up:
            return tensors
        owed = self.kept.setdefault("owed", {})
        try:
            packed = pack_tensors(
                tensors,
                self._compressor,
                origin=self._came if up == "changes" else {},
                owed=owed.get(step) or {},
                exact=self.exact | {name for name in tensors if name.startswith(PREFIX)},
            )
        except EncodeError as error:
            raise NodeFailure(self.order.node, "not_finite", str(error)) from error
        owed[step] = dict(packed.owed)
        return packed.parcels

    def _failure(self, words: str) -> NodeFailure:
        return NodeFailure(self.order.node, "decode", words[:500])


def num_bytes_held(schema: Schema, compressor: Compressor) -> int:
    """Return the most bytes that a node holds at once for the compressed way of parameters, beside the parameters.

    These are the parameters as they came, and before where changes count from them; what the last answer owes and what
    this one does; the answer's parcels; and the numbers of the tensor that is being compressed.
    """
    from fedjob.parameters.compression.parcels import most_file_bytes
    from fedjob.parameters.safetensors_header import num_bytes_of

    copies = 3 if compressor.takes_whole else 4
    largest = max((num_bytes_of({name: form}) for name, form in schema.items()), default=0)
    working = math.ceil(compressor.working_copies * largest)
    return copies * num_bytes_of(schema) + most_file_bytes(schema, compressor) + working


def compressed_work(order: WorkOrder, state: Mapping[str, Any], plan: Any) -> CompressedWork | None:
    """Return the compressed way of an order; None where everything travels as it is.

    Args:
        state: the node state that it starts from.
        plan: the training plan, built; None for work without one.
    """
    if not order.compress:
        return None
    from fedjob.training_plans.base import TrainingPlan

    before = state.get(KEPT) or {}
    exact = frozenset(plan.kinds().buffers) if isinstance(plan, TrainingPlan) else frozenset()
    return CompressedWork(order, exact, {**before, "owed": dict(before.get("owed") or {})})
