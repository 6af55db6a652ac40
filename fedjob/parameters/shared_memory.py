"""The check that each tensor of a model can hold values of its own, or is tied to another as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch


def shared_memory(tensors: Mapping[str, torch.Tensor]) -> str:
    """Say which of a model's tensors can't hold values of their own; empty for none.

    Tensors that share all of their memory are tied, and hold the same numbers.
    """
    stored: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
            continue
        if _num_places(tensor) < tensor.numel():
            return (
                f"{name} has several numbers in one place of memory, as expand() makes them, so that they can't "
                "differ: give it memory of its own with .clone()"
            )
        stored.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    for names in stored.values():
        for name, other in _neighbours({name: tensors[name] for name in names}):
            if _overlap(tensors[name], tensors[other]):
                return (
                    f"{name} and {other} share a part of their memory, so that who sets one changes the other: give "
                    "each memory of its own with .clone(), or let them share all of it"
                )
    return ""


def _neighbours(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tensors of one storage whose ranges of bytes meet."""
    ranges = sorted((*_bytes_of(tensor), name) for name, tensor in tensors.items())
    for place, (_, end, name) in enumerate(ranges):
        for start, _, other in ranges[place + 1 :]:
            if start >= end:
                break
            yield name, other


def _num_places(tensor: torch.Tensor) -> int:
    """Return how many numbers lie from the first to the last one of a tensor in its storage."""
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors of a storage whose ranges meet have some bytes in common, and not all."""
    (start, end), (other_start, other_end) = _bytes_of(one), _bytes_of(other)
    if all(_num_places(tensor) == tensor.numel() for tensor in (one, other)):
        return (start, end) != (other_start, other_end)
    first, last = min(start, other_start), max(end, other_end)
    taken = [_taken(tensor, first, last) for tensor in (one, other)]
    return not torch.equal(*taken) and bool((taken[0] & taken[1]).any())


def _bytes_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage, and the one after its last."""
    width = tensor.element_size()
    start = int(tensor.storage_offset()) * width
    return start, start + _num_places(tensor) * width


def _taken(tensor: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Return for each byte of a range of a tensor's storage whether it is one of the tensor's."""
    width = tensor.element_size()
    taken = torch.zeros(last - first, dtype=torch.bool)
    steps = [step * width for step in tensor.stride()]
    taken.as_strided((*tensor.shape, width), (*steps, 1), tensor.storage_offset() * width - first).fill_(True)
    return taken
