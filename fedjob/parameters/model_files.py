"""Files of model parameters that both sides have before a job begins, such as a published language model.

A node's owner registers one with `fedjob node model add NAME PATH`, a researcher names their own copy with
`Job(models={NAME: path})`. They are the same file, by its hash, so that none of it travels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedjob.common.checks import shown
from fedjob.common.errors import DecodeError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One such file, as this side has it.

    Args:
        path: of a safetensors file.
        sha256: of its bytes, checked.
    """

    path: str
    sha256: str


def check_model_name(name: object) -> str:
    """Return the name of a model.

    Raises:
        SpecError: it is none.
    """
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        raise SpecError(
            f"a model is named by 1 to 64 letters, digits, '_', '.' and '-', the first a letter or digit; found {shown(name)}"
        )
    return name


def check_no_folder(path: Path) -> None:
    """Refuse a folder where a safetensors file is expected, with those in it.

    Raises:
        SpecError: it is one.
    """
    if path.is_dir():
        inside = sorted(one.name for one in path.glob("*.safetensors"))
        found = f"in it are {', '.join(inside[:3])}: name one of them" if inside else "there is none in it"
        raise SpecError(f"{path} is a folder; expected a safetensors file; {found}")


def check_model_file(path: Path) -> None:
    """See to it that a path is that of a model's parameters.

    Raises:
        SpecError: it is not, with what is there.
    """
    from fedjob.parameters.safetensors_header import read_schema

    check_no_folder(path)
    if not path.is_file():
        raise SpecError(
            f"{path}: there is no such file; expected the parameters of a model, a safetensors file"
        )
    try:
        read_schema(path)
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror}") from error
    except DecodeError as error:
        raise SpecError(
            f"{error}: expected a safetensors file of such tensors; save the model's parameters with "
            "safetensors.torch.save_file"
        ) from error


def open_model(file: ModelFile) -> dict[str, torch.Tensor]:
    """Return a file's tensors by name, mapped into memory.

    Raises:
        DecodeError: it is not a safetensors file.
    """
    from pathlib import Path

    from fedjob.parameters.files import FileParams

    return dict(FileParams(Path(file.path)))
