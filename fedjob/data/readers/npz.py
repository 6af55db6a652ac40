"""The reader of named numpy arrays in one file; objects in it are never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedjob.common.errors import SpecError, UnreadableData
from fedjob.data.leftovers import is_leftover
from fedjob.data.readers.base import Dataset, Reader, check_file

if TYPE_CHECKING:
    import numpy as np

_INPUTS = ("x", "X", "inputs", "data", "images", "features")
_TARGETS = ("y", "Y", "targets", "target", "labels", "label")


class NpzDataset(Dataset):
    """Arrays by name."""

    @cached_property
    def _heads(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Array -> shape and type, read from the headers of the arrays without their data."""
        from numpy.lib import format as npy

        heads = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for entry in archive.namelist():
                    if any(
                        map(is_leftover, entry.split("/"))
                    ):  # an archive that was packed anew by a program
                        continue
                    with archive.open(entry) as file:
                        version = npy.read_magic(file)
                        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                        shape, _, dtype = read(file)
                    heads[entry.removesuffix(".npy")] = (tuple(shape), str(dtype))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UnreadableData(f"{self.path} can't be read as npz: {error}") from error
        if not heads:
            raise UnreadableData(f"{self.path} holds no arrays")
        return heads

    @property
    def num_rows(self) -> int:
        shape, _ = self._heads[self._name("inputs", _INPUTS)]
        return shape[0] if shape else 1

    @property
    def columns(self) -> list[dict[str, str]]:
        return [
            {"name": name, "type": f"{dtype}[{', '.join(map(str, shape))}]"}
            for name, (shape, dtype) in self._heads.items()
        ]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return one array.

        Raises:
            SpecError: there is no such array, or it holds objects.
        """
        import numpy as np

        if name not in self._heads:
            raise SpecError(f"{self.path.name} has no array {name!r}; it has {', '.join(self._heads)}")
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                read = archive[name]
                found: np.ndarray[Any, Any] = read.astype(read.dtype.newbyteorder("="), copy=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UnreadableData(f"{self.path}: array {name!r} can't be read: {error}") from error
        return found

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return (inputs, targets), found by the options, by the usual names, or as the first two arrays."""
        inputs = self.array(self._name("inputs", _INPUTS))
        targets = self.array(self._name("targets", _TARGETS))
        if len(inputs) != len(targets):
            raise SpecError(f"{self.path.name} has {len(inputs)} inputs and {len(targets)} targets")
        return inputs, targets

    def _name(self, what: str, usual: Sequence[str]) -> str:
        if what in self.options:
            if self.options[what] not in self._heads:
                raise SpecError(f"{self.path.name} has no array {self.options[what]!r}: see option {what}")
            return self.options[what]
        for name in usual:
            if name in self._heads:
                return name
        place = 0 if what == "inputs" else 1
        names = list(self._heads)
        if place >= len(names):
            raise SpecError(f"{self.path.name} has no array of {what}; it has {', '.join(names)}")
        return names[place]


class NpzReader(Reader):
    """Opens npz files."""

    name: ClassVar[str] = "npz"
    stays_in_path: ClassVar[bool] = True
    opens: ClassVar[type[Dataset]] = NpzDataset
    options: ClassVar[Mapping[str, str]] = {
        "inputs": "the array of inputs (default x, X, inputs, ..., or the first)",
        "targets": "the array of targets (default y, Y, targets, ..., or the second)",
    }

    def accept(self, path: Path) -> Path:
        return check_file(path, self.name)
