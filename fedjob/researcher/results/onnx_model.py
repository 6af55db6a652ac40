"""The export of a model to ONNX: one file, and a second one with the tensors where one can't hold them."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedjob.common.errors import MissingPackage, SpecError
from fedjob.researcher.results.table import free_path

ONE_FILE_BYTES = (1 << 31) - (1 << 26)
"""Tensors of so many bytes fit into the model's own file, a single protobuf message of less than 2 GiB."""


def export_onnx(
    model: Any, path: Path, example: Any, *, force: bool, one_file_bytes: int = ONE_FILE_BYTES
) -> Path:
    """Write a model as ONNX; return its file. Larger tensors lie beside it, in a file of its name and `.data`.

    Args:
        example: inputs to trace the model with, a tensor or a tuple of them.
        one_file_bytes: the most bytes of tensors that are written into the model's own file.

    Raises:
        SpecError: the model or the example can't be used, or a file stands in the way.
        MissingPackage: ONNX is not installed.
    """
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
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    except Exception as error:  # the exporter would say it in a page of its own
        raise SpecError(
            f"the model can't be computed with that example ({_shapes(inputs)}): {type(error).__name__}: {_line(error)}"
        ) from error
    target = free_path(path / "model.onnx" if path.is_dir() else path, force=force)
    beside = target.with_name(f"{target.name}.data")
    apart = sum(t.numel() * t.element_size() for t in model.state_dict().values()) > one_file_bytes
    if apart:
        free_path(beside, force=force)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        draft = Path(folder) / target.name  # under the name that it keeps, for it names the file beside it
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of torch to itself
                torch.onnx.export(model, inputs, str(draft), verbose=False, external_data=apart)
        except Exception as error:  # the exporter raises whatever the model makes it stumble over
            raise SpecError(
                f"this model can't be exported to ONNX: {type(error).__name__}: {_line(error)}"
            ) from error
        if apart:
            os.replace(draft.with_name(beside.name), beside)
        os.replace(draft, target)
    return target


def _shapes(inputs: tuple[Any, ...]) -> str:
    return ", ".join(f"shape {tuple(i.shape)}" if hasattr(i, "shape") else type(i).__name__ for i in inputs)


def _line(error: Exception) -> str:
    """Return the first line of an error: an exporter's goes on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
