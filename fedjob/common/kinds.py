"""What kinds of tensors a model's parameters are, as the researcher knows it: names only.

The file of a job's first parameters says it, so that a protocol's `start` can ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEY = "kinds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Names of parameters that some protocols treat apart.

    Args:
        buffers: that no optimizer trains, such as running means: they are averaged, whatever
            a protocol does with the others.
        batch_norm: everything that belongs to a batch normalisation, trained or not.
    """

    buffers: tuple[str, ...] = ()
    batch_norm: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors file that say it; none where there is nothing to say."""
        said = {"buffers": list(self.buffers), "batch_norm": list(self.batch_norm)}
        return {_KEY: json.dumps(said)} if any(said.values()) else {}


def kinds_of(params: Mapping[str, Any]) -> Kinds:
    """Return what the file of some parameters says of them; nothing for parameters in memory."""
    from fedjob.common.params import FileParams, read_metadata

    if not isinstance(params, FileParams):
        return Kinds()
    said = json.loads(read_metadata(params.path).get(_KEY, "{}"))
    return Kinds(buffers=tuple(said.get("buffers", ())), batch_norm=tuple(said.get("batch_norm", ())))
