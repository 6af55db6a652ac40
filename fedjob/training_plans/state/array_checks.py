"""Checks that a tensor, an array or a table has the values it had, and what sets small ones back.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Check = Callable[[], bool]
"""Sets something back; tells whether it is now as it was."""

Way = Literal["copied", "summed", "sampled"]
"""How values are known again: small ones are copied and set back, of others a change is noticed by sums or by a few of them."""

_SAMPLES = 512
"""Values of a large array, or rows of a table, by which a change of it is noticed."""
_SUMMED = 512
"""Words of 8 bytes in a line of those that are summed."""
_LINES = 64
"""Lines that are summed at a time, along and across: they stay in the processor's cache."""


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor, without importing torch."""
    return hasattr(type(value), "data_ptr") and hasattr(type(value), "requires_grad")


def is_frame(value: Any) -> bool:
    """Tell whether a value is a table or a column of pandas, without importing it."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(type(value), "iloc")


def frame_check(frame: Any, way: Way) -> Check:
    """Return what notices that a table or a column was changed in place.

    Args:
        way: of numbers and times; of texts and other objects a few are compared.
    """
    step = max(1, len(frame) // _SAMPLES)
    kept, size = frame.iloc[::step].copy(), frame.size
    sums = () if way == "sampled" or step == 1 or not size else _sums_of_columns(frame)

    def check() -> bool:
        same = frame.size == size and frame.iloc[::step].equals(kept)
        return bool(same and (not sums or _sums_of_columns(frame) == sums))

    return check


def frame_bytes(frame: Any) -> int:
    """Return how many bytes a table or a column has, without those of its texts."""
    used = frame.memory_usage(index=False)
    return int(used if frame.ndim == 1 else used.sum())


def _sums_of_columns(frame: Any) -> tuple[bytes, ...]:
    import numpy as np

    if frame.ndim == 2 and len(set(frame.dtypes)) > 1:
        columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
    else:
        columns = [frame]
    kinds = (column.dtype if column.ndim == 1 else column.dtypes.iloc[0] for column in columns)
    plain = (isinstance(kind, np.dtype) and not kind.hasobject for kind in kinds)
    arrays = (column.to_numpy() for column, is_plain in zip(columns, plain, strict=True) if is_plain)
    return tuple(_sums(array if array.flags.forc else np.ascontiguousarray(array)) for array in arrays)


def array_check(array: np.ndarray[Any, Any], way: Way) -> Check | None:
    """Return what sets an array back or notices that it was changed; None where it can't be.

    Args:
        way: of one that is not contiguous only a copy is compared.
    """
    if not array.flags.writeable or array.dtype.hasobject:
        return None
    shape, dtype = array.shape, array.dtype
    if way != "copied":
        if not array.flags.forc:
            return None
        content = _sums if way == "summed" else _sampled
        before = content(array)
        return lambda: array.shape == shape and array.dtype == dtype and content(array) == before
    kept = array.copy()
    values = kept.tobytes()

    def check() -> bool:
        if array.shape != shape or array.dtype != dtype:
            return False
        if array.tobytes() != values:
            array[...] = kept
        return True

    return check


def _sampled(array: np.ndarray[Any, Any]) -> bytes:
    flat = array.ravel(order="K")
    return flat[:: max(1, flat.size // _SAMPLES)].tobytes()


def _sums(array: np.ndarray[Any, Any]) -> bytes:
    """Return sums of the values' bytes along lines and across them: one value that changes, or two that change places, change them."""
    import numpy as np

    flat = array.ravel(order="K").view(np.uint8)
    whole = len(flat) - len(flat) % (8 * _SUMMED)
    lines = flat[:whole].view(np.uint64).reshape(-1, _SUMMED)
    across, along = np.zeros(_SUMMED, np.uint64), np.empty(len(lines), np.uint64)
    for begin in range(0, len(lines), _LINES):
        some = slice(begin, begin + _LINES)
        across += lines[some].sum(axis=0)
        lines[some].sum(axis=1, out=along[some])
    return b"".join(part.tobytes() for part in (across, along, flat[whole:]))


def tensor_check(tensor: Any, *, is_given: bool, way: Way) -> Check:
    """Return what sets a tensor back, and notices what can't be: another form, hooks, or other values of a large one.

    Args:
        is_given: every step is given its values anew.
        way: beside it, torch counts how often a tensor was written, but not what is written through `.data` or an array.
    """
    form, learns, grad = _form(tensor), tensor.requires_grad, _grad(tensor)

    def check() -> bool:
        if _form(tensor) != form:
            return False
        if tensor.requires_grad != learns:
            if not tensor.is_leaf:
                return False
            tensor.requires_grad_(learns)
        if _grad(tensor) is not grad:
            tensor.grad = grad
        return True

    if is_given:
        return check
    values_check = _values_check(tensor, way)
    return lambda: check() and values_check()


def _values_check(tensor: Any, way: Way) -> Check:
    """Return what sets the values of a small tensor back, and notices that those of another were changed."""
    version = _version(tensor)
    if not _is_dense(tensor):
        return lambda: _version(tensor) == version
    if way == "summed" and _has_plain_bytes(tensor):
        sums = _sums_of(tensor)
        return lambda: _version(tensor) == version and _sums_of(tensor) == sums
    if way != "copied":
        sample = _sample(tensor).clone()
        return lambda: _version(tensor) == version and _same(_sample(tensor), sample)
    kept = tensor.detach().clone()

    def check() -> bool:
        nonlocal version
        if _version(tensor) != version or not _same(tensor, kept):
            tensor.detach().copy_(kept)
            version = _version(tensor)
        return True

    return check


def _is_dense(tensor: Any) -> bool:
    """Tell whether a tensor has its values one by one in memory: not a sparse or nested one, nor one without values."""
    return not (tensor.is_nested or tensor.is_meta) and str(tensor.layout) == "torch.strided"


def _has_plain_bytes(tensor: Any) -> bool:
    """Tell whether a tensor's values are those of the bytes that it has in the memory of this machine."""
    is_view = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized
    return tensor.device.type == "cpu" and tensor.is_contiguous() and not is_view


def _sums_of(tensor: Any) -> bytes:
    import torch

    return _sums(tensor.detach().view(-1).view(torch.uint8).numpy())


def _sample(tensor: Any) -> Any:
    if not tensor.is_contiguous():
        return tensor.detach()[:1]
    flat = tensor.detach().view(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)]


def _form(tensor: Any) -> tuple[Any, ...]:
    hooks = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
    shape = None if tensor.is_nested else tensor.shape
    return shape, tensor.dtype, *(len(of_kind) if of_kind else 0 for of_kind in hooks)


def _grad(tensor: Any) -> Any:
    return tensor.grad if tensor.is_leaf else None


def _same(tensor: Any, kept: Any) -> bool:
    """Tell whether two tensors of one form have the same values: what is written through `.data` counts no version."""
    return bool(((tensor.detach() == kept) | ((tensor != tensor) & (kept != kept))).all())


def _version(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # an inference tensor counts no versions
        return -1
