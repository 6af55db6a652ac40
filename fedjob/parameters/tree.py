"""The file format of saved states: a tree of plain data and tensors as one safetensors file.

Node states and protocol states are trees: maps and lists of None, bool, int,
float, str, bytes and tensors. The tensors are stored as the file's tensors; the rest
is msgpack in the file's metadata, with a mark in the place of each tensor.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedjob.common.codec import pack, unpack
from fedjob.common.errors import DecodeError, EncodeError
from fedjob.parameters.files import Params, save_params
from fedjob.parameters.safetensors_header import read_metadata

_TENSOR = "\0tensor"


def save_tree(tree: Any, path: Path) -> None:
    """Write `tree` to a new file at `path` and fsync it.

    Raises:
        EncodeError: it holds something other than plain data and tensors.
    """
    tensors: Params = {}
    skeleton = _strip(tree, tensors)
    save_params(tensors, path, {"tree": base64.b64encode(pack(skeleton)).decode()})


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote; tensors are loaded into memory.

    Raises:
        DecodeError: it is not such a file.
    """
    try:
        skeleton = unpack(base64.b64decode(read_metadata(path)["tree"]))
        return _fill(skeleton, load_file(path))
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DecodeError(f"{path.name} does not hold a saved state: {error}") from error


def _strip(tree: Any, tensors: Params) -> Any:
    if isinstance(tree, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = tree
        return {_TENSOR: name}
    if isinstance(tree, Mapping):
        if not all(isinstance(key, str) for key in tree):
            raise EncodeError(f"a saved state has string keys only; found {list(tree)[:3]!r}")
        return {key: _strip(value, tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_strip(value, tensors) for value in tree]
    return tree


def _fill(skeleton: Any, tensors: Params) -> Any:
    if isinstance(skeleton, dict):
        if skeleton.keys() == {_TENSOR}:
            return tensors[skeleton[_TENSOR]]
        return {key: _fill(value, tensors) for key, value in skeleton.items()}
    if isinstance(skeleton, list):
        return [_fill(value, tensors) for value in skeleton]
    return skeleton
