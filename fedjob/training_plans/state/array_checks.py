"""Checks that a tensor, an array or a table has the values it had, and what sets small ones back.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Check = Callable[[], bool]
"""Sets something back; tells whether it is now as it was."""

_SAMPLES = 512
"""Values of a large array, or rows of a table, by which a change of it is noticed."""


def is_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor, without importing torch."""
    return hasattr(type(value), "data_ptr") and hasattr(type(value), "requires_grad")


def is_frame(value: Any) -> bool:
    """Tell whether a value is a table or a column of pandas, without importing it."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(type(value), "iloc")


def frame_check(frame: Any) -> Check:
    """Return what notices that a table or a column was changed in place."""
    step = max(1, len(frame) // _SAMPLES)
    kept, size = frame.iloc[::step].copy(), frame.size
    return lambda: bool(frame.size == size and frame.iloc[::step].equals(kept))


def array_check(array: np.ndarray[Any, Any], *, copies: bool) -> Check | None:
    """Return what sets an array back or notices that it was changed; None where it can't be.

    Args:
        copies: of all its values; a few are compared otherwise, and only of one that is contiguous.
    """
    if not array.flags.writeable or array.dtype.hasobject:
        return None
    shape, dtype = array.shape, array.dtype
    if not copies:
        if not array.flags.forc:
            return None
        sampled = _sampled(array)
        return lambda: array.shape == shape and array.dtype == dtype and _sampled(array) == sampled
    kept = array.copy()
    content = kept.tobytes()

    def check() -> bool:
        if array.shape != shape or array.dtype != dtype:
            return False
        if array.tobytes() != content:
            array[...] = kept
        return True

    return check


def _sampled(array: np.ndarray[Any, Any]) -> bytes:
    flat = array.ravel(order="K")
    return flat[:: max(1, flat.size // _SAMPLES)].tobytes()


def tensor_check(tensor: Any, *, is_given: bool, copies: bool) -> Check:
    """Return what sets a tensor back, and notices what can't be: another form, hooks, or other values of a large one.

    Args:
        is_given: every step is given its values anew.
        copies: of all its values; otherwise a few are compared, and how often it was written.
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
    values_check = _values_check(tensor, copies=copies)
    return lambda: check() and values_check()


def _values_check(tensor: Any, *, copies: bool) -> Check:
    """Return what sets the values of a small tensor back, and notices that those of another were changed."""
    version = _version(tensor)
    if not _is_dense(tensor):
        return lambda: _version(tensor) == version
    if not copies:
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
