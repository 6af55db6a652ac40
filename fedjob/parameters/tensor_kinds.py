"""The kinds of a model's parameters, such as buffers and batch-normalisation layers, by name.

The file of a job's initial parameters records them, so that a protocol's `start` can read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NUM_EXAMPLES = "fedjob-num-examples"
"""The parameter of a model that follows from sums: how many examples they are of; 0 before the first round."""

_KEY = "kinds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """The names of parameters that some protocols treat specially.

    Args:
        buffers: tensors that no optimizer trains, such as running means: they are averaged, whatever
            a protocol does with the other parameters.
        batch_norm: all tensors of batch normalisation, trained or not.
    """

    buffers: tuple[str, ...] = ()
    batch_norm: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors file that record the kinds; empty if there are none."""
        names = {"buffers": list(self.buffers), "batch_norm": list(self.batch_norm)}
        return {_KEY: json.dumps(names)} if any(names.values()) else {}


def kinds_of(params: Mapping[str, Any]) -> Kinds:
    """Return the kinds that the file of some parameters records; no kinds for parameters in memory."""
    from fedjob.parameters.files import FileParams
    from fedjob.parameters.safetensors_header import read_metadata

    if not isinstance(params, FileParams):
        return Kinds()
    names = json.loads(read_metadata(params.path).get(_KEY, "{}"))
    return Kinds(buffers=tuple(names.get("buffers", ())), batch_norm=tuple(names.get("batch_norm", ())))
