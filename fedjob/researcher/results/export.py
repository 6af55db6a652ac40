"""The export of a result to a file of the researcher's own, for fedjob or for programs without it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import SpecError, WrongResult
from fedjob.common.files import by_users_umask
from fedjob.parameters.files import save_params
from fedjob.researcher.results.file_formats import (
    CSV,
    JSON,
    PARQUET,
    as_json,
    check_ending,
    format_of,
)
from fedjob.researcher.results.onnx_model import export_onnx
from fedjob.researcher.results.result_folder import PARAMS, VALUE, ResultFolder
from fedjob.researcher.results.table import free_path
from fedjob.researcher.storage.breakpoints import hash_file

if TYPE_CHECKING:
    import torch

FORMATS = ("state_dict", "onnx")

_HOW_TO_LOAD = """\
{name} holds the parameters that a federated job trained ({job}),
in the safetensors format. To use them without fedjob:

    import torch
    from safetensors.torch import load_file

    model = ...            # build it as init_model of the training plan does
    model.load_state_dict(load_file("{name}"){strict})
    model.eval()

sha256 of {name}: {sha256}

Trained at {about}.

Its tensors:
{tensors}
"""


@by_users_umask()
def save_as(
    result: ResultFolder, path: Path, *, force: bool, state: Mapping[str, torch.Tensor] | None = None
) -> Path:
    """Write a result in the format that a file's name says, and what it is about beside it; see `JobResult.save`.

    Args:
        state: all parameters of the model; None where the kept file holds them.
    """
    kind = result.kind
    if path.is_dir():
        path = path / {"params": "model.safetensors", "table": "table.csv", "value": "value.mpk"}[kind]
    chosen = format_of(path, kind)
    beside = free_path(path.with_name(f"{path.name}.txt"), force=force)
    if chosen == CSV:
        saved = result.table.to_csv(path, force=force)
    elif chosen == PARQUET:
        saved = free_path(path, force=force)
        result.dataframe.to_parquet(saved)
    elif chosen == JSON:
        text = json.dumps(as_json(result.value), indent=2, allow_nan=False)
        saved = free_path(path, force=force)
        saved.write_text(text + "\n", encoding="utf-8")
    elif state is not None:
        saved = _save_state(state, path, force=force)
    else:
        saved = result.artifacts[PARAMS if kind == "params" else VALUE].save(path, force=force)
    beside.write_text(_about(result, saved.name), encoding="utf-8")
    return saved


def _about(result: ResultFolder, name: str) -> str:
    """Return what a saved file is about: the job, its nodes, and a line for each of them."""
    lines = [f"{name} holds the result of {result.job}", result.about, "", *result.participation.lines()]
    return "".join(f"{line}\n" for line in lines)


@by_users_umask()
def export(
    result: ResultFolder,
    model: Callable[[], Any],
    path: Path,
    format_: str,
    *,
    example: Any,
    force: bool,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write the model in a format that others read; see `JobResult.export`.

    Args:
        model: builds the trained model, where the format needs it.
        state: all parameters of the model; None where the kept file holds them.
    """
    if format_ not in FORMATS:
        raise SpecError(f"format is one of {', '.join(FORMATS)}, not {format_!r}")
    if result.kind != "params":
        raise WrongResult("result is not a model: there is nothing to export; use .save(path)")
    if not path.is_dir():
        check_ending(path, f"model.{'onnx' if format_ == 'onnx' else 'safetensors'}")
    if format_ == "onnx":
        return export_onnx(model(), path, example, force=force)
    if path.is_dir():
        path = path / "model.safetensors"
    beside = path.with_name(f"{path.name}.txt")
    free_path(beside, force=force)
    artifact = result.artifacts[PARAMS]
    if state is None:
        saved, sha256 = artifact.save(path, force=force), artifact.sha256
    else:
        saved = _save_state(state, path, force=force)
        sha256 = hash_file(saved)
    params = result.params if state is None else state
    tensors = "\n".join(f"    {name}: {str(t.dtype)[6:]} {list(t.shape)}" for name, t in params.items())
    whole = _is_whole(model(), params)
    beside.write_text(
        _HOW_TO_LOAD.format(
            name=saved.name,
            job=artifact.job,
            sha256=sha256,
            about=result.about,
            tensors=tensors,
            strict="" if whole else ", strict=False",
        ),
        encoding="utf-8",
    )
    return saved


def _save_state(state: Mapping[str, torch.Tensor], path: Path, *, force: bool) -> Path:
    """Write a whole model, and return the file's path.

    Raises:
        SpecError: there is something already, or the name says that it is of another format.
    """
    check_ending(path, PARAMS)
    target = free_path(path, force=force)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()  # by the user's umask, as they asked for it
        save_params(state, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _is_whole(model: Any, params: Mapping[str, Any]) -> bool:
    """Return whether the shared parameters are all that the model has."""
    return hasattr(model, "state_dict") and set(model.state_dict()) == set(params)
