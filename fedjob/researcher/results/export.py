"""The export of a result to a file of the researcher's own, for fedjob or for programs without it."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedjob.common.errors import MissingPackage, SpecError, WrongResult
from fedjob.researcher.results.result_folder import PARAMS, VALUE, ResultFolder
from fedjob.researcher.results.table import free_path

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

Its tensors:
{tensors}
"""


def save_as(result: ResultFolder, path: Path, *, force: bool) -> Path:
    """Write a result in the form that a file's name asks for; see `JobResult.save`."""
    kind = result.kind
    if path.is_dir():
        path = path / {"params": "model.safetensors", "table": "table.csv", "value": "value.mpk"}[kind]
    if kind == "table" and path.suffix == ".csv":
        return result.table.to_csv(path, force=force)
    if kind == "table" and path.suffix in (".parquet", ".pq"):
        target = free_path(path, force=force)
        result.dataframe.to_parquet(target)
        return target
    if kind != "params" and path.suffix == ".json":
        try:
            text = json.dumps(result.value, indent=2)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"this result is no JSON ({error}): save it as .mpk, or .csv for a table"
            ) from error
        target = free_path(path, force=force)
        target.write_text(text + "\n", encoding="utf-8")
        return target
    return result.artifacts[PARAMS if kind == "params" else VALUE].save(path, force=force)


def export(
    result: ResultFolder, model: Callable[[], Any], path: Path, format_: str, *, example: Any, force: bool
) -> Path:
    """Write the model in a format that others read; see `JobResult.export`.

    Args:
        model: builds the trained model, where the format needs it.
    """
    if format_ not in FORMATS:
        raise SpecError(f"format is one of {', '.join(FORMATS)}, not {format_!r}")
    if result.kind != "params":
        raise WrongResult("result is not a model: there is nothing to export; use .save(path)")
    if format_ == "onnx":
        return _export_onnx(model(), path, example, force=force)
    if path.is_dir():
        path = path / "model.safetensors"
    beside = path.with_name(f"{path.name}.txt")
    free_path(beside, force=force)
    artifact = result.artifacts[PARAMS]
    saved = artifact.save(path, force=force)
    params = result.params
    tensors = "\n".join(f"    {name}: {str(t.dtype)[6:]} {list(t.shape)}" for name, t in params.items())
    whole = _is_whole(model(), params)
    beside.write_text(
        _HOW_TO_LOAD.format(
            name=saved.name,
            job=artifact.job,
            sha256=artifact.sha256,
            tensors=tensors,
            strict="" if whole else ", strict=False",
        ),
        encoding="utf-8",
    )
    return saved


def _is_whole(model: Any, params: dict[str, Any]) -> bool:
    """Return whether the shared parameters are all that the model has."""
    return hasattr(model, "state_dict") and set(model.state_dict()) == set(params)


def _export_onnx(model: Any, path: Path, example: Any, *, force: bool) -> Path:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise SpecError(
            f"a {type(model).__name__} can't be exported to ONNX from here: take result.model() to skl2onnx, or "
            'export(path, format="state_dict")'
        )
    if example is None:
        raise SpecError(
            "ONNX needs inputs to trace the model with: export(path, format='onnx', example=torch.zeros(1, 13))"
        )
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingPackage(f"exporting to ONNX needs {' and '.join(missing)}: pip install 'fedjob[onnx]'")
    target = free_path(path / "model.onnx" if path.is_dir() else path, force=force)
    draft = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.onnx")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch to itself
            torch.onnx.export(
                model.eval(),
                example if isinstance(example, tuple) else (example,),
                str(draft),
                verbose=False,
                external_data=False,  # one file, which is renamed whole
            )
        os.replace(draft, target)
    except Exception as error:  # the exporter raises whatever the model makes it stumble over
        raise SpecError(f"this model can't be exported to ONNX: {type(error).__name__}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return target
