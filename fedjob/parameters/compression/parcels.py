"""Named tensors as a file of parcels: a safetensors file that holds the bytes of each tensor's parcel under its name.

A lossy parcel holds the change of a tensor since one that both sides have, its origin; or the tensor itself, where they
have none. An exact one always holds the tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from fedjob.common.errors import DecodeError, EncodeError
from fedjob.parameters.compression.base import Compressor
from fedjob.parameters.compression.parcel import (
    Form,
    exact_parcel,
    form_of,
    is_lossy,
    lossy_parcel,
    most_bytes,
    opened,
)
from fedjob.parameters.files import FileParams, dtype_of, schema_of
from fedjob.parameters.finiteness import first_not_finite
from fedjob.parameters.safetensors_header import Schema, file_size_of, num_bytes_of


@dataclass(frozen=True, slots=True)
class Packed:
    """Tensors ready to travel.

    Args:
        parcels: name -> the bytes of its parcel, as a tensor of uint8.
        owed: name -> what its receiver does not get, to be added the next time: error feedback.
    """

    parcels: Mapping[str, torch.Tensor]
    owed: Mapping[str, torch.Tensor]


def pack_tensors(
    tensors: Mapping[str, torch.Tensor],
    compressor: Compressor,
    *,
    origin: Mapping[str, torch.Tensor] = MappingProxyType({}),
    owed: Mapping[str, torch.Tensor] = MappingProxyType({}),
    exact: Collection[str] = (),
) -> Packed:
    """Return tensors as parcels.

    Args:
        tensors: finite.
        origin: what the receiver has of the same names; without one a tensor travels itself.
        owed: what it did not get before.
        exact: names of tensors that travel as they are, as integers and small tensors do anyway.

    Raises:
        EncodeError: a change is not finite, or too large for the compressor's form; its tensor is named.
    """
    forms = schema_of(tensors)
    parcels: dict[str, torch.Tensor] = {}
    left: dict[str, torch.Tensor] = {}
    for name, form in forms.items():
        if name in exact or not is_lossy(compressor, form):
            data = exact_parcel(tensors[name], form)
        else:
            numbers = _wide(tensors[name])
            for known, sign in ((origin.get(name), -1), (owed.get(name), 1)):
                if known is not None and known.shape == numbers.shape:
                    numbers = numbers + sign * known.to(numbers.dtype)
            try:
                data, found = lossy_parcel(numbers, form, compressor)
            except EncodeError as error:
                raise EncodeError(f"parameter {name}: {error}") from error
            left[name] = numbers - found.to(numbers.dtype)
        parcels[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return Packed(parcels, left)


def check_first_sent(
    params: Mapping[str, torch.Tensor], compressor: Compressor, exact: Collection[str] = ()
) -> None:
    """See to it that parameters can be sent for the first time, one tensor in memory after the other.

    Raises:
        EncodeError: a number is not finite, or too large for the compressor's form; its tensor is named.
    """
    for name, form in schema_of(params).items():
        if name in exact or not is_lossy(compressor, form):
            continue
        if first_not_finite({name: params[name]}) is not None:
            raise EncodeError(f"parameter {name} holds NaN or infinity")
        if compressor.takes_whole:
            try:
                compressor.encode(_wide(params[name]).reshape(-1))
            except EncodeError as error:
                raise EncodeError(f"parameter {name}: {error}") from error


def most_file_bytes(
    schema: Schema,
    compressor: Compressor | None,
    exact: Collection[str] = (),
    *,
    aux: Schema = MappingProxyType({}),
) -> int:
    """Return the most bytes that a file of parcels can have.

    Args:
        compressor: None for tensors that all travel as they are.
        aux: of tensors that do anyway.
    """
    sizes = {
        name: most_bytes(form, None if name in exact or name in aux else compressor)
        for name, form in {**schema, **aux}.items()
    }
    return file_size_of({name: ("U8", (size,)) for name, size in sizes.items()})


class Opened(Mapping[str, torch.Tensor]):
    """The tensors of a file of parcels; each is computed when it is asked for.

    Args:
        file: of a peer.
        origin: what the sender measured changes from.
        limit_bytes: the most bytes that all tensors may have together; None for any number, for a file of one's own.

    Raises:
        DecodeError: it is no file of parcels, or announces more bytes.
    """

    def __init__(
        self,
        file: FileParams,
        compressor: Compressor,
        origin: Mapping[str, torch.Tensor] = MappingProxyType({}),
        *,
        limit_bytes: int | None = None,
    ) -> None:
        self._file, self._compressor, self._origin = file, compressor, origin
        self.schema: Schema = MappingProxyType({name: form_of(self._bytes(name)) for name in file})
        size = num_bytes_of(self.schema)
        if limit_bytes is not None and size > limit_bytes:
            raise DecodeError(
                f"compressed tensors announce {size} bytes; at most {limit_bytes} can be expected"
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        form = self.schema[name]
        found, lossy = opened(self._bytes(name), self._compressor)
        return _restored(name, found, form, self._origin.get(name)) if lossy else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema)

    def __len__(self) -> int:
        return len(self.schema)

    def _bytes(self, name: str) -> memoryview:
        dtype, shape = self._file.schema[name]
        if dtype != "U8" or len(shape) != 1:
            raise DecodeError(
                f"{name}: expected the bytes of a compressed tensor, found {dtype} {list(shape)}"
            )
        return self._file[name].numpy().data


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU in the precision in which changes are computed."""
    return tensor.detach().to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def _restored(name: str, change: torch.Tensor, form: Form, origin: torch.Tensor | None) -> torch.Tensor:
    dtype = dtype_of(form[0])
    if origin is None:
        return change.to(dtype)
    if origin.shape != change.shape:
        raise DecodeError(f"{name}: a change of shape {list(change.shape)} for {list(origin.shape)}")
    start = _wide(origin)
    return (start + change.to(start.dtype)).to(dtype)
