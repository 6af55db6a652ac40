"""The contributions of batches on disk, so that many of them take the memory of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from fedjob.aggregation.contribution import Contribution
from fedjob.common.codec import pack, to_plain, unpack
from fedjob.common.errors import EncodeError
from fedjob.common.files import make_folder, private, remove_folder
from fedjob.parameters.files import FileParams, is_params, save_params


class Spill(Sequence[Contribution]):
    """The contributions of one task's batches, in the order of their places.

    Args:
        folder: a new folder, which `close` removes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: list[int] = []
        remove_folder(folder)
        make_folder(folder)

    def put(self, place: int, part: Contribution) -> None:
        """Store a contribution; `place` is the place of its first item.

        Raises:
            EncodeError: its value is neither plain data nor named tensors.
        """
        value = part.value
        if part.aux:
            raise EncodeError("what is computed in batches has no auxiliary variables")
        if has_tensors := is_params(value):
            save_params(value, self._folder / f"{place}.safetensors", durable=False)
            value = None
        kept = {"value": value, "weight": part.weight, "metrics": part.metrics, "tensors": has_tensors}
        with open(self._folder / f"{place}.mpk", "wb", opener=private) as file:
            file.write(pack(to_plain(kept)))
        self._places = sorted([*self._places, place])

    def close(self) -> None:
        """Remove the folder and all that was stored."""
        remove_folder(self._folder)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Contribution: ...

    @overload
    def __getitem__(self, number: slice) -> list[Contribution]: ...

    def __getitem__(self, number: int | slice) -> Contribution | list[Contribution]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        place = self._places[number]
        kept: dict[str, Any] = unpack((self._folder / f"{place}.mpk").read_bytes())
        value = FileParams(self._folder / f"{place}.safetensors") if kept["tensors"] else kept["value"]
        return Contribution(value, kept["weight"], kept["metrics"])
