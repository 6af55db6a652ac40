"""The parameters that a job's first round begins with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import check_path, shown
from fedjob.common.errors import DecodeError, EncodeError, SpecError
from fedjob.parameters.compression import COMPRESSORS
from fedjob.parameters.files import FileParams, save_params
from fedjob.parameters.finiteness import first_not_finite
from fedjob.parameters.model_files import check_no_folder
from fedjob.parameters.tensor_kinds import kinds_of
from fedjob.protocols import PROTOCOLS
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.storage.spec import JobSpec

if TYPE_CHECKING:
    import torch

    from fedjob.parameters.frozen import FrozenPart
    from fedjob.training_plans.base import TrainingPlan


_PICKLE = "a pickle, which runs code when it is opened"

_OTHER_FORMATS = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".mpk", ".msgpack"), "a msgpack file"),
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5", ".onnx", ".json", ".csv"), "a file of that format"),
}
"""Ending of a file -> what it is, for files that are often taken for parameters."""


def first_params(init: Any, plan: Any, frozen: Collection[str] = ()) -> Mapping[str, Any]:
    """Return the parameters that a job starts from; they may be those of the plan's own model.

    Args:
        frozen: names of those that the plan has by now, and does not share.

    Raises:
        SpecError: `init` is of no known form, or does not fit the plan's model.
    """
    from fedjob.training_plans.base import TrainingPlan

    if init is None:
        if isinstance(plan, TrainingPlan):
            return plan.get_params(copy=False)
        return {} if plan is None else plan.get_params()
    given = _given(init)
    if frozen and isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name not in frozen}
    return fitting_params("init", given, plan)


def left_out(init: Any, plan: Any) -> FrozenPart | None:
    """Leave a plan's frozen parameters out of what it shares; return them, None where it has none.

    Args:
        init: what was given as first parameters: where frozen ones are among them, those are taken.

    Raises:
        SpecError: `init` is of no known form, or does not fit the plan's model.
    """
    from fedjob.training_plans.base import TrainingPlan

    part = plan.frozen_part() if isinstance(plan, TrainingPlan) else None
    if part is None:
        return None
    given = None if init is None else _given(init)
    if isinstance(given, Mapping) and not part.names.isdisjoint(map(str, given)):
        plan.set_params(fitting_params("init", given, plan))
        part = plan.frozen_part()
    plan.leave_out(part)
    return part


def _given(init: Any) -> Any:
    """Return what was given as first parameters as named tensors, where it is a result or a file."""
    if isinstance(init, JobResult):
        return init.state_dict()
    if isinstance(init, (str, Path)):
        return _opened("init", Path(init).expanduser())
    return init


def fitting_params(argument: str, params: Any, plan: TrainingPlan | None) -> dict[str, torch.Tensor]:
    """Return a researcher's own parameters with the dtypes of a plan's model.

    Args:
        argument: how an error names them.
        params: name -> tensor or array, or the path of a safetensors file of them.

    Returns:
        name -> tensor; numbers with a fraction are rounded where the model has whole numbers.

    Raises:
        SpecError: they are of no known form, or their names or shapes are not those of the model.
    """
    if isinstance(params, (str, Path)):
        params = _opened(argument, Path(params).expanduser())
    if not isinstance(params, Mapping):
        raise SpecError(
            f"{argument} takes named tensors, a safetensors file or a job's result, not a {type(params).__name__}"
        )
    own = {} if plan is None else plan.get_params(copy=False)
    given = {str(name): _tensor(f"{argument}[{name!r}]", value) for name, value in params.items()}
    fitted = {}
    for name in [*own, *(name for name in given if name not in own)]:
        wanted, found = own.get(name), given.get(name)
        if wanted is None or found is None or wanted.shape != found.shape:
            raise SpecError(
                f"{argument} does not fit the plan's model: {name!r} is {_shape(found)}, expected {_shape(wanted)}"
            )
        fitted[name] = _cast(f"{argument}[{name!r}]", found, wanted.dtype)
    return fitted


def _tensor(what: str, value: Any) -> torch.Tensor:
    import torch

    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError(f"{what} is a tensor or an array of numbers, not a {type(value).__name__}") from error


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _cast(what: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert numbers to another dtype, with rounding to whole ones.

    Raises:
        SpecError: a value does not fit into the dtype.
    """
    import torch

    if tensor.dtype == dtype:
        return tensor
    if tensor.is_complex() and not dtype.is_complex:
        raise SpecError(f"{what} holds complex numbers, the plan's model takes {dtype}")
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        cast = tensor.to(dtype)
        if dtype.is_floating_point and bool((cast.isfinite() != tensor.isfinite()).any()):
            raise SpecError(f"{what} holds values that {dtype} can't hold")
        return cast
    whole = tensor.round() if tensor.is_floating_point() else tensor
    limits = torch.iinfo(dtype)
    if tensor.is_floating_point() and not bool(whole.isfinite().all()):
        raise SpecError(f"{what} holds NaN or infinity, the plan's model takes {dtype}")
    if whole.numel() and not limits.min <= float(whole.min()) <= float(whole.max()) <= limits.max:
        raise SpecError(f"{what} holds values that {dtype} can't hold")
    return whole.to(dtype)


