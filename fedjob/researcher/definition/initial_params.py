"""The parameters that a job's first round begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.errors import DecodeError, SpecError
from fedjob.parameters.files import FileParams, save_params, schema_of
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.storage.spec import JobSpec

if TYPE_CHECKING:
    from fedjob.training_plans.base import TrainingPlan


_PICKLE = "a pickle, which runs code when it is opened"

_OTHER_FORMATS = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".mpk", ".msgpack"), "a msgpack file"),
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5", ".onnx", ".json", ".csv"), "a file of that format"),
}
"""Ending of a file -> what it is, for files that are often taken for parameters."""


def first_params(init: Any, plan: TrainingPlan) -> Mapping[str, Any]:
    """Return the parameters that a job starts from.

    Raises:
        SpecError: `init` is of no known form, or does not fit the plan's model.
    """
    own = {} if plan is None else plan.get_params()
    if init is None:
        return own
    if isinstance(init, JobResult):
        init = init.params
    if isinstance(init, (str, Path)):
        init = _opened(Path(init).expanduser())
    if not isinstance(init, Mapping):
        raise SpecError(
            f"init is named tensors, a safetensors file or a job's result, not a {type(init).__name__}"
        )
    import torch

    given = {str(name): torch.as_tensor(value) for name, value in init.items()}
    if schema_of(given) != schema_of(own):
        wanted, got = dict(schema_of(own)), dict(schema_of(given))
        odd = next((n for n in [*wanted, *got] if wanted.get(n) != got.get(n)), "")
        raise SpecError(
            f"init does not fit the plan's model: {odd or 'it'} is {got.get(odd, 'missing')}, "
            f"expected {wanted.get(odd, 'nothing of that name')}"
        )
    return given


def _opened(path: Path) -> FileParams:
    """Return the parameters in a file.

    Raises:
        SpecError: it is not there, or of another format; its name is looked at first.
    """
    if path.suffix.lower() in _OTHER_FORMATS:
        raise SpecError(
            f"{path.name}: first parameters are a safetensors file, not {_OTHER_FORMATS[path.suffix.lower()]}: load it "
            "yourself and give the named tensors, or save them with safetensors.torch.save_file"
        )
    if not path.is_file():
        raise SpecError(f"{path}: there is no such file; expected a safetensors file")
    try:
        return FileParams(path)
    except DecodeError as error:
        raise SpecError(f"{error}; expected what result.save or safetensors.torch.save_file wrote") from error


def write_first(params: Mapping[str, Any], plan: object, path: Path) -> None:
    """Write a job's first parameters, and what kinds they are of, to a new file."""
    from fedjob.training_plans.base import TrainingPlan

    save_params(params, path, plan.kinds().metadata() if isinstance(plan, TrainingPlan) else None)


def check_first(spec: JobSpec, path: Path) -> None:
    """See to it that a job's protocol can begin with its first parameters.

    Raises:
        SpecError: it can't.
    """
    PROTOCOLS.build(spec.protocol.name, spec.protocol.config).check(FileParams(path))
