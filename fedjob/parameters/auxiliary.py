"""Auxiliary variables: tensors exchanged beside the parameters, such as control variates.

They are grouped in modules, each a set of named tensors under the name of its purpose:
`{"scaffold": {"0.weight": ..., "0.bias": ...}}`. A node's parameters and modules
travel in one safetensors file, where a module's tensors are named
`aux--<module>.<name>`, which no attribute of a model can be named. They are separated
again by name, without loading any tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import EncodeError

if TYPE_CHECKING:
    import torch

    from fedjob.parameters.safetensors_header import Schema

PREFIX = "aux--"
_MODULE = re.compile(r"[a-z][a-z0-9_]{0,30}")


class TensorView(Mapping[str, "torch.Tensor"]):
    """A view of some tensors of a set, under other names; each tensor is loaded when it is read.

    Args:
        whole: the set, usually a file's.
        names: name in this view -> name in the set.
    """

    def __init__(self, whole: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> None:
        self._whole = whole
        self._names = names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._whole[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Part({len(self)} tensors of {self._whole!r})"


def join(params: Mapping[str, Any], aux: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return parameters and modules as one set; `params` itself if there are no modules.

    Args:
        params, aux: maps to tensors, or to their schemas.

    Raises:
        EncodeError: a module's name is malformed, or a parameter has a name reserved for modules' tensors.
    """
    if not aux:
        return params
    odd = [name for name in aux if not _MODULE.fullmatch(name)]
    if odd:
        raise EncodeError(
            f"an auxiliary module is named by a-z, 0-9 and _, beginning with a letter, at most 31 characters; "
            f"found {odd[0][:80]!r}"
        )
    taken = [name for name in params if name.startswith(PREFIX)]
    if taken:
        raise EncodeError(f"no parameter may be named {taken[0]}: {PREFIX} is for auxiliary variables")
    joined = dict(params)
    for module, tensors in aux.items():
        joined |= {f"{PREFIX}{module}.{name}": tensor for name, tensor in tensors.items()}
    return joined


def join_schemas(params: Schema, aux: Mapping[str, Schema]) -> Schema:
    """Return the schema of parameters and modules in one set, names sorted."""
    if not aux:
        return params
    joined = join(params, aux)
    return MappingProxyType({name: joined[name] for name in sorted(joined)})


def split(
    whole: Mapping[str, torch.Tensor],
) -> tuple[Mapping[str, torch.Tensor], dict[str, Mapping[str, torch.Tensor]]]:
    """Return the parameters and the modules of a set; the set itself if there are no modules."""
    params: dict[str, str] = {}
    modules: dict[str, dict[str, str]] = {}
    for name in whole:
        if name.startswith(PREFIX):
            module, _, own = name.removeprefix(PREFIX).partition(".")
            modules.setdefault(module, {})[own] = name
        else:
            params[name] = name
    if not modules:
        return whole, {}
    return TensorView(whole, params), {module: TensorView(whole, names) for module, names in modules.items()}