def _opened(argument: str, path: Path) -> FileParams:
    """Return the parameters in a file.

    Raises:
        SpecError: it is not there, or of another format; its name is looked at first.
    """
    if path.suffix.lower() in _OTHER_FORMATS:
        raise SpecError(
            f"{argument}={path.name!r}: parameters are a safetensors file, not {_OTHER_FORMATS[path.suffix.lower()]}: load it "
            "yourself and give the named tensors, or save them with safetensors.torch.save_file"
        )
    try:
        check_no_folder(check_path(argument, path))
    except SpecError as error:
        raise SpecError(f"{argument}: {error}") from error
    if not path.is_file():
        raise SpecError(f"{argument}={shown(str(path))}: there is no such file; expected a safetensors file")
    try:
        return FileParams(path)
    except DecodeError as error:
        raise SpecError(f"{error}; expected what result.save or safetensors.torch.save_file wrote") from error


def write_first(params: Mapping[str, Any], plan: object, path: Path) -> None:
    """Write a job's first parameters, and what kinds they are of, to a new file."""
    from fedjob.training_plans.base import TrainingPlan

    save_params(params, path, plan.kinds().metadata() if isinstance(plan, TrainingPlan) else None)


def check_first(spec: JobSpec, path: Path, *, trained: bool) -> None:
    """See to it that a job's protocol can begin with its first parameters.

    Args:
        trained: nodes train from them, and refuse to send numbers that are not finite.

    Raises:
        SpecError: it can't.
    """
    params = FileParams(path)
    if trained and (name := first_not_finite(params)) is not None:
        is_buffer = name in kinds_of(params).buffers
        raise SpecError(
            f"{'buffer' if is_buffer else 'parameter'} {name} holds NaN or infinity before any training, expected finite numbers"
            + (
                "; a constant that is computed anew takes register_buffer(..., persistent=False)"
                if is_buffer
                else ""
            )
        )
    _check_compressible(spec, params)
    PROTOCOLS.build(spec.protocol.name, spec.protocol.config).check(params)


def _check_compressible(spec: JobSpec, params: FileParams) -> None:
    """Refuse to compress parameters of which none is a floating-point number, or that can't be sent in that form.

    Raises:
        SpecError: all are whole numbers, or one is not finite, or too large.
    """
    if spec.compress is None or not params:
        return
    if not any(kind in ("F64", "F32", "F16", "BF16") for kind, _ in params.schema.values()):
        kinds = ", ".join(sorted({kind for kind, _ in params.schema.values()}))
        raise SpecError(
            f"compress is for floating-point parameters; all of this plan's are whole numbers ({kinds}), which travel as "
            "they are: leave compress out"
        )
    from fedjob.parameters.compression.parcels import check_first_sent

    compressor = COMPRESSORS.build(spec.compress.name, spec.compress.config)
    try:
        check_first_sent(params, compressor, kinds_of(params).buffers)
    except EncodeError as error:
        raise SpecError(f"the first parameters can't travel compressed: {error}") from error
