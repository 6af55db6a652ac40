"""The auxiliary variables of a committed round, as its nodes sent them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedjob.researcher.folder import JobFolder
from fedjob.researcher.position import Fold

if TYPE_CHECKING:
    import torch


def read_aux(folder: JobFolder, fold: Fold) -> dict[str, dict[str, Mapping[str, torch.Tensor]]]:
    """Return module -> node -> name -> tensor, of the files that are still there; a tensor is read when asked for."""
    from fedjob.common.auxiliary import split
    from fedjob.common.params import FileParams

    found: dict[str, dict[str, Mapping[str, torch.Tensor]]] = {module: {} for module in fold.aux_hashes}
    for node, _, _ in fold.inputs:
        for path in folder.contributions(fold.round, fold.step, str(node)):
            for module, tensors in split(FileParams(path))[1].items():
                found.setdefault(module, {})[str(node)] = tensors
    return found
